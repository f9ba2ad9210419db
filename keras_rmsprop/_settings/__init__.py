"""What may be asked for: the ranges of settings, what excludes what, and the words for them."""
