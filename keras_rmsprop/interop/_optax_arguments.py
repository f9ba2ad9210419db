"""Find out with which arguments a transformation of optax was made.

A transformation is two functions, whose arguments are in their closures. This reads them by the
names that they have in optax 0.2; a transformation that is composed otherwise is refused.
"""

import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop.interop._source import Settings


def named_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths, such as "dense/kernel"."""
    import jax

    # Masked parameters are nodes without leaves.
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf)
    return {name_of(path): leaf for path, leaf in leaves}


def name_of(path: Any) -> str:
    """Return a path in a pytree as keys joined by slashes."""
    fields = ("key", "idx", "name")
    return "/".join(
        str(next(getattr(key, field) for field in fields if hasattr(key, field))) for key in path
    )


class Part(NamedTuple):
    """A transformation that consists of no others."""

    # The function of optax that made it.
    kind: str
    arguments: Mapping[str, Any]
    # The parameters that it transforms: those that all of these select.
    selections: "tuple[Selection, ...]" = ()

    def applies_to(self, name: str) -> bool:
        """Whether it transforms a parameter."""
        return all(each.has(name) for each in self.selections)


class Selection(NamedTuple):
    """The parameters that a mask selects, or that have a label."""

    # The masks or labels by path; one path may stand for all parameters below it.
    leaves: Mapping[str, Any]
    # What a selected parameter has there.
    value: Any
    what: str

    def has(self, name: str) -> bool:
        """Whether a parameter is selected.

        Raises: ValueError if the masks or labels have none for it.
        """
        parts = name.split("/")
        prefixes = ("/".join(parts[:n]) for n in range(len(parts), -1, -1))
        path = next((each for each in prefixes if each in self.leaves), None)
        if path is None:
            raise ValueError(f"The {self.what} have none for {name!r}.")
        return bool(self.leaves[path] == self.value)


class Arguments(NamedTuple):
    """The arguments of `RMSprop` that follow from a transformation."""

    # As `RMSprop` calls them, without the rate.
    settings: Settings
    learning_rate: float | Callable[[Any], Any]
    initial_square_average: float
    # Whether there is a trace, which there may be without momentum.
    has_trace: bool

    @property
    def lr_in_momentum(self) -> bool:
        """Whether the momentum buffer holds steps."""
        return bool(self.settings["lr_in_momentum"])

    def rate_after(self, steps: int | None) -> float | None:
        """Return the rate of the next step, None if it depends on an unknown count."""
        if not callable(self.learning_rate):
            return self.learning_rate
        return None if steps is None else float(self.learning_rate(steps))


class Told(NamedTuple):
    """What a transformation tells about itself."""

    # In the order in which they apply.
    parts: tuple[Part, ...]
    # The parameters that only the state tells of, as they have none in it.
    others: tuple[str, ...] = ()
    # After how many gradients `MultiSteps` makes a step, None without it.
    accumulation_steps: int | None = None
    # The dtype in which it holds their mean, None without it.
    accumulator_dtype: str | None = None
    # How many gradients in a row `apply_if_finite` skips at most, None without it.
    skips: float | None = None

    @property
    def is_of_all(self) -> bool:
        """Whether all parameters are treated alike, whatever their names."""
        return not any(part.selections for part in self.parts)

    def of_all(self) -> Arguments:
        """Return the arguments of every parameter; only if `is_of_all`."""
        return _assembled(self.parts)

    def by_parameter(self, names: Sequence[str] = ()) -> dict[str, Arguments]:
        """Return the arguments of each parameter that is trained, by its path.

        Args:
            names: the parameters, as far as they are known. Those in masks and labels are added.

        Raises: ValueError if an `RMSprop` has no such steps.
        """
        parts = {name: self._parts_of(name) for name in self._names(names)}
        found = {name: _assembled(own, name) for name, own in parts.items() if not _is_frozen(own)}
        if not found:
            raise ValueError("The transformation freezes all parameters.")
        self._check_norms(parts, found)
        if len({each.lr_in_momentum for each in found.values()}) > 1:
            raise ValueError(
                "The transformations have their rates partly before and partly after the trace; "
                "all variables of an `RMSprop` have the same order."
            )
        return found

    def frozen(self, names: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the parameters that `set_to_zero` keeps as they are."""
        return tuple(name for name in self._names(names) if _is_frozen(self._parts_of(name)))

    def _parts_of(self, name: str) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.applies_to(name))

    def _names(self, known: Sequence[str]) -> list[str]:
        told = {
            path
            for part in self.parts
            for selection in part.selections
            for path in selection.leaves
        }
        names = dict.fromkeys([*known, *self.others])
        # A mask or a label of several parameters stands above them.
        above = {
            "/".join(name.split("/")[:n])
            for name in (*names, *told)
            for n in range(name.count("/") + 1)
        }
        above |= {""} if any((*names, *told)) else set()
        return [*names, *sorted(told - above - names.keys())]

    def _check_norms(self, parts: Mapping[str, Sequence[Part]], trained: Container[str]) -> None:
        """Refuse norms of other gradients than those of all variables."""
        for part in self.parts:
            if part.kind != "clip_by_global_norm":
                continue
            inside = [name for name in parts if part.applies_to(name)]
            frozen = [name for name in inside if name not in trained]
            if frozen:
                raise ValueError(
                    f"The norm of clip_by_global_norm is also of the gradient of {frozen[0]!r}, "
                    "which set_to_zero freezes; that of an `RMSprop` is of its own variables. Clip "
                    "the others only, or not at all."
                )
            if any(name not in inside for name in parts if name in trained):
                raise ValueError(
                    "The transformations of a multi_transform clip by a norm of their own "
                    "parameters; an `RMSprop` has one norm, of all. Clip before the "
                    "multi_transform, or not at all."
                )


def _is_frozen(parts: Sequence[Part]) -> bool:
    return bool(parts) and parts[-1].kind == "set_to_zero"


# In this order, with those in brackets optional:
#   [clip] [add_decayed_weights] average rate [trace]      as optax.rmsprop, or
#   [clip] [add_decayed_weights] average trace rate        with the rate outside the buffer, or
#   [clip] average [trace] add_decayed_weights rate        with decay that is not in the averages
_AVERAGES = ("scale_by_rms", "scale_by_stddev")
_CLIPS = {
    "clip": ("clipvalue", "max_delta"),
    "clip_by_global_norm": ("global_clipnorm", "max_norm"),
}
_RATES = ("scale", "scale_by_schedule")
_DECAY = "add_decayed_weights"


def told_by(transformation: Any, state: Any = None) -> Told:
    """Return what a transformation tells about itself.

    Args:
        transformation: one of optax.
        state: a state of it, which has the numbers of `inject_hyperparams`, and shows the
            parameters to masks and labels that are functions of them. Default None.

    Raises: ValueError if it is not composed of what `optax.rmsprop` is, with clipping and weight
        decay before it, or the state is not one of it.
    """
    if not callable(getattr(transformation, "update", None)):
        raise ValueError(
            "`transformation` must be one of optax, such as optax.rmsprop(1e-3), received one of "
            f"{type(transformation).__module__}.{type(transformation).__qualname__}."
        )
    reader = _Reader(None if state is None else _parameters_in(state))
    told = reader.told_by(transformation.init, transformation.update, state)
    if told.is_of_all:
        told.of_all()  # Refuse what cannot be, before anything is made of it.
    return told


class _Reader:
    """Takes a transformation apart, and its state with it."""

    def __init__(self, parameters: Any) -> None:
        # As a pytree with their square averages, None if unknown.
        self._parameters = parameters

    def told_by(self, init: Any, update: Any, state: Any) -> Told:
        """Return what a whole transformation tells about itself."""
        skips = accumulation_steps = accumulator_dtype = None
        kind, inside = _taken_apart(update)
        while True:
            if kind == "with_extra_args_support":
                inner = inside["tx"]
            elif kind == "apply_if_finite" and skips is None and accumulation_steps is None:
                # Around MultiSteps it checks each gradient, in it their mean.
                inner, skips = inside["inner"], float(inside["max_consecutive_errors"])
                state = _field(state, "inner_state")
            elif kind == "MultiSteps" and accumulation_steps is None:
                accumulation_steps = _accumulation_steps_of(update.__self__)
                accumulator_dtype = str(update.__self__._accumulator_dtype)
                inner = update.__self__.inner_opt
                state = _field(state, "inner_opt_state")
            else:
                break
            init, update = inner.init, inner.update
            kind, inside = _taken_apart(update)
        parts = tuple(self._parts_of(init, update, state, ()))
        others: tuple[str, ...] = ()
        if self._parameters is not None:
            leaves = named_leaves(self._parameters, _is_masked)
            others = tuple(name for name, leaf in leaves.items() if _is_masked(leaf))
        return Told(parts, others, accumulation_steps, accumulator_dtype, skips)

    def _parts_of(
        self, init: Any, update: Any, state: Any, selections: tuple[Selection, ...]
    ) -> Iterator[Part]:
        """Yield the transformations in one, in the order in which they apply."""
        kind, inside = _taken_apart(update)
        if kind == "chain":
            functions = list(zip(_closure(init)["init_fns"], inside["update_fns"], strict=True))
            for pair, own in zip(functions, _fields(state, range(len(functions))), strict=True):
                yield from self._parts_of(*pair, own, selections)
        elif kind == "named_chain":
            names = [name for name, _ in inside["transforms"]]
            for (_, inner), own in zip(inside["transforms"], _fields(state, names), strict=True):
                yield from self._parts_of(inner.init, inner.update, own, selections)
        elif kind == "with_extra_args_support":
            inner = inside["tx"]
            yield from self._parts_of(inner.init, inner.update, state, selections)
        elif kind == "masked":
            inner = inside["inner"]
            own = _field(state, "inner_state")
            chosen = Selection(self._leaves(inside["mask"], "masks of masked"), True, "masks")
            yield from self._parts_of(inner.init, inner.update, own, (*selections, chosen))
        elif kind == "partition":
            labels = self._leaves(inside["param_labels"], "labels of the multi_transform")
            states = _field(state, "inner_states")
            for label, inner in inside["transforms"].items():
                (own,) = _fields(states, [label])
                chosen = Selection(labels, label, "labels of the multi_transform")
                yield from self._parts_of(
                    inner.init, inner.update, _field(own, "inner_state"), (*selections, chosen)
                )
        elif kind == "inject_hyperparams":
            inner = _with_numbers(_closure(init) | inside, state)
            own = _field(state, "inner_state")
            yield from self._parts_of(inner.init, inner.update, own, selections)
        elif kind in _RATES:
            yield Part(kind, {"rate": _rate_of(kind, inside)}, selections)
        elif kind != "identity":
            yield Part(kind, _closure(init) | inside, selections)

    def _leaves(self, tree: Any, what: str) -> dict[str, Any]:
        """Return the leaves of masks or labels, which may be a function of the parameters."""
        if not callable(tree):
            return named_leaves(tree)
        words = f"The {what} are a function, and the parameters"
        if self._parameters is None:
            raise ValueError(
                f"{words} it would be called with are not known here. Pass the {what} themselves, "
                "or a state as well."
            )
        try:
            return named_leaves(tree(self._parameters))
        except Exception as error:
            # A function of the user's.
            raise ValueError(
                f"{words} that have no state are not known here. Pass the {what} themselves."
            ) from error


def _taken_apart(update: Any) -> tuple[str, dict[str, Any]]:
    """Return which function of optax made a transformation, and the variables of its update."""
    return getattr(update, "__qualname__", "").partition(".")[0], _closure(update)


def _closure(function: Any) -> dict[str, Any]:
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except TypeError:  # not a Python function
        return {}


def _field(state: Any, name: str) -> Any:
    """Return a field of a state; None of None, where there is no state."""
    if state is None:
        return None
    if not hasattr(state, name):
        raise _foreign(state)
    return getattr(state, name)


def _fields(state: Any, keys: Sequence[Any]) -> list[Any]:
    """Return the entries of a state that is a tuple or a mapping; None for each, without state."""
    if state is None:
        return [None] * len(keys)
    if isinstance(keys, range) and len(keys) != len(state):
        raise _foreign(state)
    try:
        return [state[key] for key in keys]
    except (LookupError, TypeError) as error:
        raise _foreign(state) from error


def _foreign(state: Any) -> ValueError:
    return ValueError(
        f"The state is not one of the transformation: it has a {type(state).__name__} where that "
        "has another."
    )


def _is_masked(node: Any) -> bool:
    return type(node).__name__ == "MaskedNode"


def _parameters_in(state: Any) -> Any:
    """Return the square averages in a state as one pytree, None if there are none.

    Those of parameters without state are masked.
    """
    import jax

    is_average = lambda node: hasattr(node, "nu") and hasattr(node, "_fields")  # noqa: E731
    leaves = jax.tree_util.tree_leaves(state, is_leaf=is_average)
    trees = [leaf.nu for leaf in leaves if is_average(leaf)]
    if not trees:
        return None

    def first(*own: Any) -> Any:
        return next((each for each in own if not _is_masked(each)), own[0])

    return jax.tree_util.tree_map(first, *trees, is_leaf=_is_masked)


def _accumulation_steps_of(wrapper: Any) -> int:
    """Return after how many gradients a `MultiSteps` makes a step.

    Raises: ValueError if that changes, or it does not make a step of their mean.
    """
    number = _closure(wrapper._every_k_schedule).get("every_k_schedule")
    skips = getattr(wrapper._should_skip_update_fn, "__qualname__", "")
    reasons = {
        "every_k_schedule is a function; the gradient_accumulation_steps of an `RMSprop` are a "
        "number": not isinstance(number, int),
        "it makes a step of the sum of the gradients; an `RMSprop` makes one of their mean": (
            not wrapper._use_grad_mean
        ),
        "it skips gradients by should_skip_update_fn": not skips.startswith("MultiSteps."),
        f"it accumulates in {wrapper._accumulator_dtype}": wrapper._accumulator_dtype.itemsize < 4,
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise ValueError(f"The transformation has MultiSteps, and {reason}. {_INSTEAD}")
    return int(number)  # type: ignore[arg-type]


def _with_numbers(inside: Mapping[str, Any], state: Any) -> Any:
    """Return the transformation that `inject_hyperparams` makes in each step."""
    numbers = inside["numeric_hps"] if state is None else _field(state, "hyperparams")
    schedules = {}
    for name, schedule in inside["sched_hps"].items():
        function = getattr(schedule, "schedule_fn", None)
        if name != "learning_rate" or function is None:
            raise ValueError(
                f"In inject_hyperparams {name!r} changes by a schedule; an `RMSprop` has a "
                f"schedule for the learning rate, which is a function of the count. {_INSTEAD}"
            )
        schedules[name] = function
    try:
        own = {
            name: np.asarray(numbers[name]).item()
            for name in inside["numeric_hps"]
            if name not in schedules
        }
        return inside["inner_factory"](**{**inside["other_hps"], **own, **schedules})
    except Exception as error:
        # A function of the user's.
        raise ValueError(
            "What inject_hyperparams makes of its numbers cannot be found out: "
            f"{type(error).__name__}: {error}. {_INSTEAD}"
        ) from error


def _assembled(parts: Sequence[Part], name: str | None = None) -> Arguments:
    """Return the arguments of a parameter, or of all."""
    kinds = [part.kind for part in parts]
    if not parts and name is not None:
        raise ValueError(
            f"The masks leave {name!r} out, whose gradient optax then adds to it as it is. Freeze "
            f"it by set_to_zero, or {_INSTEAD[0].lower()}{_INSTEAD[1:]}"
        )
    left = list(parts)
    settings: dict[str, Any] = {"l2": 0.0, "momentum": 0.0, "nesterov": False}
    settings |= {
        "clipvalue": None,
        "global_clipnorm": None,
        "weight_decay": None,
        "maximize": False,
    }
    try:
        if left and left[0].kind in _CLIPS:
            ours, theirs = _CLIPS[left[0].kind]
            settings[ours] = float(left.pop(0).arguments[theirs])
        if left and left[0].kind == _DECAY:
            settings["l2"] = float(left.pop(0).arguments["weight_decay"])
        average = left.pop(0)
        if average.kind not in _AVERAGES:
            raise _unknown(kinds)
        given = average.arguments
        settings |= {
            "rho": float(given["decay"]),
            "epsilon": float(given["eps"]),
            "epsilon_inside_sqrt": bool(given["eps_in_sqrt"]),
            "bias_correction": bool(given["bias_correction"]),
            "centered": average.kind == "scale_by_stddev",
        }
        if len(left) > 1 and left[-2].kind == _DECAY and left[-1].kind in _RATES:
            settings["weight_decay"] = float(left.pop(-2).arguments["weight_decay"])
        traces = [part for part in left if part.kind == "trace"]
        rates = [part for part in left if part.kind in _RATES]
        if len(rates) != 1 or len(traces) > 1 or len(left) > len(rates) + len(traces):
            raise _unknown(kinds)
        if traces:
            settings["momentum"] = float(traces[0].arguments["decay"])
            settings["nesterov"] = (
                bool(traces[0].arguments["nesterov"]) and settings["momentum"] > 0
            )
        settings["lr_in_momentum"] = not traces or left.index(rates[0]) < left.index(traces[0])
        rate = rates[0].arguments["rate"]
        return Arguments(settings, rate, float(given["initial_scale"]), bool(traces))
    except (IndexError, KeyError, TypeError) as error:
        raise _unknown(kinds) from error


def _rate_of(kind: str, inside: Mapping[str, Any]) -> float | Callable[[Any], Any]:
    if kind == "scale":
        return -float(inside["step_size"])
    # scale_by_learning_rate wraps the schedule in a function that changes its sign.
    function = inside["step_size_fn"]
    own = _closure(function)
    schedule = own.get("learning_rate")
    is_wrapped = getattr(function, "__qualname__", "").startswith("scale_by_learning_rate.")
    if is_wrapped and callable(schedule) and own.get("m") == -1:
        found: Callable[[Any], Any] = schedule
        return found
    return lambda count: -function(count)


_INSTEAD = (
    "Make an optimizer by `conventions.optax`, and load the state by `interop.optax.load` without "
    "`transformation`."
)


def _unknown(kinds: list[str]) -> ValueError:
    return ValueError(
        f"The transformation consists of {', '.join(kinds) or 'nothing'}. Known are optax.rmsprop, "
        "also after one of clip and clip_by_global_norm and after add_decayed_weights, which may "
        "come just before the learning rate instead; set_to_zero; chain, named_chain, masked, "
        "multi_transform and inject_hyperparams of those; "
        f"and apply_if_finite and MultiSteps around all. {_INSTEAD}"
    )
