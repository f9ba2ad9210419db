"""Test what a transform receives, and how its result is used."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop, transforms
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from yardsticks.agreement import TOLERANCE, differences, make_problem
from yardsticks.variants import Variant, option_variants

MODES = [False, "auto", True]
SEEN: list[tuple[str, str, tuple[int, ...]]] = []


def register(function: Any) -> Any:
    """Register a function of this module with Keras."""
    return keras.saving.register_keras_serializable(package="test_transforms")(function)


@register
def recording(gradient: Any, weight: Any) -> Any:
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in (gradient, weight)]
    SEEN.append((*dtypes, tuple(gradient.shape)))
    return gradient


@register
def towards_zero(gradient: Any, weight: Any) -> Any:
    return gradient * 0.5 + weight * gradient * gradient


@register
def transposed(gradient: Any, weight: Any) -> Any:
    return ops.transpose(gradient) if len(gradient.shape) == 2 else gradient


@register
def narrowed(gradient: Any, weight: Any) -> Any:
    return ops.cast(gradient, "float16") if len(gradient.shape) == 2 else gradient


@register
def forgetful(gradient: Any, weight: Any) -> None:
    return None


@register
def failing(gradient: Any, weight: Any) -> Any:
    raise ZeroDivisionError


def centralized(gradient: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Subtract its mean from each column of a kernel, as in the paper."""
    if gradient.ndim < 2 or not gradient.size:
        return gradient
    columns = gradient.reshape(-1, gradient.shape[-1])
    return (columns - columns.mean(axis=0)).reshape(gradient.shape)


def numpy(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(x)))


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 4), (3, 1), (1, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_centralize_takes_the_mean_of_each_column(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> None:
    gradient = rng.normal(3.0, 2.0, shape).astype(dtype)
    got = numpy(transforms.centralize(ops.convert_to_tensor(gradient), None))
    assert got.dtype == dtype
    tolerance = {"float32": 1e-6, "float64": 1e-15}[dtype] * 5.0
    np.testing.assert_allclose(got, centralized(gradient, gradient), rtol=0.0, atol=tolerance)
    if len(shape) > 1 and gradient.size:
        means = got.reshape(-1, shape[-1]).mean(axis=0)
        np.testing.assert_allclose(means, 0.0, atol=tolerance)


def test_normalize_makes_the_norm_one_and_leaves_zeros(rng: np.random.Generator) -> None:
    gradient = ops.convert_to_tensor(rng.normal(size=(3, 4)))
    got = transforms.normalize(gradient, gradient)
    assert keras.backend.standardize_dtype(got.dtype) == "float64"
    np.testing.assert_allclose(np.linalg.norm(numpy(got)), 1.0, rtol=1e-15)
    assert not np.any(numpy(transforms.normalize(ops.zeros((2, 2)), None)))


# The variants clip, accumulate, scale, decay and average, so the order of the stages shows.
@pytest.mark.parametrize("mode", [False, "auto"], ids="jit_compile={}".format)
@pytest.mark.parametrize("variant", option_variants(), ids=lambda variant: variant.id)
def test_a_transform_comes_after_clipping_and_before_everything_else(
    variant: Variant, mode: Any, float64: None
) -> None:
    problem = make_problem(*((shape, "float64") for shape in ((), (2, 3), (2, 2, 2))), steps=16)
    # It is written with operators, so that the reference computes it in NumPy.
    worst = differences(
        variant._replace(arguments={**variant.arguments, "transform": towards_zero}),
        problem,
        jit_compile=mode,
        groups={0: {"transform": None}, 1: {"rho": 0.5}},
    )
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("mode", MODES, ids="jit_compile={}".format)
def test_a_transform_is_called_once_per_variable_in_the_dtype_of_the_slots(mode: Any) -> None:
    weights = [
        keras.Variable(np.ones(shape), dtype=dtype, name=f"weight_{i}")
        for i, (shape, dtype) in enumerate(
            [((2,), "float32"), ((2,), "float16"), ((3, 2), "float32")]
        )
    ]
    gradients = [ops.ones(w.shape, dtype=w.dtype) for w in weights]
    optimizer = RMSprop(
        transform=recording, groups={"weight_2": {"transform": None}}, jit_compile=mode
    )
    SEEN.clear()
    optimizer.apply(gradients, weights)
    assert SEEN == [("float32", "float32", (2,))] * 2
    SEEN.clear()
    optimizer.apply([gradients[0], None, gradients[2]], weights)
    # A compiled step does not call the function again.
    assert set(SEEN) <= {("float32", "float32", (2,))}


@pytest.mark.parametrize("steps", [None, 2], ids="gradient_accumulation_steps={}".format)
@pytest.mark.parametrize("mode", MODES, ids="jit_compile={}".format)
@pytest.mark.parametrize(
    ("function", "received"),
    [
        (transposed, r"float32\(2, 3\), received float32\(3, 2\)"),
        (narrowed, r"float32\(2, 3\), received float16\(2, 3\)"),
        (forgetful, "received None of type NoneType"),
    ],
    ids=["shape", "dtype", "None"],
)
def test_an_invalid_result_of_a_transform_is_refused_and_nothing_changes(
    function: Any, received: str, mode: Any, steps: int | None
) -> None:
    weights = [keras.Variable(np.ones(2, "float32")), keras.Variable(np.ones((2, 3), "float32"))]
    gradients = [ops.ones((2,)), ops.ones((2, 3))]
    optimizer = RMSprop(
        momentum=0.5, use_ema=True, gradient_accumulation_steps=steps, jit_compile=mode
    )
    for _ in range(3):
        optimizer.apply(gradients, weights)
    before = [numpy(v) for v in (*weights, *optimizer.variables)]
    optimizer.transform = function
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{function.__name__}` must return a tensor") as error:
            optimizer.apply(gradients, weights)
        assert error.match(received)
        after = [numpy(v) for v in (*weights, *optimizer.variables)]
        assert all(map(np.array_equal, before, after))
    optimizer.transform = None
    optimizer.apply(gradients, weights)
    assert np.all(numpy(weights[0]) < before[0])


@pytest.mark.parametrize("steps", [None, 2], ids="gradient_accumulation_steps={}".format)
@pytest.mark.parametrize("mode", MODES, ids="jit_compile={}".format)
def test_an_error_in_a_transform_is_raised_and_nothing_changes(
    mode: Any, steps: int | None
) -> None:
    weight = keras.Variable(np.ones(2, "float32"))
    optimizer = RMSprop(gradient_accumulation_steps=steps, jit_compile=mode)
    for _ in range(3):
        optimizer.apply([ops.ones(2)], [weight])
    before = [numpy(v) for v in (weight, *optimizer.variables)]
    optimizer.transform = failing
    with pytest.raises(ZeroDivisionError):
        optimizer.apply([ops.ones(2)], [weight])
    assert all(map(np.array_equal, before, [numpy(v) for v in (weight, *optimizer.variables)]))


@pytest.mark.parametrize("mode", [False, "auto"], ids="jit_compile={}".format)
def test_a_large_weight_is_transformed_whole(mode: Any, rng: np.random.Generator) -> None:
    # On torch the update processes such a weight in pieces.
    start = rng.normal(size=(1100, 1000)).astype("float32")
    weight = keras.Variable(start)
    optimizer = RMSprop(transform="centralize", clipnorm=100.0, epsilon=1e-3, jit_compile=mode)
    reference = Reference([start], transform=centralized, clipnorm=100.0, epsilon=1e-3)
    for _ in range(2):
        gradient = rng.normal(1.0, 1.0, size=start.shape).astype("float32")
        optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
        reference.apply([gradient], 0.001)
    travelled = np.abs(reference.weights[0] - start).max()
    off = np.abs(numpy(weight) - reference.weights[0]).max()
    assert off <= 10 * TOLERANCE["float32"] * travelled + 2 * np.spacing(np.abs(start).max())


class GradientCentralized(keras.optimizers.RMSprop):
    """An optimizer changed as in Keras's guide on gradient centralization."""

    def get_gradients(self, loss: Any, params: Any) -> Any:
        """Return centralized gradients."""
        return [
            g - ops.mean(g, axis=list(range(len(g.shape) - 1)), keepdims=True)
            for g in super().get_gradients(loss, params)
        ]


class Subclassed(keras.optimizers.RMSprop):
    """A subclass of Keras's class, because on torch subclasses round differently."""


def test_the_published_way_to_centralize_has_no_effect_and_ours_has() -> None:
    # Keras 3 never calls `get_gradients`.
    x = np.random.default_rng(0).normal(1.0, 1.0, (32, 6)).astype("float32")
    weights = {}
    for name, optimizer in {
        "plain": Subclassed(0.01),
        "published": GradientCentralized(0.01),
        "ours": RMSprop(0.01, transform="centralize"),
        "ours, plain": RMSprop(0.01),
    }.items():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
        model.compile(optimizer, "mse")
        model.fit(x, x[:, :3], epochs=2, batch_size=8, verbose=0)
        weights[name] = model.get_weights()[0]
    np.testing.assert_array_equal(weights["published"], weights["plain"])
    assert not np.array_equal(weights["ours"], weights["ours, plain"])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has gradients of rows")
@pytest.mark.parametrize("mode", [False, "auto"], ids="jit_compile={}".format)
def test_rows_of_a_table_that_is_not_lazy_are_transformed_as_a_whole_gradient(mode: Any) -> None:
    import tensorflow as tf

    table = keras.Variable(np.ones((4, 2), "float32"))
    optimizer = RMSprop(transform="centralize", epsilon=0.01, jit_compile=mode)
    reference = Reference([np.ones((4, 2))], transform=centralized, epsilon=0.01)
    for _ in range(3):
        rows = tf.IndexedSlices(tf.constant([[1.0, 2.0], [3.0, -1.0]]), tf.constant([1, 1]), (4, 2))
        optimizer.apply([rows], [table])
        dense = np.zeros((4, 2))
        dense[1] = [4.0, 1.0]
        reference.apply([dense], 0.001)
    np.testing.assert_allclose(numpy(table), reference.weights[0], rtol=1e-6)


BROKEN: dict[str, Any] = {
    "float": lambda g, _: g / float(ops.max(ops.abs(g))),
    "if": lambda g, _: g if ops.max(g) > 0.0 else -g,
    "NumPy": lambda g, _: ops.convert_to_tensor(np.asarray(g)),
}


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs transforms without tracing them")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_transform_that_cannot_be_traced_runs_op_by_op(kind: str) -> None:
    function = keras.saving.register_keras_serializable("tests", f"untraceable_{kind}")(
        lambda g, w: BROKEN[kind](g, w)
    )
    weights = []
    for mode in ("auto", False):
        weight = keras.Variable([1.0, 2.0])
        optimizer = RMSprop(0.1, transform=function, jit_compile=mode)
        for _ in range(3):
            optimizer.apply([ops.convert_to_tensor([2.0, 4.0])], [weight])
        weights.append(weight.numpy())
    np.testing.assert_array_equal(*weights)
    optimizer = RMSprop(0.1, transform=function, jit_compile=True)
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as error:
        optimizer.apply([ops.convert_to_tensor([2.0, 4.0])], [weight])
    assert "raised this while the step was being compiled" in error.value.__notes__[-1]


GENERATORS: list[keras.random.SeedGenerator] = []


@keras.saving.register_keras_serializable("tests")
def noisy(gradient: Any, _: Any) -> Any:
    """Replace a gradient by noise."""
    dtype = keras.backend.standardize_dtype(gradient.dtype)
    return keras.random.uniform(gradient.shape, 1.0, 2.0, dtype, GENERATORS[0])


def test_a_transform_with_a_seed_generator_draws_new_numbers_at_each_step() -> None:
    GENERATORS[:] = [keras.random.SeedGenerator(1)]
    weight = keras.Variable([0.0])
    optimizer = RMSprop(1.0, rho=0.999999, transform=noisy)
    positions = []
    for _ in range(6):
        optimizer.apply([ops.ones(1)], [weight])
        positions.append(float(weight.numpy()[0]))
    moves = np.diff(positions)
    assert len(np.unique(moves.round(3))) > 2
    # The generator goes on working.
    keras.random.normal((1,), seed=GENERATORS[0])


@keras.saving.register_keras_serializable("tests")
def the_weight(_: Any, weight: Any) -> Any:
    """Use the weight in place of the gradient."""
    return weight


@pytest.mark.parametrize("mode", [False, "auto", True], ids="jit_compile={}".format)
def test_a_transform_may_return_the_weight_itself(mode: Any, float64: None) -> None:
    start = np.array([1.0, -2.0])
    options: dict[str, Any] = {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}
    reference = Reference([start], transform=the_weight, **options)
    weight = keras.Variable(start, dtype="float64")
    optimizer = RMSprop(0.1, transform=the_weight, jit_compile=mode, **options)
    for _ in range(5):
        optimizer.apply([ops.ones(2, "float64")], [weight])
        reference.apply([np.ones(2)], 0.1)
    np.testing.assert_allclose(weight.numpy(), reference.weights[0], rtol=1e-13)
