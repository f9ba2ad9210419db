"""Read and write the RMSprops of Keras 3 and tf_keras, which hold their slots in variables."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop.interop._source import Settings, Slots, Source, as_array


class Held(NamedTuple):
    """The variables of another optimizer, by the names of the parameters that they belong to."""

    # For each kind of slot (a field of `Slots`), its variables by name.
    slots: Mapping[str, Mapping[str, Any]]
    iterations: Any
    # The variable of the learning rate, None for a schedule or a callable.
    rate: Any

    def source(self, framework: str, settings: Settings, rate: float | None = None) -> Source:
        """Read the variables.

        Args:
            framework: the optimizer's name, for messages.
            settings: its settings, which all its parameters share.
            rate: the learning rate of the next step, None to read it from its variable.
        """
        names = tuple(self.slots["square_average"])
        slots = {
            name: Slots(*(self._array(kind, name) for kind in Slots._fields))  # type: ignore[arg-type]
            for name in names
        }
        if self.rate is not None:
            rate = float(as_array(self.rate))
        return Source(
            framework,
            slots,
            int(np.array(self.iterations)),
            {} if rate is None else dict.fromkeys(names, rate),
            dict.fromkeys(names, settings),
            names=names,
        )

    def _array(self, kind: str, name: str) -> Any:
        variable = self.slots[kind].get(name)
        return None if variable is None else as_array(variable)

    def write(self, slots: Mapping[str, Slots], steps: int, rate: float | None) -> None:
        """Assign slots whose shapes have been checked, the step count, and the rate."""
        for name, own in slots.items():
            for kind, value in own._asdict().items():
                variable = self.slots[kind].get(name)
                if variable is not None and value is not None:
                    variable.assign(value.astype(str(np.dtype(as_array(variable).dtype))))
        self.iterations.assign(steps)
        if self.rate is not None and rate is not None:
            self.rate.assign(rate)


def numbered(names: Sequence[str]) -> list[str]:
    """Return names of which no two are the same: repeated ones get a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        found.append(f"{name}#{seen[name]}" if seen[name] else name)
    return found


# The settings that Keras and tf_keras have under the same names.
SHARED = ("rho", "momentum", "epsilon", "centered", "weight_decay", "clipnorm", "clipvalue")
FIXED: Settings = {
    "epsilon_inside_sqrt": True,
    "lr_in_momentum": True,
    "nesterov": False,
    "bias_correction": False,
    "l2": 0.0,
    "maximize": False,
}


def settings_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a config of Keras's class or one of tf_keras."""
    names = (*SHARED, "global_clipnorm")
    return {**FIXED, **{name: config[name] for name in names if name in config}}


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
