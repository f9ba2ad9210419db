"""Test slots in bfloat16 (`state_dtype`) through the optimizer."""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from tests.tools.traced import traced_step

HOW = pytest.mark.parametrize("jit_compile", [False, "auto"], ids=["op_by_op", "compiled"])
SLOTS = ("square_average", "gradient_average", "momentum")
# Options that need every slot.
EVERYTHING: dict[str, Any] = {
    "momentum": 0.9,
    "centered": True,
    "use_ema": True,
    "gradient_accumulation_steps": 2,
}
OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9, "rho": 0.99},
    "centered": {"centered": True, "epsilon": 1e-3},
    "all": {"centered": True, "momentum": 0.9, "nesterov": True, "epsilon": 1e-3},
    "outside": {"momentum": 0.9, "lr_in_momentum": False, "epsilon_inside_sqrt": False},
    "corrected": {"bias_correction": True, "l2": 0.01, "weight_decay": 0.1, "clipnorm": 1.0},
    "summed": {"gradient_accumulation_steps": 2, "momentum": 0.9, "use_ema": True},
}
SHAPES = ((300, 7), (), (5, 4, 3), (2000,))


def numpy(x: Any) -> np.ndarray:
    """A tensor's or a variable's values, as float64."""
    wide = ops.cast(ops.convert_to_tensor(x), "float32")
    return np.asarray(ops.convert_to_numpy(wide), np.float64)


def slots_of(optimizer: RMSprop) -> list[np.ndarray]:
    """The values of all slots that `state_dtype` is about."""
    owners = [getattr(p, name) for p in optimizer._roster.parameters for name in SLOTS]
    return [numpy(owner) for owner in owners if owner is not None]


def dtypes_of(optimizer: RMSprop) -> set[str]:
    """The dtypes of these slots."""
    owners = [getattr(p, name) for p in optimizer._roster.parameters for name in SLOTS]
    return {keras.backend.standardize_dtype(v.dtype) for v in owners if v is not None}


def gradients(t: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[np.ndarray]:
    """The gradients of call t."""
    rng = np.random.default_rng(t)
    return [rng.normal(0.2, 1.0, shape).astype(np.float32) for shape in shapes]


def weights(shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: str = "float32") -> list[Any]:
    """Variables of ones."""
    return [keras.Variable(np.ones(shape, np.float32), dtype=dtype) for shape in shapes]


def step(optimizer: RMSprop, variables: list[Any], calls: Sequence[int]) -> None:
    """Make these calls."""
    for t in calls:
        given = gradients(t, [tuple(v.shape) for v in variables])
        optimizer.apply([ops.convert_to_tensor(g) for g in given], variables)


def trained(calls: int, **options: Any) -> tuple[RMSprop, list[Any]]:
    """An optimizer after some calls, and its variables."""
    optimizer, variables = RMSprop(0.01, state_dtype="bfloat16", **options), weights()
    optimizer.build(variables)
    step(optimizer, variables, range(calls))
    return optimizer, variables


def assert_same_decisions(optimizer: RMSprop, reference: Reference, most: float = 1e-3) -> None:
    """Check that slots equal the reference's, apart from a few that were rounded the other way.

    float32 arithmetic is off by an ulp or two, and a bfloat16 unit has 65536 of them, so that about
    one decision in 30,000 differs in each step.
    """
    for owners, want in zip(optimizer._roster.parameters, reference.parameters, strict=True):
        for name in SLOTS:
            if getattr(owners, name) is None:
                continue
            got, expected = numpy(getattr(owners, name)), getattr(want, name)
            differing = got != expected
            assert np.sum(differing) <= max(most * got.size, 1 if got.size > 1 else 0), name
            scale = np.max(np.abs(expected))
            assert np.max(np.abs(got - expected), initial=0.0) <= 2.0**-6 * scale, name


@HOW
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_slots_follow_the_float64_reference(options: dict[str, Any], jit_compile: Any) -> None:
    optimizer = RMSprop(0.01, state_dtype="bfloat16", jit_compile=jit_compile, **options)
    variables = weights()
    reference = Reference(
        [np.ones(shape) for shape in SHAPES],
        state_dtype="bfloat16",
        **{"rho": 0.9, **options},
    )
    for t in range(6):
        step(optimizer, variables, [t])
        reference.apply(gradients(t), float(np.float32(0.01)))
    assert dtypes_of(optimizer) == {"bfloat16"}
    assert_same_decisions(optimizer, reference)
    for variable, want in zip(variables, reference.weights, strict=True):
        travelled = np.max(np.abs(want - 1.0))
        assert np.quantile(np.abs(numpy(variable) - want), 0.99) <= 2e-5 * travelled


@HOW
def test_the_index_is_that_in_the_whole_variable(jit_compile: Any, monkeypatch: Any) -> None:
    if BACKEND == "torch":
        # A tensor of several pieces, next to small ones that are joined.
        from keras_rmsprop._execution.torch import _layout, _narrow

        monkeypatch.setattr(_layout, "PIECE", 1000)
        monkeypatch.setattr(_layout, "GRAIN", 300)
        monkeypatch.setattr(_narrow, "CHUNK", 128)
    shapes = ((7, 11), (60, 90), (13,), (299,), (1001,), (5, 5, 5), ())
    optimizer = RMSprop(0.01, state_dtype="bfloat16", jit_compile=jit_compile, momentum=0.5)
    variables = weights(shapes)
    reference = Reference([np.ones(s) for s in shapes], state_dtype="bfloat16", momentum=0.5)
    for t in range(3):
        given: list[Any] = gradients(t, shapes)
        if t == 1:
            given[2] = given[3] = None
        tensors = [None if g is None else ops.convert_to_tensor(g) for g in given]
        if t == 1:
            with pytest.warns(UserWarning, match="Gradients do not exist"):
                optimizer.apply(tensors, variables)
        else:
            optimizer.apply(tensors, variables)
        reference.apply(given, float(np.float32(0.01)))
    assert_same_decisions(optimizer, reference)


@HOW
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_only_the_three_slots_are_narrow(dtype: str, jit_compile: Any) -> None:
    optimizer = RMSprop(jit_compile=jit_compile, state_dtype="bfloat16", **EVERYTHING)
    variables = weights(((3,), (2, 2)), dtype)
    step(optimizer, variables, range(4))
    assert dtypes_of(optimizer) == {"bfloat16"}
    for parameter in optimizer._roster.parameters:
        assert keras.backend.standardize_dtype(parameter.weight.dtype) == dtype
        assert {v.dtype for v in (parameter.accumulator, parameter.average)} == {"float32"}


def test_slots_of_float64_weights_stay_float64(float64: None) -> None:
    runs = []
    for state_dtype in (None, "bfloat16"):
        variable = keras.Variable(np.ones(5), dtype="float64")
        optimizer = RMSprop(0.01, momentum=0.9, state_dtype=state_dtype)
        for t in range(3):
            optimizer.apply([ops.convert_to_tensor(np.full(5, t + 1.0))], [variable])
        assert dtypes_of(optimizer) == {"float64"}
        runs.append(np.asarray(ops.convert_to_numpy(variable.value)))
    np.testing.assert_array_equal(*runs)


@HOW
def test_calls_that_only_accumulate_leave_slots_alone(jit_compile: Any) -> None:
    optimizer, variables = trained(6, jit_compile=jit_compile, **EVERYTHING)
    before = slots_of(optimizer)
    step(optimizer, variables, [6])
    for old, new in zip(before, slots_of(optimizer), strict=True):
        np.testing.assert_array_equal(old, new)
    step(optimizer, variables, [7])
    assert np.any(before[0] != slots_of(optimizer)[0])


@HOW
def test_skipped_calls_and_missing_gradients_leave_slots_alone(jit_compile: Any) -> None:
    optimizer, variables = trained(3, jit_compile=jit_compile, momentum=0.9, skip_nonfinite=True)
    before = slots_of(optimizer)
    bad = gradients(3)
    bad[0][0, 0] = np.nan
    optimizer.apply([ops.convert_to_tensor(g) for g in bad], variables)
    assert optimizer.skipped_steps == 1
    for old, new in zip(before, slots_of(optimizer), strict=True):
        np.testing.assert_array_equal(old, new)
    given = [ops.convert_to_tensor(g) for g in gradients(4)]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([given[0], None, *given[2:]], variables)
    after = slots_of(optimizer)
    # Two slots for each variable, in the order of the variables.
    for i in (2, 3):
        np.testing.assert_array_equal(before[i], after[i])
    assert np.any(before[0] != after[0])


@HOW
@pytest.mark.parametrize("how", ["state_dict", "store"])
def test_a_resumed_run_gives_the_same_bits(how: str, jit_compile: Any) -> None:
    options = {"momentum": 0.9, "centered": True, "jit_compile": jit_compile}
    whole, expected = trained(8, **options)
    first, variables = trained(4, **options)
    second = RMSprop.from_config(first.get_config())
    values = [np.array(numpy(v), np.float32) for v in variables]
    resumed = [keras.Variable(x, name=v.name) for x, v in zip(values, variables, strict=True)]
    second.build(resumed)
    if how == "state_dict":
        second.load_state_dict(first.state_dict())
    else:
        store: dict[str, Any] = {}
        first.save_own_variables(store)
        assert all(np.asarray(v).dtype.kind in "iuf" for v in store.values())
        second.load_own_variables(store)
    assert second.load_report is not None
    assert second.load_report.notes == second.load_report.initialized == ()
    assert dtypes_of(second) == {"bfloat16"}
    step(second, resumed, range(4, 8))
    for got, want in zip(slots_of(second), slots_of(whole), strict=True):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(numpy(got), numpy(want))


@pytest.mark.parametrize("how", ["file", "pickle", "deepcopy"])
def test_a_whole_model_goes_on(tmp_path: Any, how: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 32, 4)).astype(np.float32)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4)])
    model.compile(RMSprop(0.01, momentum=0.9, state_dtype="bfloat16"), "mse")
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(x, y, epochs=2, **fit)
    if how == "file":
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    else:
        copied = {"pickle": lambda m: pickle.loads(pickle.dumps(m)), "deepcopy": copy.deepcopy}
        loaded = copied[how](model)
    assert loaded.optimizer.state_dtype == "bfloat16"
    assert dtypes_of(loaded.optimizer) == {"bfloat16"}
    for each in (model, loaded):
        each.fit(x, y, epochs=2, **fit)
    for got, want in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(slots_of(loaded.optimizer), slots_of(model.optimizer), strict=True):
        np.testing.assert_array_equal(got, want)


def test_float32_state_is_rounded_to_the_nearest_and_the_report_says_so() -> None:
    wide, variables = RMSprop(0.01, momentum=0.9), weights()
    step(wide, variables, range(3))
    narrow = RMSprop(0.01, momentum=0.9, state_dtype="bfloat16")
    narrow.build(variables)
    narrow.load_state_dict(wide.state_dict())
    for got, want in zip(slots_of(narrow), slots_of(wide), strict=True):
        # Half a unit in the last place.
        assert np.all(np.abs(got - want) <= 2.0**-8 * np.abs(want))
    report = narrow.load_report
    assert report is not None
    assert len(report.restored) == 2 * len(SHAPES) + 2
    assert any("rounded to bfloat16" in note and "square_average" in note for note in report.notes)


def test_bfloat16_state_goes_into_float32_slots_unchanged() -> None:
    narrow, variables = trained(3, momentum=0.9)
    wide = RMSprop(0.01, momentum=0.9)
    wide.build(variables)
    store: dict[str, Any] = {}
    narrow.save_own_variables(store)
    wide.load_own_variables(store)
    assert dtypes_of(wide) == {"float32"}
    for got, want in zip(slots_of(wide), slots_of(narrow), strict=True):
        np.testing.assert_array_equal(got, want)
    assert wide.load_report is not None
    assert wide.load_report.notes == ()


def test_state_in_bfloat16_arrays_is_loaded() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    optimizer, variables = trained(3, momentum=0.9)
    state = {
        key: x.astype(ml_dtypes.bfloat16) if "/" in key else x
        for key, x in optimizer.state_dict().items()
    }
    second = RMSprop(0.01, momentum=0.9, state_dtype="bfloat16")
    second.build(variables)
    second.load_state_dict(state)
    for got, want in zip(slots_of(second), slots_of(optimizer), strict=True):
        np.testing.assert_array_equal(got, want)


@HOW
def test_an_average_with_a_long_memory_does_not_stall(jit_compile: Any) -> None:
    # The step from 1 towards 4 is a 333rd of the average: less than half a unit in the last place.
    optimizer = RMSprop(
        0.0, rho=0.999, state_dtype="bfloat16", jit_compile=jit_compile, initial_square_average=1.0
    )
    variable = keras.Variable(np.ones(2000, np.float32))
    gradient = ops.convert_to_tensor(np.full(2000, 1.5, np.float32))
    for _ in range(200):
        optimizer.apply([gradient], [variable])
    want = 2.25 - 1.25 * 0.999**200
    assert abs(np.mean(slots_of(optimizer)[0]) / want - 1.0) < 1e-3


def test_the_initial_square_average_is_rounded_to_the_nearest() -> None:
    optimizer = RMSprop(state_dtype="bfloat16", initial_square_average=0.3)
    optimizer.build(weights(((4,),)))
    np.testing.assert_array_equal(slots_of(optimizer)[0], np.full(4, 0.30078125))


def test_a_traced_step_takes_the_same_decisions() -> None:
    traced, plain = (RMSprop(0.01, momentum=0.9, state_dtype="bfloat16") for _ in range(2))
    first, second = weights(((500,), (500,)))
    traced.build([first])
    function = traced_step(traced, first)
    for t in range(4):
        (gradient,) = gradients(t, ((500,),))
        function(ops.convert_to_tensor(gradient))
        plain.apply([ops.convert_to_tensor(gradient)], [second])
    for got, want in zip(slots_of(traced), slots_of(plain), strict=True):
        assert np.mean(got != want) <= 0.002
    np.testing.assert_allclose(numpy(first), numpy(second), rtol=1e-5)


class Own(RMSprop):
    """A subclass whose hook makes each update."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Make the rule's update."""
        super().update_step(gradient, variable, learning_rate)


class Staged(RMSprop):
    """A subclass whose steps run through Keras's own stages."""

    def _clip_gradients(self, grads: Any) -> Any:
        return grads


@pytest.mark.parametrize("subclass", [Own, Staged])
def test_a_subclass_rounds_alike(subclass: type[RMSprop]) -> None:
    options = {"momentum": 0.9, "centered": True, "state_dtype": "bfloat16"}
    runs = []
    for optimizer in (subclass(0.01, **options), RMSprop(0.01, jit_compile=False, **options)):
        variables = weights()
        step(optimizer, variables, range(3))
        assert dtypes_of(optimizer) == {"bfloat16"}
        runs.append([*slots_of(optimizer), *map(numpy, variables)])
    for got, want in zip(*runs, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_groups_momentum_buffers_are_narrow_too() -> None:
    variables = [keras.Variable(np.ones(50, np.float32), name=name) for name in ("a", "b")]
    optimizer = RMSprop(0.01, state_dtype="bfloat16", groups={"b": {"momentum": 0.9, "rho": 0.5}})
    reference = Reference(
        [np.ones(50)] * 2, state_dtype="bfloat16", groups=[None, {"momentum": 0.9, "rho": 0.5}]
    )
    for t in range(4):
        given = gradients(t, ((50,), (50,)))
        optimizer.apply([ops.convert_to_tensor(g) for g in given], variables)
        reference.apply(given, float(np.float32(0.01)))
    assert dtypes_of(optimizer) == {"bfloat16"}
    assert_same_decisions(optimizer, reference, most=0.02)


def test_variables_that_are_added_later_have_narrow_slots() -> None:
    optimizer, variables = trained(2)
    before = slots_of(optimizer)
    more = weights(((6,),))
    optimizer.add_variables(more)
    step(optimizer, [*variables, *more], [])
    assert dtypes_of(optimizer) == {"bfloat16"}
    for got, want in zip(slots_of(optimizer), before, strict=False):
        np.testing.assert_array_equal(got, want)


def test_the_effective_learning_rate_is_float32() -> None:
    optimizer, variables = trained(3, epsilon=1e-3)
    rate = optimizer.effective_learning_rate(variables[0])
    assert keras.backend.standardize_dtype(rate.dtype) == "float32"
    want = np.float32(0.01) / np.sqrt(slots_of(optimizer)[0] + 1e-3)
    np.testing.assert_allclose(numpy(rate), want, rtol=1e-6)


@pytest.mark.parametrize("given", ["bfloat16", "BF", "float16", "float32", "float64", 16, True])
def test_none_and_bfloat16_are_accepted(given: Any) -> None:
    if given == "bfloat16":
        optimizer = RMSprop(state_dtype=given)
        assert optimizer.state_dtype == "bfloat16"
        assert RMSprop.from_config(optimizer.get_config()).state_dtype == "bfloat16"
        return
    with pytest.raises(ValueError, match="`state_dtype` must be None or 'bfloat16', received"):
        RMSprop(state_dtype=given)


def test_it_is_refused_with_lazy_tables() -> None:
    with pytest.raises(
        ValueError, match=r"`lazy=True` .* `state_dtype` .*Leave one of the two out"
    ):
        RMSprop(state_dtype="bfloat16", lazy=True)
    with pytest.raises(ValueError, match="Leave one of the two out"):
        RMSprop(state_dtype="bfloat16", groups={".*": {"lazy": True}})


def test_it_cannot_change_after_build() -> None:
    optimizer, _ = trained(1)
    with pytest.raises(
        ValueError, match=r"`state_dtype` cannot change once .*the slots are stored"
    ):
        optimizer.state_dtype = None


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.train.Checkpoint is TensorFlow's")
def test_a_checkpoint_of_tensorflow_goes_on(tmp_path: Any) -> None:
    import tensorflow as tf

    whole, _ = trained(6, momentum=0.9)
    first, variables = trained(3, momentum=0.9)
    path = tf.train.Checkpoint(optimizer=first, v=[v.value for v in variables]).save(
        str(tmp_path / "c")
    )
    second, resumed = trained(0, momentum=0.9)
    checkpoint = tf.train.Checkpoint(optimizer=second, v=[v.value for v in resumed])
    checkpoint.restore(path).assert_consumed()
    step(second, resumed, range(3, 6))
    for got, want in zip(slots_of(second), slots_of(whole), strict=True):
        np.testing.assert_array_equal(got, want)
