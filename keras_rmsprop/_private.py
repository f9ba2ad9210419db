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
    # Methods of an optimizer: the stages of Keras's `apply`, which a subclass may override.
    "_apply_weight_decay": "applies the decoupled weight decay",
    "_backend_apply_gradients": "runs the stages from clipping to the moving average",
    "_backend_update_step": "calls `update_step` for each variable",
    "_clip_gradients": "clips the gradients",
    "_filter_empty_gradients": "removes missing gradients, with a warning",
    "_overwrite_variables_directly_with_gradients": "sets float8 scales to their gradients",
    "_update_model_variables_moving_average": "advances the moving average of the weights",
    # Other methods of an optimizer.
    "_check_variables_are_known": "raises an error for variables that are not built",
    "_get_variable_index": "returns the position of a built variable",
    "_overwrite_model_variables_with_average_value": "replaces the weights by their averages",
    "_overwrite_variable_with_gradient": "tells whether a variable has no slots",
    "_track_variable": "adds a variable to the optimizer's variables",
    "_use_weight_decay": "tells whether weight decay applies to a variable",
    "_var_key": "returns the key that identifies a variable",
    # Attributes of an optimizer.
    "_accumulated_gradients": "the gradient accumulators",
    "_distribution_strategy": "the TensorFlow strategy that swaps weights and averages",
    "_iterations": "the counter of `apply` calls",
    "_learning_rate": "the learning rate's variable, schedule or callable",
    "_model_variables_moving_average": "the moving averages of the weights",
    "_tracker": "the tracker of the optimizer's attributes",
    "_trainable_variables": "the built variables",
    "_trainable_variables_indices": "the position of each built variable, by `_var_key`",
    "_variables": "the optimizer's variables, in the order of their creation",
    # Methods and attributes of a variable.
    "_convert_to_tensor": "converts a value as `assign` does",
    "_direct_assign": "assigns a value, bypassing stateless scopes",
    "_dtype": "the dtype, ignoring autocast scopes",
    "_layout": "the layout under a Keras distribution",
    "_value": "the backend's tensor or variable, bypassing stateless scopes",
}

__all__ = ["KERAS_PRIVATE_NAMES", "DotNotTrackScope", "in_stateless_scope", "to_snake_case"]
