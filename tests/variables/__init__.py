"""Which variables there are."""
