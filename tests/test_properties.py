"""Test for any input that a step follows the reference, or is refused and changes nothing.

Hypothesis draws the variables, the configuration and the calls, the same in each run. Each step is
compared by itself: the reference starts from the optimizer's state, so only the rounding of one
step is allowed, and earlier errors do not grow.
"""

import copy
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import hypothesis
import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from keras_rmsprop.reference import Reference, ReferenceParameter
from tests.conftest import BACKEND
from tests.tools import models
from yardsticks.agreement import TOLERANCE, Driver, Problem, rmsprop
from yardsticks.variants import Variant

Array = NDArray[Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

# The same examples in each run, and no database of them. floatx is the same for all of a test.
FIXED = hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# So that the learning rate is the same number for the reference and every variable.
pytestmark = pytest.mark.usefixtures("float64")


def examples(**counts: int) -> hypothesis.settings:
    """Settings with a number of examples for each backend; compiling one takes a second."""
    return hypothesis.settings(FIXED, max_examples=counts[BACKEND])


# Variables, configurations and gradients.

DTYPES = ("float16", "bfloat16", "float32", "float64")

shapes = st.sampled_from([(), (0,), (3, 0)]) | hnp.array_shapes(
    min_dims=1, max_dims=5, min_side=1, max_side=2
)


def eighths(shape: tuple[int, ...], dtype: str, exponent: int = 0) -> st.SearchStrategy[Array]:
    """Arrays of multiples of 1/8 up to 2, times a power of two.

    Their sums are exact, so a sum that should be zero is zero and not a rounding error.
    """
    integers = hnp.arrays(np.int8, shape, elements=st.integers(-16, 16))
    return integers.map(lambda n: np.asarray(np.ldexp(n / 8.0, exponent), dtype))


@st.composite
def problems(draw: Draw, steps: int = 4) -> Problem:
    """One to four variables of any shape and dtype, and their gradients at each step."""
    kinds = draw(st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=4))
    starts = [draw(eighths(*kind)) for kind in kinds]
    # float16 overflows at 2**16.
    exponents = [
        draw(st.integers(-12, 12) if d == "float16" else st.integers(-20, 20)) for _, d in kinds
    ]
    batch = st.tuples(
        *(st.none() | eighths(*kind, e) for kind, e in zip(kinds, exponents, strict=True))
    ).filter(lambda gradients: any(g is not None for g in gradients))
    gradients = [list(draw(batch)) for _ in range(steps)]
    rates = [draw(st.sampled_from([0.0, 0.001, 0.1, 1.0])) for _ in range(steps)]
    return Problem(starts, rates, gradients)


def options(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these arguments, or none."""
    return st.fixed_dictionaries({}, optional=values)


def together(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """All of these arguments."""
    return st.fixed_dictionaries(values)


true = st.just(True)
rule = options(
    # The reference has 1 - (1 - rho), which loses the digits of a rho near 0.
    rho=st.just(0.0) | st.floats(0.01, 0.9999),
    epsilon=st.sampled_from([0.0, 0.01, 1.0]),
    epsilon_inside_sqrt=st.booleans(),
    centered=true,
    maximize=true,
    l2=st.sampled_from([0.001, 0.25]),
)
extras = options(
    weight_decay=st.sampled_from([0.01, 0.5]),
    loss_scale_factor=st.sampled_from([0.5, 1024.0]),
    gradient_accumulation_steps=st.integers(2, 3),
    skip_nonfinite=true,
)
moments = st.one_of(
    st.just({}),
    options(lr_in_momentum=st.booleans(), nesterov=true).flatmap(
        lambda form: together(momentum=st.floats(0.01, 0.99)).map(lambda m: {**form, **m})
    ),
)
starts = st.one_of(
    st.just({}),
    together(bias_correction=true),
    together(initial_square_average=st.sampled_from([0.5, 1.0])),
)
clips = st.one_of(
    st.just({}),
    *(
        together(**{name: st.sampled_from([0.01, 1.5, 100.0])})
        for name in ("clipvalue", "clipnorm", "global_clipnorm")
    ),
)
averages = st.one_of(
    st.just({}),
    together(
        use_ema=true,
        ema_momentum=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
        ema_overwrite_frequency=st.none() | st.integers(1, 3),
    ),
)


def joined(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """The arguments of all parts together."""
    return st.tuples(*parts).map(lambda drawn: {k: v for part in drawn for k, v in part.items()})


# Arguments that exclude each other are never drawn together.
configurations = joined(rule, extras, moments, starts, clips, averages)


# The reference.


def assert_follows_the_reference(
    arguments: dict[str, Any], problem: Problem, jit_compile: Any
) -> None:
    """Fail unless each step gives the weights and slots of the reference."""
    driver = Driver(Variant("drawn", {}, arguments), problem, jit_compile)
    reference = Reference(
        problem.starts, **{k: v for k, v in arguments.items() if k != "skip_nonfinite"}
    )
    for t, (gradients, rate) in enumerate(zip(problem.gradients, problem.rates, strict=True)):
        before = [dataclasses.replace(parameter) for parameter in reference.parameters]
        # Where g is nearly m, the variance is mostly rounding error. A reference with a slightly
        # different m shows how large that error can be.
        nudged = copy.deepcopy(reference)
        for start, parameter in zip(problem.starts, nudged.parameters, strict=True):
            parameter.gradient_average *= 1.0 + tolerance_in(start.dtype)
        driver.apply(t)
        for follower in (reference, nudged):
            follower.apply(gradients, rate)
        assert int(driver.optimizer.iterations) == reference.iterations
        if any(largest(parameter.weight) > 2.0**15 for parameter in reference.parameters):
            return  # The weights diverge: soon float16 would overflow.
        for start, old, new, other, got in zip(
            problem.starts,
            before,
            reference.parameters,
            nudged.parameters,
            driver.state(),
            strict=True,
        ):
            for name, value in got.items():
                value = value.astype(np.float64)
                want = getattr(new, name)
                bound = allowed(name, old, new, start.dtype) + abs(getattr(other, name) - want)
                assert np.all(np.abs(value - want) <= bound), f"{name} after step {t}"
                setattr(new, name, value)


def tolerance_in(dtype: np.dtype[Any]) -> float:
    """The tolerance for a weight of `dtype`, whose slots are float32 at least."""
    return TOLERANCE["float64" if dtype == np.float64 else "float32"]


def allowed(
    name: str, old: ReferenceParameter, new: ReferenceParameter, dtype: np.dtype[Any]
) -> float:
    """The rounding error allowed for a tensor in a step from `old` to `new`."""
    tolerance = tolerance_in(dtype)
    before, after = getattr(old, name), getattr(new, name)
    if name in ("weight", "average"):
        return tolerance * largest(after - before) + ulp(dtype, before, after, new.weight)
    if name == "square_average":
        # The error of s is proportional to E[g²], see yardsticks.agreement.
        before, after = (p.square_average + p.gradient_average**2 for p in (old, new))
    # A subnormal number may be flushed to zero; a gradient is flushed before it is divided by the
    # root of epsilon.
    flushed = 2**12 * np.finfo(np.float64 if dtype == np.float64 else np.float32).tiny
    return tolerance * max(largest(before), largest(after)) + flushed


def ulp(dtype: np.dtype[Any], *arrays: Array) -> float:
    """The distance between numbers of `dtype` about as large as the largest element."""
    return float(np.spacing(np.asarray(max(map(largest, arrays)), dtype)))


def largest(array: Array) -> float:
    """The largest absolute value of an element, 0 if there is none."""
    return float(np.max(np.abs(array), initial=0.0))


@examples(torch=60, tensorflow=30, jax=6)
@hypothesis.given(arguments=configurations, problem=problems())
def test_any_variables_under_any_configuration_follow_the_reference(
    arguments: dict[str, Any], problem: Problem
) -> None:
    assert_follows_the_reference(arguments, problem, jit_compile=False)


@examples(torch=60, tensorflow=3, jax=3)
@hypothesis.given(arguments=configurations, problem=problems())
def test_compiled_steps_under_any_configuration_follow_the_reference(
    arguments: dict[str, Any], problem: Problem
) -> None:
    assert_follows_the_reference(arguments, problem, jit_compile="auto")


# Magnitudes from the smallest number to the largest.

RATE = 2.0**-6


def exponents_of(dtype: str) -> tuple[int, int, int]:
    """The exponents of the smallest number, the root of the largest average, the largest number."""
    info = ml_dtypes.finfo(dtype)
    average = np.finfo(np.float64 if dtype == "float64" else np.float32)
    return int(info.minexp - info.nmant), int(average.maxexp) // 2, int(info.maxexp) - 1


def of_magnitude(least: int, most: int) -> st.SearchStrategy[float]:
    """Zeros, and numbers of either sign between these powers of two."""
    return st.builds(
        math.ldexp,
        st.sampled_from([1.0, -1.0, 1.25, -1.75, 0.0]),
        st.integers(least, most),
    )


def moderate(dtype: str) -> st.SearchStrategy[float]:
    """Numbers whose squares, sums of squares and squared sums are within range."""
    least, root, most = exponents_of(dtype)
    return of_magnitude(least, min(root - 6, most))


def huge(dtype: str) -> st.SearchStrategy[float]:
    """Numbers whose squares overflow, also when a small factor is applied in between."""
    _, root, most = exponents_of(dtype)
    return of_magnitude(root + 16, most).filter(bool) if root + 16 <= most else st.nothing()


def never(dtype: str) -> st.SearchStrategy[float]:
    """No numbers."""
    return st.nothing()


def not_finite(dtype: str) -> st.SearchStrategy[float]:
    """NaN, infinity, and numbers whose squares overflow."""
    return st.sampled_from([np.nan, np.inf, -np.inf]) | huge(dtype)


@st.composite
def streams(
    draw: Draw, unusual: Callable[[str], st.SearchStrategy[float]] = never
) -> tuple[Problem, list[Array]]:
    """One weight of ones, six gradients, and masks of their unusual elements."""
    dtype = draw(st.sampled_from(DTYPES))
    usual = moderate(dtype).map(lambda x: (x, False))
    element = usual | usual | unusual(dtype).map(lambda x: (x, True))
    gradient = st.lists(element, min_size=3, max_size=3)
    batches = draw(st.lists(gradient, min_size=6, max_size=6))
    gradients = [[np.asarray([x for x, _ in batch], dtype)] for batch in batches]
    marks = [np.asarray([mark for _, mark in batch]) for batch in batches]
    return Problem([np.ones(3, dtype)], [RATE] * 6, gradients), marks


modes = st.sampled_from([False, "auto"])
forms = options(rho=st.sampled_from([0.5, 0.99]), centered=true)
places = options(epsilon=st.sampled_from([0.01, 1.0]), epsilon_inside_sqrt=st.booleans())


def driven(arguments: dict[str, Any], problem: Problem, jit_compile: Any) -> Driver:
    """A driver of an optimizer with these arguments, before its first step."""
    return Driver(Variant("drawn", {}, arguments), problem, jit_compile)


def weight_of(driver: Driver) -> Array:
    """The weight, in float64."""
    return driver.state()[0]["weight"].astype(np.float64)


@examples(torch=40, tensorflow=12, jax=16)
@hypothesis.given(joined(forms, places, moments), streams(), modes)
def test_gradients_from_the_smallest_number_up_follow_the_reference(
    arguments: dict[str, Any], stream: tuple[Problem, list[Array]], jit_compile: Any
) -> None:
    assert_follows_the_reference(arguments, stream[0], jit_compile)


@examples(torch=40, tensorflow=12, jax=16)
@hypothesis.given(st.sampled_from([0.0, 0.5, 0.99]), st.booleans(), streams(), modes)
def test_without_epsilon_no_gradient_makes_a_step_longer_than_the_usual_bound(
    rho: float, inside: bool, stream: tuple[Problem, list[Array]], jit_compile: Any
) -> None:
    problem, _ = stream
    arguments = {"rho": rho, "epsilon": 0.0, "epsilon_inside_sqrt": inside}
    driver = driven(arguments, problem, jit_compile)
    # Rounding can reduce squares near the smallest number to 4/9, and their root to 2/3.
    bound = 1.5 * RATE / math.sqrt(1.0 - rho)
    for t in range(len(problem.rates)):
        before = weight_of(driver)
        driver.apply(t)
        after = weight_of(driver)
        rounding = 1e-6 * bound + ulp(problem.starts[0].dtype, before, after)
        assert np.all(np.abs(after - before) <= bound + rounding)


@examples(torch=40, tensorflow=12, jax=16)
@hypothesis.given(options(rho=st.sampled_from([0.5, 0.99])), streams(huge), modes)
def test_a_square_that_overflows_freezes_only_its_weight(
    arguments: dict[str, Any], stream: tuple[Problem, list[Array]], jit_compile: Any
) -> None:
    problem, marks = stream
    driver, other = (driven(arguments, p, jit_compile) for p in (problem, tamed(problem, marks)))
    frozen = np.zeros(3, bool)
    for t, overflows in enumerate(marks):
        before = weight_of(driver)
        driver.apply(t)
        other.apply(t)
        frozen |= overflows
        np.testing.assert_array_equal(weight_of(driver)[frozen], before[frozen])
        np.testing.assert_array_equal(weight_of(driver)[~frozen], weight_of(other)[~frozen])


def tamed(problem: Problem, marks: list[Array]) -> Problem:
    """The problem with zeros in place of the marked elements."""
    gradients = [
        [np.where(mark, np.zeros_like(g), g)]
        for (g,), mark in zip(problem.gradients, marks, strict=True)
    ]
    return problem._replace(gradients=gradients)


@examples(torch=40, tensorflow=12, jax=16)
@hypothesis.given(
    joined(forms, moments, clips, averages, options(gradient_accumulation_steps=st.just(2))),
    streams(not_finite),
    modes,
)
def test_a_skipped_call_changes_only_the_count_of_skipped_calls(
    arguments: dict[str, Any], stream: tuple[Problem, list[Array]], jit_compile: Any
) -> None:
    problem, marks = stream
    driver = driven({**arguments, "skip_nonfinite": True}, problem, jit_compile)
    optimizer = driver.optimizer
    owners = [*driver.variables, *optimizer.variables]
    owners = [v for v in owners if v is not optimizer._roster.counters.skipped]
    for t, mark in enumerate(marks):
        before, skipped = models.values(owners), optimizer.skipped_steps
        driver.apply(t)
        assert optimizer.skipped_steps == skipped + mark.any()
        if mark.any():
            models.assert_identical(models.values(owners), before)
        assert all(np.all(np.isfinite(value)) for value in models.values(owners))
        assert int(optimizer._iterations) + optimizer.skipped_steps == t + 1


# Rows of a table, with ids in any order and number.

on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="only TensorFlow has gradients of rows"
)


@st.composite
def batches_of_rows(draw: Draw) -> tuple[Array, list[tuple[Array, Array]]]:
    """A table, and for each of five steps ids that may repeat and a row of gradient for each."""
    rows = draw(st.integers(1, 4))
    width = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=2))
    table = draw(eighths((rows, *width), "float64"))
    ids = st.lists(st.integers(0, rows - 1), max_size=6)
    batches = [
        (np.asarray(chosen, np.int32), draw(eighths((len(chosen), *width), "float64")))
        for chosen in (draw(ids) for _ in range(5))
    ]
    return table, batches


# Arguments that `lazy` allows.
for_tables = joined(
    options(rho=st.sampled_from([0.0, 0.5, 0.99]), centered=true, maximize=true),
    options(epsilon=st.sampled_from([0.01, 1.0]), epsilon_inside_sqrt=st.booleans()),
    starts,
    clips,
)


@on_tensorflow
@examples(torch=1, tensorflow=16, jax=1)
@hypothesis.given(for_tables, batches_of_rows(), st.sampled_from([False, False, False, True]))
def test_rows_equal_the_dense_gradient_that_they_sum_to(
    arguments: dict[str, Any], given: tuple[Array, list[tuple[Array, Array]]], jit_compile: Any
) -> None:
    import tensorflow as tf

    start, batches = given
    tables = [keras.Variable(start, dtype="float64") for _ in range(3)]
    dense, sparse, lazy = (
        rmsprop(learning_rate=RATE, jit_compile=jit_compile, lazy=is_lazy, **arguments)
        for is_lazy in (False, False, True)
    )
    travelled = 0.0
    for ids, values in batches:
        before = tables[0].numpy()
        total = np.zeros_like(start)
        np.add.at(total, ids, values)
        rows = tf.IndexedSlices(tf.constant(values), tf.constant(ids), tf.constant(start.shape))
        dense.apply([tf.constant(total)], [tables[0]])
        sparse.apply([rows], [tables[1]])
        lazy.apply([rows], [tables[2]])
        travelled += largest(tables[0].numpy() - before)
        models.assert_identical(models.values([tables[1]]), models.values([tables[0]]))
    models.assert_identical(models.values(sparse.variables), models.values(dense.variables))
    lazy.settle()
    off = largest(tables[2].numpy() - tables[0].numpy())
    assert off <= 1e-13 * travelled + len(batches) * ulp(start.dtype, start, tables[0].numpy())
    for mine, theirs in zip(
        lazy._roster.parameters[0][1:3], dense._roster.parameters[0][1:3], strict=True
    ):
        if theirs is not None:
            # The gradients are of size 1, and so are the terms of the averages.
            assert largest(mine.numpy() - theirs.numpy()) <= 1e-13 * max(
                1.0, largest(theirs.numpy())
            )


# Calls that are refused.


@st.composite
def bad_calls(draw: Draw) -> tuple[list[Array], bool, list[Array | None], list[int], str]:
    """Variables, whether they are built, a call with one fault, and the expected message.

    The call consists of gradients and, for each, the position of its variable; -1 is unknown.
    """
    drawn = draw(st.lists(shapes, min_size=1, max_size=4))
    variables = [np.ones(shape, np.float32) for shape in drawn]
    built = draw(st.booleans())
    order = draw(st.permutations(range(len(variables))))
    gradients: list[Array | None] = [np.ones(drawn[i], np.float32) for i in order]
    place = draw(st.integers(0, len(order) - 1))
    faults = ["twice", "shape", "more", "fewer", "none"] + ["unknown"] * built
    match draw(st.sampled_from(faults)):
        case "twice":
            order = [*order, order[place]]
            gradients = [*gradients, gradients[place]]
            message = rf"'weight_{order[place]}' occurs more than once"
        case "shape":
            shape = drawn[order[place]]
            wrong = draw(shapes.filter(lambda other: other != shape))
            gradients[place] = np.ones(wrong, np.float32)
            message = re.escape(
                f"'weight_{order[place]}' has shape {wrong}, but the variable has shape {shape}"
            )
        case "more":
            gradients = [*gradients, gradients[place]]
            message = f"received {len(gradients)} gradients for {len(order)} variables"
        case "fewer":
            order = [*order, order[place]]
            message = f"received {len(gradients)} gradients for {len(order)} variables"
        case "none":
            gradients = [None] * len(gradients)
            message = "No gradients provided for any variable"
        case "unknown":
            order[place] = -1
            message = "Unknown variable: .*weight_0"
    return variables, built, gradients, order, message


@examples(torch=60, tensorflow=60, jax=60)
@hypothesis.given(configurations, bad_calls())
def test_a_refused_call_names_the_fault_and_changes_nothing(
    arguments: dict[str, Any],
    call: tuple[list[Array], bool, list[Array | None], list[int], str],
) -> None:
    arrays, built, gradients, order, message = call
    variables = [
        keras.Variable(array, dtype="float32", name=f"weight_{i}") for i, array in enumerate(arrays)
    ]
    unknown = keras.Variable(np.ones_like(arrays[0]), dtype="float32", name="weight_0")
    optimizer = rmsprop(jit_compile=False, **arguments)
    if built:
        optimizer.apply(models.tensors(arrays), variables)
    before = models.values([*variables, unknown, *optimizer.variables])
    chosen = [unknown if i < 0 else variables[i] for i in order]
    with pytest.raises(ValueError, match=message):
        optimizer.apply(models.tensors(gradients), chosen)
    assert optimizer.built == built
    models.assert_identical(models.values([*variables, unknown, *optimizer.variables]), before)


@examples(torch=20, tensorflow=20, jax=20)
@hypothesis.given(configurations, st.booleans())
def test_an_empty_list_of_gradients_changes_nothing(arguments: dict[str, Any], built: bool) -> None:
    optimizer = rmsprop(**arguments)
    variables = [keras.Variable(np.ones(2))]
    if built:
        optimizer.build(variables)
    before = models.values([*variables, *optimizer.variables])
    for given in ([], variables, None):
        optimizer.apply([], given)
    assert optimizer.built == built
    models.assert_identical(models.values([*variables, *optimizer.variables]), before)
