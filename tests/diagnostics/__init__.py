"""Tests of what an optimizer shows of its steps."""
