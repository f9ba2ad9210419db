"""What an optimizer shows of its steps: what is measured, the report of it, and what it means."""
