"""Let `keras.callbacks.SwapEMAWeights` swap weights with averages of a wider dtype."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_rmsprop._variables._roster import (
    ParameterVariables,
)


def swapping_strategy(strategy: Any, parameters: Sequence[ParameterVariables]) -> Any:
    """Return a strategy with which `SwapEMAWeights` can swap weights and wider averages."""
    is_mixed = any(p.average is not None and p.average.dtype != p.weight.dtype for p in parameters)
    if is_mixed and not isinstance(strategy, _BetweenDtypes):
        return _BetweenDtypes(strategy)
    return strategy


class _BetweenDtypes:
    """A distribution strategy that can update variables from variables of another dtype.

    `keras.callbacks.SwapEMAWeights` swaps weights and averages by adding and subtracting them,
    through the optimizer's strategy. That needs equal dtypes, and it would round. Here both are
    taken in the narrower dtype and their bits are added as integers, which is exact.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.extended = _Extended(strategy.extended)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_strategy"], name)

    def __deepcopy__(self, _: Any) -> "_BetweenDtypes":
        return self


class _Extended:
    def __init__(self, extended: Any) -> None:
        self._extended = extended

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_extended"], name)

    def update(
        self, variable: Any, function: Callable[..., Any], args: Any = (), **options: Any
    ) -> Any:
        """Run the function on each copy of the variable and of the arguments."""

        def on_copy(copy: Any, *others: Any, **named: Any) -> Any:
            dtypes = {copy.dtype, *(getattr(other, "dtype", copy.dtype) for other in others)}
            if len(dtypes) > 1:
                dtype = min(dtypes, key=lambda dtype: dtype.size)
                return function(*(_InDtype(one, dtype) for one in (copy, *others)), **named)
            return function(copy, *others, **named)

        return self._extended.update(variable, on_copy, args=args, **options)


class _InDtype:
    """A view of a variable in another dtype that adds and subtracts bits as integers."""

    def __init__(self, variable: tf.Variable, dtype: tf.DType) -> None:
        self._variable = variable
        self._dtype = dtype
        self._integer = {2: tf.int16, 4: tf.int32, 8: tf.int64}[dtype.size]

    def _bits(self) -> tf.Tensor:
        return tf.bitcast(tf.cast(self._variable, self._dtype), self._integer)

    def assign_add(self, other: "_InDtype") -> None:
        """Add the other variable's bits."""
        self.assign(tf.bitcast(self._bits() + other._bits(), self._dtype))

    def __sub__(self, other: "_InDtype") -> tf.Tensor:
        return tf.bitcast(self._bits() - other._bits(), self._dtype)

    def assign(self, value: "tf.Tensor | _InDtype") -> None:
        """Assign a value of the common dtype, or a variable's value."""
        if isinstance(value, _InDtype):
            value = tf.cast(value._variable, self._dtype)
        self._variable.assign(tf.cast(value, self._variable.dtype))
