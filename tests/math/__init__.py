"""What a step computes."""
