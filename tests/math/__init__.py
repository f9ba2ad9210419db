"""Tests of what a step computes."""
