"""Read the unnamed arrays that `keras.optimizers.RMSprop` saves."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from keras_rmsprop._state._form import Array, State, abbreviated, slot_dtype
from keras_rmsprop._state._read import OptimizerParts, slots_in
from keras_rmsprop._state._sanity import damaged_file_error, is_numeric, why_impossible


class ForeignStateError(Exception):
    """The file holds another optimizer's state."""


def read_keras_state(arrays: Mapping[str, Array], parts: OptimizerParts) -> State:
    """Read what `keras.optimizers.RMSprop` saves: arrays in the order of its variables.

    The order is iteration, learning rate unless scheduled, then all averages, all accumulators,
    all velocities, all momentums and all average_gradients, as far as the options need them. The
    options are not saved and are inferred from the shapes and this optimizer's options.

    Adagrad saves arrays of the same shapes. Its accumulators start at 0.1 and only grow, which
    identifies it if one of them has not changed yet; otherwise the two cannot be distinguished.

    Raises: ForeignStateError if the state is another optimizer's; ValueError if its counts or
        rates are impossible.
    """
    if not all(map(str.isdecimal, arrays)) or not all(map(is_numeric, arrays.values())):
        raise ForeignStateError(f"with the entries {abbreviated(sorted(arrays))}")
    values = [arrays[key] for key in sorted(arrays, key=int)]
    layout = _keras_layout(values, parts)
    start = 2 if layout.has_rate else 1
    slots: list[dict[str, Array]] = [{} for _ in range(layout.variables)]
    for i, value in enumerate(values[start:]):
        kind = layout.kinds[i // layout.variables]
        slots[i % layout.variables][kind] = value.astype(slot_dtype(value))
    centered = "gradient_average" in layout.kinds
    for slot in slots if centered else ():
        _center(slot)
    accumulates = "accumulator" in layout.kinds
    state = State(
        calls=int(values[0]) if values[0].dtype.kind in "iu" else -1,
        accumulation_steps=parts.accumulation_steps if accumulates else 1,
        learning_rate=float(values[1]) if layout.has_rate else None,
        skipped_steps=None,
        centered=centered,
        lr_in_momentum=True,
        # No row has pending updates.
        rho=(0.0,) * len(slots),
        names=None,
        slots=tuple(slots),
    )
    reason = why_impossible(state)
    if reason is not None:
        raise damaged_file_error(reason)
    return state


class _Layout(NamedTuple):
    """An interpretation of the arrays in a Keras file."""

    has_rate: bool
    kinds: tuple[str, ...]
    # The number of variables.
    variables: int


def _keras_layout(values: list[Array], parts: OptimizerParts) -> _Layout:
    """Infer what the arrays are from their shapes.

    Raises: ForeignStateError unless exactly one interpretation fits the optimizer best.
    """
    weights = [tuple(parameter.weight.shape) for parameter in parts.roster.parameters]
    own_kinds = {
        kind for parameter in parts.roster.parameters for kind in slots_in(parameter, None)
    }
    own_rate = parts.rate is not None
    fits = [
        layout
        for has_rate in (own_rate, not own_rate)
        for kinds in _subsets_with_square_average()
        for layout in _layouts(values, has_rate, kinds)
    ]
    exact = [fit for fit in fits if _shapes(values, fit) == weights[: fit.variables]]
    whole = [fit for fit in exact if fit.variables == len(weights)]
    # In order of preference: the same options; the same options with fewer layers; fewer options;
    # any options; the same options with other layers.
    for chosen in (
        [fit for fit in whole if set(fit.kinds) == own_kinds],
        [fit for fit in exact if set(fit.kinds) == own_kinds],
        [fit for fit in whole if set(fit.kinds) <= own_kinds],
        whole,
        [
            fit
            for fit in fits
            if set(fit.kinds) == own_kinds
            and fit.has_rate == own_rate
            # A scalar among the variables is more likely another optimizer's counter.
            and set(_shapes(values, fit)) & set(weights)
            and () not in _shapes(values, fit)
        ],
    ):
        if len({fit[1:] for fit in chosen}) == 1:
            return chosen[0]
        if chosen:
            break
    raise ForeignStateError(
        f"{len(values)} arrays without names, and their shapes do not say which they are: "
        f"{abbreviated([str(value.shape) for value in values], 12)}, where the variables have "
        f"shapes {abbreviated(list(map(str, weights)), 12)}. If they are RMSprop's, load them into "
        "an optimizer with the options (momentum, centered, use_ema, gradient_accumulation_steps) "
        "that they were saved with"
    )


def _layouts(values: list[Array], has_rate: bool, kinds: set[str]) -> Iterable[_Layout]:
    """Yield the interpretation of the arrays as these kinds of slots, if it is possible."""
    shapes = [value.shape for value in values]
    start = 1 + has_rate
    count, rest = divmod(len(values) - start, len(kinds))
    if count < 1 or rest or shapes[:start] != [()] * start:
        return
    layout = _Layout(has_rate, tuple(kind for kind in _KERAS_ORDER if kind in kinds), count)
    repeats = shapes[start:] == _shapes(values, layout) * len(kinds)
    if repeats and _could_be_square_averages(values, layout):
        yield layout


def _shapes(values: list[Array], layout: _Layout) -> list[tuple[int, ...]]:
    start = 1 + layout.has_rate
    return [value.shape for value in values[start : start + layout.variables]]


def _could_be_square_averages(values: list[Array], layout: _Layout) -> bool:
    """Whether the arrays in the place of square averages can be square averages.

    Those are never negative, unlike the averages and momentum buffers of other optimizers, and
    start at zero, not at 0.1 like Adagrad's sums. (A first step with gradients of 1 takes them to
    0.1 as well.)
    """
    start = 1 + layout.has_rate + layout.variables * layout.kinds.index("square_average")
    averages = values[start : start + layout.variables]
    if any(np.any(value < 0) for value in averages):
        return False
    smallest = min((value.min() for value in averages if value.size), default=0.0)
    return bool(values[0] == 1 or np.float32(smallest) != np.float32(0.1))


_KERAS_ORDER = ("average", "accumulator", "square_average", "momentum", "gradient_average")


def _subsets_with_square_average() -> list[set[str]]:
    subsets: list[set[str]] = [{"square_average"}]
    for kind in ("average", "accumulator", "momentum", "gradient_average"):
        subsets += [subset | {kind} for subset in subsets]
    return subsets


def _center(slots: dict[str, Array]) -> None:
    """Convert Keras's E[g²] to the variance, which rounding may have left below zero."""
    slots["square_average"] = np.maximum(
        slots["square_average"] - slots["gradient_average"] ** 2, 0.0
    )
