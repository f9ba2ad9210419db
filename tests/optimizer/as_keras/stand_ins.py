"""Classes that replace Keras's optimizers, and the replacement itself.

`RMSprop` is replaced by `keras_rmsprop.RMSprop`. Many of Keras's tests happen to use SGD or Adam
where any optimizer would do, and some check the numbers of SGD. RMSprop can take the steps of
SGD: with epsilon 1 under the root, and a rho so near 1 that the average of squares stays zero in
comparison, the divisor is 1. So the stand-in for SGD must pass those tests too.
"""

import contextlib
import functools
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import keras
from keras.src import optimizers

import keras_rmsprop


@keras.saving.register_keras_serializable(package="as_keras")
class SGD(keras_rmsprop.RMSprop):
    """RMSprop that takes the steps of SGD, with SGD's arguments in SGD's order."""

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            **{
                "rho": 1.0 - 2.0**-53,
                "epsilon": 1.0,
                "learning_rate": learning_rate,
                "momentum": momentum,
                # Without momentum Keras's SGD ignores it; ours refuses it.
                "nesterov": nesterov and momentum > 0.0,
                "weight_decay": weight_decay,
                **options,
            }
        )


@keras.saving.register_keras_serializable(package="as_keras")
class Adam(keras_rmsprop.RMSprop):
    """RMSprop as Adam without its first moment, with Adam's arguments in Adam's order."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        **options: Any,
    ) -> None:
        del beta_1, amsgrad
        super().__init__(
            **{
                "rho": beta_2,
                # Too small to have an effect, but it adds a second slot per variable, as in Adam.
                "momentum": 2.0**-53,
                "bias_correction": True,
                "learning_rate": learning_rate,
                "epsilon": epsilon,
                "weight_decay": weight_decay,
                **options,
            }
        )


@keras.saving.register_keras_serializable(package="as_keras")
class AdamW(Adam):
    """Adam with decay."""

    def __init__(self, learning_rate: Any = 0.001, weight_decay: Any = 0.004, **options: Any):
        super().__init__(learning_rate, weight_decay=weight_decay, **options)


STAND_INS: dict[str, type[keras.optimizers.Optimizer]] = {
    "RMSprop": keras_rmsprop.RMSprop,
    "SGD": SGD,
    "Adam": Adam,
    "AdamW": AdamW,
}


class Used:
    """The number of our optimizers that were made, and of those that were built."""

    made = 0
    built = 0


def _counting(method: Any, name: str) -> Any:
    @functools.wraps(method)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        setattr(Used, name, getattr(Used, name) + 1)
        return method(self, *args, **kwargs)

    return counted


def _modules_of(name: str) -> list[ModuleType]:
    """The modules that define Keras's optimizer of this name."""
    modules = [f"keras.src.optimizers.{name}"]
    if keras.backend.backend() == "torch":
        # Keras makes an instance of this class in place of the other.
        modules.append(f"keras.src.backend.torch.optimizers.torch_{name}")
    return [importlib.import_module(module) for module in modules]


@contextlib.contextmanager
def exchanged() -> Iterator[None]:
    """Replace Keras's classes with ours until the end of the block.

    A module that imports one by name gets ours only if it is imported within the block.
    """
    rmsprop = keras_rmsprop.RMSprop
    with contextlib.ExitStack() as undo:

        def put(owner: Any, name: str, value: Any) -> None:
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        # Import all of them first: some of these classes are bases of others.
        modules = {name: _modules_of(name.lower()) for name in STAND_INS}
        for name, stand_in in STAND_INS.items():
            for owner in (optimizers, keras.optimizers, *modules[name]):
                put(owner, name, stand_in)
            # The table in which `get` and `deserialize` look up names.
            table = optimizers.ALL_OBJECTS_DICT
            undo.callback(table.__setitem__, name.lower(), table[name.lower()])
            table[name.lower()] = stand_in
        put(rmsprop, "__init__", _counting(rmsprop.__init__, "made"))
        put(rmsprop, "build", _counting(rmsprop.build, "built"))
        yield
