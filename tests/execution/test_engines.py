"""Test that a compiled step equals one run op by op, whatever happens during a training."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import twins
from tests.tools.twins import Situation, Training, changing_rate, rate_schedule
from yardsticks.variants import option_variants


def assigned(**attributes: Any) -> Callable[[Training], None]:
    """A change of the optimizer's attributes."""

    def change(training: Training) -> None:
        for name, value in attributes.items():
            setattr(training.optimizer, name, value)

    return change


def one_after_another(**attributes: Any) -> Callable[[Training], None]:
    """From the third step on assign one of the attributes before each step."""
    waiting = [None, None, *attributes.items()]

    def begin(training: Training) -> None:
        items = iter(waiting)

        def feed(training: Training, gradients: list[Any]) -> None:
            item = next(items, None)
            if item is not None:
                assigned(**dict([item]))(training)
            training.apply(gradients)

        fed(feed)(training)

    return begin


def fed(feed: Callable[..., Any]) -> Callable[[Training], None]:
    """A change of how gradients are applied: `feed(training, gradients)` makes a step."""

    def change(training: Training) -> None:
        training.feed = lambda gradients: feed(training, gradients)

    return change


def constrained(make: Callable[[], Any]) -> Callable[[Training], None]:
    """A constraint on the matrix, made anew for each training."""

    def begin(training: Training) -> None:
        training.variables[1].constraint = make()

    return begin


class HalvedSteps(keras_rmsprop.RMSprop):
    """A subclass that overrides `update_step`."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Make half a step."""
        super().update_step(gradient, variable, learning_rate / 2)


class Shrunk(keras.constraints.Constraint):
    """A user's constraint whose effect changes with each call."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, w: Any) -> Any:
        """Return the weight, shrunk a little more each time."""
        self.times += 1
        return w * (1.0 - 0.01 * self.times)


def saved_and_loaded(training: Training) -> None:
    """Go on with a new optimizer that has the old one's configuration and state."""
    old = training.optimizer
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    new = type(old).from_config(old.get_config())
    new.build(training.variables)
    new.load_own_variables({name: np.array(value) for name, value in store.items()})
    training.optimizer = new


def with_a_second_optimizer(training: Training) -> None:
    """Let another optimizer move the same variables after each step."""
    options = {"jit_compile": training.optimizer.jit_compile}
    second = keras_rmsprop.RMSprop(0.05, centered=True, **options)

    def feed(training: Training, gradients: list[Any]) -> None:
        training.apply(gradients)
        second.apply([g * 0.5 for g in gradients], training.variables)

    fed(feed)(training)


def everything_assigned(training: Training) -> None:
    """Overwrite a weight, a slot and the counter from outside."""
    training.variables[1].assign(training.variables[1] * 2.0)
    slot = training.optimizer._square_averages[1]
    slot.assign(slot + 1.0)
    training.optimizer._iterations.assign(20)


def averages_put_in_place(training: Training) -> None:
    """Replace the weights by their averages, as Keras does at the end of `fit`."""
    training.optimizer.finalize_variable_values(training.variables)


def constraint_attribute_changed(training: Training) -> None:
    """Tighten a constraint that is in use."""
    training.variables[1].constraint.max_value = 0.3


def having(**options: Any) -> Callable[[], dict[str, Any]]:
    """The same arguments for each training."""
    return lambda: options


LOSS_SCALE = 4.0


def loss_scaled(**options: Any) -> keras.optimizers.Optimizer:
    """An optimizer in Keras's wrapper; the scale doubles every third step."""
    return keras.optimizers.LossScaleOptimizer(
        keras_rmsprop.RMSprop(**options), initial_scale=LOSS_SCALE, dynamic_growth_steps=3
    )


def overflowing_once(training: Training) -> None:
    """Apply one batch of infinite gradients, then go on as before."""

    def feed(training: Training, gradients: list[Any]) -> None:
        training.feed = training.apply
        training.apply([g * np.inf for g in gradients])

    fed(feed)(training)


EVERYTHING = having(
    centered=True,
    momentum=0.5,
    weight_decay=0.1,
    l2=0.01,
    global_clipnorm=1.0,
    use_ema=True,
    ema_momentum=0.7,
    ema_overwrite_frequency=3,
    loss_scale_factor=3.0,
    gradient_accumulation_steps=2,
)

SITUATIONS = {
    "nothing": Situation(),
    "everything": Situation(EVERYTHING),
    # attributes whose value is an input of a compiled step
    "rho assigned with bias correction": Situation(
        having(bias_correction=True, rho=0.999), assigned(rho=0.5)
    ),
    "one number assigned after another": Situation(
        having(momentum=0.5, weight_decay=0.1, l2=0.01, use_ema=True, ema_overwrite_frequency=1),
        begin=one_after_another(
            rho=0.5, epsilon=0.1, momentum=0.9, weight_decay=0.5, l2=0.5, ema_momentum=0.3
        ),
    ),
    "clipnorm assigned": Situation(having(clipnorm=1.0), assigned(clipnorm=0.1)),
    "clipvalue assigned": Situation(having(clipvalue=1.0), assigned(clipvalue=0.1)),
    "global_clipnorm assigned": Situation(
        having(global_clipnorm=1.0), assigned(global_clipnorm=0.1)
    ),
    "loss_scale_factor assigned": Situation(
        having(loss_scale_factor=3.0, epsilon=0.1), assigned(loss_scale_factor=7.0)
    ),
    # attributes that change what a step does
    "epsilon assigned to zero": Situation(change=assigned(epsilon=0.0)),
    "epsilon_inside_sqrt switched": Situation(
        having(epsilon=0.1), assigned(epsilon_inside_sqrt=False)
    ),
    "nesterov switched": Situation(having(momentum=0.5), assigned(nesterov=True)),
    "bias_correction switched": Situation(having(), assigned(bias_correction=True)),
    "maximize switched": Situation(change=assigned(maximize=True)),
    "clipping switched on": Situation(change=assigned(clipnorm=0.1)),
    "clipping switched over": Situation(
        having(clipnorm=1.0), assigned(clipnorm=None, clipvalue=0.1)
    ),
    "weight_decay switched on": Situation(change=assigned(weight_decay=0.5)),
    "ema_overwrite_frequency assigned": Situation(
        having(use_ema=True, ema_momentum=0.7), assigned(ema_overwrite_frequency=1)
    ),
    # learning rates
    "learning rate assigned": Situation(change=assigned(learning_rate=0.01)),
    "learning rate assigned to zero and back": Situation(
        change=fed(
            lambda training, gradients: (
                assigned(learning_rate=0.0)(training),
                training.apply(gradients),
                assigned(learning_rate=0.2)(training),
            )
        )
    ),
    "a schedule": Situation(lambda: {"learning_rate": rate_schedule()}),
    "a callable": Situation(lambda: {"learning_rate": changing_rate()}),
    "a callable that returns a tensor": Situation(
        lambda: {
            "learning_rate": (lambda rate: lambda: ops.convert_to_tensor(rate(), "float64"))(
                changing_rate()
            )
        }
    ),
    "a schedule and accumulation": Situation(
        lambda: {"learning_rate": rate_schedule(), "gradient_accumulation_steps": 3}
    ),
    "a callable and accumulation": Situation(
        lambda: {"learning_rate": changing_rate(), "gradient_accumulation_steps": 3}
    ),
    "a schedule assigned": Situation(
        lambda: {"learning_rate": rate_schedule()},
        lambda training: assigned(
            learning_rate=keras.optimizers.schedules.InverseTimeDecay(0.2, 1, 0.5)
        )(training),
    ),
    # gradients
    "gradients become None": Situation(
        EVERYTHING, fed(lambda training, g: training.apply([g[0], None]))
    ),
    "gradients are None now and then": Situation(
        begin=lambda training: fed(
            lambda training, g: training.apply(
                [g[0] if int(training.optimizer.iterations) % 2 else None, g[1]]
            )
        )(training)
    ),
    "a subset of the variables": Situation(
        having(clipnorm=1.0),
        fed(lambda training, g: training.apply(g[1:], training.variables[1:])),
    ),
    "another order of the variables": Situation(
        change=fed(lambda training, g: training.apply(g[::-1], training.variables[::-1])),
    ),
    "gradients in float16": Situation(
        change=fed(lambda training, g: training.apply([ops.cast(x, "float16") for x in g]))
    ),
    "gradients in float32": Situation(
        having(gradient_accumulation_steps=2, clipnorm=1.0),
        fed(lambda training, g: training.apply([g[0], ops.cast(g[1], "float32")])),
    ),
    # weights and state
    "averages that overwrite": Situation(
        having(use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=3)
    ),
    "averages put in place": Situation(
        having(use_ema=True, ema_momentum=0.7), averages_put_in_place
    ),
    "averages and accumulation": Situation(
        having(
            use_ema=True,
            ema_momentum=0.7,
            ema_overwrite_frequency=2,
            gradient_accumulation_steps=3,
        )
    ),
    "accumulation": Situation(having(gradient_accumulation_steps=3, momentum=0.5)),
    "weights, slots and counter assigned": Situation(
        having(bias_correction=True), everything_assigned
    ),
    "counter set back": Situation(
        having(bias_correction=True, use_ema=True, ema_momentum=0.7),
        lambda training: training.optimizer._iterations.assign(0),
    ),
    "saved and loaded": Situation(EVERYTHING, saved_and_loaded),
    "two optimizers": Situation(change=with_a_second_optimizer),
    # constraints and wrappers
    "a constraint": Situation(begin=constrained(lambda: keras.constraints.UnitNorm(axis=1))),
    "a constraint's attribute changed": Situation(
        change=constraint_attribute_changed,
        begin=constrained(lambda: keras.constraints.MaxNorm(1.0)),
    ),
    "a constraint set": Situation(change=constrained(lambda: keras.constraints.MaxNorm(0.3))),
    "a function as a constraint": Situation(begin=constrained(lambda: lambda w: w * 0.9)),
    "a constraint with a memory": Situation(begin=constrained(Shrunk)),
    "a subclass's update_step": Situation(
        having(weight_decay=0.1, use_ema=True, ema_momentum=0.7, clipnorm=1.0), make=HalvedSteps
    ),
    "a batch that is not finite": Situation(
        having(skip_nonfinite=True, clipnorm=1.0), overflowing_once
    ),
    # Keras accepts NumPy arrays, too.
    "gradients in NumPy": Situation(
        change=fed(
            lambda training, g: training.apply([np.asarray(ops.convert_to_numpy(x)) for x in g])
        )
    ),
}
if BACKEND != "jax":
    # On JAX Keras's wrapper leaks tracers when it runs eagerly, whatever it wraps.
    SITUATIONS |= {
        "a loss scale": Situation(having(epsilon=0.1), make=loss_scaled),
        "a loss scale and an overflow": Situation(
            having(epsilon=0.1), overflowing_once, make=loss_scaled
        ),
    }


@pytest.mark.parametrize("name", SITUATIONS)
def test_compiled_steps_equal_op_by_op_steps_in_every_situation(float64, name):
    trajectories = [list(twins.train(SITUATIONS[name], mode)) for mode in ("auto", False)]
    twins.assert_same_trajectory(*trajectories)


@pytest.mark.parametrize("variant", option_variants(), ids=lambda variant: variant.id)
def test_compiled_steps_equal_op_by_op_steps_in_every_variant(float64, variant):
    trajectories = [
        list(twins.train(twins.situation_of(variant), mode)) for mode in ("auto", False)
    ]
    twins.assert_same_trajectory(*trajectories)


@pytest.mark.parametrize("dtypes", [("float64", "float32"), ("float16", "float32")], ids="-".join)
def test_compiled_steps_equal_op_by_op_steps_in_mixed_precision(float64, dtypes):
    # Not `global_clipnorm`: a float32 gradient's share of that norm is rounded to float32.
    situation = Situation(having(centered=True, momentum=0.5, clipnorm=1.0, use_ema=True))
    trajectories = [list(twins.train(situation, mode, dtypes=dtypes)) for mode in ("auto", False)]
    twins.assert_same_trajectory(*trajectories)
