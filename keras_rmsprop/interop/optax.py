"""Carry a training over from `optax.rmsprop`, and back.

    optimizer = interop.like(optax.rmsprop(1e-3), model.trainable_variables)
    interop.optax.load(optimizer, opt_state)          # for a list of parameters, in Keras's order
    opt_state = interop.optax.state(optimizer, transformation.init(params))

The state of optax is a pytree. Found in it, at any depth, are those of `scale_by_rms`,
`scale_by_stddev` and `trace`, in `chain`, `named_chain`, `masked`, `multi_transform`,
`inject_hyperparams`, `apply_if_finite` and `MultiSteps`. optax multiplies by the negative learning
rate before its trace, so that the momentum buffer is the trace with the other sign.

A state does not tell decay, epsilon and rate. They are compared only if the transformation itself
is given as well. Parameters that it freezes by `set_to_zero` have no variable in the optimizer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop import conventions
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._state import LoadReport
from keras_rmsprop.interop import _carry, _optax_arguments
from keras_rmsprop.interop._optax_arguments import Arguments, named_leaves
from keras_rmsprop.interop._pairs import Pair, Pairing
from keras_rmsprop.interop._source import (
    Array,
    NotExactError,
    Slots,
    Source,
    as_array,
    dtype_of,
    narrowest,
)

__all__ = ["Pair", "load", "state"]


def load(
    optimizer: RMSprop,
    state: Any,
    pairs: Any = None,
    *,
    transformation: Any = None,
    steps: int | None = None,
    exact: bool = True,
) -> LoadReport:
    """Load a state of optax: averages, momentum buffers and, if it has one, the step count.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        state: the state of a transformation that contains `optax.rmsprop`'s.
        pairs: a pytree of the parameters' structure, with Keras variables or their paths as
            leaves; or a mapping from names, such as "dense/kernel" for params["dense"]["kernel"],
            to variables, paths, or tuples with conversions (see `Pair`). Default None: parameters
            in a list or tuple are in the order of the optimizer's variables, others have the
            variables' names.
        transformation: None, or the transformation that the state is of, whose settings are then
            compared with the optimizer's. Default None.
        steps: the number of steps made. Default None: as the state says, if it does; otherwise the
            optimizer's count stays.
        exact: whether to refuse a load after which the steps would not be optax's, as far as the
            state and `transformation` tell, or that leaves out a parameter. Default True.

    Returns: the `load_report`.
    Raises: ValueError if something does not fit, or `exact` and the steps would differ. The
        optimizer is unchanged then.
    """
    optimizer = _carry.built(optimizer)
    source = read(state, steps, transformation, exact=exact)
    if exact:
        _check_wrappers(optimizer, source, state, transformation)
    if exact and transformation is None:
        _check_order(optimizer, source)
    pairs = pairing_of(pairs, source, optimizer._roster.weights)
    return _carry.load(optimizer, source, pairs, exact=exact)


def state(
    optimizer: RMSprop,
    template: Any,
    pairs: Any = None,
    *,
    transformation: Any = None,
    exact: bool = True,
) -> Any:
    """Return the optimizer's state as one of optax.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        template: a state of the transformation that is to take over, such as
            `transformation.init(params)`. It is not changed.
        pairs: as for `load`.
        transformation: as for `load`.
        exact: as for `load`.

    Returns: a state of the same structure and dtypes, with JAX arrays; counters hold the number of
        steps, and an injected learning rate the present one.
    Raises: as `load`.
    """
    optimizer = _carry.built(optimizer)
    target = read(template, None, transformation, exact=exact)
    if exact:
        _check_wrappers(optimizer, target, template, transformation)
    if exact and transformation is None:
        _check_order(optimizer, target)
    pairs = pairing_of(pairs, target, optimizer._roster.weights)
    # An injected rate is replaced; others are part of the transformation.
    rates: Any = "one" if _is_injected(template) else "kept"
    slots, steps, own_rates, *_ = _carry.unload(optimizer, target, pairs, exact=exact, rates=rates)
    if target.lr_in_momentum:
        slots = {name: _negated(own) for name, own in slots.items()}
    return _rebuilt(template, slots, steps, own_rates[0])


def read(
    state: Any, steps: int | None = None, transformation: Any = None, *, exact: bool = True
) -> Source:
    """Read a state, and the settings of its transformation if that is given.

    Raises: ValueError if it contains no state of RMSprop, or one of another kind; NotExactError if
        `exact` and it has other slots than the transformation.
    """
    found = _Found({}, {}, {}, {}, [], [], [], {}, [])
    _collect(state, found)
    if not found.square:
        raise ValueError(
            "The state contains none of optax.rmsprop, received one of "
            f"{type(state).__module__}.{type(state).__qualname__}."
        )
    if found.unfinished:
        raise ValueError(
            f"{found.unfinished[0]} gradients are accumulated, which would be lost. Carry the "
            "state over after the call that completes the step."
        )
    slots = {
        name: Slots(square, found.mean.get(name), found.trace.get(name))
        for name, square in found.square.items()
    }
    counts = set(found.corrected or found.counts)
    if steps is None and len(counts) > 1:
        raise ValueError(
            f"The state has different counts of steps, {sorted(counts)}. Pass `steps`."
        )
    if steps is None and counts:
        (steps,) = counts
    injected = dict(found.injected)
    rate = injected.pop("learning_rate", None)
    source = Source(
        "optax.rmsprop",
        slots,
        steps,
        rates={} if rate is None else dict.fromkeys(slots, rate),
        settings=dict.fromkeys(slots, injected) if injected else {},
        bias_correction=bool(found.corrected),
        moves=True if "learning_rate" in found.scheduled else None,
        changing=tuple(name for name in found.scheduled if name != "learning_rate"),
        dtypes=found.dtypes,
        names=tuple(slots),
    )
    if transformation is not None:
        source = _with_settings(source, state, transformation, exact)
    if source.lr_in_momentum:
        # The trace holds what is added to the weights, the buffer what is subtracted. A trace
        # before the rate, which brings the sign, holds directions.
        source = source._replace(slots={name: _negated(own) for name, own in slots.items()})
    return source


class _Found(NamedTuple):
    """What a state contains: arrays by the names of parameters, and counts."""

    square: dict[str, Array]
    mean: dict[str, Array]
    trace: dict[str, Array]
    # The dtypes of these, that of the narrowest of a parameter.
    dtypes: dict[str, str]
    # The counts of averages that are corrected for bias, and of schedules.
    corrected: list[int]
    counts: list[int]
    # The gradients accumulated towards the next step, where there are any.
    unfinished: list[int]
    # The settings that `inject_hyperparams` holds, by this package's names.
    injected: dict[str, float]
    # And those that a schedule changes.
    scheduled: list[str]


# The states by their classes' names, so that optax need not be imported.
_AVERAGES = (
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
)
# States without arrays of parameters, or with other states in them.
_TRANSPARENT = (
    "EmptyState",
    "MaskedState",
    "MaskedNode",
    "PartitionState",
    "MultiTransformState",
    "ScaleByScheduleState",
    "WrappedScheduleState",
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "ApplyIfFiniteState",
    "MultiStepsState",
    "ConditionallyTransformState",
    "ConditionallyMaskState",
    "ZeroNansState",
)
_INJECTED = {
    "learning_rate": "learning_rate",
    "decay": "rho",
    "eps": "epsilon",
    "momentum": "momentum",
}
_OTHERS = ("ScaleByAdamState", "ScaleByRssState", "ScaleByBeliefState", "ScaleByLionState")


def _collect(node: Any, found: _Found) -> None:
    """Collect the states in a state."""
    name = type(node).__name__
    if name in _AVERAGES:
        _add(node.nu, found.square, found.dtypes)
        if hasattr(node, "mu"):
            _add(node.mu, found.mean, found.dtypes)
        if "count" in node._fields:  # every tuple has a method of that name
            found.corrected.append(int(node.count))
    elif name == "TraceState":
        if not set(named_leaves(node.trace)) <= set(found.square):
            raise ValueError(
                "The state has a trace before the averages, of gradients rather than of steps, "
                "which an `RMSprop` does not hold."
            )
        _add(node.trace, found.trace, found.dtypes)
    elif name in _OTHERS:
        raise ValueError(f"The state contains a {name}, which is another optimizer's.")
    elif hasattr(node, "_fields") and name not in _TRANSPARENT:
        raise ValueError(
            f"The state contains {name}, for which an `RMSprop` has no place. Take it out, or "
            "pass the part of the state that is of optax.rmsprop."
        )
    else:
        if name == "ScaleByScheduleState" or name.startswith("Inject"):
            found.counts.append(int(node.count))
        if name.startswith("Inject"):
            # What a schedule sets is that of the last step.
            scheduled = getattr(node, "hyperparams_states", {})
            found.scheduled.extend(_INJECTED.get(each, each) for each in scheduled)
            found.injected.update(
                {
                    ours: float(node.hyperparams[theirs])
                    for theirs, ours in _INJECTED.items()
                    if node.hyperparams.get(theirs) is not None and theirs not in scheduled
                }
            )
        if name == "ScaleByScheduleState":
            found.scheduled.append("learning_rate")
        if name == "MultiStepsState":
            if int(node.mini_step):
                found.unfinished.append(int(node.mini_step))
            found.counts.append(int(node.gradient_step))
        for each in _children(node):
            _collect(each, found)


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        yield from node.values()
    elif isinstance(node, tuple | list):
        fields = getattr(node, "_fields", range(len(node)))
        for field, value in zip(fields, node, strict=True):
            if field not in ("hyperparams", "hyperparams_states", "acc_grads"):
                yield value


def _add(tree: Any, arrays: dict[str, Array], dtypes: dict[str, str]) -> None:
    for name, leaf in named_leaves(tree).items():
        if name in arrays:
            raise ValueError(f"The state has two entries for {name!r}.")
        arrays[name] = as_array(leaf)
        dtypes[name] = narrowest(dtypes.get(name, "float64"), dtype_of(leaf))


def _negated(slots: Slots) -> Slots:
    """Return slots with the other sign of the momentum buffer."""
    buffer = slots.momentum
    return slots if buffer is None else slots._replace(momentum=-buffer)


def _check_order(optimizer: RMSprop, source: Source) -> None:
    """Refuse a state whose trace may hold directions, or steps: only the transformation tells."""
    has_trace = any(own.momentum is not None for own in source.slots.values())
    if has_trace and not optimizer.lr_in_momentum:
        raise NotExactError(
            "The optimizer's momentum buffers hold directions (lr_in_momentum=False), and the "
            "state does not tell whether its trace does. Pass `transformation`."
        )


def _is_injected(state: Any) -> bool:
    """Whether `inject_hyperparams` holds the learning rate in the state."""
    if type(state).__name__.startswith("Inject"):
        # What a schedule sets cannot be replaced.
        scheduled = getattr(state, "hyperparams_states", {})
        return "learning_rate" in state.hyperparams and "learning_rate" not in scheduled
    return any(map(_is_injected, _children(state)))


def pairing_of(pairs: Any, source: Source, weights: Sequence[Any]) -> Pairing:
    """Return pairs by name; parameters in a list are in the order of the variables."""
    names = [name for name in source.parameters if name not in source.still]
    paths = [getattr(weight, "path", "") for weight in weights]
    if pairs is None and set(names) != set(paths) and all(n.isdecimal() or not n for n in names):
        numbers = [int(name or 0) for name in names]
        if max(numbers) < len(weights):
            return [Pair((n,), weights[i]) for n, i in zip(names, numbers, strict=True)]
        return "order"
    if pairs is None or isinstance(pairs, str):
        return pairs
    if isinstance(pairs, tuple | list) and all(isinstance(pair, Pair) for pair in pairs):
        return list(pairs)
    if isinstance(pairs, Mapping) and not any(
        isinstance(x, Mapping | list) for x in pairs.values()
    ):
        return pairs
    return named_leaves(pairs, lambda node: isinstance(node, Pair) or hasattr(node, "assign"))


def _rebuilt(node: Any, slots: Mapping[str, Slots], steps: int, rate: float) -> Any:
    """Return a state with these slots, counts and rate, of the structure of another."""

    def filled(tree: Any, values: Callable[[Slots], Array | None]) -> Any:
        import jax

        def leaf(path: Any, old: Any) -> Any:
            own = slots.get(_optax_arguments.name_of(path))
            new = None if own is None else values(own)
            return old if new is None else jax.numpy.asarray(new, old.dtype)

        return jax.tree_util.tree_map_with_path(leaf, tree)

    def count(old: Any) -> Any:
        import jax

        return jax.numpy.asarray(steps, old.dtype)

    name = type(node).__name__
    if name in _AVERAGES:
        node = node._replace(nu=filled(node.nu, lambda own: own.square_average))
        if hasattr(node, "mu"):
            node = node._replace(mu=filled(node.mu, lambda own: own.gradient_average))
        return node._replace(count=count(node.count)) if "count" in node._fields else node
    if name == "TraceState":
        return node._replace(trace=filled(node.trace, lambda own: own.momentum))
    if name in ("ScaleByScheduleState", "WrappedScheduleState"):
        return node._replace(count=count(node.count))
    if name == "MultiStepsState":
        inner = _rebuilt(node.inner_opt_state, slots, steps, rate)
        return node._replace(inner_opt_state=inner, gradient_step=count(node.gradient_step))
    if name.startswith("Inject"):
        given = dict(node.hyperparams)
        if "learning_rate" in given:
            given["learning_rate"] = np.asarray(rate, np.asarray(given["learning_rate"]).dtype)
        inner = _rebuilt(node.inner_state, slots, steps, rate)
        node = node._replace(inner_state=inner, count=count(node.count), hyperparams=given)
        if "hyperparams_states" in node._fields:
            states = _rebuilt(node.hyperparams_states, slots, steps, rate)
            node = node._replace(hyperparams_states=states)
        return node
    if isinstance(node, Mapping):
        return type(node)({key: _rebuilt(x, slots, steps, rate) for key, x in node.items()})  # type: ignore[call-arg]
    if hasattr(node, "_fields"):
        return type(node)(*(_rebuilt(each, slots, steps, rate) for each in node))
    if isinstance(node, tuple | list):
        return type(node)(_rebuilt(each, slots, steps, rate) for each in node)
    return node


def _with_settings(source: Source, state: Any, transformation: Any, exact: bool) -> Source:
    """Add to a state the settings of its transformation."""
    told = _optax_arguments.told_by(transformation, state)
    if told.is_of_all:
        by_name = dict.fromkeys(source.parameters, told.of_all())
    else:
        by_name = told.by_parameter(source.parameters)
    frozen = frozenset(told.frozen(source.parameters))
    # The state of what does not move is of no use.
    slots = {name: own for name, own in source.slots.items() if name not in frozen}
    if exact:
        _check_slots(slots, by_name)
    schedules = [each.learning_rate for each in by_name.values() if callable(each.learning_rate)]
    one = schedules[0] if schedules and all(each is schedules[0] for each in schedules) else None
    rates = {name: each.rate_after(source.steps) for name, each in by_name.items()}
    return source._replace(
        slots=slots,
        names=(*slots, *sorted(frozen)),
        still=frozen,
        frozen=frozen,
        settings={name: each.settings for name, each in by_name.items()},
        rates={name: rate for name, rate in rates.items() if rate is not None},
        moves=bool(schedules),
        schedule=None if one is None else conventions.CountSchedule(one, jax=True),
        lr_in_momentum=all(each.lr_in_momentum for each in by_name.values()),
    )


def _check_slots(slots: Mapping[str, Slots], told: Mapping[str, Arguments]) -> None:
    """Refuse a state of another transformation than the one given."""
    for name, own in told.items():
        if name not in slots:
            raise NotExactError(
                f"The transformation has averages of {name!r}, and the state has none: it is one "
                "of another. Nothing has changed."
            )
        found = {"a trace": slots[name].momentum, "an average": slots[name].gradient_average}
        has = {"a trace": own.has_trace, "an average": bool(own.settings["centered"])}
        for what, array in found.items():
            if has[what] is not (array is not None):
                sides = ("transformation", "state")
                one, other = sides if has[what] else reversed(sides)
                raise NotExactError(
                    f"The {one} has {what} of the "
                    f"{'steps' if what == 'a trace' else 'gradients'} of {name!r}, and the {other} "
                    "has none: they do not belong together. Pass the transformation that the state "
                    "is of, or exact=False. Nothing has changed."
                )


def _check_wrappers(optimizer: RMSprop, source: Source, state: Any, transformation: Any) -> None:
    """Refuse gradients that are accumulated or skipped otherwise here than there."""
    accumulates = any(type(node).__name__ == "MultiStepsState" for node in _nodes(state))
    if transformation is None:
        if accumulates:
            raise NotExactError(
                "The state is one of MultiSteps, and does not tell of how many gradients a step is "
                "made. Pass `transformation`, or exact=False."
            )
        return
    told = _optax_arguments.told_by(transformation, state)
    if accumulates is not (told.accumulation_steps is not None):
        raise ValueError(
            "Only one of the state and the transformation has MultiSteps. Pass the transformation "
            "that the state is of."
        )
    found = []
    here = optimizer.gradient_accumulation_steps or 1
    if told.accumulation_steps not in (None, here):
        found.append(
            f"`gradient_accumulation_steps` is {optimizer.gradient_accumulation_steps} here, and "
            f"MultiSteps makes a step of {told.accumulation_steps} gradients there"
        )
    narrow = told.accumulator_dtype
    # The mean of a single gradient is not stored.
    if narrow is not None and (told.accumulation_steps or 1) > 1:
        wide = {each for each in source.dtypes.values() if narrowest(each, narrow) != each}
        found += [
            f"MultiSteps accumulates the gradients of {dtype} parameters in {narrow} there; make "
            f"it with accumulator_dtype={dtype!r}"
            for dtype in sorted(wide)
        ]
    if told.skips is not None and not optimizer.skip_nonfinite:
        found.append("`skip_nonfinite` is False here, and there is apply_if_finite there")
    if found:
        raise NotExactError(
            f"The training would not go on with the steps of optax.rmsprop: {'; '.join(found)}. "
            "Use `interop.like`, or pass exact=False to carry over the averages all the same. "
            "Nothing has changed."
        )


def _nodes(state: Any) -> Iterator[Any]:
    """Yield a state and all that it contains."""
    yield state
    for each in _children(state):
        yield from _nodes(each)
