"""How a step is run on JAX."""
