"""Test the precision of weights and state, and what a narrower state costs in Keras."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop.reference import Reference

HOW = pytest.mark.parametrize("jit_compile", [False, "auto"], ids=["op_by_op", "compiled"])
HALVES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])

# Options that need every slot.
EVERYTHING: dict[str, Any] = {
    "momentum": 0.9,
    "centered": True,
    "use_ema": True,
    "gradient_accumulation_steps": 2,
    "weight_decay": 0.01,
    "clipnorm": 1.0,
}


def numpy(x: Any) -> np.ndarray:
    """A tensor's or a variable's values, as float64."""
    wide = ops.cast(ops.convert_to_tensor(x), "float64")
    return np.asarray(ops.convert_to_numpy(wide))


def tensor(values: Any, dtype: str) -> Any:
    """A tensor of the active backend."""
    return ops.cast(ops.convert_to_tensor(np.asarray(values, np.float32)), dtype)


def train(
    optimizer: keras.optimizers.Optimizer, gradient: Any, steps: int
) -> tuple[keras.Variable, keras.optimizers.Optimizer]:
    """Apply one gradient repeatedly to a weight of ones of its dtype."""
    dtype = keras.backend.standardize_dtype(gradient.dtype)
    weight = keras.Variable(np.ones(gradient.shape, np.float32), dtype=dtype)
    for _ in range(steps):
        optimizer.apply([gradient], [weight])
    return weight, optimizer


@HOW
@HALVES
def test_every_slot_of_a_half_precision_weight_is_float32(dtype: str, jit_compile: Any) -> None:
    weight, optimizer = train(
        RMSprop(jit_compile=jit_compile, **EVERYTHING), tensor([1.0, 2.0], dtype), 4
    )
    assert keras.backend.standardize_dtype(weight.dtype) == dtype
    (parameter,) = optimizer._roster.parameters
    slots = parameter._replace(weight=parameter.momentum)
    assert {keras.backend.standardize_dtype(slot.dtype) for slot in slots} == {"float32"}


@HOW
def test_every_slot_of_a_float64_weight_is_float64(float64: None, jit_compile: Any) -> None:
    gradient = ops.convert_to_tensor(np.array([1.0, 2.0]))
    weight, optimizer = train(RMSprop(jit_compile=jit_compile, **EVERYTHING), gradient, 4)
    (parameter,) = optimizer._roster.parameters
    assert {keras.backend.standardize_dtype(owner.dtype) for owner in parameter} == {"float64"}
    # A value that went through float32 would equal its float32 rounding.
    for owner in parameter._replace(accumulator=None):
        if owner is not None:
            assert np.all(numpy(owner) != numpy(owner).astype(np.float32))
    assert np.all(np.isfinite(numpy(weight)))


def test_weights_of_several_precisions_keep_their_own(float64: None) -> None:
    dtypes = ["float64", "bfloat16", "float32"]
    weights = [keras.Variable(np.ones(2), dtype=dtype) for dtype in dtypes]
    optimizer = RMSprop(global_clipnorm=1.0)
    for _ in range(3):
        optimizer.apply(
            [tensor([1.0, 2.0], "float64")] + [tensor([1.0, 2.0], dtype) for dtype in dtypes[1:]],
            weights,
        )
    assert [keras.backend.standardize_dtype(w.dtype) for w in weights] == dtypes
    slots = [p.square_average for p in optimizer._roster.parameters]
    assert [keras.backend.standardize_dtype(s.dtype) for s in slots] == [
        "float64",
        "float32",
        "float32",
    ]


STALLED = [(0.99, 0.836, 600), (0.999, 0.5, 1500)]


@pytest.mark.parametrize(("rho", "stalls_at", "steps"), STALLED, ids=["rho=0.99", "rho=0.999"])
def test_the_average_of_a_bfloat16_weight_does_not_stall(
    rho: float, stalls_at: float, steps: int
) -> None:
    # Keras keeps the average in bfloat16, where a step's contribution soon rounds to zero.
    gradient = tensor([1.0], "bfloat16")
    _, theirs = train(keras.optimizers.RMSprop(rho=rho), gradient, steps)
    assert numpy(theirs._velocities[0]) == pytest.approx(stalls_at, abs=0.01)
    _, ours = train(RMSprop(rho=rho), gradient, steps)
    assert numpy(ours._roster.parameters[0].square_average) == pytest.approx(
        1.0 - rho**steps, rel=1e-5
    )


def test_float16_weights_stay_finite_with_an_epsilon_below_float16() -> None:
    # 1e-8 rounds to zero in float16, so in Keras a zero gradient gives zero over zero.
    gradient = tensor([0.0, 1.0], "float16")
    theirs, _ = train(keras.optimizers.RMSprop(epsilon=1e-8), gradient, 3)
    assert np.isnan(numpy(theirs)[0])
    ours, _ = train(RMSprop(epsilon=1e-8), gradient, 3)
    assert numpy(ours)[0] == 1.0
    assert numpy(ours)[1] < 1.0


def test_the_square_of_a_float16_gradient_does_not_overflow() -> None:
    # 300 squared overflows float16: in Keras the average is infinite and the weight frozen.
    gradient = tensor([300.0], "float16")
    theirs, _ = train(keras.optimizers.RMSprop(0.01), gradient, 3)
    assert numpy(theirs) == 1.0
    ours, _ = train(RMSprop(0.01), gradient, 3)
    expected = Reference([[1.0]])
    for _ in range(3):
        expected.apply([[300.0]], 0.01)
    # The weight itself is float16, and rounds at each step.
    assert numpy(ours) == pytest.approx(expected.weights[0], abs=3 * 2**-11)


def test_accumulated_half_precision_gradients_are_summed_in_float32() -> None:
    # In bfloat16 256 + 1 is 256: a small gradient after a large one would be lost.
    weight = keras.Variable(np.ones(1, np.float32), dtype="bfloat16")
    optimizer = RMSprop(rho=0.0, gradient_accumulation_steps=2)
    for value in (256.0, 1.0):
        optimizer.apply([tensor([value], "bfloat16")], [weight])
    (parameter,) = optimizer._roster.parameters
    assert numpy(parameter.square_average) == pytest.approx(128.5**2, rel=1e-6)


ON_TORCH = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="Keras's multi-tensor path is torch's"
)


class Renamed(keras.optimizers.RMSprop):
    """A subclass of Keras's optimizer that changes nothing."""


def operations_of_a_step(optimizer: keras.optimizers.Optimizer, tensors: int) -> int:
    """The number of operations that torch dispatches in one step over `tensors` tensors."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    weights = [keras.Variable(np.ones(3, np.float32)) for _ in range(tensors)]
    gradients = [tensor(np.ones(3), "float32") for _ in weights]
    optimizer.apply(gradients, weights)
    with Counter() as counter:
        optimizer.apply(gradients, weights)
    return counter.count


@ON_TORCH
def test_a_subclass_of_keras_loses_its_multi_tensor_path_and_ours_has_one() -> None:
    # Keras chooses its torch optimizer by the exact class; ours is a subclass as well.
    for make, grows in ((keras.optimizers.RMSprop, False), (Renamed, True), (RMSprop, False)):
        few, many = (operations_of_a_step(make(), tensors) for tensors in (2, 40))
        per_tensor = (many - few) / 38
        assert (per_tensor >= 5) == grows, f"{make}: {few} operations, then {many}"


@ON_TORCH
def test_a_subclass_of_keras_on_torch_rounds_hyperparameters_to_float32_and_ours_does_not() -> None:
    # Unless floatx is float64, rho is rounded to 0.89999998 there, also for float64 weights.
    rate = 2.0**-7  # Exact in float32, because both hold the learning rate in floatx.
    rng = np.random.default_rng(0)
    reference = Reference([np.ones(5)])
    weights = [keras.Variable(np.ones(5), dtype="float64") for _ in range(2)]
    optimizers = [Renamed(rate), RMSprop(rate)]
    for _ in range(30):
        gradient = rng.normal(1.0, 1.0, 5)
        reference.apply([gradient], rate)
        for optimizer, weight in zip(optimizers, weights, strict=True):
            optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
    want = reference.weights[0]
    travelled = np.max(np.abs(want - 1.0))
    theirs, ours = (np.max(np.abs(numpy(weight) - want)) / travelled for weight in weights)
    assert theirs > 1e-9
    assert ours <= 1e-14


def test_the_effective_learning_rate_of_an_overwritten_scale_is_nan() -> None:
    weight, scale = keras.Variable([1.0, 2.0]), keras.Variable([1.0])
    scale.overwrite_with_gradient = True
    optimizer = RMSprop(0.1, lazy=keras.backend.backend() == "tensorflow")
    for _ in range(3):
        optimizer.apply([ops.ones((2,)), ops.convert_to_tensor([2.0])], [weight, scale])
    assert np.isnan(ops.convert_to_numpy(optimizer.effective_learning_rate(scale))).all()
    assert np.isfinite(ops.convert_to_numpy(optimizer.effective_learning_rate(weight))).all()
    optimizer.settle()
    np.testing.assert_array_equal(numpy(scale), [2.0])


@HOW
def test_a_global_norm_over_several_dtypes_is_as_exact_as_the_widest(
    float64: None, jit_compile: Any
) -> None:
    rng = np.random.default_rng(0)
    starts = [np.ones(n, dtype) for n, dtype in ((5, "float16"), (3, "float32"), (4, "float64"))]
    variables = [keras.Variable(start, dtype=start.dtype.name) for start in starts]
    optimizer = RMSprop(global_clipnorm=0.01, jit_compile=jit_compile)
    reference = Reference(starts, global_clipnorm=0.01)
    for _ in range(4):
        gradients = [rng.normal(size=start.shape).astype(start.dtype) for start in starts]
        optimizer.apply([ops.convert_to_tensor(g) for g in gradients], variables)
        reference.apply(gradients, 0.001)
    got = numpy(optimizer._roster.parameters[2].square_average)
    np.testing.assert_allclose(got, reference.parameters[2].square_average, rtol=1e-14)
