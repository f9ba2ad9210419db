"""What a step does to each variable, computed from what the step reads.

A step's own intermediate results are never used: a compiler would then compute the step itself in
another order, and its results would differ in their last bits. So everything is computed again, by
the same functions.

For one variable with n elements, of which a sum or a largest value counts those that have a
gradient (all, or the rows that a batch touches):

    gradient_norm             ||g||           g unscaled, summed over replicas, mean of accumulation
    clipped_gradient_norm     ||clip(g)||
    largest_gradient          max |g|
    zero_gradient_share       #{g = 0} / n
    weight_norm               ||w||           before the step
    update_norm               ||d||           d what the update subtracts, apart from weight decay
    largest_update            max |d|
    smallest_rate, mean_rate, largest_rate    of lr / r, the mean geometric
    epsilon_share             #{epsilon > s} / n, or outside the root #{epsilon > sqrt(s)} / n
    frozen_share              #{s not finite} / n
    stuck_share               #{d /= 0 and w - d = w} / n, in the weight's dtype

where s and r are those after the update. A table holds one row for each variable and, last, one for
all of them together.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_rmsprop._math import _rounding, _rule, _step
from keras_rmsprop._math._rule import Number, Parameter, Tensor
from keras_rmsprop._math._step import Counters, Flags, GroupPlan, Numbers, Plan, Scalars

# The columns of a table. The first are of the last step that was sampled, ...
MEASURED = (
    "gradient_norm",
    "clipped_gradient_norm",
    "largest_gradient",
    "zero_gradient_share",
    "weight_norm",
    "update_norm",
    "largest_update",
    "smallest_rate",
    "mean_rate",
    "largest_rate",
    "epsilon_share",
    "frozen_share",
    "stuck_share",
    # The rate of the step, with the group's factor.
    "learning_rate",
    # The steps made so far, with that one, as _STEPS_HIGH * high + low: float32 counts to 2**24.
    "step_high",
    "step_low",
)
# ... these of all steps that were sampled.
COUNTED = (
    "largest_learning_rate",
    # Steps in which the variable had a gradient; the others count among them, but for `skipped`.
    "sampled",
    "clipped",
    # Gradients with an element that is not finite.
    "nonfinite",
    # Calls that `skip_nonfinite` skipped.
    "skipped",
)
COLUMNS = MEASURED + COUNTED

STEPS_HIGH = 2**20

# A histogram counts the elements between neighbouring edges, below the first and from the last on.
EDGES = tuple(10.0 ** (exponent / 2.0) for exponent in range(-24, 7))
HISTOGRAMS = ("rates", "update_ratios")
