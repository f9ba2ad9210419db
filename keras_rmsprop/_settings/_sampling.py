"""What of an optimizer's steps is measured, and how often."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_rmsprop._variables._patterns import problem_of

# So that sampling costs at most 2 % on average, eagerly on two CPU cores: a sampled step took as
# long as 4 to 10 others on JAX and TensorFlow, and 13 to 23 on torch (`benchmarks/diagnostics.py`).
EVERY = 1500


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """What `RMSprop(diagnostics=...)` measures.

    Args:
        every: a step is sampled every so many, the first one to begin with; an integer >= 1.
            Default 1500: on two CPU cores a sampled eager step takes as long as 4 to 23 others,
            which makes 2 % at most. In a short training choose a smaller number. On JAX and
            TensorFlow a sample also needs the memory of a second copy of the weights, slots and
            gradients, those of at least 2**22 elements apart.
        variables: None for all variables, or a pattern of paths, or several of them: an exact path
            or a regular expression that matches a whole path, with or without the model's name, as
            in `groups`. Default None.
        histograms: whether to count the elements of each variable by their effective learning rate
            and by the size of their update relative to their weight. A sampled step then takes
            several times as long. Default False.

    Example:
    >>> from keras_rmsprop import Diagnostics, RMSprop
    >>> optimizer = RMSprop(diagnostics=Diagnostics(every=50, variables=".*/kernel"))
    """

    every: int = EVERY
    variables: str | Sequence[str] | None = None
    histograms: bool = False

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the variables; empty for all variables."""
        if self.variables is None:
            return ()
        return (self.variables,) if isinstance(self.variables, str) else tuple(self.variables)


_FIELDS = {field.name for field in dataclasses.fields(Diagnostics)}


def checked(value: Any) -> Diagnostics | None:
    """Return the argument `diagnostics` as settings, or None if it is None or False.

    Raises: ValueError if it is something else than True, `Diagnostics` or a mapping of its fields,
        or if one of these has a value that is not accepted.
    """
    if value is None or value is False:
        return None
    if value is True:
        return Diagnostics()
    if isinstance(value, Mapping) and set(value) <= _FIELDS:
        value = Diagnostics(**value)
    if not isinstance(value, Diagnostics):
        raise ValueError(
            "`diagnostics` must be None, True or keras_rmsprop.Diagnostics(every=, variables=, "
            f"histograms=), received diagnostics={value!r:.200}."
        )
    every, patterns = value.every, value.variables
    if isinstance(every, bool) or not hasattr(every, "__index__") or every.__index__() < 1:
        raise ValueError(
            f"`every` of Diagnostics must be an integer >= 1, received {every!r:.200}."
        )
    if not isinstance(value.histograms, bool):
        raise ValueError(
            "`histograms` of Diagnostics must be True or False, received "
            f"{value.histograms!r:.200}."
        )
    if patterns is not None and not isinstance(patterns, str):
        patterns = list(patterns) if isinstance(patterns, list | tuple) else []
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise ValueError(
                "`variables` of Diagnostics must be None, a pattern, or a list of patterns, "
                f"received {value.variables!r:.200}."
            )
    checked = Diagnostics(every.__index__(), patterns, value.histograms)
    for pattern in checked.patterns:
        problem = problem_of(pattern)
        if problem is not None:
            raise ValueError(
                "`variables` of Diagnostics must be paths of variables, or regular expressions "
                f"that match whole paths, received {pattern!r}: {problem}."
            )
    return checked
