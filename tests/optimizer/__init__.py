"""Tests of what Keras calls, and of whole trainings."""
