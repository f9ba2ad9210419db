"""Test the equations of one update against the float64 reference in every combination."""

import math

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import ops

from keras_rmsprop._math import _rule
from keras_rmsprop._math._rule import Coefficients, Form, Parameter
from yardsticks.agreement import differences, make_problem, rmsprop
from yardsticks.variants import RULE, Variant, rule_variants

# One weight of each precision; tests/math/test_step.py covers every rank.
BOTH_PRECISIONS = make_problem(((2, 3), "float32"), ((2, 2, 2), "float64"))

PLAIN = Form(
    nesterov=False,
    epsilon_inside_sqrt=True,
    lr_in_momentum=True,
    bias_correction=False,
    guards_zero_root=True,
)


@pytest.mark.parametrize("variant", rule_variants(), ids=lambda variant: variant.id)
def test_follows_the_float64_reference(variant: Variant, float64: None) -> None:
    worst = differences(variant, BOTH_PRECISIONS)
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


def test_the_table_holds_all_240_combinations_of_the_rules_options() -> None:
    variants = rule_variants()
    assert len(variants) == math.prod(len(levels) for levels in RULE.values()) == 240
    assert len({repr(sorted(variant.arguments.items())) for variant in variants}) == 240
    assert len({variant.id for variant in variants}) == 240


def advance(form: Form, parameter: Parameter, gradient: object, **numbers: float) -> Parameter:
    """One update with learning rate 0.1, rho 0.9 and epsilon 0 unless `numbers` say otherwise."""
    numbers = {"rho": 0.9, "momentum": 0.0, "epsilon": 0.0, "learning_rate": 0.1, "t": 1} | numbers
    rate, t = numbers.pop("learning_rate"), numbers.pop("t")
    dtype = keras.backend.standardize_dtype(parameter.square_average.dtype)
    step = _rule.step_coefficients(
        form, Coefficients.of(**numbers), rate, ops.convert_to_tensor(t), dtype
    )
    return _rule.update(form, step, parameter, ops.convert_to_tensor(gradient))


def tensor(*values: float, dtype: str = "float32") -> object:
    """A vector of the active backend."""
    return ops.convert_to_tensor(np.asarray(values, dtype))


def numpy(x: object) -> np.ndarray:
    """A tensor's values."""
    return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(x)))


def test_the_first_step_is_the_rate_over_the_root_of_one_minus_rho() -> None:
    after = advance(PLAIN, Parameter(tensor(1.0, 2.0), tensor(0.0, 0.0)), tensor(3.0, -4.0))
    step = 0.1 / math.sqrt(0.1)
    np.testing.assert_allclose(numpy(after.weight), [1.0 - step, 2.0 + step], rtol=1e-6)


def test_a_bias_corrected_first_step_is_the_rate_itself() -> None:
    form = PLAIN._replace(bias_correction=True)
    after = advance(form, Parameter(tensor(1.0, 2.0), tensor(0.0, 0.0)), tensor(3.0, -4.0))
    np.testing.assert_allclose(numpy(after.weight), [0.9, 2.1], rtol=1e-6)


@pytest.mark.parametrize("centered", [False, True], ids="centered={}".format)
def test_with_rho_zero_a_step_does_not_depend_on_earlier_gradients(centered: bool) -> None:
    zeros = tensor(0.0, 0.0)
    start = Parameter(tensor(1.0, 2.0), zeros, zeros if centered else None)
    past = start._replace(
        square_average=tensor(5.0, 7.0), gradient_average=tensor(1.0, 2.0) if centered else None
    )
    fresh, old = (
        advance(PLAIN, parameter, tensor(3.0, -4.0), rho=0.0, epsilon=1.0)
        for parameter in (start, past)
    )
    np.testing.assert_array_equal(numpy(fresh.weight), numpy(old.weight))
    expected = [0.0, 0.0] if centered else [9.0, 16.0]
    np.testing.assert_array_equal(numpy(old.square_average), expected)


@pytest.mark.parametrize("epsilon", [0.0, 1e-7], ids="epsilon={}".format)
def test_a_zero_gradient_leaves_the_weight_where_it_is(epsilon: float) -> None:
    for inside in (True, False):
        form = PLAIN._replace(epsilon_inside_sqrt=inside, guards_zero_root=epsilon == 0.0)
        start = Parameter(tensor(1.0), tensor(0.0), tensor(0.0))
        after = advance(form, start, tensor(0.0), epsilon=epsilon)
        assert numpy(after.weight) == 1.0


def test_epsilon_is_added_inside_or_outside_the_root() -> None:
    four = tensor(4.0)
    assert numpy(_rule.root(PLAIN, four, 5.0)) == 3.0
    assert numpy(_rule.root(PLAIN._replace(epsilon_inside_sqrt=False), four, 5.0)) == 7.0


@pytest.mark.parametrize("t", [1, 2, 3, 100, 100_000])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.999, 0.99999])
def test_bias_corrected_weights_are_exact_in_float32_and_stay_in_the_unit_interval(
    rho: float, t: int
) -> None:
    step = _rule.step_coefficients(
        PLAIN._replace(bias_correction=True),
        Coefficients.of(rho=rho, momentum=0.0, epsilon=0.0),
        0.1,
        ops.convert_to_tensor(t),
        "float32",
    )
    long = np.longdouble(rho)
    weight = (1 - long) / (1 - long**t)
    np.testing.assert_allclose(numpy(step.weight), float(weight), rtol=1e-6)
    np.testing.assert_allclose(numpy(step.keep), float(1 - weight), rtol=1e-6, atol=1e-19)
    assert 0.0 <= numpy(step.keep) <= 1.0
    assert 0.0 <= numpy(step.weight) <= 1.0 + 2**-22


def test_a_bias_corrected_first_step_discards_the_initial_average() -> None:
    form = PLAIN._replace(bias_correction=True)
    coefficients = Coefficients.of(rho=0.999, momentum=0.0, epsilon=0.0)
    step = _rule.step_coefficients(form, coefficients, 0.1, ops.convert_to_tensor(1), "float32")
    assert numpy(step.keep) == 0.0


@pytest.mark.parametrize("momentum", list(RULE["momentum"]))
@pytest.mark.parametrize("form", list(RULE["form"]))
@pytest.mark.parametrize("power", [-40, -1, 1, 40])
def test_scaling_gradients_by_a_power_of_two_changes_no_bit_without_epsilon(
    form: str, momentum: str, power: int
) -> None:
    # Only the ratio of gradient to root changes the weight; an extra constant would show.
    rng = np.random.default_rng(0)
    gradients = rng.normal(1.0, 1.0, (10, 5)).astype(np.float32)
    ends = []
    for scale in (1.0, 2.0**power):
        weight = keras.Variable(np.ones(5, np.float32))
        optimizer = rmsprop(
            learning_rate=0.01,
            epsilon=0.0,
            jit_compile=False,
            **RULE["form"][form],
            **RULE["momentum"][momentum],
        )
        for gradient in gradients:
            optimizer.apply([ops.convert_to_tensor(gradient * np.float32(scale))], [weight])
        ends.append(numpy(weight))
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.all(ends[0] != 1.0)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    rho=st.floats(0.0, 0.9999),
    epsilon=st.sampled_from([0.0, 1e-7, 1.0]),
    gradients=st.lists(
        st.just(0.0) | st.floats(1e-20, 1e15) | st.floats(-1e15, -1e-20), min_size=1, max_size=8
    ),
)
def test_no_plain_step_exceeds_the_rate_over_the_root_of_one_minus_rho(
    rho: float, epsilon: float, gradients: list[float]
) -> None:
    form = PLAIN._replace(guards_zero_root=epsilon == 0.0)
    parameter = Parameter(tensor(0.0, dtype="float64"), tensor(0.0, dtype="float64"))
    for gradient in gradients:
        before = parameter
        parameter = advance(
            form, before, tensor(gradient, dtype="float64"), rho=rho, epsilon=epsilon
        )
        moved = abs(numpy(parameter.weight) - numpy(before.weight))
        # The weight itself is rounded to an ulp.
        ulp = np.spacing(np.abs(numpy(before.weight)) + 1.0)
        assert moved <= 0.1 / math.sqrt(1.0 - rho) * (1 + 1e-12) + ulp


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_number_in_keeps_the_precision_of_the_tensor(dtype: str) -> None:
    # Keras's own `ops.multiply` and `ops.cast` would round 0.1 to float32 first.
    one = tensor(1.0, dtype=dtype)
    product = one * _rule.number_in(0.1, dtype)
    assert numpy(product)[0] == np.asarray(0.1, dtype)
    assert keras.backend.standardize_dtype(product.dtype) == dtype


def test_a_half_precision_weight_is_advanced_in_float32_and_rounded_once() -> None:
    weight = ops.cast(tensor(1.0), "bfloat16")
    after = advance(PLAIN, Parameter(weight, tensor(0.0)), ops.cast(tensor(3.0), "bfloat16"))
    assert keras.backend.standardize_dtype(after.weight.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(after.square_average.dtype) == "float32"
    exact = np.float32(1.0) - np.float32(0.1 / math.sqrt(0.1))
    assert numpy(ops.cast(after.weight, "float32")) == numpy(
        ops.cast(ops.cast(tensor(exact), "bfloat16"), "float32")
    )
