"""Carry a training over from torch's RMSprop, and back.

    import torch, keras, keras_rmsprop
    from keras_rmsprop import interop

    pairs = interop.torch.pairs(network, model)              # a torch module and a Keras model
    interop.torch.load_weights(network, pairs)
    optimizer = interop.like(torch_optimizer, model.trainable_variables, pairs)
    model.compile(optimizer, loss)

`torch_optimizer` may be a `torch.optim.RMSprop`, timm's `RMSpropTF` or Stable-Baselines3's
`RMSpropTFLike`, or the `state_dict()` of one. Param groups become `groups`.

torch identifies parameters by their order. Here names do, and shapes are checked, so that state
never ends up at another parameter of another shape. Where a convolution's output is flattened, the
inputs of the next `Linear` are in another order than Keras's: `pairs` permutes them.

A torch optimizer has no schedule: a scheduler changes its rate. So `state_dict` gives it the
present rate, also where that comes from a schedule here.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_rmsprop._execution import _interrupts
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._state import LoadReport
from keras_rmsprop.interop import _carry, _live, _torch_form, _writing
from keras_rmsprop.interop._pairs import MisfitError, Pair, Pairing, listed, shortened
from keras_rmsprop.interop._source import Array, Settings, Slots, Source, as_array, dtype_of
from keras_rmsprop.interop._torch_layers import pairs_of_layers
from keras_rmsprop.interop._torch_parameters import first_names

__all__ = ["Pair", "Pairs", "export_weights", "load", "load_weights", "pairs", "state_dict"]

# The classes that are known, by the name of a class among an optimizer's bases. Copies of the last
# two in other packages are taken for them, but many packages have an RMSprop.
_CLASSES = {
    "RMSprop": "torch.optim.RMSprop",
    "RMSpropTF": "timm's RMSpropTF",
    "RMSpropTFLike": "Stable-Baselines3's RMSpropTFLike",
}
_KINDS = tuple(_CLASSES.values())


class Pairs(tuple[Pair, ...]):
    """Pairs that remember the torch module, whose parameters have the names."""

    module: Any = None

    def replace(
        self, name: str, to_keras: Callable[[Array], Array], to_torch: Callable[[Array], Array]
    ) -> "Pairs":
        """Return the pairs with other conversions of one parameter.

        Args:
            name: torch's name of the parameter.
            to_keras: takes an array of the parameter's shape, and returns one of the variable's.
                It must only move elements.
            to_torch: the inverse.

        Raises: ValueError if no pair is of this parameter alone.

        Example:
        >>> import numpy as np
        >>> from keras_rmsprop import interop
        >>> pairs = interop.torch.Pairs([interop.Pair(("fc.weight",), "dense/kernel")])
        >>> pairs.replace("fc.weight", np.transpose, np.transpose)[0].to_keras is np.transpose
        True
        """
        alone = {pair.names[0]: pair for pair in self if len(pair.names) == 1}
        if name not in alone:
            raise ValueError(
                f"No pair is of {name!r} alone; there are those of {shortened([*alone])}."
            )
        new = Pair((name,), alone[name].variable, to_keras, lambda array: (to_torch(array),))
        changed = Pairs(new if pair is alone[name] else pair for pair in self)
        changed.module = self.module
        return changed


def pairs(
    module: Any,
    layers: Any,
    *,
    flattened: Mapping[str, Sequence[int] | None] | None = None,
    exact: bool = True,
) -> Pairs:
    """Pair the parameters of a torch module with the variables of a Keras model.

    Known are Linear, Conv1d to Conv3d, depthwise convolutions, Embedding, LayerNorm, GroupNorm,
    BatchNorm, and LSTM and GRU of one layer, in one direction or both. An LSTM of Keras has the sum
    of torch's two biases, which therefore needs twice the learning rate; `interop.like` gives it
    that.

    Where torch flattens with the channels first and Keras with the channels last, the weights of
    the next layer are permuted. A Sequential or functional model tells the shapes; where they are
    not known, `flattened` must.

    A parameter that modules of torch share, as in a tied embedding, has one pair, under its first
    name, if its variable is shared as well.

    Where layers of one class compute otherwise, the steps would differ from torch's, so settings
    are compared: epsilon and groups of normalizations, strides and dilations of convolutions,
    activations of LSTM and GRU, and options of embeddings that Keras has not (`padding_idx`,
    `max_norm`, `scale_grad_by_freq`). Other momentum of a BatchNorm, which only moves the running
    averages otherwise, is a warning. Its running variance cannot be the same: torch divides that of
    a batch by n - 1, and Keras by n. Activations between layers, padding and regularizers are not
    compared.

    Args:
        module: a `torch.nn.Module`.
        layers: a built Keras model or layer, or a list of layers, with the same layers. If each
            module has the name of one layer, names decide; otherwise order does, unless some names
            contradict it. Or a mapping from names of submodules to Keras layers.
        flattened: for names of submodules, Keras's shape of what is flattened before them, without
            the batch, such as (height, width, channels); or None if their inputs are in the same
            order in both. Default None: found in the model.
        exact: whether to refuse layers with which the steps would not be torch's: other settings,
            or two variables whose partners are one parameter. Default True.

    Returns: pairs for `load`, `load_weights`, `state_dict`, `export_weights` and `interop.like`.
    Raises: ValueError if the layers do not correspond, in class or in shape, or the order of a
        layer's inputs in torch is not known; or `exact` and the steps would differ.
    """
    _check_module(module, layers)
    found = Pairs(pairs_of_layers(module, layers, flattened, exact=exact))
    found.module = module
    return found


def _check_module(module: Any, layers: Any) -> None:
    if not hasattr(module, "named_modules") or isinstance(module, keras.layers.Layer):
        raise ValueError(
            "`module` must be a torch.nn.Module, which comes before the Keras model, received "
            f"{_received(module)}. A state_dict or an optimizer does not tell its layers."
        )
    listed = [*layers.values()] if isinstance(layers, Mapping) else layers
    listed = listed if isinstance(listed, Sequence) else [listed]
    strange = [each for each in listed if not isinstance(each, keras.layers.Layer)]
    if strange or isinstance(layers, str):
        raise ValueError(
            "`layers` must be a built Keras model or layer, a list of layers, or a mapping from "
            f"names of submodules to layers, received {_received(strange[0])}."
        )


def _received(thing: Any) -> str:
    return f"one of {type(thing).__module__}.{type(thing).__qualname__}"


def load_weights(module: Any, pairs: Mapping[str, Any] | Sequence[Pair]) -> None:
    """Copy the weights of a torch module to Keras, all or none.

    Args:
        module: a `torch.nn.Module`, or its `state_dict()`.
        pairs: as for `load`, with names, and with variables rather than paths.

    Raises: ValueError if a parameter is missing or does not fit, or if one variable would get two
        values; nothing has changed then.
    """
    arrays = _weights_in(module)
    values, misfits = [], []
    found: dict[int, tuple[Pair, Array]] = {}
    for pair in listed(pairs):
        missing = [name for name in pair.names if name not in arrays]
        if missing:
            raise ValueError(
                "`module` must be a torch.nn.Module, or the state_dict() of one, with "
                f"{missing[0]!r}; received {shortened([*arrays])}."
                f"{_hint_to_weights(module, arrays, pairs)} Nothing has changed."
            )
        _writing.check_variable(pair.variable)
        own = [as_array(arrays[name]) for name in pair.names]
        try:
            value = pair.converted(own, tuple(pair.variable.shape), weights=True)
        except MisfitError as error:
            misfits.append(str(error))
            continue
        other, there = found.setdefault(id(pair.variable), (pair, value))
        if not np.array_equal(there, value, equal_nan=True):
            misfits.append(
                f"{other.label} and {pair.label} are both paired with {pair.path!r}, and differ"
            )
        values.append((pair.variable, value))
    if misfits:
        raise ValueError(f"{'; '.join(misfits)}. Nothing has changed.")
    _writing.write(values)


def _weights_in(module: Any) -> Mapping[str, Any]:
    """Return the arrays in a torch module, or in its `state_dict()`."""
    is_module = hasattr(module, "named_modules") and not isinstance(module, keras.layers.Layer)
    if not is_module and not isinstance(module, Mapping):
        raise ValueError(
            "`module` must be a torch.nn.Module or its state_dict(), received "
            f"{_received(module)}. The Keras model is not needed: the pairs hold its variables."
        )
    return module if isinstance(module, Mapping) else module.state_dict()


def _hint_to_weights(
    module: Any, arrays: Mapping[str, Any], pairs: Mapping[str, Any] | Sequence[Pair]
) -> str:
    """Return what to do with a module, or what was given for one, that lacks names of pairs."""
    names = [name for pair in listed(pairs) for name in pair.names]
    is_live = not isinstance(module, Mapping)
    if is_state(arrays):
        return " It is the state_dict of an optimizer, and that of the module is needed."
    ends = [key for key in arrays if str(key).endswith(f".{names[0]}")]
    for prefix in (key.removesuffix(names[0]) for key in ends):
        if all(prefix + name in arrays for name in names):
            remedy = (
                f"Pass its submodule {prefix.removesuffix('.')!r}"
                if is_live
                else f"Pass {{name.removeprefix({prefix!r}): value for name, value in it.items()}}"
            )
            return f" It has the names of the pairs after {prefix!r}. {remedy}."
    return "" if is_live else _entry_that(arrays, _has_tensors)


def export_weights(module: Any, pairs: Mapping[str, Any] | Sequence[Pair]) -> None:
    """Copy the weights of a Keras model to a torch module, all or none.

    Args:
        module: a `torch.nn.Module`.
        pairs: as for `load_weights`.

    Raises: ValueError if a parameter is missing or does not fit, a weight is too large for the
        dtype it has there, or one parameter, which may have two names, would get two values;
        nothing has changed then.
    """
    import torch

    if isinstance(module, Mapping):
        raise ValueError(
            "`module` must be a torch.nn.Module, whose weights are replaced, received a state_dict."
        )
    state = dict(_weights_in(module))
    changed = {}
    first = first_names(module)
    found: dict[str, tuple[str, Pair, Array]] = {}
    for pair in listed(pairs):
        if isinstance(pair.variable, str):
            raise ValueError(f"Weights need variables, received the path {pair.variable!r}.")
        value = as_array(pair.variable)
        for name, array in zip(pair.names, pair.parts(value, weights=True), strict=True):
            there = state.get(name)
            if there is None or tuple(there.shape) != array.shape:
                shape = "absent" if there is None else f"of shape {tuple(there.shape)}"
                raise ValueError(
                    f"{pair.path!r} becomes an array of shape {array.shape} for {name!r}, which "
                    f"is {shape}.{_hint_to_weights(module, state, pairs)} Nothing has changed."
                )
            other_name, other, same = found.setdefault(first.get(name, name), (name, pair, array))
            if not np.array_equal(same, array, equal_nan=True):
                raise ValueError(
                    f"{other_name!r} and {name!r} are one parameter, and {other.path!r} and "
                    f"{pair.path!r}, which they are paired with, differ. Nothing has changed."
                )
            _writing.check_range(array, dtype_of(there), name)
            changed[name] = torch.from_numpy(np.array(array))
    # The tensors in a state are the module's own.
    before = {name: state[name].clone() for name in changed}
    with _interrupts.deferred():
        try:
            module.load_state_dict(state | changed)
        except BaseException:
            module.load_state_dict(state | before)
            raise


def load(
    optimizer: RMSprop,
    source: Any,
    pairs: Pairing,
    *,
    names: Any = None,
    kind: str | None = None,
    exact: bool = True,
) -> LoadReport:
    """Load the state of torch's optimizer: averages, momentum buffers, rates and step count.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        source: the torch optimizer, or its `state_dict()`.
        pairs: from `interop.torch.pairs`; or a mapping from names of parameters to Keras variables
            or their paths, or to tuples of one, a function that brings an array from torch's shape
            into Keras's, and its inverse; or "order", to pair them in order.
        names: where torch's names come from, if `pairs` is not from `interop.torch.pairs` and the
            optimizer was not given named parameters: the module, or the names in the order of the
            param groups. Default None.
        kind: which optimizer a `state_dict()` is of: "torch.optim.RMSprop", "timm's RMSpropTF" or
            "Stable-Baselines3's RMSpropTFLike". Default None: seen from the source; the last has
            the same entries as the first and must be named.
        exact: whether to refuse a load after which the steps would not be torch's: other settings,
            or parameters without a partner. Default True.

    Returns: the `load_report`.
    Raises: ValueError if something does not fit, or `exact` and the steps would differ. The
        optimizer is unchanged then.
    """
    return _carry.load(
        optimizer, read(source, pairs if names is None else names, kind), pairs, exact=exact
    )


def state_dict(
    optimizer: RMSprop,
    target: Any,
    pairs: Pairing,
    *,
    names: Any = None,
    kind: str | None = None,
    exact: bool = True,
) -> dict[str, Any]:
    """Return the state as the `state_dict` of a torch optimizer, for its `load_state_dict`.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        target: the torch optimizer that is to load it, or its `state_dict()`; it need not have
            made a step, and is not changed. The rates of its param groups are replaced by the
            present ones; one that float32 here rounds to the present one stays.
        pairs: as for `load`.
        names: as for `load`.
        kind: as for `load`.
        exact: as for `load`.

    Returns: a `state_dict` with torch tensors, in the dtypes of Keras's slots.
    Raises: as `load`, and ValueError if variables of one param group have different rates.
    """
    optimizer = _carry.built(optimizer)
    there = read(target, pairs if names is None else names, kind, argument="target")
    here = _carry.unload(optimizer, there, pairs, exact=exact, rates="each")
    rates = {
        name: here.rates[position] / pair.rate
        for position, pair in here.links.items()
        for name in pair.names
    }
    # Of what is frozen in both, torch has no state either.
    resting = {
        name
        for position, pair in here.links.items()
        for name in pair.names
        if name in there.still and not getattr(optimizer._roster.weights[position], "trainable", 1)
    }
    template = target if isinstance(target, Mapping) else target.state_dict()
    names_left = iter(there.names)
    state, groups = {}, []
    for group in template["param_groups"]:
        own = dict(zip(group["params"], names_left, strict=False))
        rate = _rate_of_group(own.values(), rates, group["lr"], exact)
        if _carry.is_rounded(optimizer) and _rounds_to(group["lr"], rate, here.base):
            rate = group["lr"]
        groups.append({**group, "lr": rate})
        for number, name in own.items():
            if name in here.slots and name not in resting:
                own_slots = _complete(here.slots[name], there.settings[name])
                state[number] = _entries(own_slots, here.steps)
    return {"state": state, "param_groups": groups}


def _rate_of_group(names: Iterable[str], rates: Mapping[str, float], now: Any, exact: bool) -> Any:
    """Return the rate of a param group: a number, or a tensor if it is one now."""
    found = {name: rates[name] for name in names if name in rates}
    if exact and len(set(found.values())) > 1:
        raise ValueError(
            "The parameters of one param group have one rate, but their variables have different "
            f"ones: {found}. Split the param group, or pass exact=False."
        )
    if not found:
        return now
    rate = next(iter(found.values()))
    return now.detach().clone().fill_(rate) if hasattr(now, "detach") else rate


def _rounds_to(given: Any, rate: Any, base: float) -> bool:
    """Whether float32 rounds a given rate to the present one.

    Args:
        given: the rate of a param group.
        rate: the present one, a multiple of `base`.
        base: the optimizer's rate, which is what is rounded.
    """
    given, rate = float(given), float(rate)
    return bool(rate and np.float32(base * (given / rate)) == np.float32(base))


def _complete(slots: Slots, settings: Settings) -> Slots:
    """Return slots with zeros for those that the settings need and that do not exist here."""
    needed = {"momentum": settings["momentum"] > 0.0, "gradient_average": settings["centered"]}
    missing = [name for name, is_needed in needed.items() if is_needed]
    missing = [name for name in missing if getattr(slots, name) is None]
    return slots._replace(**dict.fromkeys(missing, np.zeros_like(slots.square_average)))


def _entries(slots: Slots, steps: int) -> dict[str, Any]:
    """Return the state that torch holds of one parameter."""
    import torch

    entries = {
        "square_avg": slots.square_average,
        "momentum_buffer": slots.momentum,
        "grad_avg": slots.gradient_average,
    }
    return {"step": torch.tensor(float(steps), dtype=torch.float32)} | {
        key: torch.from_numpy(np.array(value))
        for key, value in entries.items()
        if value is not None
    }


def is_state(source: Any) -> bool:
    """Whether something has the form of a torch optimizer's `state_dict()`."""
    return isinstance(source, Mapping) and "param_groups" in source and "state" in source


def hint(source: Any) -> str:
    """Return what to do with something that is neither an optimizer nor its state."""
    if isinstance(source, str | os.PathLike):
        return " Read the file first: with torch.load, or `keras.saving.load_model` if Keras's."
    if not isinstance(source, Mapping):
        return ""
    entry = _entry_that(source, is_state)
    if not entry and _has_tensors(source):
        return " It is the state_dict of a module, which `interop.torch.load_weights` takes."
    return entry


def _entry_that(source: Mapping[str, Any], is_one: Callable[[Any], bool]) -> str:
    """Return which entry of a checkpoint is one of what is needed, nothing if none is."""
    for key, value in source.items():
        if is_one(value):
            return f" Its entry {key!r} is one."
        if isinstance(value, list | tuple) and value and is_one(value[0]):
            return f" The first of its entry {key!r} is one."
    return ""


def _has_tensors(source: Any) -> bool:
    return isinstance(source, Mapping) and any(hasattr(v, "detach") for v in source.values())


def _listed_names(names: Any) -> Any:
    """Return names that can be read twice: those that an iterator gives, in a list."""
    if not isinstance(names, Iterator):
        return names
    found = [each[0] if isinstance(each, tuple) else each for each in names]
    strange = [each for each in found if not isinstance(each, str)]
    if strange:
        raise ValueError(
            "`names` must be the torch module, or the names of the optimizer's parameters in "
            f"order, received an iterator with {_received(strange[0])}."
        )
    return found


def read(
    source: Any, names: Any = None, kind: str | None = None, *, argument: str = "source"
) -> Source:
    """Read a torch optimizer or its `state_dict()`.

    Args:
        source: the optimizer or its `state_dict()`.
        names: as for `load`, or the pairs.
        kind: as for `load`.
        argument: what `source` is called where the user gives it.
    """
    live = hasattr(source, "param_groups")
    if not live and not is_state(source):
        raise ValueError(
            f"`{argument}` must be a torch optimizer or its state_dict(), received "
            f"{_received(source)}.{hint(source)}"
        )
    names = _listed_names(names)
    contents = source.state_dict() if live else source
    _torch_form.check_whole(contents)
    groups = contents["param_groups"]
    if not any(group.get("params") for group in groups):
        raise ValueError("The torch optimizer has no parameters.")
    kind = kind or (_kind_of(source) if live else None) or _kind_by_entries(groups)
    if kind not in _KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(_KINDS)}, received {kind!r}.")
    _torch_form.check_fields(contents)
    numbers = [number for group in groups for number in group["params"]]
    own_names = _names_of(source, groups, names, len(numbers), live)
    if not live:
        _check_order(contents, numbers, names)
    slots: dict[str, Slots] = {}
    steps = 0
    for number, name in zip(numbers, own_names, strict=True):
        own = contents["state"].get(number)
        if own:
            slots[name] = _slots(name, own)
            steps = max(steps, int(own.get("step", 0)))
    dtypes = _dtypes(source, contents, dict(zip(numbers, own_names, strict=True)))
    settings, rates = {}, {}
    by_number = dict(zip(numbers, own_names, strict=True))
    for group in groups:
        for number in group["params"]:
            settings[by_number[number]] = _settings(group, kind)
            rates[by_number[number]] = float(group["lr"])
    if len({each["lr_in_momentum"] for each in settings.values()}) > 1:
        raise ValueError(
            "The param groups differ in lr_in_momentum, which all variables of an `RMSprop` share."
        )
    inside = any(each["lr_in_momentum"] for each in settings.values())
    frozen = _frozen(source, own_names) if live else frozenset()
    return Source(
        kind,
        slots,
        steps,
        rates,
        settings,
        lr_in_momentum=inside,
        dtypes=dtypes,
        names=tuple(own_names),
        # A frozen one may have state from before, which must not be lost.
        still=_without(slots, own_names) | (frozen - slots.keys()),
        frozen=frozen,
        besides=(*_live.own_code_in(source), *_cycling(groups)),
        arguments={"initial_square_average": 0.0 if kind == _KINDS[0] else 1.0},
    )


def _frozen(optimizer: Any, names: Sequence[str]) -> frozenset[str]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return frozenset(name for name, p in zip(names, parameters, strict=True) if not p.requires_grad)


def _cycling(groups: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Say that a scheduler changes the momentum, too, by what OneCycleLR and CyclicLR leave."""
    for group in groups:
        lowest, highest = (group.get(f"{word}_momentum") for word in ("base", "max"))
        if lowest != highest:
            return (
                f"a scheduler cycles the momentum there, between {lowest} and {highest} (pass "
                "cycle_momentum=False to it; if it has ended, delete `max_momentum` and "
                "`base_momentum` of the param groups)",
            )
    return ()


def _without(slots: Mapping[str, Slots], names: Sequence[str]) -> frozenset[str]:
    """Return the parameters without state, if others have some, so that steps were made."""
    return frozenset(names) - slots.keys() if slots else frozenset()


def _dtypes(source: Any, contents: Mapping[str, Any], names: Mapping[Any, str]) -> dict[str, str]:
    """Return the dtypes of the slots: those of the parameters, as far as they are known."""
    if hasattr(source, "param_groups"):
        parameters = [p for group in source.param_groups for p in group["params"]]
        pairs = zip(names.values(), parameters, strict=True)
        return {name: dtype_of(parameter) for name, parameter in pairs}
    state = contents["state"]
    return {
        name: dtype_of(*(state[number].get(slot) for slot in _torch_form.SLOTS))
        for number, name in names.items()
        if "square_avg" in state.get(number, ())
    }


def _check_order(contents: Mapping[str, Any], numbers: Sequence[Any], names: Any) -> None:
    """Refuse to take the order of a module's parameters for that of a state's without evidence.

    Where no two parameters have the same shape, a wrong order is found later, by the shapes.
    """
    told = any("param_names" in group for group in contents["param_groups"])
    from_module = isinstance(names, Pairs) or hasattr(names, "named_parameters")
    if told or not from_module or all(isinstance(number, str) for number in numbers):
        return
    module = names.module if isinstance(names, Pairs) else names
    in_order = [name for name, _ in module.named_parameters()]
    shapes = [tuple(p.shape) for _, p in module.named_parameters()]
    if len(set(shapes)) < len(shapes):
        raise ValueError(
            "A state_dict of torch's optimizer has numbers and no names, and some parameters have "
            "the same shape, so that nothing shows which is which. Pass the optimizer itself; or "
            "create it with module.named_parameters(); or pass `names`, in the order of its param "
            f"groups, such as {in_order[:3]} ..."
        )


def _kind_of(source: Any) -> str:
    bases = [c.__name__ for c in type(source).__mro__ if c.__name__ in _CLASSES]
    known = [name for name in bases if name != "RMSprop" or _live.is_of(source, "torch.RMSprop")]
    found = _CLASSES[known[0]] if known else None
    if found is None:
        raise ValueError(
            f"The optimizer must be {', '.join(_KINDS)}, received "
            f"{type(source).__module__}.{type(source).__qualname__}, which is another."
        )
    return found


def _kind_by_entries(groups: Sequence[Mapping[str, Any]]) -> str:
    entries = set(groups[0]) if groups else set()
    if not {"lr", "alpha", "eps", "momentum", "centered"} <= entries:
        raise ValueError(
            "The state_dict is not that of an RMSprop, whose param groups have lr, alpha, eps, "
            f"momentum and centered; received {', '.join(sorted(entries)) or 'no groups'}."
        )
    return _KINDS[1] if "lr_in_momentum" in entries else _KINDS[0]


def tells_its_kind(contents: Mapping[str, Any]) -> bool:
    """Whether a `state_dict` shows which optimizer it is of.

    Stable-Baselines3's has entries that those of torch before 1.12 have, too, and no others.
    """
    entries = {entry for group in contents["param_groups"] for entry in group}
    return bool({"foreach", "maximize", "lr_in_momentum"} & entries)


def _names_of(
    source: Any, groups: Sequence[Mapping[str, Any]], names: Any, count: int, live: bool
) -> list[str]:
    """Return the names of an optimizer's parameters, in order.

    Args:
        source: the optimizer or its `state_dict()`.
        groups: its param groups.
        names: where names may come from: a module, pairs with a module, names, or anything else.
        count: the number of parameters.
        live: whether `source` is an optimizer.
    """
    module = names.module if isinstance(names, Pairs) else names
    named = list(module.named_parameters()) if hasattr(module, "named_parameters") else None
    if live and named is not None:
        # By identity, which no order can deceive.
        by_id = {id(parameter): name for name, parameter in named}
        parameters = [p for group in source.param_groups for p in group["params"]]
        unknown = [i for i, p in enumerate(parameters) if id(p) not in by_id]
        if unknown:
            raise ValueError(
                f"Parameter {unknown[0]} of the torch optimizer, of shape "
                f"{tuple(parameters[unknown[0]].shape)}, is not one of the module."
            )
        return [by_id[id(p)] for p in parameters]
    told = [name for group in groups for name in group.get("param_names", ())]
    numbers = [number for group in groups for number in group["params"]]
    if not told and all(isinstance(number, str) for number in numbers):
        told = numbers  # as torch.distributed.checkpoint writes them
    if told:
        return told
    if named is not None:
        told = [name for name, _ in named]
    elif isinstance(names, Mapping) or _are_pairs_of_names(names, count):
        raise ValueError(
            "torch's optimizer does not know its parameters' names. Pass `names`, the module or "
            "the names in order; or pairs of `interop.torch.pairs` (`Pairs.replace` changes one); "
            "or create the optimizer with module.named_parameters()."
        )
    elif isinstance(names, Sequence) and not isinstance(names, str | Pairs):
        told = [name for name in names if isinstance(name, str)]
    told = told or [str(i) for i in range(count)]
    if len(told) != count:
        raise ValueError(
            f"The optimizer has {count} parameters, and there are {len(told)} names: "
            f"{', '.join(told[:8])}. Pass `names`, those of the optimizer's parameters in order."
        )
    return told


def _are_pairs_of_names(names: Any, count: int) -> bool:
    """Whether something is a list of pairs that have other names than the numbers of parameters."""
    if not isinstance(names, Sequence) or isinstance(names, str):
        return False
    own = {name for pair in names if isinstance(pair, Pair) for name in pair.names}
    return bool(own) and not own <= {str(i) for i in range(count)}


def _slots(name: str, own: Mapping[str, Any]) -> Slots:
    if "square_avg" not in own:
        raise ValueError(
            f"The state of {name!r} is not an RMSprop's: it has {', '.join(sorted(own))}, and no "
            "square_avg."
        )
    arrays = {key: own.get(key) for key in ("square_avg", "grad_avg", "momentum_buffer")}
    if any(getattr(array, "is_complex", bool)() for array in arrays.values() if array is not None):
        raise ValueError(f"{name!r} is complex, which Keras's variables cannot be.")
    return Slots(*(None if array is None else as_array(array) for array in arrays.values()))  # type: ignore[arg-type]


def _settings(group: Mapping[str, Any], kind: str) -> Settings:
    """Return a param group's settings as those of `RMSprop`."""
    decoupled = bool(group.get("decoupled_decay"))
    refused = [key for key in ("caution", "corrected_weight_decay") if group.get(key)]
    if refused:
        raise ValueError(
            f"timm's {refused[0]} changes the steps in a way that `RMSprop` cannot express; see "
            "`conventions.timm`."
        )
    decay = float(group["weight_decay"])
    return {
        "rho": float(group["alpha"]),
        "momentum": float(group["momentum"]),
        "epsilon": float(group["eps"]),
        "centered": bool(group["centered"]),
        "epsilon_inside_sqrt": kind != _KINDS[0],
        "lr_in_momentum": bool(group.get("lr_in_momentum", False)),
        "l2": 0.0 if decoupled else decay,
        "weight_decay": decay if decoupled else None,
        "maximize": bool(group.get("maximize", False)),
        "nesterov": False,
        "bias_correction": False,
    }
