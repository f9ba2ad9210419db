"""Tests of the variables of an optimizer and their state."""
