"""What tests share, and what they start in processes of their own: no tests."""
