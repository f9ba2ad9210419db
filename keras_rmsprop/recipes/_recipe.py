"""What a recipe records, and how it becomes an optimizer."""

import dataclasses
import difflib
import numbers
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Literal

from keras_rmsprop import conventions
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._settings._validation import HYPERPARAMETERS, shown
from keras_rmsprop.recipes._rates import (
    Change,
    Constant,
    Given,
    Rate,
    Sizes,
    number,
    number_or_unknown,
)

# The sizes of a training, on which rates and schedules depend, and what each is.
SIZES: dict[str, str] = {
    "batch_size": "the number of samples in a step, of all devices together",
    "steps_per_epoch": "the number of steps in an epoch",
    "total_steps": "the number of steps of the whole training",
}

# Which variables decay, and a pattern of their paths. Keras calls the variables of its layers so;
# "depthwise" and "_dw_" are in the names of depthwise layers, by default and in
# `keras.applications`.
DECAYING: dict[str, str | None] = {
    "all": None,
    "all but normalization": r"(?:.*/)?(?!(?:gamma|beta)$)[^/]+",
    "all but biases and normalization": r"(?:.*/)?(?!(?:bias|gamma|beta)$)[^/]+",
    "kernels": r"(?:.*/)?[^/]*kernel",
    "kernels but depthwise ones": r"(?!.*(?:depthwise|_dw_))(?:.*/)?[^/]*kernel",
}

# What the caller may answer where a source does not say which of several things it does.
CHOICES: dict[str, tuple[str, ...]] = {
    "clip": ("clipvalue", "clipnorm", "global_clipnorm"),
    "weight_decay_form": ("coupled", "decoupled"),
    "decay_counts_from": ("start", "end of warm-up"),
}

# The words that the conventions have for our arguments, where they differ.
_WORDS: dict[str, dict[str, str]] = {
    "optax": {"rho": "decay", "epsilon": "eps", "initial_square_average": "initial_scale"},
    "tf1": {"rho": "decay"},
    "timm": {"learning_rate": "lr", "rho": "alpha", "epsilon": "eps"},
    "torch": {"learning_rate": "lr", "rho": "alpha", "epsilon": "eps"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightDecay:
    """Weight decay.

    Attributes:
        amount: what is multiplied by the weight; None if the caller gives it.
        form: "coupled", added to the gradient, as by `amount * tf.nn.l2_loss(w)` in the loss;
            "decoupled", multiplied by the learning rate; None if the caller says which.
        of: which variables decay, a key of `DECAYING`.
    """

    amount: float | None
    form: Literal["coupled", "decoupled"] | None = "coupled"
    of: str = "all"

    def __str__(self) -> str:
        return f"{number_or_unknown(self.amount)} {self.form or '(form: ?)'}, {self.of}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Average:
    """A moving average of the weights, `use_ema` in Keras.

    Attributes:
        momentum: `ema_momentum`; None if the caller gives it.
    """

    momentum: float | None

    def __str__(self) -> str:
        return number_or_unknown(self.momentum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Clipping of gradients.

    Attributes:
        limit: the largest norm or element.
        kind: an argument of `RMSprop`; None if the caller says which, as `clip`.
    """

    limit: float
    kind: Literal["clipvalue", "clipnorm", "global_clipnorm"] | None

    def __str__(self) -> str:
        return f"{self.kind or '(kind: ?)'} {number(self.limit)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published way to train with RMSprop, in this package's words; `print` shows all of it.

    None instead of a number means that the source does not publish it. "?" is printed then, and
    `unpublished` has the reason.

    Attributes:
        name: the name for `recipes.get`.
        title: what is trained, and whose settings these are.
        source: where they are published.
        convention: the function of `keras_rmsprop.conventions` whose steps the source makes.
        learning_rate: the first learning rate, before a warm-up.
        per_batch: None, or the batch size that this rate is for; it is proportional to the size.
        change: how the rate changes.
        rho, momentum, epsilon, centered: as for `RMSprop`.
        weight_decay: None, or the amount, the form and the variables of the weight decay.
        average: None, or the moving average of the weights.
        clip: None, or the limit and the kind of the clipping of gradients.
        batch_size: None, or the batch size that the source trains with.
        unpublished: the further arguments that `recipes.get` needs, and why.
        remarks: what else one must know to train as the source does, such as what no optimizer
            does.
    """

    name: str
    title: str
    source: str
    convention: str
    learning_rate: float | None
    per_batch: int | None = None
    change: Change = dataclasses.field(default_factory=Constant)
    rho: float | None
    momentum: float | None = 0.0
    epsilon: float | None
    centered: bool = False
    weight_decay: WeightDecay | None = None
    average: Average | None = None
    clip: Clip | None = None
    batch_size: int | None = None
    unpublished: Mapping[str, str] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Which of `batch_size`, `steps_per_epoch` and `total_steps` must be given."""
        if self.learning_rate is None:
            return ()  # The caller's rate is complete.
        return (*(() if self.per_batch is None else ("batch_size",)), *self.change.needs)

    def rate(
        self,
        *,
        batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
        **unpublished: Any,
    ) -> Rate:
        """Return the learning rate of the optimizer that `recipes.get` makes.

        Args:
            batch_size: as for `recipes.get`, and so are all others.
            steps_per_epoch: see there.
            total_steps: see there.
            **unpublished: see there.

        Returns: a number, or a schedule, which is a function of the number of steps so far.
        Raises: ValueError as `recipes.get` does.

        Example:
        >>> from keras_rmsprop import recipes
        >>> rate = recipes.about("impala").rate(total_steps=1000)
        >>> [round(float(rate(n)), 6) for n in (0, 500, 1000)]
        [0.00048, 0.00024, 0.0]
        """
        sizes = self._checked(_sizes(batch_size, steps_per_epoch, total_steps), unpublished)
        return self._rate(sizes, unpublished)

    def optimizer(
        self,
        *,
        batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
        **unpublished: Any,
    ) -> RMSprop:
        """Return the optimizer, as `recipes.get` does.

        Args:
            batch_size: as for `recipes.get`, and so are all others.
            steps_per_epoch: see there.
            total_steps: see there.
            **unpublished: see there.

        Raises: ValueError as `recipes.get` does.
        """
        sizes = self._checked(_sizes(batch_size, steps_per_epoch, total_steps), unpublished)
        rate = self._rate(sizes, unpublished)
        convention: Callable[..., RMSprop] = getattr(conventions, self.convention)
        plain = convention(**self._arguments(rate, unpublished))
        settings = {name: getattr(plain, name) for name in HYPERPARAMETERS}
        # No convention has arguments for all of these.
        settings |= self._beyond_the_convention(unpublished)
        return RMSprop(rate, **settings, name=self.name)

    def _rate(self, sizes: Sizes, given: Given) -> Rate:
        if self.learning_rate is None:
            return given["learning_rate"]
        first = self.learning_rate
        if self.per_batch is not None:
            first = first * sizes["batch_size"] / self.per_batch
        return self.change.of(first, sizes, given)

    def _arguments(self, rate: Rate, given: Given) -> dict[str, Any]:
        """Return the arguments of the convention, in its words."""
        ours = {
            "learning_rate": rate,
            "rho": _known("rho", self.rho, given),
            "momentum": _known("momentum", self.momentum, given),
            "epsilon": _known("epsilon", self.epsilon, given),
        }
        if self.centered and self.convention != "graves":  # It always is, without an argument.
            ours["centered"] = True
        if "initial_square_average" in self.unpublished:
            ours["initial_square_average"] = given["initial_square_average"]
        words = _WORDS.get(self.convention, {})
        return {words.get(name, name): value for name, value in ours.items()}

    def _beyond_the_convention(self, given: Given) -> dict[str, Any]:
        """Return weight decay, clipping and averaging as arguments of `RMSprop`."""
        settings: dict[str, Any] = {}
        if self.weight_decay is not None:
            amount = _known("weight_decay", self.weight_decay.amount, given)
            form = _known("weight_decay_form", self.weight_decay.form, given)
            decay = {"l2" if form == "coupled" else "weight_decay": amount}
            pattern = DECAYING[self.weight_decay.of]
            settings |= decay if pattern is None else {"groups": {pattern: decay}}
        if self.average is not None:
            settings["use_ema"] = True
            settings["ema_momentum"] = _known("ema_momentum", self.average.momentum, given)
        if self.clip is not None:
            settings[_known("clip", self.clip.kind, given)] = self.clip.limit
        return settings

    def _checked(self, sizes: Mapping[str, Any], given: Given) -> Sizes:
        """Check the arguments of `recipes.get`, and return the sizes that were given.

        Raises: ValueError that says what is wrong, or what is missing and why it is needed.
        """
        checked = {
            name: _checked_size(name, value) for name, value in sizes.items() if value is not None
        }
        for name, value in given.items():
            if name not in self.unpublished:
                raise ValueError(self._refusal(name, value))
            _check_given(name, value)
        missing = [f"`{size}`, {SIZES[size]}" for size in self.needs if size not in checked]
        rate = f" Its learning rate: {self.rate_text}." if missing else ""
        missing += [
            f"`{name}`: {why}" for name, why in self.unpublished.items() if name not in given
        ]
        if missing:
            raise ValueError(f"The recipe {self.name!r} needs {'; and '.join(missing)}.{rate}")
        return checked

    def _refusal(self, name: str, value: Any) -> str:
        """Return why an argument that is not in `unpublished` is refused."""
        received = f"received {name}={shown(value)}"
        published = {
            "learning_rate": self.rate_text,
            "rho": number_or_unknown(self.rho),
            "momentum": number_or_unknown(self.momentum),
            "epsilon": number_or_unknown(self.epsilon),
            "centered": str(self.centered),
            "weight_decay": str(self.weight_decay or "none"),
            "ema_momentum": str(self.average or "no average"),
        }
        if name in published or name in HYPERPARAMETERS:
            what = (
                f"sets `{name}` to {published[name]}, as published"
                if name in published
                else f"has no argument `{name}`"
            )
            assign = "assign a schedule to" if name == "learning_rate" else "assign to"
            return (
                f"The recipe {self.name!r} {what}, {received}. To depart from the recipe, {assign} "
                f"`optimizer.{name}`, or to a setting in `optimizer.groups`, of the optimizer that "
                "you get, before its first step."
            )
        accepted = [*SIZES, *self.unpublished]
        near = difflib.get_close_matches(name, accepted, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        return (
            f"The recipe {self.name!r} has no argument `{name}`, {received}.{hint} Accepted are "
            f"{', '.join(f'`{word}`' for word in accepted)}."
        )

    @property
    def rate_text(self) -> str:
        """The learning rate in words."""
        if self.learning_rate is None:
            return "?"
        scale = "" if self.per_batch is None else f" x batch_size / {self.per_batch}"
        return f"{number(self.learning_rate)}{scale}, {self.change}"

    def __str__(self) -> str:
        rows = {
            "convention": f"conventions.{self.convention}",
            "learning rate": self.rate_text,
            "rho": number_or_unknown(self.rho),
            "momentum": number_or_unknown(self.momentum),
            "epsilon": number_or_unknown(self.epsilon),
            "centered": "yes" if self.centered else "no",
            "weight decay": str(self.weight_decay or "none"),
            "average": str(self.average or "none"),
            "clipping": str(self.clip or "none"),
            **({} if self.batch_size is None else {"batch size": str(self.batch_size)}),
            "source": self.source,
        }
        arguments = {**{name: SIZES[name] for name in self.needs}, **self.unpublished}
        lines = [f"{self.name}: {self.title}"]
        lines += [_wrapped(f"{heading:<15}{text}", 15) for heading, text in rows.items()]
        lines += ["  To be given:"] if arguments else []
        lines += [_wrapped(f"{name}: {why}", 2) for name, why in arguments.items()]
        lines += ["  Remarks:"] if self.remarks else []
        lines += [_wrapped(remark, 2) for remark in self.remarks]
        return "\n".join(lines)


def _wrapped(text: str, indentation: int) -> str:
    """Return text in lines that fit a screen, the first four columns from the left."""
    following = " " * (4 + indentation)
    return textwrap.fill(text, 96, initial_indent=" " * 4, subsequent_indent=following)


def _sizes(
    batch_size: int | None, steps_per_epoch: int | None, total_steps: int | None
) -> dict[str, Any]:
    return dict(zip(SIZES, (batch_size, steps_per_epoch, total_steps), strict=True))


def _known(name: str, published: Any, given: Given) -> Any:
    """Return what the source publishes, or else what the caller gives."""
    return given[name] if published is None else published


def _checked_size(name: str, value: Any) -> int:
    if not _is_integer(value) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer, {SIZES[name]}, received {name}={shown(value)}."
        )
    return int(value)


def _check_given(name: str, value: Any) -> None:
    """Check an answer of the caller that the optimizer does not check.

    Raises: ValueError that says what is accepted.
    """
    accepted = None
    if name in CHOICES and value not in CHOICES[name]:
        accepted = " or ".join(map(repr, CHOICES[name]))
    elif name == "warmup_epochs" and (not _is_integer(value) or value < 0):
        accepted = "an integer >= 0"
    elif name == "decay_rate" and not (_is_number(value) and 0.0 < value <= 1.0):
        accepted = "a number in (0, 1], by which the learning rate is multiplied"
    if accepted is not None:
        raise ValueError(f"`{name}` must be {accepted}, received {name}={shown(value)}.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
