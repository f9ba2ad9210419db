"""Which variables an optimizer has: their order, what each was made for, and who they are."""
