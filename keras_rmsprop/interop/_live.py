"""Read and write the RMSprops of Keras 3 and tf_keras, which hold their slots in variables."""

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_rmsprop import _subclasses
from keras_rmsprop.interop._source import (
    Array,
    NotExactError,
    Settings,
    Slots,
    Source,
    as_array,
    dtype_of,
)


class Held(NamedTuple):
    """The variables of another optimizer, by the names of the parameters that they belong to."""

    # For each kind of slot (a field of `Slots`), its variables by name.
    slots: Mapping[str, Mapping[str, Any]]
    iterations: Any
    # The variable of the learning rate, None for a schedule or a callable.
    rate: Any

    def source(
        self,
        framework: str,
        settings: Settings,
        steps: int,
        rate: float,
        undecayed: Collection[str] = (),
    ) -> Source:
        """Read the variables.

        Args:
            framework: the optimizer's name, for messages.
            settings: its settings.
            steps: the number of steps made.
            rate: the learning rate of the next step.
            undecayed: the names of the parameters that are excluded from weight decay.
        """
        names = tuple(self.slots["square_average"])
        slots = {
            name: Slots(*(self._array(kind, name) for kind in Slots._fields))  # type: ignore[arg-type]
            for name in names
        }
        without_decay = {**settings, "weight_decay": None}
        return Source(
            framework,
            slots,
            steps,
            dict.fromkeys(names, rate),
            {name: without_decay if name in undecayed else settings for name in names},
            dtypes={
                n: dtype_of(v) for n, v in self.slots["square_average"].items() if v is not None
            },
            names=names,
        )

    def _array(self, kind: str, name: str) -> Array | None:
        variable = self.slots.get(kind, {}).get(name)
        return None if variable is None else array_in(variable)

    def assignments(
        self, slots: Mapping[str, Slots], steps: int, rate: float
    ) -> list[tuple[Any, Any]]:
        """Return the variables to write and their values, for `_writing.write`.

        Averages of gradients and buffers that `slots` has none of start afresh.

        Args:
            slots: with shapes that have been checked.
            steps: the step count.
            rate: the learning rate, which is left out where there is no variable for it.
        """
        found: list[tuple[Any, Any]] = []
        for name, own in slots.items():
            for kind, value in own._asdict().items():
                variable = self.slots.get(kind, {}).get(name)
                if variable is None or (value is None and kind == "average"):
                    continue
                fresh = np.zeros(tuple(variable.shape))
                found.append((variable, fresh if value is None else value))
        found.append((self.iterations, steps))
        return found if self.rate is None else [*found, (self.rate, rate)]


def array_in(variable: Any) -> Array:
    """Return the value of a variable of Keras or tf_keras."""
    return as_array(variable if isinstance(variable, keras.Variable) else variable.numpy())


def check_rate(here: float, there: float, framework: str) -> None:
    """Refuse a target whose schedule gives another rate than the optimizer has.

    Args:
        here: the learning rate of the optimizer's next step.
        there: the one that the target's schedule gives after as many steps.
        framework: the target's name.
    """
    if not math.isclose(here, there, rel_tol=1e-5):
        raise NotExactError(
            f"The training would not go on with the same steps: the learning rate is {here:.7g} "
            f"here, and {there:.7g} by the schedule of {framework}, which cannot be assigned. Use "
            "one that has the same schedule, or pass exact=False. Nothing has changed."
        )


# The settings that Keras's class and those of tf_keras have under the same names, as far as they
# have them.
SHARED = (
    "rho",
    "momentum",
    "epsilon",
    "centered",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "gradient_accumulation_steps",
    "loss_scale_factor",
)
# Those that they do not have, with what their steps are.
FIXED: Settings = {
    "epsilon_inside_sqrt": True,
    "lr_in_momentum": True,
    "nesterov": False,
    "bias_correction": False,
    "l2": 0.0,
    "maximize": False,
}


def settings_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the config of Keras's class, of tf_keras's, or of this package's."""
    given = {name: _plain(config[name]) for name in (*SHARED, *FIXED) if name in config}
    return {**FIXED, **given}


def check_settings(config: Mapping[str, Any]) -> None:
    """Refuse settings that are no numbers.

    Raises: ValueError that names the first.
    """
    for name in (*SHARED, *FIXED):
        value = config.get(name)
        is_number = value is None or isinstance(value, bool | int | float)
        if not is_number or abs(value or 0.0) > _LARGEST or value != value:
            raise ValueError(f"`{name}` must be a finite number, received {value!r:.60}")


_LARGEST = float(np.finfo(np.float64).max)


def _plain(value: Any) -> Any:
    """Return a setting as Python's number: legacy optimizers hold variables in float32."""
    return value if value is None or isinstance(value, bool | int) else float(value)


def unwrapped(optimizer: Any) -> Any:
    """Return what a `LossScaleOptimizer` wraps, whose steps are the same if gradients are finite.

    Under mixed precision, `compile` wraps a model's optimizer in one, which scales the loss and
    skips the batches whose gradients overflow.
    """
    while is_of(optimizer, *_LOSS_SCALING):
        optimizer = optimizer.inner_optimizer
    return optimizer


_LOSS_SCALING = (
    "keras.LossScaleOptimizer",
    "tf_keras.LossScaleOptimizer",
    "tf_keras.LossScaleOptimizerV3",
)


# The methods that make a step, by the class that a user's may derive from.
_STEPS = {
    "torch.RMSprop": ("step", "_init_group"),
    "timm.RMSpropTF": ("step",),
    "stable_baselines3.RMSpropTFLike": ("step",),
    "keras.RMSprop": (
        *_subclasses.METHODS,
        "apply",
        "apply_gradients",
        "_clip_by_norm",
        "_overwrite_model_variables_with_average_value",
    ),
    "tf_keras.RMSprop": (
        "apply_gradients",
        "update_step",
        "_clip_gradients",
        "_resource_apply_dense",
        "_resource_apply_sparse",
    ),
}


def own_code_in(optimizer: Any) -> tuple[str, ...]:
    """Return what of a user's own code takes part in an optimizer's steps, in words."""
    cls = type(optimizer)
    for base in cls.__mro__:
        names = _STEPS.get(f"{base.__module__.partition('.')[0]}.{base.__name__}")
        if names is not None:
            own = [name for name in names if _method(optimizer, name) is not _method(base, name)]
            return (
                *(f"`{name}` is that of {cls.__qualname__} there" for name in own),
                *(f"hooks are registered there (register_{each})" for each in _hooks(optimizer)),
            )
    return ()


def _method(owner: Any, name: str) -> Any:
    """Return a method of a class or an object, without what torch has put around it.

    torch wraps `step` of a class when it makes the first object of it, and a scheduler that of its
    object.
    """
    method: Any = getattr(owner, name, None) if isinstance(owner, type) else _found(owner, name)
    while "/torch/optim/" in _file_of(method) and hasattr(method, "__wrapped__"):
        method = method.__wrapped__
    return method


def _found(owner: Any, name: str) -> Any:
    """Return what an object has under a name, not bound to it."""
    own = vars(owner).get(name, getattr(type(owner), name, None))
    return getattr(own, "__func__", own)


def _file_of(method: Any) -> str:
    return Path(getattr(getattr(method, "__code__", None), "co_filename", "")).as_posix()


def _hooks(optimizer: Any) -> Iterator[str]:
    """Yield the kinds of hooks that torch calls around each step."""
    everywhere = sys.modules.get("torch.optim.optimizer")
    for kind in ("pre", "post"):
        if getattr(optimizer, f"_optimizer_step_{kind}_hooks", None):
            yield f"step_{kind}_hook"
        is_torch_s = hasattr(optimizer, f"_optimizer_step_{kind}_hooks")
        if is_torch_s and getattr(everywhere, f"_global_optimizer_{kind}_hooks", None):
            yield f"optimizer_step_{kind}_hook"


def has_float64(variables: Iterable[Any]) -> bool:
    """Whether some variables are in float64, or will be, where there are none yet."""
    dtypes = [dtype_of(variable) for variable in variables]
    return "float64" in (dtypes or [keras.config.floatx()])


def is_of(source: Any, *names: str) -> bool:
    """Whether an object's class, or one that it derives from, is one of these.

    Args:
        source: the object.
        *names: a package and the name of a class, as in "torch.RMSprop".
    """
    for each in type(source).__mro__:
        package = each.__module__.partition(".")[0]
        if f"{package}.{each.__name__}" in names:
            return True
    return False
