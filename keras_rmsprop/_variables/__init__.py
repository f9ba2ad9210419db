"""The variables of an optimizer: their order, purpose and identity."""
