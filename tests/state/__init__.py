"""Tests of saving and loading state."""
