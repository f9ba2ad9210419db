"""Test the ways to set Keras's own options, and their use with Keras's other classes.

`tests/math/test_step.py` compares the numbers that the options give with the reference.
"""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_rmsprop
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND, since_keras
from tests.tools import models

RATE = 2.0**-6


def variables(dtype: str = "float64", **arguments: Any) -> list[keras.Variable]:
    """Return a kernel and a bias."""
    return [
        keras.Variable([[1.0, -2.0], [0.5, 3.0]], dtype=dtype, name="kernel", **arguments),
        keras.Variable([0.25, -0.75], dtype=dtype, name="bias"),
    ]


def gradients(step: int, dtype: str = "float64") -> list[np.ndarray]:
    rng = np.random.default_rng(step)
    return [rng.normal(size=(2, 2)).astype(dtype), rng.normal(size=2).astype(dtype)]


def train(optimizer: Any, weights: list[Any], steps: int = 6, dtype: str = "float64") -> Any:
    """Make steps and return the weights' values."""
    for step in range(steps):
        optimizer.apply(models.tensors(gradients(step, dtype)), weights)
    return models.values(weights)


def expected(steps: int = 6, rates: Any = None, **options: Any) -> list[np.ndarray]:
    """The reference's weights after the same steps."""
    reference = Reference(models.values(variables()), **options)
    for step in range(steps):
        reference.apply(gradients(step), RATE if rates is None else rates[step])
    return reference.weights


def assert_trained(got: Any, want: Any, steps: int = 6) -> None:
    models.assert_same(got, want, models.values(variables()), steps=steps)


@pytest.mark.parametrize(
    ("chosen", "decayed"),
    [
        ({"var_names": ["bias"]}, [True, False]),
        ({"var_names": ["kern", "bias"]}, [False, False]),
        ({"var_list": "the kernel"}, [False, True]),
        ({"var_list": "the kernel", "var_names": ["bias"]}, [False, False]),
    ],
    ids=["by name", "all by name", "by variable", "all by either"],
)
def test_an_excluded_variable_does_not_decay(float64, chosen, decayed):
    weights = variables()
    optimizer = keras_rmsprop.RMSprop(RATE, weight_decay=0.125)
    if "var_list" in chosen:
        chosen = {**chosen, "var_list": weights[:1]}
    optimizer.exclude_from_weight_decay(**chosen)
    assert_trained(train(optimizer, weights), expected(weight_decay=0.125, decayed=decayed))


@pytest.mark.skipif(BACKEND != "torch", reason="the fault is in Keras's multi-tensor path on torch")
def test_keras_on_torch_cannot_exclude_every_variable():
    optimizer = keras.optimizers.RMSprop(RATE, weight_decay=0.125)
    optimizer.exclude_from_weight_decay(var_names=["kernel", "bias"])
    with pytest.raises(RuntimeError, match="at least one"):
        train(optimizer, variables("float32"), dtype="float32")


def test_keras_lets_variables_be_excluded_too_late():
    optimizer = keras.optimizers.RMSprop(RATE, weight_decay=0.125)
    weights = variables("float32")
    optimizer.build(weights)
    # Its guard reads an attribute that Keras 3.15 never sets.
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert [optimizer._use_weight_decay(weight) for weight in weights] == [True, False]


def test_an_exclusion_holds_for_gradients_in_another_order(float64):
    weights = variables()
    optimizer = keras_rmsprop.RMSprop(RATE, weight_decay=0.125)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(weights)
    for step in range(6):
        optimizer.apply(models.tensors(reversed(gradients(step))), weights[::-1])
    assert_trained(models.values(weights), expected(weight_decay=0.125, decayed=[True, False]))


class AtMostAHalf(keras.constraints.Constraint):
    """A custom constraint."""

    def __call__(self, w: Any) -> Any:
        """Return w with no element above a half."""
        return ops.where(w > 0.5, ops.full_like(w, 0.5), w)


@pytest.mark.parametrize(
    ("constraint", "in_numpy"),
    [
        (keras.constraints.UnitNorm(axis=0), lambda w: w / (1e-7 + np.sqrt((w**2).sum(axis=0)))),
        (AtMostAHalf(), lambda w: np.minimum(w, 0.5)),
        pytest.param(
            lambda w: ops.clip(w, -1.0, 1.0),
            lambda w: np.clip(w, -1.0, 1.0),
            marks=since_keras("3.15", "takes a function for a constraint"),
        ),
    ],
    ids=["Keras's", "custom", "a function"],
)
def test_a_constraint_acts_after_every_step(float64, constraint, in_numpy):
    weights = variables()
    weights[0].constraint = constraint
    got = train(keras_rmsprop.RMSprop(RATE), weights)
    assert_trained(got, expected(constraints=[in_numpy, None]))


def test_a_missing_gradient_leaves_its_weight_and_slots_unchanged(float64):
    weights = variables()
    optimizer = keras_rmsprop.RMSprop(RATE, momentum=0.5, weight_decay=0.125, clipnorm=0.5)
    reference = Reference(models.values(weights), momentum=0.5, weight_decay=0.125, clipnorm=0.5)
    train_with_gaps(optimizer, weights)
    for step in range(6):
        kernel, bias = gradients(step)
        reference.apply([kernel, None if step % 2 else bias], RATE)
    assert_trained(models.values(weights), reference.weights)
    slots = {v.name: v for v in optimizer.variables}
    models.assert_same(
        [slots["bias_square_average"].numpy()],
        [reference.parameters[1].square_average],
        [0.0],
        steps=0,
    )


def train_with_gaps(optimizer: Any, weights: list[Any]) -> None:
    """Make steps, every second one without a gradient of the bias, which must warn."""
    for step in range(6):
        kernel, bias = gradients(step)
        if step % 2:
            with pytest.warns(UserWarning, match=r"Gradients do not exist for variables .*bias"):
                optimizer.apply(models.tensors([kernel, None]), weights)
        else:
            optimizer.apply(models.tensors([kernel, bias]), weights)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_average_of_half_precision_weights_is_kept_in_float32(dtype):
    weight = keras.Variable(np.ones(3), dtype=dtype)
    optimizer = keras_rmsprop.RMSprop(0.0, use_ema=True, ema_momentum=0.999)
    optimizer.build([weight])
    gradient = ops.zeros((3,), dtype)
    optimizer.apply([gradient], [weight])
    weight.assign(ops.zeros((3,), dtype))
    for _ in range(4):
        optimizer.apply([gradient], [weight])
    average = optimizer._model_variables_moving_average[0]
    assert keras.backend.standardize_dtype(average.dtype) == "float32"
    # In bfloat16, 0.999 * 1.0 is 1.0 again.
    np.testing.assert_allclose(average.numpy(), 0.999**4, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_finalizing_assigns_the_average_to_half_precision_weights(dtype):
    weight = keras.Variable(np.ones(3), dtype=dtype)
    optimizer = keras_rmsprop.RMSprop(0.5, use_ema=True, ema_momentum=0.5)
    for _ in range(3):
        optimizer.apply([ops.ones((3,), dtype)], [weight])
    average = optimizer._model_variables_moving_average[0].numpy()
    optimizer.finalize_variable_values([weight])
    assert keras.backend.standardize_dtype(weight.dtype) == dtype
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(weight, "float32")),
        ops.convert_to_numpy(ops.cast(ops.cast(average, dtype), "float32")),
    )


RATES = [RATE, RATE / 2, RATE, 1.0, 2.0, RATE]


def test_a_schedule_sets_the_rate_of_every_step(float64):
    boundaries = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [RATE, 0.5, 0.125])
    rates = [RATE, RATE, 0.5, 0.5, 0.125, 0.125]
    got = train(keras_rmsprop.RMSprop(boundaries), variables())
    assert_trained(got, expected(rates=rates))


def test_a_callable_sets_the_rate_of_every_step(float64):
    rates = iter(RATES)
    current = [0.0]
    weights = variables()
    optimizer = keras_rmsprop.RMSprop(lambda: current[0])
    for step in range(6):
        current[0] = next(rates)
        optimizer.apply(models.tensors(gradients(step)), weights)
    assert_trained(models.values(weights), expected(rates=RATES))


def test_the_rate_can_be_assigned_between_steps_also_as_an_integer(float64):
    weights = variables()
    optimizer = keras_rmsprop.RMSprop(RATE)
    for step, rate in enumerate([RATE, RATE / 2, RATE, 1, 2, RATE]):
        optimizer.learning_rate = rate
        optimizer.apply(models.tensors(gradients(step)), weights)
    assert_trained(models.values(weights), expected(rates=RATES))


def test_an_integer_rate_is_accepted_at_construction(float64):
    got = train(keras_rmsprop.RMSprop(1), variables())
    assert_trained(got, expected(rates=[1.0] * 6))


@pytest.mark.parametrize("inside", [True, False], ids="epsilon_inside_sqrt={}".format)
def test_the_effective_rate_follows_the_steps(float64, inside):
    weights = variables()
    options = {"epsilon": 2.0**-10, "epsilon_inside_sqrt": inside}
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 2, 0.5)
    optimizer = keras_rmsprop.RMSprop(schedule, **options)
    train(optimizer, weights)
    reference = Reference(models.values(variables()), **options)
    for step in range(6):
        reference.apply(gradients(step), RATE)
    for weight, parameter in zip(weights, reference.parameters, strict=True):
        s = parameter.square_average
        root = np.sqrt(s + 2.0**-10) if inside else np.sqrt(s) + 2.0**-10
        # The rate of the next step, the seventh.
        want = RATE * 0.5**3 / root
        got = ops.convert_to_numpy(optimizer.effective_learning_rate(weight))
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_two_optimizers_of_the_same_variables_keep_separate_state(float64):
    weights = variables()
    fast, slow = keras_rmsprop.RMSprop(0.5), keras_rmsprop.RMSprop(RATE, rho=0.5)
    references = Reference(models.values(weights)), Reference(models.values(weights), rho=0.5)
    for step in range(6):
        for optimizer, reference, other, rate in [
            (fast, references[0], references[1], 0.5),
            (slow, references[1], references[0], RATE),
        ]:
            optimizer.apply(models.tensors(gradients(step)), weights)
            reference.apply(gradients(step), rate)
            for mine, theirs in zip(reference.parameters, other.parameters, strict=True):
                theirs.weight = mine.weight
    assert_trained(models.values(weights), references[0].weights, steps=12)


@since_keras("3.15", "has a MultiOptimizer")
def test_multi_optimizer_gives_each_variable_its_own_optimizer(float64):
    weights = variables()
    first, second = keras_rmsprop.RMSprop(RATE), keras_rmsprop.RMSprop(0.5, rho=0.5)
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(first, {".*bias": second})
    )
    got = train(optimizer, weights)
    want = [expected()[0], expected(rates=[0.5] * 6, rho=0.5)[1]]
    assert_trained(got, want)


def scaled(optimizer: Any, weights: list[Any], values: list[np.ndarray]) -> None:
    """Apply gradients through a LossScaleOptimizer; on JAX only `stateless_apply` works."""
    if BACKEND != "jax":
        optimizer.apply(models.tensors(values), weights)
        return
    new, state = optimizer.stateless_apply(
        [v.value for v in optimizer.variables], models.tensors(values), [v.value for v in weights]
    )
    for variable, value in zip([*weights, *optimizer.variables], [*new, *state], strict=True):
        variable.assign(value)


def test_a_scaled_loss_gives_the_steps_of_an_unscaled_one(float64):
    weights = variables()
    scale = keras.optimizers.LossScaleOptimizer(keras_rmsprop.RMSprop(RATE), initial_scale=1024.0)
    scale.build(weights)
    for step in range(6):
        scaled(scale, weights, [1024.0 * g for g in gradients(step)])
    assert_trained(models.values(weights), expected())


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_scaled_step_that_is_not_finite_is_skipped_whole(float64, bad):
    weights = variables()
    inner = keras_rmsprop.RMSprop(RATE, momentum=0.5, use_ema=True, weight_decay=0.125)
    scale = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0)
    scale.build(weights)
    scaled(scale, weights, [1024.0 * g for g in gradients(0)])
    before = models.values([*weights, *inner.variables])
    kernel, bias = gradients(1)
    scaled(scale, weights, [kernel, np.full_like(bias, bad)])
    models.assert_identical(models.values([*weights, *inner.variables]), before)
    assert float(scale.dynamic_scale) == 512.0
