"""How a step runs on torch: in the variables' own memory, and what it leaves alone."""

import gc
import pathlib
import weakref
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests import models, twins
from tests.conftest import BACKEND
from tests.twins import Situation, Training
from tests.variants import rule_variants

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from keras_rmsprop._execution import torch as engine

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
    monkeypatch.setattr(engine, "PIECE", size)
    monkeypatch.setattr(engine, "BLOCK", 2 * size)
    monkeypatch.setattr(engine, "GRAIN", size)
    twins.assert_same_course(*courses(Situation(lambda: EVERYTHING)))


@pytest.mark.parametrize("grain", [1, 3, 6, 100], ids="grain {}".format)
@pytest.mark.parametrize("inside", [True, False], ids="epsilon_inside_sqrt={}".format)
@pytest.mark.parametrize("epsilon", [1e-7, 0.0], ids="epsilon={}".format)
def test_the_size_of_a_call_does_not_matter(float64, monkeypatch, grain, inside, epsilon):
    monkeypatch.setattr(engine, "GRAIN", grain)
    monkeypatch.setattr(engine, "ROOT_GRAIN", 2)
    options = {"epsilon_inside_sqrt": inside, "epsilon": epsilon, "momentum": 0.5}
    twins.assert_same_course(*courses(Situation(lambda: options)))


def test_small_tensors_share_a_block_and_large_ones_fill_several(monkeypatch):
    monkeypatch.setattr(engine, "PIECE", 4)
    monkeypatch.setattr(engine, "BLOCK", 6)
    sizes: list[list[int]] = []
    original = engine._advance

    def recorded(plan: Any, numbers: Any, step: Any, block: Any, gradients: Any) -> None:
        sizes.append([w.numel() for w in block.weights])
        original(plan, numbers, step, block, gradients)

    monkeypatch.setattr(engine, "_advance", recorded)
    counts = (1, 2, 3, 10, 4, 3)
    variables = [keras.Variable(np.ones(n, np.float32)) for n in counts]
    optimizer = keras_rmsprop.RMSprop()
    optimizer.apply([torch.ones(n) for n in counts], variables)
    assert sizes == [[1, 2, 3], [4], [3], [4], [4], [2]]


def test_tensors_whose_memory_is_replaced_are_found_again(float64, monkeypatch):
    monkeypatch.setattr(engine, "PIECE", 2)

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
    monkeypatch.setattr(engine, "PIECE", 2)

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
    monkeypatch.setattr(engine, "_is_remote", lambda _: True)
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
from tests import twins
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
