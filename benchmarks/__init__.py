"""Measurements of keras_rmsprop against its peers; never run by the tests."""
