"""Pair the parameters of torch's common layers with the variables of Keras's.

torch keeps the output axis first and the kernel's spatial axes last, Keras the other way round:

    Linear                (out, in)             Dense             (in, out)
    ConvNd                (out, in, *kernel)    ConvND            (*kernel, in, out)
    Conv2d, groups = in   (in * m, 1, *kernel)  DepthwiseConv2D   (*kernel, in, m)
    LSTM, GRU             (gates * units, in)   the same          (in, gates * units)

LSTM's gates are in one order (i, f, g, o); GRU's are r, z, n in torch and z, r, n in Keras. A GRU
of torch's is one with `reset_after=True`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop.interop._pairs import MisfitError, Pair
from keras_rmsprop.interop._source import Array, NotExactError
from keras_rmsprop.interop._torch_differences import check_alike
from keras_rmsprop.interop._torch_flatten import Order, Orders, UnknownOrderError, order_of
from keras_rmsprop.interop._torch_parameters import check_plain, first_names


class Move(NamedTuple):
    """How the elements of an array move between the layouts."""

    to_keras: Callable[..., Array]
    to_torch: Callable[[Array], tuple[Array, ...]]


def _transposed(array: Array) -> Array:
    return array.T


def _conv(array: Array) -> Array:
    return np.moveaxis(array, (0, 1), (-1, -2))


def _conv_back(array: Array) -> tuple[Array, ...]:
    return (np.moveaxis(array, (-1, -2), (0, 1)),)


SAME = Move(lambda array: array, lambda array: (array,))
TRANSPOSED = Move(_transposed, lambda array: (array.T,))
CONV = Move(_conv, _conv_back)


def _depthwise(channels: int) -> Move:
    def to_keras(array: Array) -> Array:
        if array.ndim < 3 or array.shape[0] % channels or array.shape[1] != 1:
            raise ValueError(f"it is not the weight of a depthwise convolution of {channels}")
        split = array.reshape(channels, -1, *array.shape[2:])
        return np.moveaxis(split, (0, 1), (-2, -1))

    def to_torch(array: Array) -> tuple[Array, ...]:
        split = np.moveaxis(array, (-2, -1), (0, 1))
        return (split.reshape(-1, 1, *split.shape[2:]),)

    return Move(to_keras, to_torch)


def _swapped_gates(array: Array) -> Array:
    """Exchange the first two of three gates along the last axis."""
    first, second, last = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, last], axis=-1)


GRU_KERNEL = Move(lambda array: _swapped_gates(array.T), lambda array: (_swapped_gates(array).T,))
# The rows of a GRU's bias in Keras are those of the input and of the recurrence.
GRU_BIAS = Move(
    lambda ih, hh: _swapped_gates(np.stack([ih, hh])),
    lambda array: tuple(_swapped_gates(array)),
)


def _equal(ih: Array, hh: Array) -> Array:
    if not np.allclose(ih, hh, rtol=1e-4, atol=0.0):
        raise ValueError(
            "their slots differ, so they have not had the same gradients and settings, and those "
            "of the sum are not known"
        )
    return (ih + hh) / 2


LSTM_BIAS = Move(_equal, lambda array: (array, array))
LSTM_BIAS_WEIGHT = Move(lambda ih, hh: ih + hh, lambda array: (array, np.zeros_like(array)))


# For the names of submodules, Keras's shape of what is flattened before them.
Flattened = Mapping[str, Sequence[int] | None]


def pairs_of_layers(
    module: Any, layers: Any, flattened: Flattened | None = None, *, exact: bool = True
) -> list[Pair]:
    """Pair the parameters and buffers of a torch module with the variables of Keras layers.

    Args:
        module: a `torch.nn.Module`.
        layers: a Keras model or layer, or a sequence of layers, whose layers with variables are
            those of `module`, by name if each module has the name of one layer and otherwise in
            order; or a mapping from the names of submodules to layers.
        flattened: as for `interop.torch.pairs`.
        exact: as for `interop.torch.pairs`.

    Raises: ValueError that names the first two that do not correspond; NotExactError if `exact`
        and the steps of two that do would differ.
    """
    modules = dict(_with_parameters(module))
    if isinstance(layers, Mapping):
        everything = dict(module.named_modules())
        unknown = [name for name in layers if name not in everything]
        if unknown:
            raise ValueError(
                f"There is no submodule {unknown[0]!r}; there are "
                f"{', '.join(map(repr, filter(None, everything)))}."
            )
        chosen = [(name, everything[name], layer) for name, layer in layers.items()]
        check_plain((name, each) for name, each, _ in chosen)
        bare = []
    else:
        check_plain(module.named_modules())
        flat = list(_with_variables(layers))
        if len(flat) < len(modules):
            modules = _with_their_own(modules)
        if len(flat) != len(modules):
            raise ValueError(
                f"{len(modules)} torch modules have parameters: {_listed(modules)}; and "
                f"{len(flat)} Keras layers have variables: "
                f"{', '.join(layer.name for layer in flat) or 'none'}. "
                f"{_how_to_build(layers) or _MAPPING}"
            )
        partners = [flat[i] for i in _positions(list(modules), flat)]
        chosen = [(n, m, layer) for (n, m), layer in zip(modules.items(), partners, strict=True)]
        bare = _without_variables(module, layers)
    found = {name: list(_pairs(name, m, layer)) for name, m, layer in chosen}
    found = _reordered(found, chosen, layers, {} if flattened is None else flattened)
    pairs = [pair for own in found.values() for pair in own]
    _check_shapes(pairs, module)
    if exact:
        kinds = [(n, m, _class_of(m, _TORCH) or "", layer) for n, m, layer in [*chosen, *bare]]
        check_alike(kinds, stacklevel=3)
    return _each_once(pairs, module, exact=exact)


def _reordered(
    found: Mapping[str, list[Pair]],
    chosen: Sequence[tuple[str, Any, Any]],
    layers: Any,
    flattened: Flattened,
) -> dict[str, list[Pair]]:
    """Return the pairs, permuted where a layer's inputs are in another order in torch."""
    unknown = [name for name in flattened if name not in found]
    if unknown:
        raise ValueError(
            f"`flattened` names {unknown[0]!r}, which is none of the paired modules: "
            f"{', '.join(map(repr, found))}."
        )
    models = [layers] if hasattr(layers, "layers") else [layer for _, _, layer in chosen]
    orders = Orders(models)
    result = {}
    for i, (name, module, layer) in enumerate(chosen):
        if name in flattened:
            shape = flattened[name]
            order = None if shape is None else order_of(shape)
        else:
            order = _order_of_inputs(orders, chosen[:i], name, module, layer)
        result[name] = [_in_order(pair, order) for pair in found[name]]
    return result


def _order_of_inputs(
    orders: Orders, before: Sequence[tuple[str, Any, Any]], name: str, module: Any, layer: Any
) -> Order:
    kind = _class_of(module, _TORCH)
    remedy = (
        f"Pass `flattened={{{name!r}: shape}}` with Keras's shape of what is flattened, such as "
        f"(height, width, channels), or `flattened={{{name!r}: None}}` if both have the same order."
    )
    if kind in ("Conv1d", "Conv2d", "Conv3d"):
        if orders.is_unflattened(layer):
            raise ValueError(
                f"The input of {layer.name!r} was a vector before, whose elements torch, with the "
                "channels first, has in another order. Pass "
                f"`flattened={{{name!r}: None}}`, and give the pairs of the layers before it their "
                "own conversions with `Pairs.replace`."
            )
        return None
    if kind not in _OF_VECTORS:
        return None
    if getattr(layer, "_inbound_nodes", ()):
        try:
            return orders.of_inputs(layer)
        except UnknownOrderError as error:
            raise ValueError(f"The input of {layer.name!r} ({name!r}) {error}. {remedy}") from error
    channels = _channels_before(before)
    features = _features_of(module)
    if channels and features % channels == 0 and features != channels and channels > 1:
        raise ValueError(
            f"{name!r} has {features} inputs after a layer with {channels} channels, so they may "
            f"be flattened, in another order than in Keras. {layer.name!r} does not tell what "
            f"comes before it, as it is not in a Sequential or functional model. {remedy}"
        )
    return None


# torch's layers whose output has the channels first, and those whose input may be flattened.
_CHANNELS_FIRST = ("Conv1d", "Conv2d", "Conv3d", "BatchNorm2d", "BatchNorm3d", "GroupNorm")
_OF_VECTORS = ("Linear", "BatchNorm1d", "LayerNorm", "LSTM", "GRU")


def _channels_before(before: Sequence[tuple[str, Any, Any]]) -> int | None:
    """Return the channels of the last layer before that has some, if none of features follows."""
    for _, module, _ in reversed(before):
        kind = _class_of(module, _TORCH)
        if kind in _CHANNELS_FIRST:
            names = ("out_channels", "num_features", "num_channels")
            return next(getattr(module, name) for name in names if hasattr(module, name))
        if kind not in ("BatchNorm1d", "LayerNorm"):
            return None
    return None


def _features_of(module: Any) -> int:
    for name in ("in_features", "num_features", "input_size"):
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(np.prod(module.normalized_shape))


# Of the variables of layers, those that have an element or a row for each input.
_OF_INPUTS = ("kernel", "gamma", "beta", "moving_mean", "moving_variance")


def _in_order(pair: Pair, order: Order) -> Pair:
    """Return a pair whose variable has the order of Keras's inputs on its first axis."""
    if order is None or pair.variable.name not in _OF_INPUTS:
        return pair
    back = np.argsort(order)

    def to_keras(*arrays: Array) -> Array:
        return np.take(pair.to_keras(*arrays), order, axis=0)

    def to_torch(array: Array) -> tuple[Array, ...]:
        return pair.to_source(np.take(array, back, axis=0))

    return pair._replace(to_keras=to_keras, to_source=to_torch)


def _check_shapes(pairs: Sequence[Pair], module: Any) -> None:
    shapes = _shapes_in(module, pairs)
    misfits = []
    for pair in pairs:
        # Views of one number, as weights may be large.
        blanks = [np.broadcast_to(np.float32(0.0), shapes[name]) for name in pair.names]
        try:
            pair.converted(blanks, tuple(pair.variable.shape))
        except MisfitError as error:
            misfits.append(str(error))
    if misfits:
        raise ValueError(f"The layers do not correspond: {'; '.join(misfits[:4])}.")


def _shapes_in(module: Any, pairs: Iterable[Pair]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the pairs' parameters; others may have none yet."""
    tensors = dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    return {name: tuple(tensors[name].shape) for pair in pairs for name in pair.names}


def _each_once(pairs: Sequence[Pair], module: Any, *, exact: bool) -> list[Pair]:
    """Return the pairs, with one for a parameter that several modules share.

    It has the name that optimizers know the parameter by.

    Raises: ValueError if only one side shares what it has; NotExactError if this is torch, whose
        one parameter two variables can start from, but not follow.
    """
    first = first_names(module)
    by_name: dict[str, Pair] = {}
    by_variable: dict[int, Pair] = {}
    once = []
    for pair in pairs:
        names = tuple(first[name] for name in pair.names)
        namesake = next((by_name[name] for name in names if name in by_name), None)
        partner = by_variable.get(id(pair.variable))
        if namesake is None and partner is None:
            once.append(pair._replace(names=names))
        elif partner is None and namesake is not None:
            if exact:
                raise NotExactError(
                    f"{namesake.label} and {pair.label} are one parameter, and their partners "
                    f"{namesake.path!r} and {pair.path!r} are two variables, which the first step "
                    "makes unlike. Share the variable, too, as by calling one layer twice; or "
                    "give torch two parameters; or pass exact=False for the weights alone."
                )
            # Each under a name of its own.
            once.append(pair if pair.names != names else pair._replace(names=namesake.names))
        elif partner is not None and not _are_one(partner, pair, first, module):
            raise ValueError(
                f"{partner.label} and {pair.label} are not the same, but both are paired with "
                f"{pair.path!r}."
            )
        by_name.update(dict.fromkeys(names, pair))
        by_variable[id(pair.variable)] = pair
    return once


def _are_one(pair: Pair, other: Pair, first: Mapping[str, str], module: Any) -> bool:
    """Whether two pairs of one variable are of the same parameters, in one layout."""
    if [first[name] for name in pair.names] != [first[name] for name in other.names]:
        return False
    if pair.to_keras is other.to_keras:
        return True
    shapes = _shapes_in(module, [pair])
    marks = [np.arange(np.prod(shapes[name])).reshape(shapes[name]) for name in pair.names]
    return np.array_equal(pair.to_keras(*marks), other.to_keras(*marks))


def _positions(names: Sequence[str], layers: Sequence[Any]) -> Sequence[int]:
    """Return the position of each module's layer: by name if all have one, otherwise by order.

    Args:
        names: those of the modules, in order.
        layers: as many Keras layers.

    Raises: ValueError if some names match, and contradict the order.
    """
    paths = [str(getattr(layer, "path", None) or layer.name).split("/") for layer in layers]
    likeness = np.array([[_common_end(name.split("."), path) for path in paths] for name in names])
    by_name = {i: j for i in range(len(names)) if (j := _only_best(likeness, i)) is not None}
    if len(by_name) == len(names):
        return [by_name[i] for i in range(len(names))]
    for i, j in by_name.items():
        if i != j:
            raise ValueError(
                f"By order {names[i]!r} corresponds to {layers[i].name!r}, but by name to "
                f"{layers[j].name!r}. Pass a mapping from the names of the modules to the layers, "
                f"such as {{{names[i]!r}: model.get_layer({layers[j].name!r}), ...}}."
            )
    return range(len(names))


def _common_end(parts: Sequence[str], others: Sequence[str]) -> int:
    """Return how many parts at the end of two names are the same."""
    pairs = zip(reversed(parts), reversed(others), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(others)))


def _only_best(likeness: Array, row: int) -> int | None:
    """Return the column that is most like a row, if both are so to nothing else."""
    column = int(np.argmax(likeness[row]))
    best = likeness[row, column]
    alike = [*np.flatnonzero(likeness[row] >= best), *np.flatnonzero(likeness[:, column] >= best)]
    return column if best > 0 and len(alike) == 2 else None


def _listed(modules: Mapping[str, Any]) -> str:
    named = (f"{name!r} ({type(module).__name__})" for name, module in modules.items())
    return ", ".join(named) or "none"


def _with_parameters(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules that have parameters of their own, with their names."""
    for name, each in module.named_modules():
        if _own(each):
            yield name, each


def _with_their_own(modules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the modules without those that only share what others before them have.

    A layer of Keras that computes with another's variable, as in a tied embedding, has none.
    """
    seen: set[int] = set()
    found = {}
    for name, module in modules.items():
        own = {id(tensor) for tensor in _own(module)}
        if not own <= seen:
            found[name] = module
        seen |= own
    return found


def _own(module: Any) -> list[Any]:
    """Return the parameters and buffers that a module has itself."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _listed_layers(layers: Any) -> Sequence[Any]:
    return layers if isinstance(layers, Sequence) else [layers]


def _with_variables(layers: Any) -> Iterator[Any]:
    """Yield the layers that have variables."""
    return (layer for layer in _innermost(_listed_layers(layers), set()) if layer.weights)


def _without_variables(module: Any, layers: Any) -> list[tuple[str, Any, Any]]:
    """Return the normalizations that have none, in order, if both sides have the same."""
    found = [(n, m) for n, m in module.named_modules() if _class_of(m, _BARE) and not _own(m)]
    kinds = [_BARE[_class_of(each, _BARE) or ""] for _, each in found]
    ours = [
        layer
        for layer in _innermost(_listed_layers(layers), set())
        if _class_of(layer, _KERAS) in _BARE.values() and not layer.weights
    ]
    if [_class_of(layer, _KERAS) for layer in ours] != kinds:
        return []
    return [(name, each, layer) for (name, each), layer in zip(found, ours, strict=True)]


# The normalizations that can be without scale, offset and running averages.
_BARE = {"LayerNorm": "LayerNormalization", "GroupNorm": "GroupNormalization"}


def _innermost(layers: Iterable[Any], seen: set[int]) -> Iterator[Any]:
    """Yield the layers that are known here or have no layers in them."""
    for layer in layers:
        inner = getattr(layer, "layers", None) or getattr(layer, "_layers", ())
        if inner and not _class_of(layer, _KERAS):
            yield from _innermost(inner, seen)
        elif id(layer) not in seen:
            # torch, too, has a module that is used twice once.
            seen.add(id(layer))
            yield layer


def _how_to_build(layers: Any) -> str:
    """Return what to do with the first layer that is not built, nothing if all are."""
    unbuilt = (each for each in _innermost(_listed_layers(layers), set()) if not each.built)
    first = next(unbuilt, None)
    if first is None:
        return ""
    return (
        f"{first.name!r} is not built. Build the model first: begin it with `keras.Input(shape)`, "
        "or call it with a batch."
    )


_MAPPING = "Pass a mapping from the names of the modules to the layers."


def _pairs(name: str, module: Any, layer: Any) -> Iterator[Pair]:
    """Pair the parameters of one module with the variables of one layer."""
    theirs, ours = _class_of(module, _TORCH), _class_of(layer, _KERAS)
    if theirs is None or ours is None:
        unknown = f"torch's {type(module).__name__}" if theirs is None else f"Keras's {type(layer)}"
        raise ValueError(
            f"No pairs are known for {unknown}, of {name!r} and {layer.name!r}. Give them one by "
            'one: {"name.weight": (variable, to_keras, to_torch)}.'
        )
    if ours not in _TORCH[theirs]:
        raise ValueError(
            f"{name!r} is a {theirs}, and {layer.name!r} a {ours}, which does not correspond. "
            f"{_MAPPING}"
        )
    if not layer.built and not layer.weights:
        raise ValueError(f"{layer.name!r} has no variables yet. {_how_to_build(layer)}")
    if getattr(layer, "lora_enabled", False):
        raise ValueError(
            f"{layer.name!r} has LoRA: it computes its {_weight_of(layer)} from three variables, "
            f"and {name!r} has one parameter for it. Use a layer without `lora_rank`."
        )
    if getattr(layer, "quantization_mode", None) not in (None, "float8"):
        raise ValueError(
            f"{layer.name!r} is quantized to {layer.quantization_mode}, and {name!r} is not. Use "
            "a layer that is not quantized."
        )
    prefix = f"{name}." if name else ""
    yield from _KERAS[ours](prefix, module, layer)


def _weight_of(layer: Any) -> str:
    return "embeddings" if _class_of(layer, {"Embedding": 0}) else "kernel"


def _class_of(thing: Any, table: Mapping[str, Any]) -> str | None:
    """Return the name of the first class in a table that a thing is an instance of."""
    return next((c.__name__ for c in type(thing).__mro__ if c.__name__ in table), None)


def _kernel_and_bias(
    prefix: str, module: Any, layer: Any, kernel: Any, move: Move
) -> Iterator[Pair]:
    yield Pair((f"{prefix}weight",), kernel, *move)
    if (module.bias is None) is not (layer.bias is None):
        raise ValueError(f"Only one of {prefix[:-1]!r} and {layer.name!r} has a bias.")
    if module.bias is not None:
        yield Pair((f"{prefix}bias",), layer.bias)


def _dense(prefix: str, module: Any, layer: Any) -> Iterator[Pair]:
    return _kernel_and_bias(prefix, module, layer, layer.kernel, TRANSPOSED)


def _convolution(prefix: str, module: Any, layer: Any) -> Iterator[Pair]:
    return _kernel_and_bias(prefix, module, layer, layer.kernel, CONV)


def _depthwise_convolution(prefix: str, module: Any, layer: Any) -> Iterator[Pair]:
    if module.groups != module.in_channels:
        raise ValueError(
            f"{prefix[:-1]!r} has {module.groups} groups of {module.in_channels} channels; a "
            "depthwise convolution has one for each."
        )
    return _kernel_and_bias(prefix, module, layer, layer.kernel, _depthwise(module.in_channels))


def _embedding(prefix: str, _: Any, layer: Any) -> Iterator[Pair]:
    yield Pair((f"{prefix}weight",), layer.embeddings)


def _normalization(prefix: str, module: Any, layer: Any) -> Iterator[Pair]:
    own = {
        "weight": layer.gamma,
        "bias": layer.beta,
        "running_mean": getattr(layer, "moving_mean", None),
        "running_var": getattr(layer, "moving_variance", None),
    }
    for name, variable in own.items():
        there = getattr(module, name, None)
        if (there is None) is not (variable is None):
            raise ValueError(f"Only one of {prefix[:-1]!r} and {layer.name!r} has a {name}.")
        if variable is not None:
            yield Pair((f"{prefix}{name}",), variable)


def _recurrent(prefix: str, module: Any, layers: Any) -> Iterator[Pair]:
    """Pair an LSTM or GRU of one layer, in one direction or both."""
    if module.num_layers != 1 or getattr(module, "proj_size", 0):
        raise ValueError(
            f"{prefix[:-1]!r} has {module.num_layers} layers"
            f"{' and a projection' if getattr(module, 'proj_size', 0) else ''}; pairs are known "
            "for one layer without projection. Give them one by one."
        )
    both = hasattr(layers, "forward_layer")
    if both is not bool(module.bidirectional):
        raise ValueError(f"Only one of {prefix[:-1]!r} and {layers.name!r} is bidirectional.")
    directions = (
        {"": layers.forward_layer, "_reverse": layers.backward_layer} if both else {"": layers}
    )
    for suffix, layer in directions.items():
        is_gru = type(module).__name__ == "GRU"
        if is_gru is not (_class_of(layer, {"GRU": 0}) is not None):
            raise ValueError(f"Only one of {prefix[:-1]!r} and {layer.name!r} is a GRU.")
        if is_gru and not layer.reset_after:
            raise ValueError(
                f"{layer.name!r} resets its state before the matrix product, unlike torch's GRU. "
                "Create it with reset_after=True."
            )
        cell = layer.cell
        move = GRU_KERNEL if is_gru else TRANSPOSED
        yield Pair((f"{prefix}weight_ih_l0{suffix}",), cell.kernel, *move)
        yield Pair((f"{prefix}weight_hh_l0{suffix}",), cell.recurrent_kernel, *move)
        if bool(module.bias) is not (cell.bias is not None):
            raise ValueError(f"Only one of {prefix[:-1]!r} and {layer.name!r} has biases.")
        if cell.bias is None:
            continue
        names = (f"{prefix}bias_ih_l0{suffix}", f"{prefix}bias_hh_l0{suffix}")
        if is_gru:
            yield Pair(names, cell.bias, *GRU_BIAS)
        else:
            yield Pair(names, cell.bias, *LSTM_BIAS, 2.0, *LSTM_BIAS_WEIGHT)


# For the classes of Keras layers, how their variables are paired.
_KERAS: dict[str, Callable[[str, Any, Any], Iterator[Pair]]] = {
    "Dense": _dense,
    # Before the classes of convolutions that it does not derive from.
    "DepthwiseConv1D": _depthwise_convolution,
    "DepthwiseConv2D": _depthwise_convolution,
    "Conv1D": _convolution,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "Embedding": _embedding,
    "LayerNormalization": _normalization,
    "GroupNormalization": _normalization,
    "BatchNormalization": _normalization,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "Bidirectional": _recurrent,
}

# For the classes of torch modules, the Keras layers that they can be.
_TORCH: dict[str, tuple[str, ...]] = {
    "Linear": ("Dense",),
    "Conv1d": ("Conv1D", "DepthwiseConv1D"),
    "Conv2d": ("Conv2D", "DepthwiseConv2D"),
    "Conv3d": ("Conv3D",),
    "Embedding": ("Embedding",),
    "LayerNorm": ("LayerNormalization",),
    "GroupNorm": ("GroupNormalization",),
    "BatchNorm1d": ("BatchNormalization",),
    "BatchNorm2d": ("BatchNormalization",),
    "BatchNorm3d": ("BatchNormalization",),
    "LSTM": ("LSTM", "Bidirectional"),
    "GRU": ("GRU", "Bidirectional"),
}
