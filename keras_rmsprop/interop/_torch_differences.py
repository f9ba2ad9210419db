"""Find what a layer of torch computes otherwise than the layer of Keras that it is paired with.

Their variables fit, and so nothing else would tell.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from keras import activations, ops

from keras_rmsprop.interop._source import NotExactError


def check_alike(found: Iterable[tuple[str, Any, str, Any]], stacklevel: int) -> None:
    """Refuse layers with which the steps would differ, and warn of other running averages.

    Args:
        found: the names of torch's modules, the modules, the names of their classes in `_KINDS`,
            and Keras's layers.
        stacklevel: as for `warnings.warn` in the caller.

    Raises: NotExactError with all of the differences.
    """
    paired = [(name or kind, module, kind, layer) for name, module, kind, layer in found]
    differences = [
        difference
        for name, module, kind, layer in paired
        if kind in _KINDS
        for difference in _KINDS[kind](name, module, layer)
    ]
    if differences:
        raise NotExactError(
            f"The steps would not be torch's: {'; '.join(differences)}. Create Keras's layers "
            "alike, or pass exact=False to pair them all the same."
        )
    averages = [
        difference
        for name, module, _, layer in paired
        for difference in _averages(name, module, layer)
    ]
    if averages:
        warnings.warn(
            "Running averages, which evaluation uses, will move otherwise than in torch: "
            f"{'; '.join(averages)}.",
            stacklevel=stacklevel + 1,
        )


def _convolution(name: str, module: Any, layer: Any) -> Iterator[str]:
    settings = (
        ("strides", module.stride, layer.strides),
        ("dilation_rate", module.dilation, layer.dilation_rate),
    )
    for setting, theirs, ours in settings:
        if tuple(theirs) != tuple(ours):
            yield _unlike(setting, name, tuple(theirs), layer, tuple(ours))


def _embedding(name: str, module: Any, layer: Any) -> Iterator[str]:
    row = module.padding_idx
    is_trained = module.weight.requires_grad or layer.trainable
    if row is not None and is_trained:
        yield (
            f"row {row} of {name!r} gets no gradient in torch (padding_idx={row}), but one in "
            f"Keras's {layer.name!r}, also with mask_zero (docs/migration.md has a layer that "
            "stops it, for which exact=False is right)"
        )
    if module.max_norm is not None:
        yield (
            f"torch scales the rows of {name!r} that it looks up down to a norm of "
            f"{module.max_norm} (max_norm), and Keras's {layer.name!r} does not"
        )
    if module.scale_grad_by_freq and is_trained:
        yield (
            f"torch divides the gradient of a row of {name!r} by how often the batch has it "
            f"(scale_grad_by_freq=True), and Keras's {layer.name!r} does not"
        )


def _normalization(name: str, module: Any, layer: Any) -> Iterator[str]:
    if not math.isclose(module.eps, layer.epsilon, rel_tol=_SAME):
        yield _unlike("epsilon", name, module.eps, layer, layer.epsilon)


def _group_normalization(name: str, module: Any, layer: Any) -> Iterator[str]:
    yield from _normalization(name, module, layer)
    if module.num_groups != layer.groups:
        yield _unlike("groups", name, module.num_groups, layer, layer.groups)


def _averages(name: str, module: Any, layer: Any) -> Iterator[str]:
    """Say how a batch normalization's running averages move otherwise."""
    if getattr(module, "running_mean", None) is None:
        return
    if not (module.training or layer.trainable):
        return  # They do not move.
    if module.momentum is None:
        yield (
            f"those of torch's {name!r} are of all batches (momentum=None), and those of Keras's "
            f"{layer.name!r} forget the first ones"
        )
    elif not math.isclose(module.momentum, 1.0 - layer.momentum, rel_tol=_SAME):
        # torch's is the share of the new batch, and Keras's that of the old average.
        kept = round(1.0 - module.momentum, 12)
        yield (
            f"torch's {name!r} has momentum={module.momentum}, which in Keras is {kept}, and "
            f"Keras's {layer.name!r} has {layer.momentum}"
        )


def _recurrent(name: str, _: Any, layers: Any) -> Iterator[str]:
    both = hasattr(layers, "forward_layer")
    for layer in (layers.forward_layer, layers.backward_layer) if both else (layers,):
        for setting, theirs in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
            own = getattr(layer.cell, setting)
            ours = getattr(own, "__name__", type(own).__name__)
            if ours.lower() != theirs and not _computes(own, theirs):
                yield _unlike(setting, name, theirs, layer, ours)


def _computes(function: Callable[[Any], Any], name: str) -> bool:
    """Whether a function, of another name, returns what one of Keras's activations does."""
    points = np.linspace(-4.0, 4.0, 33, dtype=np.float32)
    try:
        got, want = (
            ops.convert_to_numpy(each(ops.convert_to_tensor(points)))
            for each in (function, activations.get(name))
        )
    except Exception:  # a function of the user's
        return False
    return got.shape == want.shape and bool(np.allclose(got, want, rtol=1e-5, atol=1e-6))


def _unlike(setting: str, name: str, theirs: Any, layer: Any, ours: Any) -> str:
    return f"`{setting}` is {theirs} in torch's {name!r} and {ours} in Keras's {layer.name!r}"


# Numbers may have been rounded to float32 on their way.
_SAME = 1e-6

# For the classes of torch modules, what may differ.
_KINDS: Mapping[str, Callable[[str, Any, Any], Iterator[str]]] = {
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "Conv3d": _convolution,
    "Embedding": _embedding,
    "LayerNorm": _normalization,
    "GroupNorm": _group_normalization,
    "BatchNorm1d": _normalization,
    "BatchNorm2d": _normalization,
    "BatchNorm3d": _normalization,
    "LSTM": _recurrent,
    "GRU": _recurrent,
}
