"""Tests of `keras_rmsprop.recipes`."""
