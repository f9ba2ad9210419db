"""Carry the state of another framework's optimizer into an `RMSprop`, and back.

In `RMSprop` the square average is about the mean if centered, and corrected for bias if the steps
are; elsewhere neither. With v and m the other framework's averages, c = 1 - rho**t if its steps
divide by that, otherwise 1, and b the momentum buffer:

    s = v / c            centered: s = v / c - (m / c)**2,  m = m / c
    b                    times the learning rate if only `RMSprop` has it in the buffer,
                         divided by it if only the other has it there
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras.optimizers import schedules

from keras_rmsprop import _state
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop.interop import _live, _schedules
from keras_rmsprop.interop._pairs import MisfitError, Pair, Pairing, linked_to, shortened
from keras_rmsprop.interop._source import Array, NotExactError, Settings, Slots, Source

# How far settings may differ: some frameworks round them to float32.
SAME = 1e-6
# And how far what they leave of 1, which decides how long an average remembers.
SMALL = 1e-4


def load(
    optimizer: RMSprop, source: Source, pairing: Pairing, *, exact: bool
) -> "_state.LoadReport":
    """Load a source's state into a built optimizer, whole or not at all.

    Raises: ValueError if the optimizer is not built, parameters and variables do not match, or a
        shape does not fit; NotExactError if `exact` and further steps would differ.
    """
    optimizer = built(optimizer)
    links = linked_to(source, pairing, optimizer._roster.weights, exact=exact)
    if exact:
        words = differences(optimizer, source, links) + _missing(optimizer, source, links)
        refuse(words, source.framework)
    slots = _incoming(optimizer, source, links)
    here = _state.state_of(optimizer._parts())
    if source.begun and here.accumulation_steps != source.counts:
        check_between_accumulations(source.begun, source.counts)
    if exact:
        refuse(_lost_here(optimizer, links, slots, here), source.framework)
    if source.steps is None:
        # The count stays, and so it must be one of completed steps.
        check_between_accumulations(here.calls or 0, here.accumulation_steps)
        calls = here.calls
    else:
        calls = source.steps * here.accumulation_steps + source.begun
    state = here._replace(
        calls=calls,
        learning_rate=_rate(optimizer, source, links, here),
        slots=slots,
        centered=any("gradient_average" in each for each in slots),
    )
    reason = _state.why_impossible(state)
    if reason is not None:
        raise ValueError(f"The state cannot be an RMSprop's: {reason}. Nothing has changed.")
    optimizer._load(state)
    report = optimizer.load_report
    assert report is not None
    return report


class Unloaded(NamedTuple):
    """What another framework's optimizer gets; all of one moment."""

    # By its names of the parameters, in its terms.
    slots: dict[str, Slots]
    steps: int
    # The rate of the next step of each variable.
    rates: tuple[float, ...]
    # How many gradients of that step are summed.
    begun: int
    # The rate of variables in no group, of which the others are multiples.
    base: float
    # The pair of each variable.
    links: Mapping[int, Pair]


def unload(
    optimizer: RMSprop,
    target: Source,
    pairing: Pairing,
    *,
    exact: bool,
    rates: Literal["one", "each", "kept"] = "one",
    wide: bool = False,
    sums: int = 1,
) -> Unloaded:
    """Return an optimizer's slots by another framework's names and in its terms, and its steps.

    They are of one moment, also while another thread makes steps.

    Args:
        optimizer: a built optimizer.
        target: the optimizer they are for. Of its slots only the shapes matter.
        pairing: as for `load`.
        exact: whether further steps must be the same.
        rates: what becomes of the target's learning rates: "one" is replaced by that of the
            optimizer, "each" by that of its variable, or they are "kept" and must be the same.
        wide: whether the slots are float64, before they are rounded to the dtype that they have
            here.
        sums: of how many gradients the target makes a step, if it can hold an incomplete sum.

    Raises: as `load`.
    """
    optimizer = built(optimizer)
    links = linked_to(target, pairing, optimizer._roster.weights, exact=exact)
    if exact:
        compared = target if rates == "kept" else target._replace(rates={})
        words = differences(
            optimizer, compared, links, keeps_rate=rates == "kept", steps=steps_of(optimizer)
        )
        own = {rate_of(optimizer, i) / pair.rate for i, pair in links.items()}
        if rates == "one" and len(own) > 1:
            words.append(f"the variables have different learning rates here: {sorted(own)}")
        refuse(words, target.framework, incoming=False)
    optimizer.settle()
    state = _state.state_of(optimizer._parts())
    if sums != state.accumulation_steps:
        check_between_accumulations(state.calls or 0, state.accumulation_steps)
    steps, begun = divmod(state.calls or 0, state.accumulation_steps)
    base = _rate_in(optimizer, state)
    own_rates = tuple(base * _factor(optimizer, i) for i in range(len(state.slots)))
    found: dict[str, Slots] = {}
    misfits = []
    lost: list[str] = []
    for position, pair in links.items():
        here = state.slots[position]
        if "square_average" not in here:
            continue
        dtype = np.promote_types(here["square_average"].dtype, np.float64 if wide else np.float32)
        slots = _outgoing(optimizer, target, position, pair, here, steps, own_rates[position])
        lost += _lost_there(optimizer, target, position, pair, slots, dtype.name)
        parts = [None if slot is None else pair.parts(slot.astype(dtype)) for slot in slots]
        for i, name in enumerate(pair.names):
            found[name] = Slots(*(None if part is None else part[i] for part in parts))  # type: ignore[arg-type]
            there = target.slots.get(name)
            shape = found[name].square_average.shape
            if there is not None and there.square_average.shape != shape:
                misfits.append(
                    f"{pair.path!r} has shape {here['square_average'].shape}, for {name!r} "
                    f"{shape}, which has shape {there.square_average.shape}"
                )
    if misfits:
        raise ValueError(f"{'; '.join(misfits)}. Nothing has changed.")
    if exact:
        refuse(lost, target.framework, incoming=False)
    return Unloaded(found, steps, own_rates, begun, base, links)


def built(optimizer: Any) -> RMSprop:
    """Return a built `RMSprop`, also if it is in a `LossScaleOptimizer`; refuse anything else."""
    optimizer = _live.unwrapped(optimizer)
    if not isinstance(optimizer, RMSprop):
        raise ValueError(
            "`optimizer` must be a keras_rmsprop.RMSprop, received one of "
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__}."
        )
    if not optimizer.built:
        raise ValueError(
            "State belongs to variables, so the optimizer must be built first. Call "
            "`optimizer.build(model.trainable_variables)`."
        )
    return optimizer


def check_between_accumulations(calls: int, accumulation_steps: int | None) -> None:
    """Refuse a state with a sum of gradients, which no other framework holds.

    Args:
        calls: the number of gradients that the optimizer has seen.
        accumulation_steps: how many of them make a step, None for one.
    """
    steps = accumulation_steps or 1
    begun = calls % steps
    if begun:
        raise ValueError(
            f"{begun} of {steps} gradients are accumulated, which would be lost. Carry the state "
            "over after the call that completes the step."
        )


def steps_of(optimizer: RMSprop) -> int:
    """Return the number of completed steps."""
    return int(optimizer._iterations) // (optimizer.gradient_accumulation_steps or 1)


def is_rounded(optimizer: RMSprop) -> bool:
    """Whether the learning rate has fewer digits than Python's numbers."""
    rate = optimizer._learning_rate
    return str(getattr(rate, "dtype", keras.config.floatx())) != "float64"


def rate_of(optimizer: RMSprop, position: int) -> float:
    """Return the learning rate of a variable's next step."""
    return _base_rate(optimizer) * _factor(optimizer, position)


def settings_of(optimizer: RMSprop, position: int) -> dict[str, Any]:
    """Return the settings of a variable that say what its steps are."""
    own = optimizer._settings_of(position)
    settings = {name: getattr(own, name) for name in COMPARED}
    if not optimizer._use_weight_decay(optimizer._roster.weights[position]):
        settings["weight_decay"] = None
    return settings


# Compared if the other framework tells them.
COMPARED = (
    "rho",
    "momentum",
    "epsilon",
    "epsilon_inside_sqrt",
    "lr_in_momentum",
    "centered",
    "nesterov",
    "bias_correction",
    "l2",
    "weight_decay",
    "maximize",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
)


def differences(
    optimizer: RMSprop,
    other: Source,
    links: Mapping[int, Pair],
    *,
    keeps_rate: bool = False,
    steps: int | None = None,
) -> list[str]:
    """Return what would make the steps of the two differ, in words.

    Args:
        optimizer: a built optimizer.
        other: the other framework's.
        links: the pair of each variable.
        keeps_rate: whether the optimizer goes on with its own rate, rather than with the other's.
        steps: the number of steps made when the state changes hands, None for the other's.
    """
    # By the difference, the variables that have it.
    found: dict[str, list[str]] = {}
    for position, pair in links.items():
        for words in _differences_of(optimizer, other, position, pair):
            found.setdefault(words, []).append(pair.path)
    return [
        *(
            words if len(paths) == len(links) else f"{words} (of {shortened(paths, 4)})"
            for words, paths in found.items()
        ),
        *other.besides,
        *in_words(other.changing),
        *_rates_that_differ(
            optimizer, other, links, keeps_rate, other.steps if steps is None else steps
        ),
    ]


def in_words(changing: Sequence[str]) -> list[str]:
    """Return what settings that change by themselves, by their names, make different."""
    return [f"`{name}` changes by a schedule or a callable there" for name in changing]


def _differences_of(optimizer: RMSprop, other: Source, position: int, pair: Pair) -> list[str]:
    own = settings_of(optimizer, position)
    found = []
    for name in pair.names:
        theirs = other.settings.get(name, {})
        found += [
            f"`{setting}` is {own[setting]!r} here and {value!r} there"
            for setting, value in theirs.items()
            if setting in own and not _same_setting(setting, own, theirs)
        ]
    if own["momentum"] and own["lr_in_momentum"] != other.lr_in_momentum and _moves(optimizer):
        found.append(
            f"`lr_in_momentum` is {own['lr_in_momentum']} here and {other.lr_in_momentum} there, "
            "which is the same only while the learning rate does not change, and it is a schedule"
        )
    known = [other.slots[name] for name in pair.names if name in other.slots]
    if known and not any(other.settings.get(name) for name in pair.names):
        if own["centered"] != (known[0].gradient_average is not None):
            found.append(f"`centered` is {own['centered']} here and {not own['centered']} there")
        if bool(own["momentum"]) is not (known[0].momentum is not None):
            there = "none" if own["momentum"] else "a buffer"
            found.append(f"`momentum` is {own['momentum']} here, and there is {there} there")
    if own["bias_correction"] != other.bias_correction:
        found.append(
            f"`bias_correction` is {own['bias_correction']} here and {other.bias_correction} there"
        )
    found += _of_several(own, pair)
    if 0 < len(known) < len(pair.names):
        found.append(f"only one of {pair.label} has made steps")
    for name in pair.names:
        dtype = other.dtypes.get(name)
        if dtype is not None and _is_narrow(dtype, other.slots.get(name)):
            found.append(f"the slots are rounded to {dtype} there, and not here")
    return list(dict.fromkeys(found + _only_here(optimizer, other, position, bool(known))))


def _of_several(own: Settings, pair: Pair) -> list[str]:
    """Return what acts on a variable otherwise than on each of the parameters that it holds."""
    is_sum = pair.rate != 1.0
    found = []
    decays = [name for name in ("l2", "weight_decay") if own[name]]
    if is_sum and decays:
        found.append(
            f"`{decays[0]}` decays {pair.path!r}, which is the sum of {pair.label}, otherwise than "
            "each of them"
        )
    if is_sum and own["global_clipnorm"]:
        # The clipping of each has the same effect, as both get the gradient of the sum.
        found.append(
            f"the norm of `global_clipnorm` has the gradient of {pair.path!r} once, and there that "
            f"of each of {pair.label}"
        )
    if not is_sum and len(pair.names) > 1 and own["clipnorm"]:
        found.append(
            f"`clipnorm` clips {pair.path!r} by one norm, and there would be one of each of "
            f"{pair.label}"
        )
    return found


def _only_here(optimizer: RMSprop, other: Source, position: int, has_state: bool) -> list[str]:
    """Return what only this optimizer does, and no other framework's."""
    found = []
    settings = optimizer._settings_of(position)
    told = {name for each in other.settings.values() for name in each}
    if settings.transform is not None and "transform" not in told:
        found.append("`transform` changes the gradients here only")
    if optimizer.state_dtype is not None and "state_dtype" not in told:
        found.append(f"the slots are rounded to {optimizer.state_dtype} here (`state_dtype`)")
    if optimizer.use_ema and optimizer.ema_overwrite_frequency and "use_ema" not in told:
        found.append("`ema_overwrite_frequency` replaces the weights here only")
    start = other.arguments.get("initial_square_average")
    own_start = optimizer.initial_square_average
    if not has_state and start is not None and start != own_start:
        found.append(f"an average starts from {own_start} here and from {start} there")
    return found


def _same_setting(name: str, own: Settings, theirs: Settings) -> bool:
    has_momentum = bool(own["momentum"] or theirs.get("momentum"))
    match name:
        case "lr_in_momentum":
            return True  # Converted, or reported where the rate moves.
        case "bias_correction":
            return True  # Reported from the slots.
        case "nesterov" if not has_momentum:
            return True
        case "epsilon_inside_sqrt" if not own["epsilon"]:
            return True
        case "ema_momentum" | "ema_overwrite_frequency" if not own["use_ema"]:
            return True
    a, b = own[name] or 0.0, theirs[name] or 0.0
    if name in ("rho", "momentum") and not math.isclose(1.0 - a, 1.0 - b, rel_tol=SMALL):
        return False
    return math.isclose(a, b, rel_tol=SAME, abs_tol=0.0)


def _is_narrow(dtype: str, slots: Slots | None) -> bool:
    """Whether slots have fewer digits than those of this package, or than others beside them."""
    if dtype not in ("float32", "float64"):
        return True
    return slots is not None and np.dtype(dtype).itemsize < slots.square_average.dtype.itemsize


def _rates_that_differ(
    optimizer: RMSprop,
    other: Source,
    links: Mapping[int, Pair],
    keeps_rate: bool,
    steps: int | None,
) -> list[str]:
    moves = _moves(optimizer)
    if other.moves is not None and other.moves != moves:
        words = {True: "changes by a schedule or a callable", False: "is a number"}
        return [f"the learning rate {words[moves]} here, and {words[other.moves]} there"]
    if moves and other.schedule is not None:
        difference = _schedules.difference(
            _schedules.Moving(optimizer._learning_rate, optimizer.gradient_accumulation_steps or 1),
            _schedules.Moving(other.schedule, other.counts),
            steps or 0,
        )
        if difference is not None:
            return [difference]
    wanted = _wanted_rates(other, links)
    if not wanted:
        return []
    if moves:
        base = _rate_at(optimizer, other.steps, other.begun)
        if base is None:
            return []
    else:
        base = _base_rate(optimizer) if keeps_rate else _base_for(optimizer, wanted)
    off = {i: base * _factor(optimizer, i) for i in wanted}
    needed = _base_for(optimizer, wanted)
    if moves and len(set(map(off.get, off))) > 1 and not math.isclose(base, needed, rel_tol=1e-5):
        return [
            f"the learning rate gives {base:.7g} now, and must give {needed:.7g}, the rate there "
            "of the variables in no group; the rates of groups are factors of it"
        ]
    return [
        f"the learning rate of {links[i].path!r} is {off[i]:.7g} here and {rate:.7g} there"
        + (
            f", {links[i].rate:g} times that of {links[i].label}, as the variable is their sum"
            if links[i].rate != 1.0
            else ""
        )
        for i, rate in wanted.items()
        if not math.isclose(off[i], rate, rel_tol=10 * SAME)
    ][:4]


def _wanted_rates(other: Source, links: Mapping[int, Pair]) -> dict[int, float]:
    """Return the rates that variables need for the other's steps, as far as it tells its rates."""
    return {
        position: other.rates[pair.names[0]] * pair.rate
        for position, pair in links.items()
        if pair.names[0] in other.rates
    }


def _base_for(optimizer: RMSprop, wanted: Mapping[int, float]) -> float:
    """Return the optimizer's rate with which its groups come closest to the wanted rates."""
    bases = [rate / factor for i, rate in wanted.items() if (factor := _factor(optimizer, i)) > 0.0]
    ungrouped = [rate for i, rate in wanted.items() if not optimizer._roster.members[i]]
    return next(iter(ungrouped or bases), _base_rate(optimizer))


def _rate(
    optimizer: RMSprop, source: Source, links: Mapping[int, Pair], here: _state.State
) -> float | None:
    """Return the rate to load, None for an optimizer that has a schedule or a callable."""
    wanted = _wanted_rates(source, links)
    if here.learning_rate is None or not wanted:
        return here.learning_rate
    return _base_for(optimizer, wanted)


def _factor(optimizer: RMSprop, position: int) -> float:
    group = optimizer._roster.members[position]
    if not group:
        return 1.0
    return float(list(optimizer._own_groups().values())[group - 1].learning_rate)


def _moves(optimizer: RMSprop) -> bool:
    """Whether the learning rate is a schedule or a callable."""
    return optimizer._rate().variable is None


def _base_rate(optimizer: RMSprop) -> float:
    rate = optimizer._next_learning_rate()
    return float(rate if isinstance(rate, float | int) else _state.array_of(rate))


def _rate_in(optimizer: RMSprop, state: _state.State) -> float:
    """Return the learning rate of the step that follows a state, which may be of the past."""
    if optimizer._rate().is_overridden:
        return _base_rate(optimizer)
    if state.learning_rate is not None:
        return state.learning_rate
    rate = _rate_at(optimizer, *divmod(state.calls or 0, state.accumulation_steps))
    assert rate is not None
    return rate


def _rate_at(optimizer: RMSprop, steps: int | None, begun: int = 0) -> float | None:
    """Return a schedule's rate after a number of steps, or a callable's now; None if unknown.

    Args:
        optimizer: whose schedule it is.
        steps: how many were made, None if unknown.
        begun: how many gradients of the next step are summed.
    """
    rate = optimizer._learning_rate
    if not isinstance(rate, schedules.LearningRateSchedule):
        return _base_rate(optimizer)
    if steps is None:
        return None
    calls = steps * (optimizer.gradient_accumulation_steps or 1) + begun
    return float(_state.array_of(rate(calls)))


def _incoming(
    optimizer: RMSprop, source: Source, links: Mapping[int, Pair]
) -> tuple[dict[str, Array], ...]:
    """Return the slots of every variable; empty for those that start afresh."""
    found: list[dict[str, Array]] = [{} for _ in optimizer._roster.weights]
    shapes = [tuple(weight.shape) for weight in optimizer._roster.weights]
    misfits = []
    for position, pair in links.items():
        slots = [source.slots[name] for name in pair.names if name in source.slots]
        if len(slots) < len(pair.names):
            continue
        try:
            moved = [
                None
                if any(part is None for part in parts)
                else pair.converted(parts, shapes[position])
                for parts in zip(*slots, strict=True)
            ]
        except MisfitError as error:
            misfits.append(str(error))
            continue
        if moved[0] is not None:
            found[position] = _here(optimizer, source, position, pair, Slots(*moved))  # type: ignore[arg-type]
    if misfits:
        raise ValueError(f"{'; '.join(misfits)}. Nothing has changed.")
    return tuple(found)


def _here(
    optimizer: RMSprop, source: Source, position: int, pair: Pair, slots: Slots
) -> dict[str, Array]:
    """Convert a variable's slots to the meaning that they have in `RMSprop`."""
    own = settings_of(optimizer, position)
    correction = _correction(own, source, source.steps)
    v, m, b, average, accumulator = (
        None if slot is None else slot.astype(np.float64) for slot in slots
    )
    assert v is not None
    here = {"square_average": v / correction}
    if own["centered"] and m is not None:
        mean = m / correction
        # The frameworks' v - m² may have been rounded below zero; of an infinite mean it is NaN.
        variance = np.maximum(here["square_average"] - mean**2, 0.0)
        here["square_average"] = np.where(np.isfinite(mean), variance, np.nan)
        here["gradient_average"] = mean
    if own["momentum"] and b is not None:
        here["momentum"] = b * _buffer_factor(
            own, source, _wanted_rates(source, {position: pair}).get(position), pair,
            optimizer, position,
        )  # fmt: skip
    held = optimizer._roster.parameters[position]
    if held.accumulator is not None:
        is_begun = source.begun and accumulator is not None
        here["accumulator"] = accumulator if is_begun else np.zeros_like(v)  # type: ignore[assignment]
    if held.average is not None and average is not None:
        here["average"] = average
    return here


def _outgoing(
    optimizer: RMSprop,
    target: Source,
    position: int,
    pair: Pair,
    here: Mapping[str, Array],
    steps: int,
    rate: float,
) -> Slots:
    """Convert a variable's slots to the meaning that they have in the other framework."""
    own = settings_of(optimizer, position)
    correction = _correction(own, target, steps)
    s, m, b = (
        here[kind].astype(np.float64) if kind in here else None
        for kind in ("square_average", "gradient_average", "momentum")
    )
    assert s is not None
    v = s if m is None else s + m**2
    if b is not None:
        b = b / _buffer_factor(own, target, rate, pair, optimizer, position)
    mean = None if m is None else m * correction
    return Slots(v * correction, mean, b, here.get("average"), here.get("accumulator"))


def _missing(optimizer: RMSprop, source: Source, links: Mapping[int, Pair]) -> list[str]:
    """Return which slots a state lacks that its settings need, the first few."""
    found = []
    for position, pair in links.items():
        own = settings_of(optimizer, position)
        for name in pair.names:
            slots, theirs = source.slots.get(name), source.settings.get(name, {})
            if slots is None:
                continue
            if own["momentum"] and theirs.get("momentum") and slots.momentum is None:
                found.append(f"there is no momentum buffer of {name!r}")
            if own["centered"] and theirs.get("centered") and slots.gradient_average is None:
                found.append(f"there is no average of the gradients of {name!r}")
    return found[:4]


def _lost_here(
    optimizer: RMSprop,
    links: Mapping[int, Pair],
    slots: Sequence[Mapping[str, Array]],
    here: _state.State,
) -> list[str]:
    """Return which slots would become infinite or zero here."""
    return [
        f"{words} here"
        for position, pair in links.items()
        for kind, value in slots[position].items()
        if kind in here.slots[position]
        for words in _lost(optimizer, position, pair, kind, value, here.slots[position][kind].dtype)
    ]


def _lost_there(
    optimizer: RMSprop, target: Source, position: int, pair: Pair, slots: Slots, own_dtype: str
) -> list[str]:
    """Return which slots would become infinite or zero in the other framework."""
    known = [target.slots[name].square_average for name in pair.names if name in target.slots]
    dtypes = [target.dtypes[name] for name in pair.names if name in target.dtypes]
    # Narrower ones are refused as such.
    is_single = "float32" in (own_dtype, *dtypes, *(array.dtype.name for array in known))
    dtype = np.dtype("float32" if is_single else "float64")
    return [
        f"{words} there"
        for kind, value in slots._asdict().items()
        if value is not None
        for words in _lost(optimizer, position, pair, kind, value, dtype)
    ]


def _lost(
    optimizer: RMSprop, position: int, pair: Pair, kind: str, values: Array, dtype: Any
) -> list[str]:
    """Return whether slots become infinite, or zero where that matters, in a narrower dtype."""
    with np.errstate(over="ignore", under="ignore"):
        stored = values.astype(dtype).astype(np.float64)
    label = f"the {kind.replace('_', ' ')} of {pair.path!r}"
    largest = np.max(np.abs(values), initial=0.0)
    if np.any(np.isinf(stored) & np.isfinite(values)):
        return [f"{label} reaches {largest:.3g}, which is infinite in {dtype.name}"]
    if kind != "square_average":
        return []
    own = optimizer._settings_of(position)
    epsilon = math.sqrt(own.epsilon) if own.epsilon_inside_sqrt else own.epsilon
    gone = (stored == 0.0) & (np.sqrt(np.maximum(values, 0.0)) > SAME * epsilon)
    if np.any(gone):
        return [f"{label} is as small as {np.min(values[gone]):.3g}, which is 0 in {dtype.name}"]
    return []


def _correction(own: Settings, other: Source, steps: int | None) -> float:
    """Return what the other's averages are divided by to become those of `RMSprop`."""
    if not other.bias_correction:
        return 1.0
    if steps is None:
        raise ValueError(
            "The averages are corrected for bias by the number of steps, which is not in the "
            "state. Pass `steps`."
        )
    rho = own["rho"]
    return -math.expm1(steps * math.log(rho)) if rho and steps else 1.0


def _buffer_factor(
    own: Settings,
    other: Source,
    rate: float | None,
    pair: Pair,
    optimizer: RMSprop,
    position: int,
) -> float:
    """Return by what the other's momentum buffer is multiplied to become that of `RMSprop`.

    Args:
        own: the variable's settings.
        other: the other optimizer.
        rate: the variable's learning rate there, times `pair.rate`; None if it does not tell it.
        pair: the pair.
        optimizer: the optimizer, for the rate where the other does not tell it.
        position: the variable's position.
    """
    if own["lr_in_momentum"] == other.lr_in_momentum:
        return pair.rate if other.lr_in_momentum else 1.0
    rate = rate_of(optimizer, position) if rate is None else rate
    if not rate > 0.0:
        raise NotExactError(
            f"The momentum buffer of {pair.path!r} can be converted between steps and directions "
            f"only by a learning rate > 0, which is {rate} now. Use an optimizer with "
            f"lr_in_momentum={other.lr_in_momentum}."
        )
    return rate if own["lr_in_momentum"] else pair.rate / rate


def refuse(found: Sequence[str], framework: str, *, incoming: bool = True) -> None:
    """Refuse to go on with an optimizer whose steps would be others.

    Args:
        found: what would make them differ, in words.
        framework: what the other optimizer is called.
        incoming: whether this package's optimizer is to go on, rather than the other.

    Raises: NotExactError if anything was found.
    """
    if found:
        remedy = (
            "Use the same settings, as `interop.like` does unless its options change them, "
            if incoming
            else "Use an optimizer there that has the same settings, "
        )
        raise NotExactError(
            f"The training would not go on with the steps of {framework}: "
            f"{'; '.join(found)}. {remedy}or pass exact=False to carry over the averages all the "
            "same. Nothing has changed."
        )
