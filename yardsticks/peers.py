"""Run the other frameworks' RMSprops through one interface.

    follow("torch", weights, gradients, rates, alpha=0.9, momentum=0.5)

makes one step of the real optimizer for each entry of `gradients`, with that step's learning
rate, and returns weights and state after every step. The arguments are the framework's own.
`follow_ours` does the same with a `keras_rmsprop.RMSprop`.

State has this package's names and meanings, so that it can be compared directly:

    square_average      the average of g²; if centered the variance, v - m²; divided by
                        1 - rho**t if the framework corrects for bias
    gradient_average    m, corrected in the same way; only if centered
    momentum            what is subtracted from the weights: a buffer of steps, or of directions
                        if the learning rate stays outside (torch); only if momentum > 0

Frameworks are imported on demand. `unavailable` says which of them cannot run in one process with
the active backend.
"""
# The methods are documented once, in `Peer`.
# ruff: noqa: D102

import functools
import importlib
import importlib.util
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol
from unittest import mock

import keras
import numpy as np

Array = np.ndarray[Any, Any]
Slots = dict[str, list[Array]]


class Snapshot(NamedTuple):
    """One optimizer after a step: one array per weight, under each name."""

    weights: list[Array]
    slots: Slots


class Peer(Protocol):
    """A framework's optimizer and its weights."""

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the following steps."""

    def tensors(self, gradients: Sequence[Array]) -> list[Any]:
        """Convert gradients to the framework's tensors."""

    def step(self, gradients: Sequence[Any]) -> None:
        """Make one step with tensors, and nothing else."""

    def weights(self) -> list[Array]:
        """Copy the weights."""

    def snapshot(self) -> Snapshot:
        """Copy weights and state."""


def follow(
    name: str,
    weights: Sequence[Array],
    gradients: Sequence[Sequence[Array]],
    rates: Sequence[float] | None = None,
    **arguments: Any,
) -> list[Snapshot]:
    """Run a framework's optimizer over a sequence of gradients.

    Args:
        name: a key of `PEERS`.
        weights: the initial weights; their dtype is that of all arithmetic. With float64, Keras
            needs `floatx` float64 too, and TensorFlow's older optimizers need hyperparameters
            that are exact in float32, to which they round them.
        gradients: for each step an array for each weight.
        rates: for each step the learning rate; by default the one in `arguments`.
        **arguments: the framework's own arguments.

    Returns: weights and state after each step.
    """
    return _follow(PEERS[name](weights, **arguments), gradients, rates)


def follow_ours(
    optimizer: Any,
    weights: Sequence[Array],
    gradients: Sequence[Sequence[Array]],
    rates: Sequence[float] | None = None,
) -> list[Snapshot]:
    """Run a `keras_rmsprop.RMSprop`, not built yet, as `follow` runs a framework's."""
    return _follow(Ours(optimizer, weights), gradients, rates)


def unavailable(name: str) -> str | None:
    """Return why a peer cannot run in one process with the active backend, or None."""
    backend = keras.backend.backend()
    if name not in IN_ONE_PROCESS[backend]:
        return f"{name} is compared under another backend than {backend}, to keep processes small"
    if name in OPTIONAL and importlib.util.find_spec(name) is None:
        return f"{name} is not installed: pip install --no-deps -r yardsticks/optional.txt"
    return None


def _follow(
    peer: Peer, gradients: Sequence[Sequence[Array]], rates: Sequence[float] | None
) -> list[Snapshot]:
    snapshots = []
    for t, gradient in enumerate(gradients):
        if rates is not None:
            peer.set_rate(rates[t])
        peer.step(peer.tensors(gradient))
        snapshots.append(peer.snapshot())
    return snapshots


class OnKeras:
    """An optimizer of Keras 3 on the active backend."""

    # This package's names of the slots, with the attributes that hold them.
    slots: dict[str, str]

    def __init__(self, optimizer: Any, weights: Sequence[Array]) -> None:
        self.optimizer = optimizer
        self.variables = [keras.Variable(w, dtype=w.dtype.name) for w in weights]

    def set_rate(self, rate: float) -> None:
        self.optimizer.learning_rate = rate

    def tensors(self, gradients: Sequence[Array]) -> list[Any]:
        return [keras.ops.convert_to_tensor(g, dtype=g.dtype.name) for g in gradients]

    def step(self, gradients: Sequence[Any]) -> None:
        self.optimizer.apply(gradients, self.variables)

    def weights(self) -> list[Array]:
        return _copies(_from_keras, self.variables)

    def snapshot(self) -> Snapshot:
        slots = {
            name: _copies(_from_keras, getattr(self.optimizer, attribute))
            for name, attribute in self.slots.items()
            if getattr(self.optimizer, attribute, None)
        }
        return Snapshot(self.weights(), slots)


class Ours(OnKeras):
    """`keras_rmsprop.RMSprop`, made by the caller."""

    slots = {  # noqa: RUF012
        "square_average": "_square_averages",
        "gradient_average": "_gradient_averages",
        "momentum": "_momentums",
    }


class Keras(OnKeras):
    """`keras.optimizers.RMSprop`."""

    slots = {  # noqa: RUF012
        "square_average": "_velocities",
        "gradient_average": "_average_gradients",
        "momentum": "_momentums",
    }

    def __init__(self, weights: Sequence[Array], **arguments: Any) -> None:
        super().__init__(keras.optimizers.RMSprop(**arguments), weights)

    def snapshot(self) -> Snapshot:
        return _centralized(super().snapshot())


class Torch:
    """`torch.optim.RMSprop`."""

    def __init__(self, weights: Sequence[Array], device: str = "cpu", **arguments: Any) -> None:
        import torch

        self.torch, self.device = torch, device
        self.parameters = [torch.nn.Parameter(w) for w in self.tensors(weights)]
        self.optimizer = self.framework()(self.parameters, **arguments)

    @staticmethod
    def framework() -> Any:
        """Return the optimizer's class."""
        import torch

        return torch.optim.RMSprop

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def tensors(self, gradients: Sequence[Array]) -> list[Any]:
        return [self.torch.tensor(g, device=self.device) for g in gradients]

    def give(self, gradients: Sequence[Any]) -> None:
        """Set the parameters' `grad`."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def step(self, gradients: Sequence[Any]) -> None:
        self.give(gradients)
        self.optimizer.step()

    def weights(self) -> list[Array]:
        return _copies(_from_torch, self.parameters)

    def snapshot(self) -> Snapshot:
        names = {
            "square_average": "square_avg",
            "gradient_average": "grad_avg",
            "momentum": "momentum_buffer",
        }
        states = [self.optimizer.state[parameter] for parameter in self.parameters]
        slots = {
            name: _copies(_from_torch, [state[theirs] for state in states])
            for name, theirs in names.items()
            if theirs in states[0]
        }
        return _centralized(Snapshot(self.weights(), slots))


class Timm(Torch):
    """timm's `RMSpropTF`."""

    @staticmethod
    def framework() -> Any:
        return _alone("timm.optim.rmsprop_tf").RMSpropTF


class StableBaselines3(Torch):
    """Stable-Baselines3's `RMSpropTFLike`."""

    @staticmethod
    def framework() -> Any:
        return _alone("stable_baselines3.common.sb2_compat.rmsprop_tf_like").RMSpropTFLike


class Optax:
    """`optax.rmsprop`, op by op."""

    def __init__(self, weights: Sequence[Array], **arguments: Any) -> None:
        import jax
        import optax

        self.jax, self.optax = jax, optax
        self.rate = 0.0
        arguments.setdefault("learning_rate", lambda _: self.rate)
        self.decay = arguments.get("decay", 0.9)
        self.has_momentum = bool(arguments.get("momentum"))
        self.corrects_bias = arguments.get("bias_correction", False)
        self.steps = 0
        self.transform = optax.rmsprop(**arguments)
        with jax.enable_x64(True):
            self.parameters = [jax.numpy.asarray(w) for w in weights]
            self.state = self.transform.init(self.parameters)

    def set_rate(self, rate: float) -> None:
        self.rate = rate

    def tensors(self, gradients: Sequence[Array]) -> list[Any]:
        with self.jax.enable_x64(True):
            return [self.jax.numpy.asarray(g) for g in gradients]

    def step(self, gradients: Sequence[Any]) -> None:
        with self.jax.enable_x64(True):
            updates, self.state = self.transform.update(gradients, self.state, self.parameters)
            self.parameters = self.optax.apply_updates(self.parameters, updates)
        self.steps += 1

    def weights(self) -> list[Array]:
        return _copies(np.array, self.parameters)

    def snapshot(self) -> Snapshot:
        averages, *_, trace = self.state
        correction = 1.0 - self.decay**self.steps if self.corrects_bias else 1.0
        slots = {"square_average": [np.asarray(v) / correction for v in averages.nu]}
        if hasattr(averages, "mu"):
            slots["gradient_average"] = [np.asarray(m) / correction for m in averages.mu]
        if self.has_momentum:
            # optax adds its trace to the weights; this package subtracts its buffer.
            slots["momentum"] = [-np.asarray(b) for b in trace.trace]
        return _centralized(Snapshot(self.weights(), slots))


class _OnTensorFlow:
    """An optimizer with TensorFlow's `apply_gradients`."""

    optimizer: Any
    slots: dict[str, str]

    def __init__(self, weights: Sequence[Array], **arguments: Any) -> None:
        import tensorflow as tf

        self.tf = tf
        self.centered = arguments.get("centered", False)
        self.has_momentum = arguments.get("momentum", 0.0) > 0.0
        self.variables = [tf.Variable(w) for w in weights]

    def set_rate(self, rate: float) -> None:
        self.optimizer.learning_rate = rate

    def tensors(self, gradients: Sequence[Array]) -> list[Any]:
        return [self.tf.constant(g) for g in gradients]

    def step(self, gradients: Sequence[Any]) -> None:
        self.optimizer.apply_gradients(zip(gradients, self.variables, strict=True))

    def weights(self) -> list[Array]:
        return _copies(_value, self.variables)

    def snapshot(self) -> Snapshot:
        wanted = {
            "square_average": True,
            "gradient_average": self.centered,
            "momentum": self.has_momentum,
        }
        slots = {name: _copies(_value, self.slot(name)) for name, has in wanted.items() if has}
        return _centralized(Snapshot(self.weights(), slots))

    def slot(self, name: str) -> list[Any]:
        """Return the slot variables that this package calls `name`."""
        return [self.optimizer.get_slot(v, self.slots[name]) for v in self.variables]


class TF1(_OnTensorFlow):
    """`tf.compat.v1.train.RMSPropOptimizer`, with its dense kernels."""

    slots = {  # noqa: RUF012
        "square_average": "rms",
        "gradient_average": "mg",
        "momentum": "momentum",
    }

    def __init__(self, weights: Sequence[Array], **arguments: Any) -> None:
        super().__init__(weights, **arguments)
        self.rate = 0.0
        arguments.setdefault("learning_rate", lambda: self.rate)
        self.optimizer = self.tf.compat.v1.train.RMSPropOptimizer(**arguments)

    def set_rate(self, rate: float) -> None:
        self.rate = rate


class TFKerasLegacy(_OnTensorFlow):
    """`tf_keras.optimizers.legacy.RMSprop`."""

    slots = TF1.slots

    def __init__(self, weights: Sequence[Array], **arguments: Any) -> None:
        super().__init__(weights, **arguments)
        self.optimizer = _tf_keras().optimizers.legacy.RMSprop(**arguments)


class TFKeras(_OnTensorFlow):
    """`tf_keras.optimizers.RMSprop`, that of TensorFlow 2.11 to 2.15."""

    slots = {  # noqa: RUF012
        "square_average": "_velocities",
        "gradient_average": "_average_gradients",
        "momentum": "_momentums",
    }

    def __init__(self, weights: Sequence[Array], **arguments: Any) -> None:
        super().__init__(weights, **arguments)
        self.optimizer = _tf_keras().optimizers.RMSprop(**arguments)

    def slot(self, name: str) -> list[Any]:
        return getattr(self.optimizer, self.slots[name])


PEERS: dict[str, Callable[..., Peer]] = {
    "keras": Keras,
    "torch": Torch,
    "timm": Timm,
    "stable_baselines3": StableBaselines3,
    "optax": Optax,
    "tf1": TF1,
    "tf_keras_legacy": TFKerasLegacy,
    "tf_keras": TFKeras,
}

# The peers that run in one process with each backend: all with TensorFlow, otherwise only those
# of the same framework.
IN_ONE_PROCESS: dict[str, tuple[str, ...]] = {
    "tensorflow": tuple(PEERS),
    "jax": ("keras", "optax"),
    "torch": ("keras", "torch", "timm", "stable_baselines3"),
}

# The packages that the tests do not require: they depend on large ones, their optimizers on torch.
OPTIONAL = ("timm", "stable_baselines3")


@functools.cache
def _alone(name: str) -> Any:
    """Import a module without running the packages that it is in, which import much more."""
    top, *below = name.split(".")[:-1]
    spec = importlib.util.find_spec(top)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder, packages = Path(spec.submodule_search_locations[0]), {}
    for path in itertools.accumulate(below, lambda path, each: f"{path}.{each}", initial=top):
        packages[path] = ModuleType(path)
        packages[path].__path__ = [str(folder.joinpath(*path.split(".")[1:]))]
    with mock.patch.dict(sys.modules, packages):
        return importlib.import_module(name)


def _tf_keras() -> Any:
    with warnings.catch_warnings():
        # Ignore tf_keras's deprecation warnings on import.
        warnings.simplefilter("ignore")
        import tf_keras
    return tf_keras


def _centralized(snapshot: Snapshot) -> Snapshot:
    """Convert the average of g² to the variance, v - m², if there is a mean."""
    weights, slots = snapshot
    if "gradient_average" in slots:
        pairs = zip(slots["square_average"], slots["gradient_average"], strict=True)
        slots = {**slots, "square_average": [v - m * m for v, m in pairs]}
    return Snapshot(weights, slots)


def _copies(read: Callable[[Any], Array], tensors: Sequence[Any]) -> list[Array]:
    return [np.array(read(tensor)) for tensor in tensors]


def _from_keras(variable: Any) -> Array:
    # Not ops.convert_to_numpy, whose copy triggers a warning in NumPy 2.
    tensor = keras.ops.stop_gradient(variable)
    return _from_torch(tensor) if keras.backend.backend() == "torch" else np.asarray(tensor)


def _from_torch(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu().numpy())


def _value(variable: Any) -> Array:
    return np.asarray(variable.numpy())
