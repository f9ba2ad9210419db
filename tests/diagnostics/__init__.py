"""Tests of what diagnostics show."""
