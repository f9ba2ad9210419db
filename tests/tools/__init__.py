"""Helpers that tests share, and the programs that they start in processes of their own."""
