"""Test carrying trainings between frameworks."""
