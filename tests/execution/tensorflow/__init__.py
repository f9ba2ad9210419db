"""How a step is run on TensorFlow."""
