r"""Other frameworks' RMSprop, with their own arguments and defaults.

Every function here is named after a framework, takes that framework's arguments, with the same
names, order and defaults, and returns a `keras_rmsprop.RMSprop` that takes the same steps. All
follow the rule described in `RMSprop`; they differ in these choices:

    function         s_0             root             learning rate     weight decay
    keras            0               sqrt(s + eps)    in the buffer     decoupled
    torch            0               sqrt(s) + eps    outside           l2, coupled
    optax            initial_scale   either           in the buffer     none
    tf1              1               sqrt(s + eps)    in the buffer     none
    tf_keras_legacy  0               by momentum      in the buffer     none
    timm             1               sqrt(s + eps)    either            either
    hinton           0               sqrt(s)          no buffer         none
    graves           0, centered     sqrt(s + eps)    in the buffer     none

so even the first step differs:

>>> import keras
>>> from keras_rmsprop import conventions
>>> def first_step(optimizer):
...     weight = keras.Variable([0.0])
...     optimizer.apply([keras.ops.convert_to_tensor([-2.0])], [weight])
...     return round(float(keras.ops.stop_gradient(weight)[0]), 4)
>>> first_step(conventions.keras(0.1))
0.3162
>>> first_step(conventions.torch(0.1))
1.0
>>> first_step(conventions.tf1(0.1))
0.1754

Arguments that only choose how a framework computes the same step (torch's `foreach`, TF1's
`use_locking`) are accepted without effect, with a log message at INFO. Arguments that change the
mathematics in a way `RMSprop` cannot express are refused with the reason.

The steps are the same for dense real gradients. Sparse gradients of embeddings also follow the
dense rule here: equal ids are summed and all rows decay. Keras on TensorFlow instead squares before
summing, TF1 and tf_keras (with momentum) leave untouched rows alone, and torch and timm refuse.

A learning rate may always be a Keras schedule or a callable as well, as for `RMSprop`.
"""

import logging
import math
import numbers
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import config, ops, saving
from keras.optimizers import schedules

from keras_rmsprop._math._rule import Tensor
from keras_rmsprop._optimizer import LearningRate, RMSprop
from keras_rmsprop._settings._validation import checked_learning_rate

__all__ = [
    "CountSchedule",
    "TimeDecay",
    "graves",
    "hinton",
    "keras",
    "optax",
    "tf1",
    "tf_keras_legacy",
    "timm",
    "torch",
]

_log = logging.getLogger(__name__)

# What tf_keras substitutes for epsilon=0 (its `backend_config.epsilon()`).
_TF_KERAS_EPSILON = 1e-7

# Arguments without a counterpart, by (convention, argument), with the reason.
REFUSED: dict[tuple[str, str], str] = {
    ("optax", "initial_scale"): (
        "`bias_correction` would divide the initial value, too, by 1 - decay**t, which makes "
        "the first step many times too short. Use one of the two"
    ),
    **dict.fromkeys(
        # The first of two given clips; `global_clipnorm` is always the second.
        [("tf_keras_legacy", "clipnorm"), ("tf_keras_legacy", "clipvalue")],
        "`RMSprop` clips in one way at a time, where tf_keras clips by value and then by norm. "
        "Use one of `clipvalue`, `clipnorm` and `global_clipnorm`",
    ),
    ("tf_keras_legacy", "decay"): (
        "it would divide a schedule or callable by 1 + decay * t. Let the schedule do that, or "
        "give the learning rate as a number"
    ),
    ("torch", "centered"): (
        "it decides what the averages of an optimizer hold, and is the same for all param groups"
    ),
    ("timm", "corrected_weight_decay"): (
        "it scales the decay by lr**2 / (the largest lr), which no argument of `RMSprop` does. "
        "`decoupled_decay=True` alone scales it by lr"
    ),
    ("timm", "caution"): (
        "it masks the elements of the momentum buffer that point against the gradient and "
        "rescales the rest by the share that is left; `RMSprop` has no such step"
    ),
}


@saving.register_keras_serializable(package="keras_rmsprop")
class CountSchedule(schedules.LearningRateSchedule):
    """A learning rate given as a function of the number of steps so far.

        learning rate of step t = function(t - 1)                                t = 1, 2, ...

    This is what optax calls a schedule. Keras's schedules count batches, also with gradient
    accumulation, and so does this one unless it is told of how many a step is made.

    Args:
        function: takes the count, 0 for the first step, and returns the rate, >= 0. The count
            is a NumPy int32 scalar, or inside a trace (`tf.function`, `jax.jit`, and therefore
            `fit`) a backend tensor: on TensorFlow a function written with `jax.numpy` then
            fails.
        jax: whether the count is an int32 array of JAX instead of a NumPy scalar, as optax
            passes it: its own schedules then give float32 rates, otherwise float64. Default False.
        gradient_accumulation_steps: the number of batches that make a step, an integer >= 1, if the
            function counts steps of an optimizer that accumulates gradients. Default 1.

    Raises:
        TypeError: when called in a trace with a function that does not accept backend tensors.
        ValueError: when saved with a function that is not registered. The config holds only the
            function's name, so that loading a model runs no code from the file.

    Example:
    >>> import keras
    >>> from keras_rmsprop import conventions
    >>> @keras.saving.register_keras_serializable(package="mine")
    ... def halving(count):
    ...     return 0.1 * 0.5**count
    >>> schedule = conventions.CountSchedule(halving)
    >>> schedule(0), schedule(2)
    (0.1, 0.025)
    >>> schedule.get_config()
    {'function': 'mine>halving'}
    """

    def __init__(
        self, function: Callable[..., Any], jax: bool = False, gradient_accumulation_steps: int = 1
    ) -> None:
        if not callable(function):
            raise ValueError(
                "`function` must take a count and return a learning rate, received "
                f"function={function!r}."
            )
        steps = gradient_accumulation_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(
                "`gradient_accumulation_steps` must be an integer >= 1, received "
                f"gradient_accumulation_steps={steps!r}."
            )
        self.function = function
        self.jax = jax
        self.gradient_accumulation_steps = steps

    def __call__(self, step: Any) -> float | Tensor:
        """Return the rate after `step` steps."""
        count = ops.convert_to_tensor(step)
        try:
            known = np.int32(int(count))
        except (TypeError, NotImplementedError, AttributeError):  # the last in `fit` on TensorFlow
            return self._traced(count)
        rate = self.function(self.argument(known))
        # Convert NumPy scalars, and jax.Arrays if JAX is not the backend, to plain numbers.
        return rate if ops.is_tensor(rate) else float(rate)

    def argument(self, count: Any) -> Any:
        """Return what the function is given for a NumPy int32 scalar or array."""
        count = count // np.int32(self.gradient_accumulation_steps)
        if not self.jax:
            return count
        # The function's own package has imported it.
        return sys.modules["jax"].numpy.asarray(count)

    def _traced(self, count: Tensor) -> Tensor:
        if self.gradient_accumulation_steps > 1:
            count = count // self.gradient_accumulation_steps
        try:
            return self.function(ops.cast(count, "int32") if self.jax else count)
        except Exception as error:
            raise TypeError(
                f"{self.function!r} cannot be evaluated at the count of a traced step, a tensor "
                f"{type(count).__name__}. Write it with `keras.ops`, or compile the model with "
                "`run_eagerly=True`."
            ) from error

    def get_config(self) -> dict[str, Any]:
        """Return the function's registered name, and the other arguments where not the default."""
        try:
            name = saving.get_registered_name(self.function)
        except AttributeError:  # a functools.partial has no name unless it is registered
            name = ""
        if saving.get_registered_object(name) is not self.function:
            raise ValueError(
                f"A schedule can be saved only if its function is registered, received "
                f"{self.function!r}. Register it, before saving and before loading, with "
                "`keras.saving.register_keras_serializable(package, name)(function)`."
            )
        others = {"jax": False, "gradient_accumulation_steps": 1}
        changed = {key: getattr(self, key) for key, x in others.items() if getattr(self, key) != x}
        return {"function": name, **changed}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "CountSchedule":
        """Create a schedule from its config; the function must be registered."""
        function = saving.get_registered_object(config["function"], custom_objects=custom_objects)
        # Classes are registered too, and calling one makes an object.
        if function is None or isinstance(function, type):
            raise ValueError(
                f"The schedule's function {config['function']!r} is not registered here as a "
                "function. Register it with `keras.saving.register_keras_serializable` before "
                "loading."
            )
        return cls(**{**config, "function": function})


@saving.register_keras_serializable(package="keras_rmsprop")
class TimeDecay(schedules.LearningRateSchedule):
    """The schedule of tf_keras's `decay` argument, in the precision of `keras.config.floatx()`.

        learning rate of step t = learning_rate / (1 + decay * (t - 1))          t = 1, 2, ...

    `keras.optimizers.schedules.InverseTimeDecay` is the same, but always in float32.

    Args:
        learning_rate: the first rate, >= 0.
        decay: finite, >= 0; after 1 / decay steps the rate is halved.

    Raises: ValueError if an argument is out of range.

    Example:
    >>> from keras_rmsprop import conventions
    >>> float(conventions.TimeDecay(0.5, decay=0.25)(4))
    0.25
    """

    def __init__(self, learning_rate: float, decay: float) -> None:
        if not 0.0 <= decay < math.inf:
            raise ValueError(f"`decay` must be finite and >= 0, received decay={decay!r}.")
        self.learning_rate = checked_learning_rate(learning_rate)
        self.decay = decay

    def __call__(self, step: Any) -> Tensor:
        """Return the rate after `step` steps."""
        # Operators, because ops.multiply rounds Python numbers to float32 on TensorFlow.
        return self.learning_rate / (1.0 + self.decay * ops.cast(step, config.floatx()))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"learning_rate": self.learning_rate, "decay": self.decay}


def keras(
    learning_rate: LearningRate = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    weight_decay: float | None = None,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    use_ema: bool = False,
    ema_momentum: float = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: float | None = None,
    gradient_accumulation_steps: int | None = None,
    name: str | None = None,
    **options: Any,
) -> RMSprop:
    """Return an optimizer with the steps of `keras.optimizers.RMSprop` (Keras 3), our defaults.

    They differ on purpose where Keras gives NaN (centered, with a near-constant gradient) or
    squares the rows of a repeated id before summing them (embeddings on TensorFlow).

    The arguments are those of `RMSprop` and are documented there.

    Source: keras 3.15, `keras/src/optimizers/rmsprop.py`.

    Example:
    >>> from keras_rmsprop import conventions
    >>> optimizer = conventions.keras(weight_decay=0.01)
    >>> optimizer.weight_decay, optimizer.epsilon, optimizer.epsilon_inside_sqrt
    (0.01, 1e-07, True)
    """
    return RMSprop(
        learning_rate=learning_rate,
        rho=rho,
        momentum=momentum,
        epsilon=epsilon,
        centered=centered,
        weight_decay=weight_decay,
        clipnorm=clipnorm,
        clipvalue=clipvalue,
        global_clipnorm=global_clipnorm,
        use_ema=use_ema,
        ema_momentum=ema_momentum,
        ema_overwrite_frequency=ema_overwrite_frequency,
        loss_scale_factor=loss_scale_factor,
        gradient_accumulation_steps=gradient_accumulation_steps,
        name=name,
        **options,
    )


def torch(
    lr: LearningRate = 0.01,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0,
    momentum: float = 0,
    centered: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    *,
    params: Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> RMSprop:
    """Return an optimizer with the steps of `torch.optim.RMSprop`.

        g  <- g + weight_decay * w                        after the sign of `maximize`
        r_t = sqrt(s_t) + eps
        b_t = momentum * b_{t-1} + g / r_t,   w <- w - lr * b_t

    The buffer does not include the learning rate, so that a new rate affects all of it at once.

    Args:
        lr: learning rate, >= 0. Default 0.01.
        alpha: `rho`, in [0, 1). Default 0.99.
        eps: `epsilon`, >= 0, outside the root; unit: gradient. Default 1e-8.
        weight_decay: `l2`, >= 0: coupled, not Keras's decoupled kind. Default 0.
        momentum: in [0, 1). Default 0.
        centered: whether to divide by the standard deviation. Default False.
        capturable: no effect; it prepares torch's step for CUDA graphs.
        foreach: no effect; it selects torch's multi-tensor path.
        maximize: whether to ascend. Default False.
        differentiable: no effect; it lets torch differentiate through its step.
        params: None, or torch's param groups, which become `groups`: mappings whose "params" is
            one or a list of paths, path patterns or Keras variables, with any of "lr", "alpha",
            "eps", "weight_decay", "momentum" and "maximize" (and the arguments without effect).
            Variables in no group use the other arguments. Default None.
        **options: further arguments of `RMSprop`, such as `groups` or `skip_nonfinite`.

    Raises: ValueError if an argument lies outside its range, or a param group has an argument
        that cannot differ between groups.

    Source: torch 2.13, `torch/optim/rmsprop.py`.

    Example:
    >>> from keras_rmsprop import conventions
    >>> optimizer = conventions.torch(weight_decay=1e-5, momentum=0.9)
    >>> optimizer.l2, optimizer.weight_decay, optimizer.lr_in_momentum
    (1e-05, None, False)
    """
    _ignore("torch", capturable=capturable, foreach=foreach, differentiable=differentiable)
    return _made(
        "torch",
        options,
        groups=None if params is None else _param_groups(params, lr, centered),
        learning_rate=lr,
        rho=alpha,
        momentum=momentum,
        epsilon=eps,
        centered=centered,
        epsilon_inside_sqrt=False,
        lr_in_momentum=False,
        l2=weight_decay,
        maximize=maximize,
    )


def optax(
    learning_rate: LearningRate | Callable[[Any], Any],
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    **options: Any,
) -> RMSprop:
    """Return an optimizer with the steps of `optax.rmsprop`.

        s_0 = initial_scale
        r_t = sqrt(s_t + eps)    or, with eps_in_sqrt=False,    sqrt(s_t) + eps
        b_t = momentum * b_{t-1} + learning_rate * g / r_t
        w  <- w - b_t
        w  <- w - (momentum * b_t + learning_rate * g / r_t)         with nesterov

    Args:
        learning_rate: a number >= 0, or an optax schedule, that is a function of the number of
            steps so far; it becomes a `CountSchedule`. No default.
        decay: `rho`, in [0, 1). Default 0.9.
        eps: `epsilon`, >= 0; unit: gradient squared, or gradient outside the root. Default 1e-8.
        initial_scale: `initial_square_average`, >= 0. Default 0.0. Not with `bias_correction`.
        eps_in_sqrt: `epsilon_inside_sqrt`. Default True.
        centered: whether to divide by the standard deviation. Default False.
        momentum: None, or in [0, 1). Default None.
        nesterov: whether to look ahead along the buffer. Default False. Without momentum it
            has no effect, as in optax.
        bias_correction: whether to correct the averages for their start. Default False.
        **options: further arguments of `RMSprop`, such as `groups` or `skip_nonfinite`.

    Raises: ValueError if an argument is out of range, or for `initial_scale` together with
        `bias_correction`.

    Source: optax 0.2.8, `optax/_src/alias.py` and `transform.py`.

    Example:
    >>> from keras_rmsprop import conventions
    >>> optimizer = conventions.optax(lambda count: 0.1 / (1 + count), decay=0.95)
    >>> optimizer.rho, optimizer.epsilon, float(optimizer.learning_rate)
    (0.95, 1e-08, 0.1)
    """
    if bias_correction and initial_scale:
        raise _refusal("optax", initial_scale=initial_scale)
    if nesterov and not momentum:
        _ignore("optax", nesterov=nesterov)
    is_schedule = isinstance(learning_rate, schedules.LearningRateSchedule)
    if callable(learning_rate) and not is_schedule:
        is_optax = str(learning_rate.__module__).startswith("optax.")
        learning_rate = CountSchedule(learning_rate, jax=is_optax)
    return _made(
        "optax",
        options,
        learning_rate=learning_rate,
        rho=decay,
        momentum=0.0 if momentum is None else momentum,
        epsilon=eps,
        centered=centered,
        nesterov=nesterov and bool(momentum),
        epsilon_inside_sqrt=eps_in_sqrt,
        bias_correction=bias_correction,
        initial_square_average=initial_scale,
    )


def tf1(
    learning_rate: LearningRate,
    decay: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-10,
    use_locking: bool = False,
    centered: bool = False,
    name: str = "RMSProp",
    **options: Any,
) -> RMSprop:
    """Return an optimizer with the steps of `tf.compat.v1.train.RMSPropOptimizer`.

        s_0 = 1
        r_t = sqrt(s_t + epsilon)

    The average starts from 1, so the first steps are shorter than Keras's for gradients smaller
    than 1. TensorFlow rounds the hyperparameters to float32; here they are used as given.

    Args:
        learning_rate: >= 0. No default.
        decay: `rho`, in [0, 1). Default 0.9.
        momentum: in [0, 1). Default 0.0.
        epsilon: >= 0, under the root; unit: gradient squared. Default 1e-10.
        use_locking: no effect; it guards TensorFlow's update operations with locks.
        centered: whether to divide by the standard deviation. Default False.
        name: of the optimizer. Default "RMSProp".
        **options: further arguments of `RMSprop`, such as `groups` or `skip_nonfinite`.

    Raises: ValueError if an argument lies outside its range.

    Source: tensorflow 2.21, `python/training/rmsprop.py` and `core/kernels/training_ops.cc`.

    Example:
    >>> from keras_rmsprop import conventions
    >>> optimizer = conventions.tf1(0.256, decay=0.9, momentum=0.9, epsilon=0.001)
    >>> optimizer.initial_square_average, optimizer.rho
    (1.0, 0.9)
    """
    _ignore("tf1", use_locking=use_locking)
    return _made(
        "tf1",
        options,
        learning_rate=learning_rate,
        rho=decay,
        momentum=momentum,
        epsilon=epsilon,
        centered=centered,
        name=name,
        initial_square_average=1.0,
    )


def tf_keras_legacy(
    learning_rate: LearningRate = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    name: str = "RMSprop",
    *,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    lr: LearningRate | None = None,
    decay: float = 0.0,
    **options: Any,
) -> RMSprop:
    """Return an optimizer with the steps of `tf_keras.optimizers.legacy.RMSprop`.

    That is `tf.keras.optimizers.RMSprop` before TensorFlow 2.11.

        r_t = sqrt(s_t) + epsilon                         without momentum
        r_t = sqrt(s_t + epsilon)                         with momentum, by TensorFlow's kernel
        learning rate of step t = learning_rate / (1 + decay * (t - 1))

    tf_keras rounds the hyperparameters to float32; here they are used as given.

    Args:
        learning_rate: >= 0. Default 0.001.
        rho: in [0, 1). Default 0.9.
        momentum: in [0, 1). Default 0.0. It also determines the position of `epsilon`.
        epsilon: >= 0; unit: gradient, or gradient squared with momentum. Default 1e-7, which
            also replaces 0, as in tf_keras.
        centered: whether to divide by the standard deviation. Default False.
        name: of the optimizer. Default "RMSprop".
        clipnorm: None, or the maximum norm > 0 of each variable's gradient. Default None.
        clipvalue: None, or the maximum size > 0 of each element. Default None.
        global_clipnorm: None, or the maximum norm > 0 of all gradients together. Default None.
            At most one of the three clips.
        lr: the old name of `learning_rate`, which it overrides. Default None.
        decay: inverse time decay of a learning rate given as a number, >= 0. Default 0.0.
        **options: further arguments of `RMSprop`, such as `groups` or `skip_nonfinite`.

    Raises: ValueError if an argument is out of range, for two clips together, and for `decay`
        with a schedule or callable.

    Source: tf_keras 2.21, `tf_keras/src/optimizers/legacy/rmsprop.py` and `optimizer_v2.py`.

    Example:
    >>> from keras_rmsprop import conventions
    >>> conventions.tf_keras_legacy().epsilon_inside_sqrt
    False
    >>> conventions.tf_keras_legacy(momentum=0.9).epsilon_inside_sqrt
    True
    """
    clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
    given = {clip: limit for clip, limit in clips.items() if limit is not None}
    if len(given) > 1:
        raise _refusal("tf_keras_legacy", **given)
    rate = learning_rate if lr is None else lr
    if decay != 0.0:
        if callable(rate):
            raise _refusal("tf_keras_legacy", decay=decay)
        rate = TimeDecay(rate, decay)
    return _made(
        "tf_keras_legacy",
        options,
        learning_rate=rate,
        rho=rho,
        momentum=momentum,
        epsilon=epsilon or _TF_KERAS_EPSILON,
        centered=centered,
        clipnorm=clipnorm,
        clipvalue=clipvalue,
        global_clipnorm=global_clipnorm,
        name=name,
        epsilon_inside_sqrt=bool(momentum),
    )


def timm(
    lr: LearningRate = 0.01,
    alpha: float = 0.9,
    eps: float = 1e-10,
    weight_decay: float = 0,
    momentum: float = 0.0,
    centered: bool = False,
    decoupled_decay: bool = False,
    corrected_weight_decay: bool = False,
    lr_in_momentum: bool = True,
    caution: bool = False,
    foreach: bool | None = None,
    **options: Any,
) -> RMSprop:
    """Return an optimizer with the steps of timm's `RMSpropTF`: torch's RMSprop with TF1's rule.

        s_0 = 1
        r_t = sqrt(s_t + eps)
        g  <- g + weight_decay * w
        w  <- w - lr * weight_decay * w          instead, with decoupled_decay

    Args:
        lr: learning rate, >= 0. Default 0.01.
        alpha: `rho`, in [0, 1). Default 0.9.
        eps: `epsilon`, >= 0, under the root; unit: gradient squared. Default 1e-10.
        weight_decay: >= 0; `l2`, or `weight_decay` with `decoupled_decay`. Default 0.
        momentum: in [0, 1). Default 0.0.
        centered: whether to divide by the standard deviation. Default False.
        decoupled_decay: whether the decay applies to the weight directly. Default False.
        corrected_weight_decay: refused when True.
        lr_in_momentum: whether the buffer holds steps rather than directions. Default True.
        caution: refused when True.
        foreach: no effect; it selects timm's multi-tensor path.
        **options: further arguments of `RMSprop`, such as `groups` or `skip_nonfinite`.

    Raises: ValueError if an argument is out of range, and for the two that are refused.

    Source: pytorch-image-models, `timm/optim/rmsprop_tf.py`.

    Example:
    >>> from keras_rmsprop import conventions
    >>> optimizer = conventions.timm(weight_decay=1e-5, decoupled_decay=True)
    >>> optimizer.weight_decay, optimizer.l2, optimizer.initial_square_average
    (1e-05, 0.0, 1.0)
    """
    if corrected_weight_decay:
        raise _refusal("timm", corrected_weight_decay=corrected_weight_decay)
    if caution:
        raise _refusal("timm", caution=caution)
    _ignore("timm", foreach=foreach)
    return _made(
        "timm",
        options,
        learning_rate=lr,
        rho=alpha,
        momentum=momentum,
        epsilon=eps,
        centered=centered,
        weight_decay=weight_decay if decoupled_decay else None,
        lr_in_momentum=lr_in_momentum,
        initial_square_average=1.0,
        l2=0.0 if decoupled_decay else weight_decay,
    )


def hinton(learning_rate: LearningRate, rho: float = 0.9, **options: Any) -> RMSprop:
    """Return an optimizer with the steps of Hinton's lecture, the origin of RMSprop.

        s_t = 0.9 * s_{t-1} + 0.1 * g**2
        w  <- w - learning_rate * g / sqrt(s_t)

    There is no epsilon; if g and s are both zero, the weight does not move. The slide does not
    give s_0, which is 0 here.

    Args:
        learning_rate: >= 0. The lecture gives none.
        rho: in [0, 1). Default 0.9.
        **options: further arguments of `RMSprop`, such as `groups` or `skip_nonfinite`.

    Raises: ValueError if an argument lies outside its range.

    Source: Hinton, "Neural Networks for Machine Learning", lecture 6e (2012).

    Example:
    >>> from keras_rmsprop import conventions
    >>> conventions.hinton(0.01).epsilon
    0.0
    """
    return _made("hinton", options, learning_rate=learning_rate, rho=rho, epsilon=0.0)


def graves(
    learning_rate: LearningRate = 1e-4,
    rho: float = 0.95,
    momentum: float = 0.9,
    epsilon: float = 1e-4,
    **options: Any,
) -> RMSprop:
    """Return an optimizer with the steps of Graves's handwriting paper: centered, with momentum.

        n_t     = rho * n_{t-1} + (1 - rho) * g**2                                  (38)
        m_t     = rho * m_{t-1} + (1 - rho) * g                                     (39)
        Delta_t = momentum * Delta_{t-1} - learning_rate * g / sqrt(n_t - m_t**2 + epsilon)
        w      <- w + Delta_t                                                   (40, 41)

    Here s = n - m**2 is stored instead of n, and b = -Delta.

    Args:
        learning_rate: >= 0. Default 1e-4 (44).
        rho: in [0, 1), for both averages. Default 0.95 (42).
        momentum: in [0, 1). Default 0.9 (43).
        epsilon: >= 0, under the root; unit: gradient squared. Default 1e-4 (45).
        **options: further arguments of `RMSprop`, such as `groups` or `skip_nonfinite`.

    Raises: ValueError if an argument lies outside its range.

    Source: Graves, "Generating Sequences With Recurrent Neural Networks", arXiv:1308.0850,
    equations 38 to 45.

    Example:
    >>> from keras_rmsprop import conventions
    >>> optimizer = conventions.graves()
    >>> optimizer.centered, optimizer.rho, optimizer.momentum
    (True, 0.95, 0.9)
    """
    return _made(
        "graves",
        options,
        learning_rate=learning_rate,
        rho=rho,
        momentum=momentum,
        epsilon=epsilon,
        centered=True,
    )


def _made(convention: str, options: Mapping[str, Any], /, **arguments: Any) -> RMSprop:
    """Return an optimizer with a convention's arguments and further options."""
    twice = [name for name in options if arguments.get(name) is not None]
    if twice:
        raise ValueError(
            f"conventions.{convention} sets `{twice[0]}` from arguments of its own, received "
            f"{twice[0]}={options[twice[0]]!r:.200}. See its signature for their names."
        )
    return RMSprop(**{**arguments, **options})


# The arguments that a param group may have, and what they are here.
_OF_A_PARAM_GROUP = {
    "alpha": "rho",
    "eps": "epsilon",
    "weight_decay": "l2",
    "momentum": "momentum",
    "maximize": "maximize",
}


def _param_groups(
    params: Sequence[Mapping[str, Any]], lr: Any, centered: bool
) -> dict[str, dict[str, Any]]:
    """Turn torch's param groups into groups by pattern."""
    groups: dict[str, dict[str, Any]] = {}
    for group in params:
        if not isinstance(group, Mapping):
            raise ValueError(
                '`params` of conventions.torch must be param groups, such as {"params": '
                f'"backbone/.*", "lr": 0.001}}, received {group!r:.200}.'
            )
        settings = dict(group)
        pattern = _pattern_of(settings.pop("params", None), group)
        for name in ("capturable", "foreach", "differentiable"):
            settings.pop(name, None)
        if settings.pop("centered", centered) != centered:
            raise _refusal("torch", centered=group["centered"], params=pattern)
        own = {}
        if "lr" in settings:
            own["learning_rate"] = _factor(settings.pop("lr"), lr, pattern)
        unknown = settings.keys() - _OF_A_PARAM_GROUP.keys()
        if unknown:
            raise ValueError(
                f"The param group of {pattern!r} has {', '.join(sorted(unknown))}; it can have "
                f"lr, {', '.join(_OF_A_PARAM_GROUP)}."
            )
        own |= {_OF_A_PARAM_GROUP[name]: value for name, value in settings.items()}
        if pattern in groups:
            raise ValueError(f"Two param groups are of {pattern!r}; a parameter has one.")
        groups[pattern] = own
    return groups


def _pattern_of(params: Any, group: Mapping[str, Any]) -> str:
    """Return one pattern for the variables of a param group."""
    several = isinstance(params, list | tuple | Iterator)
    each: list[Any] = list(params) if several else [params]
    # Whether it is a pattern, and what it is; a raw backend variable has only a name.
    words: list[tuple[bool, Any]] = [
        (True, x) if isinstance(x, str) else (False, getattr(x, "path", getattr(x, "name", None)))
        for x in each
    ]
    if not words or not all(isinstance(word, str) for _, word in words):
        raise ValueError(
            "`params` of a param group must be Keras variables, their paths, or patterns of paths, "
            f"received {group!r:.200}."
        )
    patterns = [word if is_pattern else re.escape(word) for is_pattern, word in words]
    return patterns[0] if len(patterns) == 1 else "|".join(f"(?:{each})" for each in patterns)


def _factor(own: Any, lr: Any, pattern: str) -> float:
    """The rate of a param group as a factor of the optimizer's."""
    both = all(isinstance(rate, numbers.Real) for rate in (own, lr))
    if not both or not float(lr) > 0.0:
        raise ValueError(
            f"The `lr` of the param group of {pattern!r} becomes a factor of the optimizer's, so "
            f"both must be numbers and that one > 0, received {own!r} and lr={lr!r}."
        )
    return float(own) / float(lr)


def _ignore(convention: str, **arguments: Any) -> None:
    """Log which of the given arguments have no effect."""
    for name, value in arguments.items():
        if value:
            _log.info(
                "conventions.%s: `%s=%r` has no effect: it does not change the steps.",
                convention,
                name,
                value,
            )


def _refusal(convention: str, **received: Any) -> ValueError:
    """Return the error for refused arguments, with the reason that `REFUSED` has for the first."""
    first = next(iter(received))
    values = ", ".join(f"{name}={value!r}" for name, value in received.items())
    return ValueError(
        f"`{first}` of conventions.{convention} cannot be expressed: {REFUSED[convention, first]}. "
        f"Received {values}."
    )
