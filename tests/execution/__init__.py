"""Tests of how a step is run."""
