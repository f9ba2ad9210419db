"""What a step computes: pure functions of tensors that know neither variables nor backends.

`_rule` is the update of one parameter, `_step` the stages of a whole step around it, and `_lazy`
the decay that rows of a table make up for when they are next needed.
"""
