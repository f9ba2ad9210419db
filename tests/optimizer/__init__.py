"""What Keras calls, and what a training is to a user."""
