"""How a step is run on torch."""
