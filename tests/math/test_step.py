"""Test the stages around the update, Keras's own options, against the float64 reference."""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop._math import _step
from keras_rmsprop._math._rule import Parameter
from yardsticks.agreement import RANKS, differences, make_problem, rmsprop
from yardsticks.peers import follow, follow_ours, unavailable
from yardsticks.variants import KERAS, RULE, Variant, option_variants


@pytest.mark.parametrize("variant", option_variants(), ids=lambda variant: variant.id)
def test_follows_the_float64_reference_in_float32(variant: Variant) -> None:
    worst = differences(variant, make_problem(*((shape, "float32") for shape in RANKS)))
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


@pytest.mark.parametrize("variant", option_variants(), ids=lambda variant: variant.id)
def test_follows_the_float64_reference_in_float64_to_1e_14(variant: Variant, float64: None) -> None:
    # A stage that rounded to float32 would differ by 1e-8.
    problem = make_problem(*((shape, "float64") for shape in RANKS))
    worst = differences(variant, problem, tolerance={"float64": 1e-14})
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


def test_the_table_of_options_covers_all_pairs_of_levels() -> None:
    axes = {**RULE, **KERAS}
    met = {
        pair
        for variant in option_variants()
        for pair in itertools.combinations(variant.levels.items(), 2)
    }
    every = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(axes, 2)
        for x in axes[a]
        for y in axes[b]
    }
    assert every - met == set()


def tensor(*values: float, dtype: str = "float32") -> object:
    """A vector of the active backend."""
    return ops.convert_to_tensor(np.asarray(values, dtype))


def numpy(x: object) -> np.ndarray:
    """A tensor's or a variable's values."""
    return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(x)))


def clipped(*gradients: Any, **limit: float) -> list[np.ndarray]:
    """The gradients as the update receives them: with rho 0 their average is the gradient."""
    weights = [keras.Variable(numpy(g), dtype=_step.dtype_of(g)) for g in gradients]
    optimizer = rmsprop(rho=0.0, centered=True, jit_compile=False, **limit)
    optimizer.apply(list(gradients), weights)
    return [numpy(parameter.gradient_average) for parameter in optimizer._roster.parameters]


def test_clipping_by_value_bounds_every_element() -> None:
    (got,) = clipped(tensor(3.0, -1.0, -5.0), clipvalue=2.0)
    np.testing.assert_array_equal(got, [2.0, -1.0, -2.0])


def test_clipping_by_norm_bounds_each_gradient_by_itself() -> None:
    long, short = clipped(tensor(3.0, -4.0), tensor(0.3, 0.4), clipnorm=1.0)
    np.testing.assert_allclose(long, [0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(short, np.asarray([0.3, 0.4], np.float32))


def test_clipping_by_global_norm_scales_all_gradients_alike() -> None:
    got = clipped(tensor(3.0, 4.0), tensor(12.0), global_clipnorm=6.5)
    np.testing.assert_allclose(got[0], [1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(got[1], [6.0], rtol=1e-6)


def test_a_global_norm_spans_gradients_of_different_precision() -> None:
    got = clipped(tensor(3.0, 4.0), tensor(12.0, dtype="float64"), global_clipnorm=6.5)
    assert [g.dtype.name for g in got] == ["float32", "float64"]
    np.testing.assert_allclose(got[1], [6.0], rtol=1e-12)


@pytest.mark.parametrize("limit", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_a_gradient_at_the_limit_or_of_zeros_is_left_alone(limit: str) -> None:
    for values in ([5.0, 0.0], [0.0, 0.0]):
        (got,) = clipped(tensor(*values), **{limit: 5.0})
        np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("limit", ["clipnorm", "global_clipnorm"])
def test_a_gradient_without_a_finite_norm_becomes_nan(limit: str) -> None:
    (got,) = clipped(tensor(np.inf, 1.0), **{limit: 1.0})
    assert np.all(np.isnan(got))


def test_select_takes_every_tensor_from_one_side() -> None:
    new = Parameter(tensor(1.0), tensor(2.0), None, tensor(3.0))
    old = Parameter(tensor(-1.0), tensor(-2.0), None, tensor(-3.0))
    for condition, expected in ((True, new), (False, old)):
        got = _step.select(ops.convert_to_tensor(condition), new, old)
        assert got.gradient_average is None
        for name in ("weight", "square_average", "momentum"):
            assert numpy(getattr(got, name)) == numpy(getattr(expected, name))


def after_one_call(
    gradients: Sequence[object | None], **arguments: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The weights, which start at 2, and their square averages after one call of `apply`."""
    weights = [keras.Variable(np.full(1, 2.0, np.float32)) for _ in gradients]
    optimizer = rmsprop(learning_rate=0.1, jit_compile=False, **arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist for variables")
        optimizer.apply(list(gradients), weights)
    averages = [parameter.square_average for parameter in optimizer._roster.parameters]
    return [numpy(weight) for weight in weights], [numpy(average) for average in averages]


def test_l2_uses_the_weight_before_decoupled_decay() -> None:
    # A decay of 1 / rate makes the weight zero, and would make a later penalty zero too.
    _, (average,) = after_one_call([tensor(0.0)], l2=0.5, weight_decay=10.0)
    np.testing.assert_allclose(average, [0.1 * (0.5 * 2.0) ** 2], rtol=1e-6)


def test_a_gradient_is_unscaled_before_it_is_clipped_and_penalised_after() -> None:
    _, (average,) = after_one_call([tensor(3.0)], clipvalue=1.0, loss_scale_factor=4.0, l2=0.5)
    # 3 / 4 is inside the limit, and 0.75 + 0.5 * 2 is not cut back to 1.
    np.testing.assert_allclose(average, [0.1 * 1.75**2], rtol=1e-6)


def test_the_penalty_pulls_towards_zero_when_maximizing_too() -> None:
    _, (average,) = after_one_call([tensor(3.0)], maximize=True, l2=0.5)
    np.testing.assert_allclose(average, [0.1 * (-3.0 + 0.5 * 2.0) ** 2], rtol=1e-6)


def test_a_weight_without_a_gradient_neither_moves_nor_decays() -> None:
    (still, moved), (average, _) = after_one_call([None, tensor(1.0)], weight_decay=0.1)
    assert still == 2.0
    assert average == 0.0
    assert moved != 2.0


def test_an_incomplete_accumulation_moves_nothing() -> None:
    (weight,), (average,) = after_one_call(
        [tensor(1.0)], gradient_accumulation_steps=2, weight_decay=0.1
    )
    assert weight == 2.0
    assert average == 0.0


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_averages_are_never_narrower_than_float32(dtype: str, wide: str) -> None:
    assert _step.accumulator_dtype(dtype) == wide
    widened = _step.widen(ops.cast(tensor(1.0), dtype))
    assert keras.backend.standardize_dtype(widened.dtype) == wide


def test_torch_hyperparameters_give_other_weights_in_keras(float64: None) -> None:
    # Learning rate, rho, epsilon and momentum are the same. What differs is where epsilon is added
    # and whether the buffer holds the learning rate. With torch's choice of both the weights agree.
    if reason := unavailable("torch"):
        pytest.skip(reason)
    rng = np.random.default_rng(0)
    start, rates = [np.ones(5)], [0.01 * 0.9**t for t in range(30)]
    gradients = [[0.1 * rng.normal(1.0, 1.0, 5)] for _ in rates]
    numbers: dict[str, Any] = {"rho": 0.9, "epsilon": 1e-2, "momentum": 0.5}
    recipe = {"alpha": 0.9, "eps": 1e-2, "momentum": 0.5}
    as_torch = RMSprop(epsilon_inside_sqrt=False, lr_in_momentum=False, **numbers)

    want = follow("torch", start, gradients, rates, **recipe)[-1].weights[0]
    ported = follow("keras", start, gradients, rates, **numbers)[-1].weights[0]
    exact = follow_ours(as_torch, start, gradients, rates)[-1].weights[0]
    travelled = np.max(np.abs(want - 1.0))
    assert np.max(np.abs(ported - want)) > 0.1 * travelled
    assert np.max(np.abs(exact - want)) <= 1e-13 * travelled + len(rates) * np.spacing(1.0)


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
def test_a_sum_is_kept_if_its_variable_has_no_gradient_in_the_completing_call(mode: Any) -> None:
    weights = [keras.Variable(np.ones(1, np.float32)) for _ in range(2)]
    optimizer = rmsprop(gradient_accumulation_steps=2, rho=0.0, jit_compile=mode)
    calls = [(4.0, 1.0), (None, 1.0), (2.0, 1.0), (2.0, 1.0)]
    averages = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist for variables")
        for gradients in calls:
            given = [None if g is None else tensor(g) for g in gradients]
            optimizer.apply(given, weights)
            averages.append(float(numpy(optimizer._roster.parameters[0].square_average)[0]))
    # The 4 is kept through the call that completes without it: ((4 + 2 + 2) / 2)**2.
    np.testing.assert_allclose(averages, [0.0, 0.0, 0.0, 16.0], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"centered": True, "momentum": 0.9, "bias_correction": True},
        {"weight_decay": 0.01, "l2": 0.1, "use_ema": True, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2, "skip_nonfinite": True, "global_clipnorm": 1.0},
    ],
    ids=["plain", "centered", "decay and ema", "accumulating"],
)
def test_a_nested_function_is_made_once_and_gives_the_same_step(options: dict[str, Any]) -> None:
    # `trace_once` only counts the functions here, so it must change no bit.
    made: list[Any] = []

    def trace_once(function: Any) -> Any:
        made.append(function)
        return function

    variables = [keras.Variable(np.full(3, 2.0, np.float32)) for _ in range(4)]
    optimizer = rmsprop(**options)
    optimizer.build(variables)
    gradients = [tensor(1.0, -2.0, 3.0), None, tensor(4.0, 5.0, 6.0), tensor(0.0, 0.0, 1.0)]
    before = [p.read(ops.convert_to_tensor) for p in optimizer._roster.parameters]
    counters = optimizer._roster.counters.read(ops.convert_to_tensor)
    step = optimizer._next_step()
    plan = step.plan
    arguments = plan, step.numbers, counters, 0.1, before, gradients
    plain, nested = _step.step(*arguments), _step.step(*arguments, trace_once=trace_once)
    assert len(made) == 1 + bool(options.get("use_ema"))
    for want, got in zip(plain[0], nested[0], strict=True):
        for a, b in zip(want, got, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(numpy(a), numpy(b))
    # A subclass's update receives the index of each variable, so it is not nested.
    seen: list[int] = []

    def update(index: int, step: Any, parameter: Parameter, gradient: Any) -> Parameter:
        seen.append(index)
        return parameter

    made.clear()
    _step.step(*arguments, update, trace_once=trace_once)
    # It is not called when the call is known to make no step.
    assert seen == ([] if plan.accumulation_steps > 1 else [0, 2, 3])
    assert len(made) == bool(options.get("use_ema"))
