"""Tests of keras_rmsprop, one module for each of the package's."""
