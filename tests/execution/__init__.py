"""How a step is run."""
