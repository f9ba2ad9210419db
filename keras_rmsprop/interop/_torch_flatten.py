"""Find in which order a Keras layer's inputs are, where torch has them in another.

Where a convolution's output is flattened, Keras counts the channels fastest and torch slowest, so
the next layer's inputs are permuted:

    Keras    (height, width, channels) -> index (h * width + w) * channels + c
    torch    (channels, height, width) -> index (c * height + h) * width + w

The graph of a Sequential or functional model tells what was flattened. It is followed backwards
from the layer's input.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_rmsprop.interop._source import Array

# The position in torch of each of a layer's inputs, None if they are in the same order.
Order = Array | None

# Where a tensor's channels are in torch: where Keras has them, first, or nobody knows.
_SAME, _FIRST, _UNKNOWN = "same", "first", "unknown"
# In place of an operation, for a nested model's input.
_ONE_OF = "one of"


class UnknownOrderError(ValueError):
    """Inputs of a layer whose order in torch is not known."""


def order_of(shape: Sequence[int]) -> Order:
    """Return the order of a flattened tensor.

    Args:
        shape: Keras's shape of what is flattened, without the batch, with the channels last.
    """
    return _order_in(_FIRST, shape)


def _order_in(layout: str, shape: Sequence[int], moves: bool = False) -> Order:
    """Return the order of a flattened tensor.

    Args:
        layout: where its channels are in torch.
        shape: Keras's shape of it, without the batch.
        moves: whether Keras moves the first axis to the end before it flattens. Default False.
    """
    *spatial, channels = shape
    # The position in torch of each element, in Keras's shape.
    positions = np.arange(math.prod(shape)).reshape(shape)
    if layout == _FIRST:
        positions = np.moveaxis(positions.reshape(channels, *spatial), 0, -1)
    if moves:
        positions = np.moveaxis(positions, 0, -1)
    order = positions.ravel()
    return None if np.array_equal(order, np.arange(order.size)) else order


class Orders:
    """The orders of the inputs of layers.

    Args:
        layers: the layers that are paired, and the models that they are in.
    """

    def __init__(self, layers: Iterable[Any]) -> None:
        # What the inputs of nested models are in the models around them.
        self._outer: dict[int, list[Any]] = {}
        for layer in layers:
            self._add(layer)

    def _add(self, layer: Any) -> None:
        for inner in getattr(layer, "layers", ()):
            self._add(inner)
        own = _tensors(layer, "inputs")
        for node in getattr(layer, "_inbound_nodes", ()) if own else ():
            for inside, outside in zip(own, node.input_tensors, strict=False):
                self._outer.setdefault(id(inside), []).append(outside)

    def of_inputs(self, layer: Any) -> Order:
        """Return the order of the features that a layer's input has on its last axis.

        Raises: UnknownOrderError if it is not known, or not the same wherever the layer is called.
        """
        orders = [
            self._order(tensor) if len(tensor.shape) == 2 else self._of_features(tensor)
            for tensor in _inputs_of(layer)
        ]
        return _agreed(orders, "is called with inputs in different orders") if orders else None

    def is_unflattened(self, layer: Any) -> bool:
        """Whether a convolution's input, or what it is made of, was a vector before."""
        return any(self._comes_from_a_vector(tensor) for tensor in _inputs_of(layer))

    def _made_by(self, tensor: Any) -> tuple[Any, list[Any]]:
        """Return the operation that made a tensor, None for an input, and its own inputs.

        The output of a nested model is that of its last layer, and its input, one of those that it
        is called with.
        """
        outer = self._outer.get(id(tensor))
        if outer:
            return _ONE_OF, outer
        history = getattr(tensor, "_keras_history", None)
        if history is None or history.operation is None:
            return None, []
        operation = history.operation
        outputs = _tensors(operation, "outputs")
        if outputs:
            return self._made_by(outputs[history.tensor_index])
        inputs = operation._inbound_nodes[history.node_index].input_tensors
        return (operation, list(inputs)) if inputs else (None, [])

    def _order(self, tensor: Any) -> Order:
        """Return the order of the elements of vectors."""
        operation, inputs = self._made_by(tensor)
        if operation is None or _is(operation, _MIXING):
            return None
        shapes = [tuple(each.shape[1:]) for each in inputs]
        if _is(operation, _FLATTENING):
            is_flat = len(shapes[0]) == 1
            return self._order(inputs[0]) if is_flat else self._flattened(operation, inputs[0])
        orders = [
            self._order(each) if len(shape) == 1 else self._of_channels(each, shape)
            for each, shape in zip(inputs, shapes, strict=True)
        ]
        if all(order is None for order in orders):
            return None
        if _is(operation, _CONCATENATING):
            return _joined(orders, [shape[-1] for shape in shapes])
        if operation == _ONE_OF or _is(operation, _ELEMENTWISE | _NORMALIZING):
            return _agreed(orders, f"is given to {_name(operation)} in different orders")
        raise UnknownOrderError(f"is flattened before {_name(operation)}, which may reorder it")

    def _of_features(self, tensor: Any) -> Order:
        """Return None, unless channels were merged with another axis, as before an LSTM."""
        operation, inputs = self._made_by(tensor)
        if operation is None or _is(operation, _MIXING | _CHANNELS):
            return None
        merges = _is(operation, _FLATTENING) and inputs[0].shape[-1] not in (1, tensor.shape[-1])
        if merges and len(inputs[0].shape) > 2 and self._layout(inputs[0]) != _SAME:
            raise UnknownOrderError(
                f"is reshaped from {tuple(inputs[0].shape[1:])} to {tuple(tensor.shape[1:])}, and "
                "torch may have the channels first there"
            )
        for each in inputs if not merges else ():
            if len(each.shape) > 2:
                self._of_features(each)
        return None

    def _of_channels(self, tensor: Any, shape: Sequence[Any]) -> Order:
        """Return None where an unknown operation makes vectors of something else."""
        if shape and shape[-1] != 1 and self._layout(tensor) != _SAME:
            raise UnknownOrderError("is made of a tensor that has its channels first in torch")
        return None

    def _flattened(self, operation: Any, tensor: Any) -> Order:
        shape = tuple(tensor.shape[1:])
        if None in shape:
            return None
        # Keras puts the first axis last before it flattens, wherever the channels are.
        moves = type(operation).__name__ == "Flatten" and _has_channels_first(operation)
        layout = self._layout(tensor)
        layouts = (_SAME, _FIRST) if layout == _UNKNOWN else (layout,)
        orders = [_order_in(each, shape, moves) for each in layouts]
        moved = (*shape[1:], shape[0]) if moves else shape
        return _agreed(
            orders,
            f"is flattened from Keras's shape {moved}, and nothing shows whether torch has the "
            "channels first there",
        )

    def _layout(self, tensor: Any) -> str:
        """Return where torch has the channels of a tensor of more axes than one."""
        operation, inputs = self._made_by(tensor)
        if operation is None:
            # Sequences have their features last in both; images have not.
            return _SAME if len(tensor.shape) < 4 else _UNKNOWN
        if _is(operation, _RECURRENT):
            return _SAME
        if _is(operation, _CHANNELS):
            return _SAME if _has_channels_first(operation) else _FIRST
        found = {self._layout(each) for each in inputs if len(each.shape) > 2}
        if found <= {_SAME}:
            return _SAME
        if operation == _ONE_OF or _is(operation, _ELEMENTWISE | _CONCATENATING):
            return found.pop() if len(found) == 1 else _UNKNOWN
        moves = getattr(operation, "dims", None) or getattr(operation, "axes", None)
        rank = len(tensor.shape) - 1
        if moves is not None and tuple(moves)[-rank:] == (rank, *range(1, rank)):
            return _SAME  # The channels are put first here, too.
        return _UNKNOWN

    def _comes_from_a_vector(self, tensor: Any) -> bool:
        operation, inputs = self._made_by(tensor)
        if operation is None or _is(operation, _CHANNELS_MIXING):
            return False
        if _is(operation, _FLATTENING) and len(inputs[0].shape) == 2:
            return order_of(tuple(tensor.shape[1:])) is not None
        return any(self._comes_from_a_vector(each) for each in inputs if len(each.shape) > 2)


def _inputs_of(layer: Any) -> list[Any]:
    """Return what a layer is called with in the graphs of models, each time."""
    nodes = getattr(layer, "_inbound_nodes", ())
    return [node.input_tensors[0] for node in nodes if node.input_tensors]


def _tensors(thing: Any, name: str) -> list[Any]:
    """Return the inputs or outputs of a model, nothing for other layers."""
    if not hasattr(thing, "layers"):
        return []
    try:
        found = getattr(thing, name, None)
    except (AttributeError, ValueError):  # a Sequential that is not built
        return []
    if isinstance(found, Mapping):
        return list(found.values())
    return [] if found is None else list(found)


def _has_channels_first(operation: Any) -> bool:
    return getattr(operation, "data_format", None) == "channels_first"


def _name(operation: Any) -> str:
    return "a model" if operation == _ONE_OF else repr(operation.name)


def _is(operation: Any, names: frozenset[str]) -> bool:
    return any(each.__name__ in names for each in type(operation).__mro__)


def _agreed(orders: Sequence[Order], words: str) -> Order:
    first = orders[0]
    for order in orders[1:]:
        if (first is None) is not (order is None) or not np.array_equal(first, order):  # type: ignore[arg-type]
            raise UnknownOrderError(words)
    return first


def _joined(orders: Sequence[Order], sizes: Sequence[int]) -> Array:
    starts = np.cumsum([0, *sizes[:-1]])
    return np.concatenate(
        [
            start + (np.arange(size) if order is None else order)
            for start, size, order in zip(starts, sizes, orders, strict=True)
        ]
    )


_FLATTENING = frozenset({"Flatten", "Reshape"})
# Of vectors they keep the order, too. Of images they have the channels last in torch as well.
_NORMALIZING = frozenset({"LayerNormalization", "RMSNormalization"})
_RECURRENT = frozenset({"RNN", "Bidirectional"})
_CONCATENATING = frozenset({"Concatenate"})
# Of a whole vector or sequence of features, in an order that its own weights decide.
_MIXING = _RECURRENT | {"Dense", "EinsumDense", "Embedding", "BaseGlobalPooling"}
# Layers of images and signals, whose channels torch has first.
_CHANNELS_MIXING = frozenset({"BaseConv", "BaseConvTranspose", "BaseSeparableConv"})
_CHANNELS = _CHANNELS_MIXING | {
    "BaseDepthwiseConv",
    "BaseAdaptivePooling",
    "BasePooling",
    "GroupNormalization",
}
# What leaves the elements in their order.
_ELEMENTWISE = frozenset(
    {
        "Activation",
        "ActivityRegularization",
        "AlphaDropout",
        "BatchNormalization",
        "Cropping1D",
        "Cropping2D",
        "Cropping3D",
        "Dropout",
        "ELU",
        "GaussianDropout",
        "GaussianNoise",
        "Identity",
        "LeakyReLU",
        "PReLU",
        "ReLU",
        "Rescaling",
        "Softmax",
        "UpSampling1D",
        "UpSampling2D",
        "UpSampling3D",
        "ZeroPadding1D",
        "ZeroPadding2D",
        "ZeroPadding3D",
        # Layers of two tensors, but for Concatenate and Dot.
        "Add",
        "Average",
        "Maximum",
        "Minimum",
        "Multiply",
        "Subtract",
        # `keras.ops`, called with the tensors of a functional model.
        "Elu",
        "Gelu",
        "LeakyRelu",
        "Relu",
        "Relu6",
        "Selu",
        "Sigmoid",
        "Silu",
        "Softplus",
        "Tanh",
    }
)
