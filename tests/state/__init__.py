"""What is kept, and what becomes of it on loading."""
