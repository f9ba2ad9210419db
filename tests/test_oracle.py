"""Quick tests of the rule, the stages and the conventions, which `tests.tools.mutation` runs.

Other modules test the same in more detail. These must be fast, because the mutation check runs
them on a thousand wrong versions of the package.
"""

import logging
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop, conventions
from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import Coefficients, Form, Parameter
from keras_rmsprop._settings import _plan
from keras_rmsprop._settings._validation import HYPERPARAMETERS
from keras_rmsprop.reference import Reference
from yardsticks.agreement import Difference, differences, make_problem, rmsprop
from yardsticks.variants import Variant, option_variants, two_groups

# Fourteen steps complete four accumulations and overwrite the weights three times.
PROBLEM = make_problem(((), "float64"), ((2, 3), "float64"), ((2, 2, 2), "float64"), steps=14)

PLAIN = Form(
    nesterov=False,
    epsilon_inside_sqrt=True,
    lr_in_momentum=True,
    bias_correction=False,
    guards_zero_root=True,
)


def tensor(*values: float, dtype: str = "float32") -> Any:
    """A vector of the active backend."""
    return ops.cast(ops.convert_to_tensor(np.asarray(values, "float64")), dtype)


def numpy(x: Any) -> np.ndarray:
    """A tensor's or a variable's values."""
    return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(x)))


# The equations.


@pytest.mark.parametrize("variant", option_variants(), ids=lambda variant: variant.id)
def test_any_two_options_together_follow_the_reference_whatever_floatx_is(
    variant: Variant,
) -> None:
    # floatx is float32 here, and so is a cast to the dtype None; float64 weights must stay float64.
    # A bound that float32 would round.
    inexact = {"clipvalue": 0.7} if "clipvalue" in variant.arguments else {}
    assert disagreements(variant, **inexact) == {}


# For each way to clip, the first variant with weight decay and momentum. Together they use every
# number of a step.
ALL_NUMBERS = [
    next(
        variant
        for variant in option_variants()
        if variant.levels["clip"] == clip
        and {"weight_decay", "momentum"} <= variant.arguments.keys()
    )
    for clip in ("clipvalue", "clipnorm", "global_clipnorm")
]


@pytest.mark.parametrize("variant", ALL_NUMBERS, ids=lambda variant: variant.id)
def test_numbers_may_be_tensors_as_in_a_compiled_step(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers_of = _plan.numbers_of

    def as_tensors(*arguments: Any) -> _step.Numbers:
        return keras.tree.map_structure(
            lambda x: ops.convert_to_tensor(x, "float64"), numbers_of(*arguments)
        )

    monkeypatch.setattr(_plan, "numbers_of", as_tensors)
    # Numbers that float32 would round.
    inexact = {variant.levels["clip"]: 0.7, "loss_scale_factor": 0.3}
    assert disagreements(variant, **inexact) == {}


@pytest.mark.parametrize("variant", ALL_NUMBERS, ids=lambda variant: variant.id)
def test_accumulation_over_two_batches_follows_the_reference(variant: Variant) -> None:
    changes = {
        "gradient_accumulation_steps": 2,
        "initial_square_average": 0.0,
        "bias_correction": True,
        variant.levels["clip"]: 0.75,
    }
    assert disagreements(variant, **changes) == {}


def disagreements(variant: Variant, **changes: Any) -> dict[tuple[str, str], Difference]:
    """The differences from the reference that rounding does not explain."""
    variant = variant._replace(arguments={**variant.arguments, **changes})
    worst = differences(variant, PROBLEM)
    return {key: d for key, d in worst.items() if not d.share <= 1.0}


@keras.saving.register_keras_serializable(package="test_oracle")
def bent(gradient: Any, weight: Any) -> Any:
    """A transform that uses both arguments, NumPy arrays or tensors."""
    return gradient * 0.5 + weight * gradient * gradient


@pytest.mark.parametrize("variant", ALL_NUMBERS, ids=lambda variant: variant.id)
def test_each_group_follows_the_reference_with_its_own_settings(variant: Variant) -> None:
    groups = two_groups(variant)
    groups[1] |= {"transform": bent}
    worst = differences(variant, PROBLEM, groups=groups)
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


def test_like_numbers_has_the_structure_of_the_numbers_of_a_step() -> None:
    like = _step.like_numbers(2, 0.5)
    assert (
        like.groups[0] == like.groups[1] == _step.GroupNumbers(Coefficients(*[0.5] * 5), 0.5, 0.5)
    )
    assert like[1:] == (0.5,) * 4


def test_a_transform_receives_gradient_and_weight_in_the_dtype_of_the_slots() -> None:
    seen = []

    def recording(gradient: Any, weight: Any) -> Any:
        seen.append((_step.dtype_of(gradient), _step.dtype_of(weight), float(numpy(weight)[0])))
        return gradient + weight

    group = PLAIN_GROUP._replace(transform=recording)
    parameter = Parameter(tensor(2.0, dtype="float16"), tensor(0.0))
    got = _step.transform(group, parameter, tensor(1.0, dtype="float64"))
    assert seen == [("float32", "float32", 2.0)]
    assert (_step.dtype_of(got), numpy(got).tolist()) == ("float32", [3.0])
    gradient = tensor(1.0)
    assert _step.transform(PLAIN_GROUP, parameter, gradient) is gradient


class Nameless:
    """A transform without a name."""

    def __repr__(self) -> str:
        """Return the text that replaces a name."""
        return "nameless"


@pytest.mark.parametrize(
    ("function", "returned", "words"),
    [
        (bent, None, "The transform `bent` must return a tensor of its gradient's shape and dtype, "
         "float32(1,), received None of type NoneType. Nothing has changed."),
        (bent, tensor(1.0, 2.0), "The transform `bent` must return a tensor of its gradient's "
         "shape and dtype, float32(1,), received float32(2,). Nothing has changed."),
        (Nameless(), tensor(1.0, dtype="float64"), "The transform `nameless` must return a tensor "
         "of its gradient's shape and dtype, float32(1,), received float64(1,). Nothing has "
         "changed."),
        (bent, [0.0] * 100, f"received {[0.0] * 100!r:.80} of type list. Nothing has changed."),
    ],
    ids=["None", "shape", "dtype", "long"],
)  # fmt: skip
def test_the_result_of_a_transform_is_checked(function: Any, returned: Any, words: str) -> None:
    with pytest.raises(_step.TransformError) as error:
        _step.check_transformed(function, returned, tensor(1.0))
    assert str(error.value).endswith(words)
    _step.check_transformed(function, tensor(3.0), tensor(1.0))


@keras.saving.register_keras_serializable(package="test_oracle")
def lost(gradient: Any, weight: Any) -> None:
    """A transform that returns nothing."""


def test_the_error_names_the_transform() -> None:
    group = PLAIN_GROUP._replace(transform=lost)
    with pytest.raises(_step.TransformError, match=r"^The transform `lost` must return a tensor"):
        _step.transform(group, Parameter(tensor(2.0), tensor(0.0)), tensor(1.0))


def corrected(t: Any, rho: float, dtype: str = "float32") -> _rule.StepCoefficients:
    """The coefficients of step `t` with bias correction."""
    form = PLAIN._replace(bias_correction=True)
    return _rule.step_coefficients(
        form, Coefficients.of(rho=rho, momentum=0.0, epsilon=0.0), 0.1, t, dtype
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-10)])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.99999])
@pytest.mark.parametrize("kind", [int, ops.convert_to_tensor], ids=["number", "tensor"])
def test_bias_corrected_weights_are_exact_even_for_a_rho_near_one(
    kind: Callable[[int], Any], rho: float, dtype: str, tolerance: float
) -> None:
    for t in (1, 2, 100):
        step = corrected(kind(t), rho, dtype)
        assert isinstance(step.weight, float) == (kind is int)
        weight = (1 - rho) / (1 - np.longdouble(rho) ** t)
        np.testing.assert_allclose(float(step.weight), float(weight), rtol=tolerance)
        np.testing.assert_allclose(float(step.keep), float(1 - weight), rtol=tolerance, atol=1e-19)


def test_number_in_casts_scalar_tensors_and_keeps_python_numbers() -> None:
    number = _rule.number_in(3, "float64")
    assert type(number) is float
    assert number == 3.0
    scalar = ops.convert_to_tensor(np.float32(0.5))
    assert _step.dtype_of(_rule.number_in(scalar, "float64")) == "float64"


@pytest.mark.parametrize("inside", [True, False], ids="inside={}".format)
def test_zero_over_zero_is_a_zero_step_only_if_guarded(inside: bool) -> None:
    form = PLAIN._replace(epsilon_inside_sqrt=inside)
    start = Parameter(tensor(1.0, 1.0), tensor(0.0, 0.0))
    coefficients = Coefficients.of(rho=0.75, momentum=0.0, epsilon=0.0)
    step = _rule.step_coefficients(form, coefficients, 0.5, 1, "float32")
    guarded = _rule.update(form, step, start, tensor(0.0, 3.0))
    np.testing.assert_array_equal(numpy(guarded.weight), [1.0, 0.0])
    form = form._replace(guards_zero_root=False)
    unguarded = _rule.update(form, step, start, tensor(0.0, 3.0))
    np.testing.assert_array_equal(numpy(unguarded.weight), [np.nan, 0.0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_an_update_preserves_dtypes(dtype: str) -> None:
    wide = _step.accumulator_dtype(dtype)
    zero = tensor(0.0, dtype=wide)
    start = Parameter(tensor(1.0, dtype=dtype), zero, zero, zero)
    coefficients = Coefficients.of(rho=0.75, momentum=0.5, epsilon=0.1)
    step = _rule.step_coefficients(PLAIN, coefficients, 0.5, 1, wide)
    after = _rule.update(PLAIN, step, start, tensor(3.0, dtype=dtype))
    assert [_step.dtype_of(slot) for slot in after[:4]] == [dtype, wide, wide, wide]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype: str) -> None:
    l2, decay, rate = 2.0**-12, 0.25, 2.0**-6
    weight = keras.Variable(np.ones(2), dtype=dtype)
    optimizer = rmsprop(
        learning_rate=rate,
        rho=0.0,
        momentum=0.75,
        centered=True,
        epsilon=1.0,
        weight_decay=decay,
        l2=l2,
        use_ema=True,
        ema_momentum=0.5,
        clipnorm=100.0,
        loss_scale_factor=3.0,
        gradient_accumulation_steps=2,
        jit_compile=False,
    )
    gradients = [1.0, 2.0**-6]
    for gradient in gradients:
        optimizer.apply([tensor(gradient, gradient, dtype=dtype)], [weight])
    # With rho 0 the average is the gradient, the variance 0 and the root 1.
    direction = sum(gradients) / 6.0 + l2
    (parameter,) = optimizer._roster.parameters
    assert [_step.dtype_of(slot) for slot in parameter[1:]] == ["float32"] * 5
    np.testing.assert_allclose(numpy(parameter.gradient_average), [direction] * 2, rtol=1e-6)
    end = numpy(ops.cast(tensor(1.0 - rate * decay - rate * direction, dtype=dtype), "float32"))
    assert _step.dtype_of(weight) == dtype
    np.testing.assert_array_equal(numpy(ops.cast(weight, "float32")), [end[0]] * 2)


# The stages.


def clipped(kind: str, limit: float, *gradients: Any, row_masks: Any = None) -> list[Any]:
    """The gradients after `_step.clip`."""
    plan, numbers = a_plan(clip=kind), NUMBERS._replace(clip=limit)
    return _step.clip(plan, numbers, list(gradients), row_masks or [None] * len(gradients))


def a_group(**options: Any) -> _step.GroupNumbers:
    """The numbers of a group of the plain rule, changed by `options`."""
    coefficients = Coefficients.of(rho=0.75, momentum=0.0, epsilon=0.0)
    return _step.GroupNumbers(coefficients, l2=0.0, weight_decay=0.0)._replace(**options)


NUMBERS = _step.Numbers(
    groups=(a_group(),),
    loss_scale=0.0,
    clip=0.0,
    ema_momentum=0.0,
    one_minus_ema_momentum=1.0,
)
PLAIN_GROUP = _step.GroupPlan(form=PLAIN, maximize=False, l2=False, transform=None)


def a_plan(variables: int = 1, **options: Any) -> _step.Plan:
    """The plan of a plain step, changed by `options`."""
    plan = _step.Plan(
        groups=(PLAIN_GROUP,),
        skip_nonfinite=False,
        clip=None,
        scaled_loss=False,
        accumulation_steps=1,
        use_ema=False,
        ema_overwrite_frequency=None,
        members=(0,) * variables,
        decayed=(False,) * variables,
        overwritten=(False,) * variables,
        constraints=(None,) * variables,
    )
    return plan._replace(**options)


@pytest.mark.parametrize("kind", ["norm", "global_norm"])
def test_a_norm_includes_only_rows_with_a_share(kind: str) -> None:
    rows = ops.reshape(tensor(3.0, 0.0, 5.0, 7.0, 0.0, 4.0), (3, 2))
    (got,) = clipped(kind, 1.0, rows, row_masks=[tensor(1.0, 0.0, 1.0)])
    np.testing.assert_allclose(numpy(got), numpy(rows) / 5.0, rtol=1e-6)


def test_a_step_passes_the_shares_of_rows_to_the_norm() -> None:
    rows = ops.reshape(tensor(3.0, 0.0, 5.0, 7.0, 0.0, 4.0), (3, 2))
    start = [Parameter(rows, 0.0 * rows), Parameter(tensor(0.0), tensor(0.0))]
    after, _ = _step.step(
        a_plan(2, clip="global_norm"),
        NUMBERS._replace(clip=1.0),
        _step.Counters(ops.convert_to_tensor(0)),
        0.5,
        start,
        [rows, tensor(12.0)],
        row_masks={0: tensor(1.0, 0.0, 1.0)},
    )
    got = [numpy(parameter.square_average) for parameter in after]
    np.testing.assert_allclose(got[0], 0.25 * (numpy(rows) / 13.0) ** 2, rtol=1e-6)
    np.testing.assert_allclose(got[1], 0.25 * (12.0 / 13.0) ** 2, rtol=1e-6)


@pytest.mark.parametrize("kind", ["norm", "global_norm"])
def test_a_norm_at_its_limit_scales_by_one_and_an_infinite_norm_gives_nan(kind: str) -> None:
    (kept,) = clipped(kind, 5.0, tensor(3.0, -4.0))
    np.testing.assert_array_equal(numpy(kept), np.asarray([3.0, -4.0], np.float32))
    (zeros,) = clipped(kind, 5.0, tensor(0.0, 0.0))
    np.testing.assert_array_equal(numpy(zeros), [0.0, 0.0])
    (lost,) = clipped(kind, 5.0, tensor(np.inf, 1.0))
    assert np.all(np.isnan(numpy(lost)))


def test_clipping_no_gradients_returns_an_empty_list() -> None:
    assert clipped("global_norm", 1.0) == []


@pytest.mark.parametrize("order", [1, -1], ids=["narrow_first", "wide_first"])
def test_a_global_norm_is_summed_in_the_widest_dtype(order: int) -> None:
    gradients = [tensor(3.0, 4.0), tensor(12.0 + 2.0**-40, dtype="float64")][::order]
    got = clipped("global_norm", 6.5, *gradients)
    assert [_step.dtype_of(g) for g in got] == [_step.dtype_of(g) for g in gradients]
    wide = numpy(got[1 if order == 1 else 0])
    expected = 6.5 * (12.0 + 2.0**-40) / math.hypot(5.0, 12.0 + 2.0**-40)
    np.testing.assert_allclose(wide, expected, rtol=1e-15)


def finite(*gradients: Any, clip: str | None = None, **slots: Any) -> bool:
    """The result of `all_finite` for gradients of float32 weights with additional `slots`."""
    parameter = Parameter(tensor(1.0), tensor(0.0), **slots)
    owners = [parameter] * len(gradients)
    plan = a_plan(clip=clip)
    return bool(_step.all_finite(plan, gradients, owners, [None] * len(gradients)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_count_as_finite_while_their_squares_fit_the_average(dtype: str) -> None:
    limit = float(np.sqrt(np.finfo(np.float32).max))
    fine, over = tensor(limit, -limit, dtype=dtype), np.nextafter(np.float32(limit), np.inf)
    assert finite(fine, tensor(1.0))
    for bad in (float(over), -float(over), np.inf, np.nan):
        assert not finite(tensor(1.0, bad, dtype=dtype), fine)
        assert not finite(fine, tensor(1.0, bad, dtype=dtype))


def test_a_deviation_from_the_mean_can_overflow_before_the_gradient_does() -> None:
    limit = float(np.sqrt(np.finfo(np.float32).max))
    assert not finite(tensor(0.6 * limit), gradient_average=tensor(0.0))
    assert finite(tensor(0.4 * limit), gradient_average=tensor(0.0))


def test_a_norm_that_overflows_is_not_finite_where_norms_are_clipped() -> None:
    large = tensor(1.5e19)
    assert finite(large, large)
    assert finite(large, large, clip="value")
    assert finite(large, large, clip="norm")
    assert not finite(large, large, clip="global_norm")
    assert not finite(tensor(1.5e19, 1.5e19), clip="norm")


def test_a_repeated_row_does_not_make_the_norm_overflow() -> None:
    rows = ops.reshape(tensor(1.5e19, 0.0, 1.5e19, 0.0), (2, 2))
    zero = ops.convert_to_tensor(0)
    for mask, calls in ((tensor(1.0, 0.0), 1), (tensor(1.0, 1.0), 0)):
        _, counters = _step.step(
            a_plan(clip="norm", skip_nonfinite=True),
            NUMBERS._replace(clip=1.0),
            _step.Counters(zero, zero),
            0.5,
            [Parameter(rows, 0.0 * rows)],
            [rows],
            row_masks={0: mask},
        )
        assert (int(counters.calls), int(counters.skipped)) == (calls, 1 - calls)


def test_a_call_with_a_bad_gradient_changes_only_the_count_of_skipped_calls() -> None:
    weights = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
    optimizer = rmsprop(
        learning_rate=0.5,
        momentum=0.5,
        centered=True,
        weight_decay=0.25,
        use_ema=True,
        gradient_accumulation_steps=2,
        skip_nonfinite=True,
        jit_compile=False,
    )
    fine, bad = [tensor(1.0, 2.0), tensor(3.0)], [tensor(1.0, 2.0), tensor(np.inf)]

    def state() -> list[np.ndarray]:
        return [numpy(slot) for parameter in optimizer._roster.parameters for slot in parameter]

    for _ in range(3):
        optimizer.apply(fine, weights)
    before = state()
    for times in (1, 2):
        optimizer.apply(bad, weights)
        assert all(np.array_equal(a, b) for a, b in zip(before, state(), strict=True))
        assert int(optimizer.iterations) == 3 // 2
        assert optimizer.skipped_steps == times
    optimizer.apply(fine, weights)
    assert int(optimizer.iterations) == 2
    assert optimizer.skipped_steps == 2
    assert not any(np.array_equal(a, b) for a, b in zip(before, state(), strict=True))


def test_a_step_calls_the_given_update_for_each_parameter_with_a_gradient() -> None:
    calls = []

    def update(index: int, step: _rule.StepCoefficients, parameter: Parameter, g: Any) -> Parameter:
        calls.append((index, float(step.learning_rate), float(numpy(g)[0])))
        return parameter._replace(weight=parameter.weight + 1.0)

    start = [Parameter(tensor(w), tensor(0.0)) for w in (1.0, 2.0, 3.0)]
    after, _ = _step.step(
        a_plan(3),
        NUMBERS,
        _step.Counters(ops.convert_to_tensor(0)),
        0.5,
        start,
        [tensor(5.0), None, tensor(7.0)],
        update,
    )
    assert calls == [(0, 0.5, 5.0), (2, 0.5, 7.0)]
    assert [float(numpy(parameter.weight)[0]) for parameter in after] == [2.0, 2.0, 4.0]


def test_narrow_slots_are_rounded_as_by_the_reference() -> None:
    # The second variable has wide slots. The same element of the others is rounded otherwise.
    rng = np.random.default_rng(0)
    shapes, narrow = [(400,), (3,), (400,)], [True, False, True]
    starts = [np.zeros(shape) for shape in shapes]
    reference = Reference(starts, rho=0.75, epsilon=0.0, state_dtype="bfloat16")
    parameters = [
        Parameter(tensor(*np.zeros(shape)), tensor(*np.zeros(shape), dtype=dtype))
        for shape, dtype in zip(
            shapes, ["bfloat16" if is_narrow else "float32" for is_narrow in narrow], strict=True
        )
    ]
    counters = _step.Counters(ops.convert_to_tensor(0))
    for _ in range(3):
        one = rng.normal(size=400).astype("float32")
        gradients = [one, one[:3], one]
        parameters, counters = _step.step(
            a_plan(3), NUMBERS, counters, 0.5, parameters, [tensor(*g) for g in gradients]
        )
        reference.apply(gradients, 0.5)
        for parameter, want, is_narrow in zip(
            parameters, reference.parameters, narrow, strict=True
        ):
            got = numpy(ops.cast(parameter.square_average, "float64"))
            # An ulp of float32 arithmetic decides about one rounding in 30,000.
            assert not is_narrow or np.mean(got != want.square_average) <= 0.005
    assert [_step.dtype_of(p.square_average) for p in parameters] == [
        "bfloat16", "float32", "bfloat16",
    ]  # fmt: skip


# Flags of missing gradients, weights overwritten by their gradients, and a subclass's update.

KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 1),
    "accumulating": ({"accumulation_steps": 2}, 1),
    "completing": ({"accumulation_steps": 2}, 2),
    "completing, clipped": ({"accumulation_steps": 2, "clip": "global_norm"}, 2),
    "constrained": ({"constraints": (lambda w: w * 0.5,) * 2}, 1),
    "overwritten": ({"overwritten": (True, True)}, 1),
    "overwritten, completing": ({"overwritten": (True, True), "accumulation_steps": 2}, 2),
}


def counters_at(calls: int, skipped: int | None = None) -> _step.Counters:
    """The counters before call number `calls`."""
    return _step.Counters(
        ops.convert_to_tensor(calls - 1),
        None if skipped is None else ops.convert_to_tensor(skipped),
    )


def a_parameter(**slots: Any) -> Parameter:
    """A parameter of two elements in the middle of training."""
    return Parameter(tensor(1.0, 2.0), tensor(0.5, 0.25), **slots)


def assert_same(got: list[Parameter], want: list[Parameter]) -> None:
    """Fail unless all tensors are equal to the last bit."""
    for mine, theirs in zip(got, want, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(numpy(a), numpy(b))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [(True, False), (False, True)], ids=str)
def test_a_false_flag_equals_a_missing_gradient(kind: str, there: tuple[bool, bool]) -> None:
    options, call = KINDS[kind]
    plan = a_plan(2, **options)
    accumulator = tensor(0.5, 3.0) if plan.accumulation_steps > 1 else None
    start = [a_parameter(accumulator=accumulator)] * 2
    given = [tensor(4.0, -1.0), tensor(0.25, 8.0)]
    missing = [g if is_there else None for g, is_there in zip(given, there, strict=True)]
    dummies = [g if is_there else 0.0 * g for g, is_there in zip(given, there, strict=True)]
    flags = {i: ops.convert_to_tensor(is_there) for i, is_there in enumerate(there)}
    numbers = NUMBERS._replace(clip=1.0)
    want, _ = _step.step(plan, numbers, counters_at(call), 0.5, start, missing)
    got, counted = _step.step(plan, numbers, counters_at(call), 0.5, start, dummies, flags=flags)
    assert_same(got, want)
    assert int(counted.calls) == call
    # A gradient that is known to be present needs no flag.
    present, absent = there.index(True), there.index(False)
    got, _ = _step.step(
        plan, numbers, counters_at(call), 0.5, start, dummies, flags={absent: flags[absent]}
    )
    assert numpy(flags[present])
    assert_same(got, want)


def test_an_overwritten_weight_takes_its_value_or_the_largest_of_several_calls() -> None:
    group = PLAIN_GROUP._replace(l2=True)
    plan = a_plan(2, overwritten=(True, False), scaled_loss=True, groups=(group,), use_ema=True)
    numbers = NUMBERS._replace(loss_scale=4.0, groups=(a_group(l2=1.0),))
    scale = Parameter(tensor(1.0, dtype="float64"))
    start = [scale, a_parameter(average=tensor(0.0, 0.0))]
    value = tensor(5.0)
    after, _ = _step.step(plan, numbers, counters_at(1), 0.5, start, [value, tensor(1.0, 1.0)])
    assert (numpy(after[0].weight).tolist(), after[0].average) == ([5.0], None)
    assert _step.dtype_of(after[0].weight) == "float64"
    assert np.all(numpy(after[1].weight) != [1.0, 2.0])

    start = [Parameter(tensor(1.0, 1.0), accumulator=tensor(3.0, 2.0, dtype="float64"))]
    accumulating = a_plan(overwritten=(True,), accumulation_steps=2)
    (waiting,), _ = _step.step(
        accumulating, NUMBERS, counters_at(1), 0.5, start, [tensor(2.0, 4.0)]
    )
    assert numpy(waiting.weight).tolist() == [1.0, 1.0]
    assert numpy(waiting.accumulator).tolist() == [3.0, 4.0]
    (taken,), _ = _step.step(accumulating, NUMBERS, counters_at(2), 0.5, start, [tensor(2.0, 4.0)])
    assert numpy(taken.weight).tolist() == [3.0, 4.0]
    assert numpy(taken.accumulator).tolist() == [0.0, 0.0]
    dtypes = [_step.dtype_of(x) for x in (*taken[:1], taken.accumulator)]
    assert dtypes == ["float32", "float64"]
    # No value is cast to floatx.
    start = [Parameter(tensor(1.0, dtype="float64"), accumulator=tensor(0.0, dtype="float64"))]
    inexact = 2.0 + 2.0**-40
    given = [tensor(inexact, dtype="float64")]
    (wide,), _ = _step.step(accumulating, NUMBERS, counters_at(2), 0.5, start, given)
    assert numpy(wide.weight).tolist() == [inexact]
    (lost,), _ = _step.step(accumulating, NUMBERS, counters_at(2), 0.5, start, [tensor(np.nan)])
    assert np.all(np.isnan(numpy(lost.weight)))


@pytest.mark.parametrize(
    ("value", "gradient", "skips"),
    [(2.0, 1.0, False), (np.nan, 1.0, True), (np.inf, 1.0, True), (2.0, np.nan, True)],
)
def test_a_value_that_is_not_finite_skips_the_step_like_a_gradient(
    value: float, gradient: float, skips: bool
) -> None:
    plan = a_plan(2, overwritten=(True, False), skip_nonfinite=True)
    start = [Parameter(tensor(1.0)), a_parameter()]
    gradients = [tensor(value), tensor(gradient, 1.0)]
    after, counted = _step.step(plan, NUMBERS, counters_at(1, 5), 0.5, start, gradients)
    assert (int(counted.calls), int(counted.skipped)) == ((0, 6) if skips else (1, 5))
    assert numpy(after[0].weight).tolist() == [1.0 if skips else 2.0]


EFFECTS: dict[str, tuple[dict[str, Any], int, float, bool]] = {
    "a step": ({}, 1, 1.0, True),
    "fine": ({"skip_nonfinite": True}, 1, 1.0, True),
    "bad": ({"skip_nonfinite": True}, 1, np.nan, False),
    "accumulating": ({"accumulation_steps": 2}, 1, 1.0, False),
    "completing": ({"accumulation_steps": 2}, 2, 1.0, True),
}


@pytest.mark.parametrize("case", EFFECTS)
def test_an_update_of_a_subclass_is_called_only_for_a_step_with_effect(case: str) -> None:
    options, call, gradient, has_effect = EFFECTS[case]
    plan = a_plan(**options)
    accumulator = tensor(0.5, 0.5) if plan.accumulation_steps > 1 else None
    start = [a_parameter(accumulator=accumulator)]
    called = []

    def update(index: int, step: Any, parameter: Parameter, g: Any) -> Parameter:
        called.append(index)
        return _rule.update(PLAIN, step, parameter, g)

    counters = counters_at(call, 5 if plan.skip_nonfinite else None)
    gradients = [tensor(gradient, 1.0)]
    nested: list[Any] = []
    got, counted = _step.step(
        plan, NUMBERS, counters, 0.5, start, gradients, update, trace_once=nested.append
    )
    want, expected = _step.step(plan, NUMBERS, counters, 0.5, start, gradients)
    assert (called, nested) == ([0] * has_effect, [])
    assert_same(got, want)
    assert int(counted.calls) == int(expected.calls)
    if plan.skip_nonfinite:
        assert int(counted.skipped) == int(expected.skipped)


def test_known_returns_none_for_a_symbolic_condition() -> None:
    class Symbolic:
        def __bool__(self) -> bool:
            raise TypeError

    assert _step.known_value(Symbolic()) is None
    assert _step.known_value(ops.convert_to_tensor(True)) is True
    assert _step.known_value(ops.convert_to_tensor(False)) is False


def test_parameters_that_are_treated_alike_share_a_nested_function() -> None:
    calls: list[str] = []

    def trace_once(function: Any) -> Any:
        name = f"function {len(calls)}"
        calls.append(name)

        def nested(*arguments: Any) -> Any:
            calls.append(f"call of {name}")
            return function(*arguments)

        return nested

    plan = a_plan(3, decayed=(True, False, True), use_ema=True)
    groups = (a_group(weight_decay=0.5),)
    numbers = NUMBERS._replace(groups=groups, ema_momentum=0.5, one_minus_ema_momentum=0.5)
    start = [
        a_parameter(average=tensor(3.0, 3.0)),
        a_parameter(),
        a_parameter(average=tensor(1.0, 1.0)),
    ]
    gradients = [tensor(1.0, -1.0), tensor(2.0, 2.0), tensor(0.5, 4.0)]
    arguments = plan, numbers, counters_at(3), 0.5, start, gradients
    got, _ = _step.step(*arguments, trace_once=trace_once)
    want, _ = _step.step(*arguments)
    assert_same(got, want)
    # One for weights that decay, one for those that do not, one for the average of the weights.
    assert sorted(name for name in calls if name.startswith("f")) == [
        "function 0",
        "function 1",
        next(name for name in calls if name.startswith("function") and name[-1] not in "01"),
    ]
    counts = sorted(calls.count(f"call of {name}") for name in set(calls) if name[0] == "f")
    assert counts == [1, 2, 2]


@pytest.mark.parametrize(("weight", "exact"), [("float64", True), ("float32", False)])
def test_integer_gradients_are_cast_to_the_dtype_of_their_weight(weight: str, exact: bool) -> None:
    number = 2**24 + 1
    gradient = ops.convert_to_tensor(np.asarray([number], "int32"))
    wide = _step.widen(gradient, tensor(1.0, dtype=weight))
    assert _step.dtype_of(wide) == weight
    assert (float(numpy(wide)[0]) == number) == exact
    assert _step.dtype_of(_step.widen(gradient)) == "float32"
    zero = tensor(0.0, dtype=weight)
    forgets = Coefficients.of(rho=0.0, momentum=0.0, epsilon=0.0)
    numbers = NUMBERS._replace(groups=(a_group(coefficients=forgets),))
    (after,), _ = _step.step(
        a_plan(), numbers, counters_at(1), 0.5, [Parameter(zero, zero)], [gradient]
    )
    assert (float(numpy(after.square_average)[0]) == float(number) ** 2) == exact


def test_a_root_of_one_is_no_special_case() -> None:
    coefficients = Coefficients.of(rho=0.0, momentum=0.0, epsilon=0.0)
    step = _rule.step_coefficients(PLAIN, coefficients, 0.5, 1, "float32")
    after = _rule.update(PLAIN, step, Parameter(tensor(3.0), tensor(0.0)), tensor(-1.0))
    assert numpy(after.weight).tolist() == [3.5]


def test_select_takes_every_tensor_from_one_side() -> None:
    shared = tensor(5.0)
    new = Parameter(tensor(1.0), tensor(2.0), None, shared)
    old = Parameter(tensor(-1.0), tensor(-2.0), None, shared)
    for condition, expected in ((True, new), (False, old)):
        got = _step.select(ops.convert_to_tensor(condition), new, old)
        assert [float(numpy(got[i])[0]) for i in (0, 1)] == [
            float(numpy(expected[i])[0]) for i in (0, 1)
        ]
        assert got.gradient_average is None
        # A tensor that the step did not change need not be written back.
        assert got.momentum is shared


def test_only_half_precision_is_widened_and_to_float32_whatever_floatx_is(float64: None) -> None:
    wide = {
        name: (_step.accumulator_dtype(name), _step.dtype_of(_step.widen(tensor(1.0, dtype=name))))
        for name in ("float16", "bfloat16", "float32", "float64")
    }
    assert wide == {
        "float16": ("float32", "float32"),
        "bfloat16": ("float32", "float32"),
        "float32": ("float32", "float32"),
        "float64": ("float64", "float64"),
    }


def test_the_widest_dtype_is_float64_only_if_one_is_present() -> None:
    narrow, wide = tensor(1.0), tensor(1.0, dtype="float64")
    assert _step.widest_dtype([narrow, narrow]) == "float32"
    assert _step.widest_dtype([narrow, wide]) == "float64"


# The conventions.

TORCH = {"epsilon_inside_sqrt": False, "lr_in_momentum": False}
OPTAX = {"learning_rate": 0.5, "epsilon": 1e-8}
TF1 = {"learning_rate": 0.5, "epsilon": 1e-10, "initial_square_average": 1.0, "name": "RMSProp"}
TF_KERAS = {"epsilon_inside_sqrt": False, "name": "RMSprop"}
TIMM = {"learning_rate": 0.01, "epsilon": 1e-10, "initial_square_average": 1.0}
GRAVES = {"learning_rate": 1e-4, "rho": 0.95, "momentum": 0.9, "epsilon": 1e-4, "centered": True}
SHARED = {"rho": 0.8, "momentum": 0.7, "epsilon": 0.01, "centered": True}

# For each convention its defaults, and arguments that all differ from them: its name, the
# framework's arguments, and the equivalent arguments of `RMSprop`.
MADE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("keras", {}, {}),
    *(
        ("keras", arguments, arguments)
        for arguments in (
            {
                **SHARED,
                "learning_rate": 0.5,
                "weight_decay": 0.1,
                "clipnorm": 1.5,
                "use_ema": True,
                "ema_momentum": 0.6,
                "ema_overwrite_frequency": 7,
                "loss_scale_factor": 4.0,
                "gradient_accumulation_steps": 3,
                "name": "mine",
            },
            {"clipvalue": 1.5},
            {"global_clipnorm": 1.5},
        )
    ),
    ("torch", {}, {**TORCH, "learning_rate": 0.01, "rho": 0.99, "epsilon": 1e-8}),
    (
        "torch",
        {
            "lr": 0.5,
            "alpha": 0.8,
            "eps": 0.01,
            "weight_decay": 0.1,
            "momentum": 0.7,
            "centered": True,
            "maximize": True,
        },
        {**TORCH, **SHARED, "learning_rate": 0.5, "l2": 0.1, "maximize": True},
    ),
    ("optax", {"learning_rate": 0.5}, OPTAX),
    ("optax", {"learning_rate": 0.5, "bias_correction": True}, {**OPTAX, "bias_correction": True}),
    ("optax", {"learning_rate": 0.5, "momentum": 0.7}, {**OPTAX, "momentum": 0.7}),
    ("optax", {"learning_rate": 0.5, "momentum": 0.0, "nesterov": True}, OPTAX),
    (
        "optax",
        {
            "learning_rate": 0.5,
            "decay": 0.8,
            "eps": 0.01,
            "initial_scale": 0.2,
            "eps_in_sqrt": False,
            "centered": True,
            "momentum": 0.7,
            "nesterov": True,
        },
        {
            **SHARED,
            "learning_rate": 0.5,
            "initial_square_average": 0.2,
            "epsilon_inside_sqrt": False,
            "nesterov": True,
        },
    ),
    ("tf1", {"learning_rate": 0.5}, TF1),
    (
        "tf1",
        {
            "learning_rate": 0.5,
            "decay": 0.8,
            "momentum": 0.7,
            "epsilon": 0.01,
            "centered": True,
            "name": "mine",
        },
        {**TF1, **SHARED, "name": "mine"},
    ),
    ("tf_keras_legacy", {}, TF_KERAS),
    ("tf_keras_legacy", {"epsilon": 0.0}, TF_KERAS),
    ("tf_keras_legacy", {"clipvalue": 1.5}, {**TF_KERAS, "clipvalue": 1.5}),
    ("tf_keras_legacy", {"global_clipnorm": 1.5}, {**TF_KERAS, "global_clipnorm": 1.5}),
    ("tf_keras_legacy", {"lr": 0.5}, {**TF_KERAS, "learning_rate": 0.5}),
    (
        "tf_keras_legacy",
        {**SHARED, "learning_rate": 0.5, "clipnorm": 1.5, "name": "mine"},
        {**SHARED, "learning_rate": 0.5, "clipnorm": 1.5, "name": "mine"},
    ),
    ("timm", {}, TIMM),
    ("timm", {"weight_decay": 0.1}, {**TIMM, "l2": 0.1}),
    (
        "timm",
        {"weight_decay": 0.1, "decoupled_decay": True},
        {**TIMM, "weight_decay": 0.1},
    ),
    (
        "timm",
        {
            "lr": 0.5,
            "alpha": 0.8,
            "eps": 0.01,
            "momentum": 0.7,
            "centered": True,
            "lr_in_momentum": False,
        },
        {**TIMM, **SHARED, "learning_rate": 0.5, "lr_in_momentum": False},
    ),
    ("hinton", {"learning_rate": 0.5}, {"learning_rate": 0.5, "epsilon": 0.0}),
    (
        "hinton",
        {"learning_rate": 0.5, "rho": 0.8},
        {"learning_rate": 0.5, "epsilon": 0.0, "rho": 0.8},
    ),
    ("graves", {}, GRAVES),
    (
        "graves",
        {"learning_rate": 0.5, "rho": 0.8, "momentum": 0.7, "epsilon": 0.01},
        {**SHARED, "learning_rate": 0.5},
    ),
]


@pytest.mark.parametrize(
    ("name", "received", "made"), MADE, ids=lambda x: x if isinstance(x, str) else None
)
def test_a_convention_translates_its_arguments_to_those_of_the_optimizer(
    float64: None, name: str, received: dict[str, Any], made: dict[str, Any]
) -> None:
    got = configuration(getattr(conventions, name)(**received))
    # Without a name Keras makes up a numbered one.
    want = {**configuration(RMSprop(**made)), "name": made.get("name", got["name"])}
    assert {key: (x, want[key]) for key, x in got.items() if x != want[key]} == {}


class Named:
    """A stand-in for a variable, with only a path or a name."""

    def __init__(self, **names: str) -> None:
        vars(self).update(names)


def test_a_param_group_of_torch_becomes_a_group() -> None:
    numbers = {"alpha": 0.8, "eps": 0.01, "weight_decay": 0.1, "momentum": 0.7, "maximize": True}
    without_effect = {"capturable": True, "foreach": True, "differentiable": True}
    optimizer = conventions.torch(
        lr=0.5,
        centered=True,
        params=[
            {"params": "a/.*", "lr": 0.25, "centered": True, **numbers, **without_effect},
            {"params": ["b", Named(path="c.d", name="no"), Named(name="e+")]},
            {"params": (Named(path="f.g"),), "lr": 0},
        ],
    )
    ours = {"rho": 0.8, "epsilon": 0.01, "l2": 0.1, "momentum": 0.7, "maximize": True}
    assert optimizer.get_config()["groups"] == {
        "a/.*": {"learning_rate": 0.5, **ours},
        r"(?:b)|(?:c\.d)|(?:e\+)": {},
        r"f\.g": {"learning_rate": 0.0},
    }


@pytest.mark.parametrize(
    ("lr", "group", "words"),
    [
        (0.5, {"params": "a", "centered": True}, "`centered` of conventions.torch cannot be "
         f"expressed: {conventions.REFUSED['torch', 'centered']}. Received centered=True, "
         "params='a'."),
        (0.5, {"params": "a", "rate": 1, "b": 2}, "The param group of 'a' has b, rate; it can have "
         "lr, alpha, eps, weight_decay, momentum, maximize."),
        (0.5, {"params": []}, "`params` of a param group must be Keras variables, their paths, or "
         "patterns of paths, received {'params': []}."),
        (0.5, {"lr": 0.1}, "patterns of paths, received {'lr': 0.1}."),
        (0.5, {"params": ["a", 3], "x": "y" * 300},
         f"received {({'params': ['a', 3], 'x': 'y' * 300})!r:.200}."),
        (0.0, {"params": "a", "lr": 0.1}, "The `lr` of the param group of 'a' becomes a factor of "
         "the optimizer's, so both must be numbers and that one > 0, received 0.1 and lr=0.0."),
        (0.5, {"params": "a", "lr": "0.1"}, "received '0.1' and lr=0.5."),
        (len, {"params": "a", "lr": 0.1}, f"received 0.1 and lr={len!r}."),
        (0.5, "a", "`params` of conventions.torch must be param groups, such as {\"params\": "
         "\"backbone/.*\", \"lr\": 0.001}, received 'a'."),
    ],
)  # fmt: skip
def test_an_invalid_param_group_is_refused(lr: Any, group: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"param group|conventions\.torch") as error:
        conventions.torch(lr=lr, params=[group])
    assert str(error.value).endswith(words)


def test_two_param_groups_of_one_parameter_are_refused_and_numpy_numbers_accepted() -> None:
    with pytest.raises(ValueError, match=r"^Two param groups are of 'a'; a parameter has one.$"):
        conventions.torch(params=[{"params": "a"}, {"params": "a", "lr": 0.1}])
    params = [{"params": "a", "lr": np.float32(0.25)}]
    optimizer = conventions.torch(lr=np.float64(0.5), params=params)
    assert optimizer.groups["a"].learning_rate == 0.5


def configuration(optimizer: RMSprop) -> dict[str, Any]:
    """The entries of `get_config`, which itself imports TensorFlow to serialize a schedule."""
    rate = optimizer._learning_rate
    return {
        **{name: getattr(optimizer, name) for name in (*HYPERPARAMETERS, "name")},
        "learning_rate": float(numpy(rate)) if isinstance(rate, keras.Variable) else rate,
    }


def test_nothing_is_logged_for_arguments_with_an_effect(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="keras_rmsprop"):
        conventions.optax(0.5, momentum=0.7, nesterov=True)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("torch", "capturable"),
        ("torch", "foreach"),
        ("torch", "differentiable"),
        ("tf1", "use_locking"),
        ("timm", "foreach"),
        ("optax", "nesterov"),
    ],
)
def test_an_argument_without_effect_is_logged(
    caplog: pytest.LogCaptureFixture, name: str, argument: str
) -> None:
    rate = {"learning_rate": 0.5} if name in ("optax", "tf1") else {}
    with caplog.at_level(logging.INFO, logger="keras_rmsprop"):
        getattr(conventions, name)(**rate)
        getattr(conventions, name)(**rate, **{argument: True})
    assert [record.getMessage() for record in caplog.records] == [
        f"conventions.{name}: `{argument}=True` has no effect: it does not change the steps."
    ]


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("optax", {"initial_scale": 0.5, "bias_correction": True}),
        ("tf_keras_legacy", {"clipnorm": 1.0, "clipvalue": 2.0}),
        ("tf_keras_legacy", {"clipnorm": 1.0, "global_clipnorm": 2.0}),
        ("tf_keras_legacy", {"clipvalue": 1.0, "global_clipnorm": 2.0}),
        ("tf_keras_legacy", {"decay": 0.5, "lr": lambda: 0.1}),
        ("timm", {"corrected_weight_decay": True}),
        ("timm", {"caution": True}),
    ],
)
def test_a_refusal_names_the_argument_the_reason_and_what_was_received(
    name: str, received: dict[str, Any]
) -> None:
    rate = {"learning_rate": 0.5} if name == "optax" else {}
    shown = {key: x for key, x in received.items() if key not in ("lr", "bias_correction")}
    first = next(iter(shown))
    values = ", ".join(f"{key}={x!r}" for key, x in shown.items())
    with pytest.raises(ValueError, match="cannot be expressed") as error:
        getattr(conventions, name)(**rate, **received)
    assert str(error.value) == (
        f"`{first}` of conventions.{name} cannot be expressed: "
        f"{conventions.REFUSED[name, first]}. Received {values}."
    )


def test_decay_divides_the_rate_by_the_time_in_the_precision_of_floatx(float64: None) -> None:
    optimizer = conventions.tf_keras_legacy(0.1, decay=0.3)
    schedule = optimizer._learning_rate
    assert schedule.get_config() == {"learning_rate": 0.1, "decay": 0.3}
    rates = [float(numpy(schedule(ops.convert_to_tensor(t)))) for t in (0, 1, 7)]
    np.testing.assert_allclose(rates, [0.1, 0.1 / 1.3, 0.1 / (1.0 + 0.3 * 7)], rtol=1e-15)
    assert float(numpy(conventions.TimeDecay(0.1, 0.0)(7))) == 0.1


@pytest.mark.parametrize("decay", [-0.1, math.nan, math.inf])
def test_an_invalid_decay_is_refused(decay: float) -> None:
    with pytest.raises(
        ValueError, match=f"^`decay` must be finite and >= 0, received {decay=!r}.$"
    ):
        conventions.TimeDecay(0.1, decay)
    with pytest.raises(ValueError, match="learning_rate"):
        conventions.TimeDecay(-0.1, 0.5)


@keras.saving.register_keras_serializable(package="tests", name="an_eighth_less")
def an_eighth_less(count: Any) -> Any:
    """A schedule, as a function of the count of steps."""
    return 0.5 * 0.875**count


def test_a_function_of_the_count_is_called_with_the_count_of_steps() -> None:
    seen = []

    def count_itself(count: Any) -> Any:
        seen.append(count)
        return np.float32(count)

    schedule = conventions.optax(count_itself)._learning_rate
    assert isinstance(schedule, conventions.CountSchedule)
    rates = [schedule(ops.convert_to_tensor(t)) for t in (0, 3)]
    assert rates == [0.0, 3.0]
    assert [type(rate) for rate in rates] == [float] * 2
    assert [type(count) for count in seen] == [np.int32] * 2
    one = tensor(1.0)
    assert conventions.CountSchedule(lambda _: one)(0) is one


def test_a_keras_schedule_is_kept() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    assert conventions.optax(schedule)._learning_rate is schedule


def test_a_function_of_the_count_is_saved_under_its_registered_name() -> None:
    config = conventions.CountSchedule(an_eighth_less).get_config()
    assert config == {"function": "tests>an_eighth_less"}
    assert conventions.CountSchedule.from_config(config).function is an_eighth_less
    given = conventions.CountSchedule.from_config({"function": "f"}, {"f": an_eighth_less})
    assert given.function is an_eighth_less


def test_a_count_of_steps_of_several_batches() -> None:
    schedule = conventions.CountSchedule(an_eighth_less, gradient_accumulation_steps=3)
    assert [schedule(t) for t in range(7)] == [an_eighth_less(t // 3) for t in range(7)]
    assert type(schedule.argument(np.int32(4))) is np.int32
    assert schedule._traced(7) == an_eighth_less(2)
    of_two = conventions.CountSchedule(an_eighth_less, gradient_accumulation_steps=2)
    assert of_two._traced(7) == an_eighth_less(3)
    # The type of a traced count stays where each batch makes a step.
    assert type(conventions.CountSchedule(lambda x: x)._traced(True)) is bool
    config = schedule.get_config()
    assert config == {"function": "tests>an_eighth_less", "gradient_accumulation_steps": 3}
    assert conventions.CountSchedule.from_config(config).gradient_accumulation_steps == 3
    assert conventions.CountSchedule(an_eighth_less).gradient_accumulation_steps == 1
    for_jax = conventions.CountSchedule(an_eighth_less, True)
    assert for_jax.get_config() == {"function": "tests>an_eighth_less", "jax": True}
    assert conventions.CountSchedule.from_config(for_jax.get_config()).jax is True


@pytest.mark.parametrize("steps", [0, 1.5, True])
def test_a_step_is_of_one_batch_or_more(steps: Any) -> None:
    with pytest.raises(ValueError, match="accumulation") as error:
        conventions.CountSchedule(an_eighth_less, gradient_accumulation_steps=steps)
    assert str(error.value) == (
        "`gradient_accumulation_steps` must be an integer >= 1, received "
        f"gradient_accumulation_steps={steps!r}."
    )


class Traced:
    """A count without a value, as in a trace."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __int__(self) -> int:  # noqa: D105
        raise self.error


@pytest.mark.parametrize("error", [TypeError, NotImplementedError, AttributeError])
def test_a_traced_count_is_passed_on_and_a_failure_is_explained(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.setattr(ops, "convert_to_tensor", lambda x: x)
    count = Traced(error)
    assert conventions.CountSchedule(lambda x: x)(count) is count
    schedule = conventions.CountSchedule(an_eighth_less)
    with pytest.raises(TypeError) as raised:
        schedule(count)
    assert str(raised.value) == (
        f"{an_eighth_less!r} cannot be evaluated at the count of a traced step, a tensor Traced. "
        "Write it with `keras.ops`, or compile the model with `run_eagerly=True`."
    )


def test_a_function_that_cannot_be_saved_or_found_or_called_is_refused_with_the_remedy() -> None:
    def unregistered(count: Any) -> float:
        return 0.1

    with pytest.raises(ValueError, match="registered") as error:
        conventions.CountSchedule(unregistered).get_config()
    assert str(error.value) == (
        f"A schedule can be saved only if its function is registered, received {unregistered!r}. "
        "Register it, before saving and before loading, with "
        "`keras.saving.register_keras_serializable(package, name)(function)`."
    )
    with pytest.raises(ValueError, match="registered") as error:
        conventions.CountSchedule.from_config({"function": "mine>lost"})
    assert str(error.value) == (
        "The schedule's function 'mine>lost' is not registered here as a function. "
        "Register it with `keras.saving.register_keras_serializable` before loading."
    )
    # Calling a class would make an object.
    with pytest.raises(ValueError, match="not registered here as a function"):
        conventions.CountSchedule.from_config({"function": "f"}, {"f": Traced})
    with pytest.raises(ValueError, match="count") as error:
        conventions.CountSchedule(0.1)
    assert str(error.value) == (
        "`function` must take a count and return a learning rate, received function=0.1."
    )


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("torch", "rho"),
        ("optax", "rho"),
        ("tf1", "rho"),
        ("tf_keras_legacy", "epsilon_inside_sqrt"),
        ("timm", "rho"),
        ("hinton", "epsilon"),
        ("graves", "centered"),
    ],
)
def test_a_convention_refuses_an_option_that_it_sets_itself(name, option):
    convention = getattr(conventions, name)
    with pytest.raises(ValueError, match="of its own") as raised:
        convention(0.1, **{option: False})
    assert str(raised.value) == (
        f"conventions.{name} sets `{option}` from arguments of its own, received {option}=False. "
        "See its signature for their names."
    )
    assert convention(0.1, skip_nonfinite=True).skip_nonfinite
    # This one has no arguments of its own.
    assert conventions.keras(0.1, skip_nonfinite=True).skip_nonfinite


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="replaces JAX by another module")
def test_a_function_of_optax_gets_the_counts_of_optax(monkeypatch):
    seen = []

    def rate(count):
        seen.append(count)
        return 0.5

    asarray = lambda count: ("array of JAX", count)  # noqa: E731
    fake = types.SimpleNamespace(numpy=types.SimpleNamespace(asarray=asarray))
    monkeypatch.setitem(sys.modules, "jax", fake)
    keras.saving.register_keras_serializable(package="oracle", name="rate")(rate)
    for module, is_optax in (("optax._src.schedule", True), ("mine.optax.", False)):
        rate.__module__ = module
        schedule = conventions.optax(rate)._learning_rate
        again = type(schedule).from_config(schedule.get_config())
        assert again.jax is schedule.jax is is_optax
        assert ("jax" in schedule.get_config()) is is_optax
        for each in (schedule, again):
            assert each(3) == 0.5
            assert seen.pop() == (("array of JAX", 3) if is_optax else 3)
            each._traced(ops.convert_to_tensor(3, "int64"))
            # JAX may have no int64.
            widest = str(ops.convert_to_tensor(3, "int64").dtype)
            assert ("int32" in str(seen[-1].dtype)) is (is_optax or "int32" in widest)
            assert int(seen.pop()) == 3
