"""Find out with which arguments a transformation of optax was made.

A transformation is two functions, whose arguments are in their closures. This reads them by the
names that they have in optax 0.2; a transformation that is composed otherwise is refused.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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


class Arguments(NamedTuple):
    """The arguments of `RMSprop` that follow from a transformation."""

    # As `RMSprop` calls them, without the rate.
    settings: Settings
    learning_rate: float | Callable[[Any], Any]
    initial_square_average: float

    @property
    def lr_in_momentum(self) -> bool:
        """Whether the momentum buffer holds steps."""
        return bool(self.settings["lr_in_momentum"])

    def rate_after(self, steps: int | None) -> float | None:
        """Return the rate of the next step, None if it depends on an unknown count."""
        if not callable(self.learning_rate):
            return self.learning_rate
        return None if steps is None else float(self.learning_rate(steps))


class Labelled(NamedTuple):
    """The arguments of the transformations in a `multi_transform`, and the parameters' labels."""

    by_label: Mapping[Any, Arguments]
    labels: Any

    def by_parameter(self, names: Sequence[str] | None = None) -> dict[str, Arguments]:
        """Return the arguments of each parameter, by its path in the labels' pytree.

        Args:
            names: the paths of the parameters, where they are known: a label may be of several.

        Raises: ValueError if the labels are a function of the parameters.
        """
        if callable(self.labels):
            raise ValueError(
                "The labels of the multi_transform are a function, and the parameters it would "
                "label are not known here. Pass it the labels themselves."
            )
        own = {path: self.by_label[label] for path, label in named_leaves(self.labels).items()}
        if names is None:
            return own
        found = {}
        for name in names:
            parts = name.split("/")
            prefixes = ("/".join(parts[:n]) for n in range(len(parts), -1, -1))
            path = next((each for each in prefixes if each in own), None)
            if path is None:
                raise ValueError(f"The labels of the multi_transform have none for {name!r}.")
            found[name] = own[path]
        return found


# In this order, with those in brackets optional:
#   [clip] [add_decayed_weights] average rate [trace]      as optax.rmsprop, or
#   [clip] [add_decayed_weights] average trace rate        with the rate outside the buffer
_AVERAGES = ("scale_by_rms", "scale_by_stddev")
_CLIPS = {
    "clip": ("clipvalue", "max_delta"),
    "clip_by_global_norm": ("global_clipnorm", "max_norm"),
}
_RATES = ("scale", "scale_by_schedule")


def arguments_of(transformation: Any) -> Arguments | Labelled:
    """Return the arguments of a transformation.

    Raises: ValueError if it is not composed of what `optax.rmsprop` is, with clipping and weight
        decay before it, or of several of those by `multi_transform`.
    """
    if not callable(getattr(transformation, "update", None)):
        raise ValueError(
            "`transformation` must be one of optax, such as optax.rmsprop(1e-3), received one of "
            f"{type(transformation).__module__}.{type(transformation).__qualname__}."
        )
    parts = list(_parts_of(transformation.init, transformation.update))
    if [part.kind for part in parts] == ["partition"]:
        transforms = parts[0].arguments["transforms"]
        by_label = {label: arguments_of(each) for label, each in transforms.items()}
        if any(isinstance(each, Labelled) for each in by_label.values()):
            raise _unknown(["partition", "partition"])
        arguments = [each for each in by_label.values() if isinstance(each, Arguments)]
        if len(arguments) > 1 and any(each.settings["global_clipnorm"] for each in arguments):
            raise ValueError(
                "The transformations of a multi_transform clip by a norm of their own parameters; "
                "an `RMSprop` has one norm, of all. Clip before the multi_transform, or not at all."
            )
        if len({each.lr_in_momentum for each in arguments}) > 1:
            raise ValueError(
                "The transformations have their rates partly before and partly after the trace; "
                "all variables of an `RMSprop` have the same order."
            )
        return Labelled(by_label, parts[0].arguments["param_labels"])  # type: ignore[arg-type]
    return _assembled(parts)


def _parts_of(init: Any, update: Any) -> Iterator[Part]:
    """Yield the transformations in one, in the order in which they apply."""
    kind = getattr(update, "__qualname__", "").partition(".")[0]
    inside = _closure(update)
    if kind == "chain":
        for pair in zip(_closure(init)["init_fns"], inside["update_fns"], strict=True):
            yield from _parts_of(*pair)
    elif kind == "with_extra_args_support":
        yield from _parts_of(inside["tx"].init, inside["tx"].update)
    elif kind != "identity":
        yield Part(kind, _closure(init) | inside)


def _closure(function: Any) -> dict[str, Any]:
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except TypeError:  # not a Python function
        return {}


def _assembled(parts: list[Part]) -> Arguments:
    kinds = [part.kind for part in parts]
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
        if left and left[0].kind == "add_decayed_weights":
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
        return Arguments(settings, _rate_of(rates[0]), float(given["initial_scale"]))
    except (IndexError, KeyError, TypeError) as error:
        raise _unknown(kinds) from error


def _rate_of(part: Part) -> float | Callable[[Any], Any]:
    if part.kind == "scale":
        return -float(part.arguments["step_size"])
    # scale_by_learning_rate wraps the schedule in a function that changes its sign.
    function = part.arguments["step_size_fn"]
    inside = _closure(function)
    schedule = inside.get("learning_rate")
    is_wrapped = getattr(function, "__qualname__", "").startswith("scale_by_learning_rate.")
    if is_wrapped and callable(schedule) and inside.get("m") == -1:
        found: Callable[[Any], Any] = schedule
        return found
    return lambda count: -function(count)


def _unknown(kinds: list[str]) -> ValueError:
    return ValueError(
        f"The transformation consists of {', '.join(kinds) or 'nothing'}. Known are optax.rmsprop, "
        "also after one of clip and clip_by_global_norm and after add_decayed_weights, and "
        "multi_transform of those. Pass the arguments to `conventions.optax` instead."
    )
