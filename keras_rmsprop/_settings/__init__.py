"""The optimizer's settings: validation, their effect on a step, and their description."""
