"""Check that a `state_dict()` has the form that torch's optimizers give it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NUMBERS = ("lr", "alpha", "eps", "momentum", "weight_decay")
SLOTS = ("square_avg", "grad_avg", "momentum_buffer")


def check_whole(contents: Mapping[str, Any]) -> None:
    """Refuse what has not the parts of a `state_dict()`.

    Raises: ValueError that names the first part which is something else.
    """
    state, groups = contents.get("state"), contents["param_groups"]
    if not isinstance(state, Mapping) or not all(
        isinstance(own, Mapping) for own in state.values()
    ):
        raise _refusal("state", state, "a dict with a dict for each parameter")
    if not isinstance(groups, list | tuple) or not all(isinstance(g, Mapping) for g in groups):
        raise _refusal("param_groups", groups, "a list of dicts")


def check_fields(contents: Mapping[str, Any]) -> None:
    """Refuse entries of an RMSprop that are of another kind than torch's.

    Raises: ValueError that names the first.
    """
    numbers: list[Any] = []
    for i, group in enumerate(contents["param_groups"]):
        where = f"param_groups[{i}]"
        for key in _NUMBERS:
            if not math.isfinite(_number(group.get(key))):
                raise _refusal(f"{where}[{key!r}]", group.get(key), "a finite number")
        own, names = group.get("params"), group.get("param_names", ())
        if not _is_list_of(own, int | str):
            raise _refusal(f"{where}['params']", own, "a list of numbers, or of names")
        if "param_names" in group and not (_is_list_of(names, str) and len(names) == len(own)):
            raise _refusal(f"{where}['param_names']", names, f"a list of {len(own)} names")
        numbers += own
    if len(set(numbers)) < len(numbers):
        raise _refusal("param_groups", numbers, "of different parameters")
    # torch keeps entries of other names, but numbers in another form would be lost.
    others = [each for each in contents["state"] if each not in numbers]
    strangers = [each for each in others if str(each).isdecimal()]
    if strangers:
        raise _refusal("state", strangers[:8], f"of the parameters in param_groups, {numbers[:8]}")
    for number, own in contents["state"].items():
        if number in others:
            continue
        for key, value, accepted in _misfits(own):
            raise _refusal(f"state[{number!r}][{key!r}]", value, accepted)


def _misfits(own: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the entries of a parameter's state that are not readable, and what would be."""
    for key in SLOTS:
        value = own.get(key)
        if value is not None and not _is_dense(value):
            yield key, value, "a dense tensor with its numbers, not quantized"
    step = _number(own.get("step", 0))
    if not (0.0 <= step < math.inf and step == int(step)):
        yield "step", own["step"], "an integer >= 0"


def _is_list_of(value: Any, kind: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and all(isinstance(each, kind) for each in value)


def _is_dense(value: Any) -> bool:
    if not hasattr(value, "detach"):
        return hasattr(value, "shape")
    has_numbers = str(value.device) != "meta" and not getattr(value, "is_quantized", False)
    is_nested = getattr(value, "is_nested", False)
    return has_numbers and not is_nested and str(value.layout) == "torch.strided"


def _number(value: Any) -> float:
    """Return a number or a tensor of one as a float; NaN for anything else."""
    if value is None or isinstance(value, str | bytes):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


def _refusal(field: str, value: Any, accepted: str) -> ValueError:
    received = " ".join(repr(value).split())
    return ValueError(
        f"In the state_dict of torch's optimizer, {field} must be {accepted}, received "
        f"{received:.200}. Nothing has changed."
    )
