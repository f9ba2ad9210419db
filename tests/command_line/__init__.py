"""Tests of `python -m keras_rmsprop`."""
