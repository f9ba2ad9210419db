"""All private names of Keras that the package uses.

Nothing else in the package imports a private module of Keras. If a release lacks one, the package
still imports and takes the slower public path defined here; tests/test_private_names.py removes
each in turn. (`_execution.tensorflow._private` does the same for TensorFlow.)
"""

import contextlib
import logging
import re
from typing import Any

import keras

_log = logging.getLogger(__name__)

try:
    # Tells whether a stateless scope captures assignments to variables.
    from keras.src.backend.common.stateless_scope import in_stateless_scope
except ImportError:
    _log.debug("Keras has no `in_stateless_scope`; a scope is found by where an assignment goes.")

    class _Probe(keras.Variable):  # type: ignore[misc, unused-ignore]
        """A variable that records whether an assignment reaches it."""

        reached = False

        def _direct_assign(self, value: Any) -> None:
            super()._direct_assign(value)
            self.reached = True

    _probe = _Probe(0.0, trainable=False)

    def in_stateless_scope() -> bool:
        """Whether a stateless scope captures assignments to variables."""
        _probe.reached = False
        _probe.assign(0.0)
        return not _probe.reached


try:
    # A context in which Keras does not track new objects.
    from keras.src.utils.tracking import DotNotTrackScope
except ImportError:
    _log.debug("Keras has no `DotNotTrackScope`; lists are tracked where they are set.")
    DotNotTrackScope = contextlib.nullcontext

try:
    # Makes a layer's default name from its class's name.
    from keras.src.utils.naming import to_snake_case
except ImportError:
    _log.debug("Keras has no `to_snake_case`; names that it makes up are recognized less well.")

    def to_snake_case(name: str) -> str:
        """Return the name in lower case, with underscores between words."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# Private attributes of optimizers and variables that have no public substitute.
# tests/test_private_names.py checks that the installed Keras has them.
KERAS_PRIVATE_NAMES = {
    "_apply_weight_decay": "a stage that a subclass may override, as are the next ones",
    "_overwrite_variables_directly_with_gradients": "gives float8 scales their values",
    "_backend_apply_gradients": "clips, decays, updates and averages",
    "_backend_update_step": "calls `update_step` for each variable",
    "_clip_gradients": "clips",
    "_update_model_variables_moving_average": "averages the weights",
    "_accumulated_gradients": "the accumulators that `build` creates",
    "_check_variables_are_known": "refuses variables the optimizer was not built with",
    "_distribution_strategy": "on TensorFlow, by which Keras swaps weights with averages",
    "_convert_to_tensor": "of a variable: what `assign` makes of a value",
    "_dtype": "of a variable: its dtype, without a look at autocast scopes",
    "_layout": "of a variable: how a distribution lays it out",
    "_direct_assign": "of a variable: assigns without asking for the scope it is in",
    "_filter_empty_gradients": "drops missing gradients with Keras's own warning",
    "_get_variable_index": "the position of a variable among the built ones",
    "_iterations": "calls of `apply`, not divided by the accumulation steps",
    "_learning_rate": "the rate as given: a variable, a schedule or a callable",
    "_model_variables_moving_average": "the averages that `build` creates for `use_ema`",
    "_overwrite_model_variables_with_average_value": "puts the averages in the weights' place",
    "_overwrite_variable_with_gradient": "which variables have no slots",
    "_trainable_variables": "the variables the optimizer was built with",
    "_trainable_variables_indices": "the position of each built variable, by `_var_key`",
    "_track_variable": "adds a variable to those that Keras saves and passes on",
    "_tracker": "holds the list of the optimizer's variables",
    "_use_weight_decay": "whether a variable was excluded from weight decay",
    "_variables": "the optimizer's variables, in the order in which they were added",
    "_value": "of a variable: its tensor, without asking for the scope it is in",
    "_var_key": "what identifies a variable, a raw one of the backend's too",
}

__all__ = ["KERAS_PRIVATE_NAMES", "DotNotTrackScope", "in_stateless_scope", "to_snake_case"]
