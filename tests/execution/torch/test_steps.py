"""How a step runs on torch: in the variables' own memory, and what it leaves alone."""

import gc
import itertools
import pathlib
import signal
import sys
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Situation, Training
from yardsticks.variants import rule_variants

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from keras_rmsprop._execution.torch import _engine, _host, _layout, _stages

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

EVERYTHING: dict[str, Any] = {
    "centered": True,
    "momentum": 0.5,
    "nesterov": True,
    "maximize": True,
    "l2": 0.1,
    "weight_decay": 0.1,
    "clipvalue": 1.0,
    "use_ema": True,
    "ema_momentum": 0.7,
    "ema_overwrite_frequency": 3,
    "loss_scale_factor": 3.0,
    "gradient_accumulation_steps": 2,
}


SLOTS: dict[str, Any] = {"centered": True, "momentum": 0.5, "clipnorm": 1.0}


def courses(situation: Situation, **setting: Any) -> list[Any]:
    """A situation's course in place and op by op."""
    return [list(twins.train(situation, mode, **setting)) for mode in ("auto", False)]


@pytest.mark.parametrize("variant", rule_variants(), ids=lambda variant: variant.id)
def test_the_update_in_place_equals_the_rule(float64, variant):
    twins.assert_same_course(*courses(twins.situation_of(variant)))


@pytest.mark.parametrize("size", [1, 2, 5, 7], ids="{} elements".format)
def test_the_size_of_a_block_does_not_matter(float64, monkeypatch, size):
    monkeypatch.setattr(_layout, "PIECE", size)
    monkeypatch.setattr(_layout, "BLOCK", 2 * size)
    monkeypatch.setattr(_layout, "GRAIN", size)
    twins.assert_same_course(*courses(Situation(lambda: EVERYTHING)))


def test_a_rule_that_is_not_elementwise_would_depend_on_the_pieces(float64, monkeypatch):
    """Tensors may be cut because the rule is elementwise; of another rule this test shows it."""
    original = _stages._update

    def normalized(form: Any, step: Any, block: Any, gradients: Any) -> None:
        original(form, step, block, [g / g.abs().mean() for g in gradients])

    def weights(piece: int) -> list[np.ndarray]:
        monkeypatch.setattr(_layout, "PIECE", piece)
        variable = keras.Variable(np.ones(8), dtype="float64")
        optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5)
        for t in range(3):
            optimizer.apply([torch.arange(1.0, 9.0, dtype=torch.float64) + t], [variable])
        return models.values([variable])

    models.assert_identical(weights(3), weights(100))
    monkeypatch.setattr(_stages, "_update", normalized)
    assert not np.allclose(weights(3), weights(100), rtol=1e-3)


@pytest.mark.parametrize("grain", [1, 3, 6, 100], ids="grain {}".format)
@pytest.mark.parametrize("inside", [True, False], ids="epsilon_inside_sqrt={}".format)
@pytest.mark.parametrize("epsilon", [1e-7, 0.0], ids="epsilon={}".format)
def test_the_size_of_a_call_does_not_matter(float64, monkeypatch, grain, inside, epsilon):
    monkeypatch.setattr(_layout, "GRAIN", grain)
    monkeypatch.setattr(_stages, "ROOT_GRAIN", 2)
    options = {"epsilon_inside_sqrt": inside, "epsilon": epsilon, "momentum": 0.5}
    twins.assert_same_course(*courses(Situation(lambda: options)))


def test_small_tensors_share_a_block_and_large_ones_fill_several(monkeypatch):
    monkeypatch.setattr(_layout, "PIECE", 4)
    monkeypatch.setattr(_layout, "BLOCK", 6)
    sizes: list[list[int]] = []
    original = _engine.advance

    def recorded(plan: Any, numbers: Any, step: Any, block: Any, gradients: Any) -> None:
        sizes.append([w.numel() for w in block.weights])
        original(plan, numbers, step, block, gradients)

    monkeypatch.setattr(_engine, "advance", recorded)
    counts = (1, 2, 3, 10, 4, 3)
    variables = [keras.Variable(np.ones(n, np.float32)) for n in counts]
    optimizer = keras_rmsprop.RMSprop()
    optimizer.apply([torch.ones(n) for n in counts], variables)
    assert sizes == [[1, 2, 3], [4], [3], [4], [4], [2]]


def test_tensors_whose_memory_is_replaced_are_found_again(float64, monkeypatch):
    monkeypatch.setattr(_layout, "PIECE", 2)

    def begin(training: Training) -> None:
        def move_and_apply(gradients: list[torch.Tensor]) -> None:
            for variable in [*training.variables, *training.optimizer.variables]:
                # As `torch.nn.Module.to` does with the memory of its parameters.
                variable.value.data = variable.value.data.clone()
            training.apply(gradients)

        training.feed = move_and_apply

    twins.assert_same_course(*courses(Situation(lambda: EVERYTHING, begin=begin)))


def test_a_norm_of_millions_of_elements_is_as_exact_as_float32():
    gradient = np.random.default_rng(0).standard_normal(2**22).astype(np.float32)
    variable = keras.Variable(np.zeros(2**22, np.float32))
    optimizer = keras_rmsprop.RMSprop(clipnorm=1.0, rho=0.0, epsilon=1.0)
    optimizer.apply([torch.tensor(gradient)], [variable])
    # torch's own norm of so many is off by 2e-4.
    length = np.linalg.norm(gradient.astype(np.float64))
    (square_average,) = models.values(optimizer._square_averages)
    np.testing.assert_allclose(square_average, (gradient / length) ** 2, rtol=5e-6)


def test_memory_that_is_not_contiguous_is_no_obstacle(float64, monkeypatch):
    monkeypatch.setattr(_layout, "PIECE", 2)

    def begin(training: Training) -> None:
        training.feed = lambda g: training.apply([g[0], g[1].t().contiguous().t()])

    twins.assert_same_course(*courses(Situation(lambda: EVERYTHING, begin=begin)))


@pytest.mark.parametrize(
    "options",
    [{}, {"maximize": True, "l2": 0.1}, {"clipvalue": 0.1}, {"clipnorm": 0.1}, EVERYTHING],
    ids=["plain", "maximize and l2", "clipvalue", "clipnorm", "everything"],
)
def test_the_gradients_are_left_alone(options):
    training = Training(options)
    gradients = [torch.full(shape, 0.7, dtype=torch.float64) for shape in twins.SHAPES]
    before = [g.clone() for g in gradients]
    for _ in range(4):
        training.apply(gradients)
    for gradient, value in zip(gradients, before, strict=True):
        assert torch.equal(gradient, value)


def test_an_empty_variable_is_no_obstacle():
    optimizer = keras_rmsprop.RMSprop(clipnorm=1.0, momentum=0.5)
    variables = [keras.Variable(np.ones(shape, np.float32)) for shape in [(0, 2), (2,)]]
    for _ in range(2):
        optimizer.apply([torch.ones(0, 2), torch.ones(2)], variables)
    assert np.all(models.values(variables)[1] < 1.0)


def test_the_step_runs_in_the_variables_own_memory():
    training = Training(EVERYTHING)
    training.optimizer.build(training.variables)
    owners = [*training.variables, *training.optimizer.variables]
    before = [v.value.data_ptr() for v in owners]
    for t in range(3):
        training.step(t)
    assert [v.value.data_ptr() for v in owners] == before


def test_nothing_is_run_op_by_op(monkeypatch):
    traces = twins.count_traces(monkeypatch)
    for mode in ("auto", True):
        training = Training({**EVERYTHING, "jit_compile": mode})
        for t in range(3):
            training.step(t)
    assert not traces


def test_jit_compile_false_runs_every_step_op_by_op(monkeypatch):
    traces = twins.count_traces(monkeypatch)
    training = Training({"jit_compile": False})
    for t in range(3):
        training.step(t)
    assert len(traces) == 3


@pytest.mark.parametrize("how", ["assigned", "filled"])
def test_a_rate_and_a_counter_changed_from_outside_are_noticed(float64, how):
    def change(training: Training) -> None:
        optimizer = training.optimizer
        for variable, value in [(optimizer._learning_rate, 0.5), (optimizer._iterations, 40)]:
            if how == "assigned":
                variable.assign(value)
            else:
                with torch.no_grad():
                    variable.value.fill_(value)

    options = {"bias_correction": True, "rho": 0.999}
    twins.assert_same_course(*courses(Situation(lambda: options, change)))


def test_a_step_does_not_wait_for_the_device(monkeypatch):
    # Stands for a device: a CPU's own tensors are read at every step.
    monkeypatch.setattr(_host, "_is_remote", lambda _: True)
    training = Training({**EVERYTHING, "clipvalue": None, "global_clipnorm": 1.0})
    for t in range(2):
        training.step(t)
    gradients = [torch.ones(shape, dtype=torch.float64) for shape in twins.SHAPES]

    def read_by_host(*_: Any) -> Any:
        raise AssertionError("a tensor was read by the host")

    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, read_by_host)
    for _ in range(4):
        training.apply(gradients)


def test_torch_compile_makes_one_graph_for_all_steps(float64):
    got, want = Training(SLOTS), Training({**SLOTS, "jit_compile": False})
    gradients = [torch.ones(shape, dtype=torch.float64) for shape in twins.SHAPES]
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    got.optimizer.build(got.variables)
    step = torch.compile(got.apply, backend=backend)
    for _ in range(6):
        step(gradients)
        want.apply(gradients)
    assert len(graphs) == 1
    for mine, theirs in zip(got.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_gradients_that_carry_a_graph_leave_none_behind():
    training = Training(EVERYTHING)
    leaf = torch.ones((), dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        training.apply([leaf * torch.ones(shape) for shape in twins.SHAPES])
    owners = [*training.variables, *training.optimizer.variables]
    assert all(v.value.grad_fn is None for v in owners)


def test_sparse_gradients_become_dense(float64):
    def begin(training: Training) -> None:
        training.feed = lambda g: training.apply([g[0], g[1].to_sparse()])

    want = list(twins.train(Situation(), jit_compile=False))
    twins.assert_same_course(list(twins.train(Situation(begin=begin), "auto")), want)


def test_an_optimizer_that_nobody_holds_is_gone():
    def train() -> list[weakref.ref[Any]]:
        training = Training(EVERYTHING)
        for t in range(3):
            training.step(t)
        slot = training.optimizer._square_averages[1].value
        return [weakref.ref(x) for x in (training.optimizer, training.variables[0], slot)]

    references = train()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


NEW_PROCESS = """
import sys
import keras, numpy as np
import keras_rmsprop
from tests.tools import twins
folder = sys.argv[1]
network = keras.models.load_model(folder + "/model.keras")
state = twins.go_on(network, range(4, 8))
np.savez(folder + "/results.npz", **{f"resumed_{i}": x for i, x in enumerate(state)})
"""


def test_a_run_resumed_in_a_new_process_is_bit_identical_to_one_that_was_not_stopped(
    tmp_path: pathlib.Path,
):
    network = twins.a_model()
    twins.go_on(network, range(4))
    network.save(tmp_path / "model.keras")
    unstopped = twins.go_on(twins.a_model(), range(8))
    after = twins.run_in_new_process(NEW_PROCESS, tmp_path)
    models.assert_identical([after[f"resumed_{i}"] for i in range(len(unstopped))], unstopped)


@needs_cuda
@pytest.mark.parametrize("schedule", [False, True], ids="schedule={}".format)
def test_a_step_on_cuda_equals_op_by_op_steps_and_does_not_synchronise(float64, schedule):
    rate = {"learning_rate": twins.rate_schedule()} if schedule else {}
    situation = Situation(lambda: {**EVERYTHING, **rate})
    twins.assert_same_course(*courses(situation))
    training = Training({**EVERYTHING, **rate})
    gradients = [torch.ones(s, dtype=torch.float64, device="cuda") for s in twins.SHAPES]
    for _ in range(3):
        training.apply(gradients)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            training.apply(gradients)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_weights_on_several_devices_are_each_moved_where_they_are(float64):
    def train(mode: Any) -> list[list[np.ndarray]]:
        with keras.device("cpu"):
            first = keras.Variable(np.ones(3))
        second = keras.Variable(np.ones(3))
        optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5, jit_compile=mode)
        course = []
        for t in range(4):
            gradients = [torch.full((3,), 0.5 + t, dtype=torch.float64) for _ in range(2)]
            optimizer.apply([gradients[0], gradients[1].cuda()], [first, second])
            course.append(models.values([first, second]))
        return course

    twins.assert_same_course(train("auto"), train(False))


def a_training(options: dict[str, Any], **setting: Any) -> Training:
    """A training that has made three steps."""
    training = Training({"momentum": 0.5, **options}, **setting)
    for t in range(3):
        training.step(t)
    return training


class Failing:
    """A callable that fails when told to."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.fails = False

    def __call__(self, *_: Any) -> Any:
        """Return the value, or raise."""
        if self.fails:
            raise RuntimeError("as planned")
        return self.value


class HalfOfIt(keras_rmsprop.RMSprop):
    """A subclass whose `update_step` fails at the second variable."""

    fails = False

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Make a step, or fail once the first variable has moved."""
        if self.fails and len(gradient.shape):
            raise RuntimeError("as planned")
        super().update_step(gradient, variable, learning_rate)


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
@pytest.mark.parametrize(
    "what", ["rate", "constraint", "axis", "device", "complex", "update_step", "expanded"]
)
def test_a_step_that_fails_changes_nothing(float64, mode, what):
    rate, constraint = Failing(0.1), Failing(torch.full((2, 3), 0.5, dtype=torch.float64))
    make = HalfOfIt if what == "update_step" else keras_rmsprop.RMSprop
    options = {"jit_compile": mode, "use_ema": True, "gradient_accumulation_steps": None}
    training = a_training({**options, "learning_rate": rate}, make=make)
    gradients = [torch.ones(shape, dtype=torch.float64) for shape in twins.SHAPES]
    matrix = training.variables[1]
    match what:
        case "rate":
            rate.fails = True
        case "constraint":
            matrix.constraint = constraint
            training.apply(gradients)
            constraint.fails = True
        case "axis":
            matrix.constraint = keras.constraints.UnitNorm(axis=7)
        case "device":
            gradients[1] = gradients[1].to("meta")
        case "complex":
            gradients[1] = gradients[1] * 1j
        case "update_step":
            training.optimizer.fails = True
        case "expanded":
            matrix.value.data = torch.ones(1, 3, dtype=torch.float64).expand(2, 3)
    before = training.state()
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        training.apply(gradients)
    models.assert_identical(training.state(), before)


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
def test_an_interrupt_leaves_the_state_before_or_after_a_step(mode):
    def train() -> Iterator[tuple[Training, list[torch.Tensor]]]:
        training = Training({"momentum": 0.5, "jit_compile": mode, "use_ema": True})
        gradients = [torch.ones(s, dtype=torch.float64) for s in twins.SHAPES]
        while True:
            training.apply(gradients)
            yield training, gradients

    wanted = {int(t.optimizer._iterations): t.state() for t, _ in itertools.islice(train(), 400)}
    training, gradients = next(train())
    events = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        # A signal is handled between two of Python's operations. What is raised while a
        # generator is closed Python drops.
        nonlocal events
        if event == "line" and frame.f_code.co_name != "<genexpr>":
            events -= 1
            if events == 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    interrupted = 0
    previous = sys.gettrace()
    for start in range(5, 305, 7):
        events = start
        try:
            sys.settrace(trace)
            training.apply(gradients)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(previous)
        models.assert_identical(training.state(), wanted[int(training.optimizer._iterations)])
    assert interrupted > 30


@pytest.mark.parametrize("name", ["_square_averages", "_momentums", "weight", "a view", "a part"])
def test_a_gradient_may_lie_in_the_memory_that_is_written_to(float64, name):
    def begin(training: Training) -> None:
        matrix = training.variables[1]
        if name == "a part":
            # Of one memory for all, such as a flattened model's.
            whole = torch.arange(12, dtype=torch.float64)
            matrix.value.data = whole[6:].view(2, 3)

        def feed(gradients: list[torch.Tensor]) -> None:
            match name:
                case "weight":
                    gradient = matrix.value
                case "a view":
                    gradient = matrix.value[1].expand(2, 3)
                case "a part":
                    gradient = matrix.value.data.as_strided((2, 3), (3, 1), 4)
                case _:
                    gradient = getattr(training.optimizer, name)[1].value
            training.apply([gradients[0], gradient])

        training.feed = feed

    options = {**EVERYTHING, "gradient_accumulation_steps": None, "clipvalue": None}
    options |= {"loss_scale_factor": None, "use_ema": False, "ema_overwrite_frequency": None}
    options |= {"maximize": False, "initial_square_average": 0.5}
    twins.assert_same_course(*courses(Situation(lambda: options, begin=begin)))


@pytest.mark.parametrize("how", ["data", "numpy"])
def test_a_rate_and_a_counter_changed_behind_torch_are_noticed(float64, how):
    def change(training: Training) -> None:
        optimizer = training.optimizer
        for variable, value in [(optimizer._learning_rate, 0.5), (optimizer._iterations, 40)]:
            if how == "data":
                variable.value.data.fill_(value)
            else:
                variable.value.detach().numpy()[...] = value

    options = {"bias_correction": True, "rho": 0.999}
    twins.assert_same_course(*courses(Situation(lambda: options, change)))


def test_averages_of_mixed_dtypes_are_each_exact(float64):
    options = {"use_ema": True, "ema_momentum": 0.7}
    setting = {"dtypes": ("float32", "float64")}
    twins.assert_same_course(*courses(Situation(lambda: options), **setting))


@pytest.mark.parametrize("make", [keras.optimizers.RMSprop, keras_rmsprop.RMSprop])
def test_inference_mode_is_as_with_keras(make):
    gradient = torch.ones(3)
    with torch.inference_mode():
        inside = keras.Variable(np.ones(3, np.float32))
        first = make(0.1)
        for _ in range(3):
            first.apply([gradient], [inside])
    assert float(inside.value[0]) < 0.5
    state = models.values([inside, *first.variables])
    with pytest.raises(RuntimeError, match=r"(?i)inference"):
        first.apply([gradient], [inside])
    if make is keras_rmsprop.RMSprop:
        models.assert_identical(models.values([inside, *first.variables]), state)
    outside, second = keras.Variable(np.ones(3, np.float32)), make(0.1)
    second.build([outside])
    with torch.inference_mode():
        second.apply([gradient], [outside])
    second.apply([gradient], [outside])
    assert int(second.iterations.value) == 2


class Squeezed(keras.constraints.Constraint):
    """A user's constraint."""

    def __call__(self, w: Any) -> Any:
        """Shrink the weight."""
        return w * 0.9


@pytest.mark.parametrize("what", ["constraint", "update_step"])
def test_jit_compile_true_refuses_what_runs_op_by_op(what):
    make = HalfOfIt if what == "update_step" else keras_rmsprop.RMSprop
    training = Training({"jit_compile": True}, make=make)
    if what == "constraint":
        training.variables[1].constraint = Squeezed()
    training.optimizer.build(training.variables)
    before = training.state()
    with pytest.raises(ValueError, match=r"`jit_compile=True`.*(Squeezed|HalfOfIt)"):
        training.step(0)
    models.assert_identical(training.state(), before)


@pytest.mark.parametrize("grain", [2, 2**15])
def test_any_set_of_gradients_makes_the_same_step_and_few_are_kept(float64, monkeypatch, grain):
    monkeypatch.setattr(_layout, "GRAIN", grain)
    shapes = [(), (2,), (1,), (3, 2), (2, 2)]

    def train(mode: Any) -> tuple[keras_rmsprop.RMSprop, list[list[np.ndarray]]]:
        variables = [keras.Variable(np.ones(shape)) for shape in shapes]
        optimizer = keras_rmsprop.RMSprop(0.1, clipnorm=1.0, momentum=0.5, jit_compile=mode)
        optimizer.build(variables)
        rng = np.random.default_rng(0)
        course = [models.values([*variables, *optimizer.variables])]
        for present in itertools.product([True, False], repeat=len(shapes)):
            gradients = [
                torch.tensor(rng.normal(size=s)) if p else None
                for s, p in zip(shapes, present, strict=True)
            ]
            if any(present):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    optimizer.apply(gradients, variables)
            course.append(models.values([*variables, *optimizer.variables]))
        return optimizer, course

    (optimizer, got), (_, want) = train("auto"), train(False)
    for mine, theirs in zip(got[-1], want[-1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    assert len(_layout._layouts[optimizer._roster].choices) == _layout.SETS_KEPT


GRADIENTS: dict[str, Any] = {
    "a list": lambda: [1.0, 2.0, 3.0],
    "NumPy": lambda: np.array([1.0, 2.0, 3.0]),
    "integers": lambda: torch.tensor([1, 2, 3]),
    "half precision": lambda: torch.tensor([1.0, 2.0, 3.0]).half(),
    "uncoalesced": lambda: torch.sparse_coo_tensor(
        [[0, 1, 2, 1]], [1.0, 1.0, 3.0, 1.0], (3,), check_invariants=True
    ),
    "expanded": lambda: torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 2)[:, 1],
    "a parameter": lambda: torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_gradient_may_come_in_any_form(kind, mode):
    def moved(gradient: Any) -> np.ndarray:
        variable = keras.Variable(np.ones(3, np.float32))
        optimizer = keras_rmsprop.RMSprop(0.1, centered=True, clipnorm=1.0, jit_compile=mode)
        for _ in range(2):
            optimizer.apply([gradient()], [variable])
        return models.values([variable])[0]

    want = moved(lambda: torch.tensor([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(moved(GRADIENTS[kind]), want)


@pytest.mark.parametrize("built", ["before", "within"])
def test_another_default_device_changes_nothing(built):
    options = {"momentum": 0.5, "weight_decay": 0.1, "use_ema": True, "centered": True}

    def train(device: str) -> list[Any]:
        variable = keras.Variable([1.0, 2.0])
        optimizer = keras_rmsprop.RMSprop(0.1, **options)
        optimizer.build([variable])
        gradient = torch.tensor([3.0, -2.0])
        if built == "before":
            optimizer.apply([gradient], [variable])
        with torch.device(device):
            for _ in range(3):
                optimizer.apply([gradient], [variable])
        return models.values([variable, *optimizer.variables])

    models.assert_identical(train("meta"), train("cpu"))


def test_a_constraint_whose_settings_no_longer_fit_changes_nothing():
    variables = [keras.Variable(np.ones((4, 3), "float32")) for _ in range(2)]
    variables[1].constraint = keras.constraints.MaxNorm(1.0, axis=0)
    optimizer = keras_rmsprop.RMSprop(0.1)
    for _ in range(3):
        optimizer.apply([torch.ones(4, 3)] * 2, variables)
    variables[1].constraint.axis = 7
    before = models.values([*variables, *optimizer.variables])
    with pytest.raises(IndexError):
        optimizer.apply([torch.ones(4, 3)] * 2, variables)
    models.assert_identical(models.values([*variables, *optimizer.variables]), before)
    variables[1].constraint.axis = 0
    optimizer.apply([torch.ones(4, 3)] * 2, variables)


def test_a_weight_that_is_turned_in_its_own_memory_is_cut_anew(monkeypatch):
    monkeypatch.setattr(_layout, "PIECE", 7)
    rng = np.random.default_rng(0)
    start, gradient = rng.normal(size=(5, 5)), torch.tensor(rng.normal(size=(5, 5)))
    weights = []
    for mode in ("auto", False):
        variable = keras.Variable(start, dtype="float64")
        optimizer = keras_rmsprop.RMSprop(0.1, jit_compile=mode)
        for t in range(4):
            if t == 2:
                variable._value.data = variable._value.data.t()
            optimizer.apply([gradient], [variable])
        weights += models.values([variable])
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-12)
