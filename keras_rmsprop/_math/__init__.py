"""What a step computes: pure functions of tensors, independent of variables and backends.

`_rule` is the update of one parameter, `_step` the stages of a whole step around it, and `_lazy`
the deferred decay of table rows.
"""
