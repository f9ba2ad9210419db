"""Files of torch that hold the state of an RMSprop.

They are read without unpickling anything but tensors and plain values. Looked at are the file's
own content, which may be the optimizer's `state_dict()`, and its keys in `_KEYS`.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_rmsprop import interop
from keras_rmsprop._command_line import _map
from keras_rmsprop._command_line._form import Load, Options, Written, replacing
from keras_rmsprop._command_line._map import Entry, Pairs
from keras_rmsprop._command_line._program import Failure, in_file
from keras_rmsprop._command_line._screen import framework, shortened
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop.interop import Pair, _carry, _torch_form
from keras_rmsprop.interop._pairs import linked

# Where the state of an optimizer may be, and where the weights of the network, whose shapes are
# then compared.
_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_states")
_WEIGHTS = ("model", "model_state_dict", "state_dict")

KINDS = {
    "torch": "torch.optim.RMSprop",
    "timm": "timm's RMSpropTF",
    "stable-baselines3": "Stable-Baselines3's RMSpropTFLike",
}


def read(path: Path, options: Options) -> Load:
    """Read a file; return what loads its state into an optimizer."""
    content = _content(path)
    state = _state(content, path)
    beside = [content[key] for key in _WEIGHTS if isinstance(content.get(key), Mapping)]
    weights: Mapping[str, Any] = beside[0] if beside else {}
    with in_file(path):
        _torch_form.check_whole(state)
    has_names = any("param_names" in group for group in state["param_groups"])

    def load(optimizer: RMSprop, entries: Mapping[str, Entry] | None) -> None:
        if entries is None and not has_names:
            raise Failure(
                f"{path} does not tell the names of the optimizer's parameters: pass --map, with "
                "the parameters in the optimizer's order."
            )
        names = None if has_names else list(entries or ())
        kind = KINDS.get(options.kind or "")
        if names is not None:
            _check_count(names, state, kind, path)
        pairs = None if entries is None else _map.pairs_of(entries, optimizer)
        with in_file(path):
            slots = interop.torch.read(state, names, kind).slots
        _check_shapes(slots, weights, path)
        interop.torch.load(optimizer, state, pairs, names=names, kind=kind, exact=options.exact)

    return load


def _check_count(
    names: Sequence[str], state: Mapping[str, Any], kind: str | None, path: Path
) -> None:
    """Refuse a map of other than all of the parameters, which only their order can name."""
    with in_file(path):
        count = len(interop.torch.read(state, None, kind).names)
    if len(names) != count:
        raise Failure(
            f"{path} has the state of {count} parameters without names, and the map has "
            f"{len(names)}: {shortened(names, 8)}. It must have all of the optimizer's "
            "parameters, in their order."
        )


def is_one(path: Path) -> bool:
    """Whether a file is one that torch.save writes, as far as its beginning or its entries show."""
    with path.open("rb") as file:
        # Before version 1.6, and with `_use_new_zipfile_serialization=False`, a pickle.
        if file.read(2) == b"\x80\x02":
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _content(path: Path) -> Mapping[Any, Any]:
    torch = framework("torch")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises a dozen kinds of errors for what is not a file of its own.
        named = re.search(
            r"(?:GLOBAL|[Uu]nsupported (?:class|global):?) (?!GLOBAL)(\S+)", str(error)
        )
        if named is not None:
            raise Failure(
                f"{path} is refused, because unpickling it would run code: it names "
                f"{named[1]}; save nothing but the optimizer's state_dict(), with "
                "plain numbers."
            ) from error
        raise Failure(
            f"{path} is not a file that torch.save writes, of tensors and plain values alone."
        ) from error
    if not isinstance(content, Mapping):
        raise Failure(
            f"{path} must hold the state_dict() of an optimizer, or a dict with it under "
            f"{' or '.join(map(repr, _KEYS))}, but it holds a {type(content).__name__}."
        )
    return content


def _state(content: Mapping[Any, Any], path: Path) -> Mapping[str, Any]:
    for found in (content, *(content.get(key) for key in _KEYS)):
        if isinstance(found, list) and len(found) == 1:
            # As in checkpoints of Lightning.
            found = found[0]
        if isinstance(found, Mapping) and {"state", "param_groups"} <= found.keys():
            return found
    raise Failure(
        f"{path} holds no state of an optimizer: neither it nor its entries "
        f"{', '.join(map(repr, _KEYS))} have 'state' and 'param_groups'; its entries are "
        f"{shortened([repr(key) for key in content], 8) or 'none'}."
    )


def _check_shapes(slots: Mapping[str, Any], weights: Mapping[str, Any], path: Path) -> None:
    """Refuse names in an order that the network's weights show to be another."""
    for name, own in slots.items():
        shape, there = own.square_average.shape, getattr(weights.get(name), "shape", None)
        if there is not None and tuple(there) != shape:
            raise Failure(
                f"In {path} the parameter {name!r} has shape {tuple(there)}, but in that place of "
                f"the optimizer is the state of one of shape {shape}: order the map as the "
                "optimizer's parameters are."
            )


def write(
    optimizer: RMSprop, path: Path, entries: Mapping[str, Entry] | None, options: Options
) -> Written:
    """Write a `state_dict()`."""
    torch = framework("torch")
    if entries is None:
        raise Failure("torch has other names and layouts than Keras: pass --map.")
    pairs = _map.pairs_of(entries, optimizer)
    template = _template(optimizer, pairs, options)
    kind = KINDS.get(options.kind or "")
    state = interop.torch.state_dict(optimizer, template, pairs, kind=kind, exact=options.exact)
    # torch tells a file that it cannot write in an error of its own, without the reason.
    content = io.BytesIO()
    torch.save(state, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    groups = state["param_groups"]
    names = tuple(name for group in groups for name in group["param_names"])
    return Written(names, _in_words(groups))


def _template(optimizer: RMSprop, pairs: Pairs, options: Options) -> dict[str, Any]:
    """Return the `state_dict()` of an optimizer of torch before its first step.

    It has a param group for all parameters with the same settings, in the order of the map.
    """
    groups: list[dict[str, Any]] = []
    names = [name for pair in pairs.values() for name in pair.names]
    links = linked(pairs, names, optimizer._roster.weights, whole=False)
    positions = {pair.names: position for position, pair in links.items()}
    for pair in pairs.values():
        if pair.names not in positions:
            raise Failure(
                f"{pair.path!r}, the partner of {pair.label}, is no variable of the optimizer."
            )
        own = _group(optimizer, positions[pair.names], pair, options.kind or "torch")
        same = next((group for group in groups if group.items() >= own.items()), None)
        if same is None:
            same = {**own, "param_names": []}
            groups.append(same)
        same["param_names"] += pair.names
    numbers: Iterator[int] = iter(range(sum(len(group["param_names"]) for group in groups)))
    return {
        "state": {},
        "param_groups": [
            {**group, "params": [next(numbers) for _ in group["param_names"]]} for group in groups
        ],
    }


def _group(optimizer: RMSprop, position: int, pair: Pair, kind: str) -> dict[str, Any]:
    """Return the entries of a parameter's param group, as torch or timm has them."""
    own = _carry.settings_of(optimizer, position)
    group = {
        "lr": _carry.rate_of(optimizer, position) / pair.rate,
        "alpha": own["rho"],
        "eps": own["epsilon"],
        "momentum": own["momentum"],
        "centered": own["centered"],
        "weight_decay": own["l2"],
        "foreach": None,
    }
    if kind == "timm":
        return group | {
            "weight_decay": own["weight_decay"] or own["l2"],
            "decoupled_decay": bool(own["weight_decay"]),
            "corrected_weight_decay": False,
            "lr_in_momentum": own["lr_in_momentum"],
            "caution": False,
        }
    flags = {"maximize": own["maximize"], "capturable": False, "differentiable": False}
    return group | flags


def _in_words(groups: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    if len(groups) == 1:
        return ("It has one param group.",)
    return (
        f"It has {len(groups)} param groups, and so must the optimizer that loads it:",
        *(f"  lr {group['lr']:.7g}: {shortened(group['param_names'], 8)}" for group in groups),
    )
