"""Test that `jit_compile=True` on torch makes the steps that the in-place path makes, compiled."""

import gc
import importlib
import pathlib
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Situation, Training

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from keras_rmsprop._execution.torch import _compiled, _private


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows by one graph with each compilation."""
    graphs: list[Any] = []
    compiled = _private.compiled

    def recording(graph: Any, *rest: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return compiled(graph, *rest)

    monkeypatch.setattr(_private, "compiled", recording)
    return graphs


@keras.saving.register_keras_serializable("tests")
def softened(gradient: Any, weight: Any) -> Any:
    """A transform that uses both arguments."""
    return keras.ops.tanh(gradient) + 0.1 * weight


def change_numbers(training: Training) -> None:
    """Assign other numbers."""
    training.optimizer.learning_rate = 0.03
    training.optimizer.rho = 0.7


def change_schedule(training: Training) -> None:
    """Assign another number where the rate is a schedule."""
    training.optimizer.rho = 0.7


def constrained(training: Training) -> None:
    """Give a variable a constraint."""
    training.variables[1].constraint = keras.constraints.MaxNorm(0.5)


SITUATIONS = {
    "plain": Situation(change=change_numbers),
    "all_slots": Situation(
        lambda: {
            "centered": True, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1, "l2": 0.1,
            "use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3, "clipnorm": 1.0,
        },
        change_numbers, constrained,
    ),
    "accumulating": Situation(
        lambda: {
            "learning_rate": twins.rate_schedule(), "gradient_accumulation_steps": 2,
            "global_clipnorm": 1.0, "bias_correction": True, "loss_scale_factor": 4.0,
            "skip_nonfinite": True,
        },
        change_schedule,
    ),
    "groups": Situation(
        lambda: {
            "learning_rate": twins.changing_rate(), "clipvalue": 0.5, "maximize": True,
            "epsilon_inside_sqrt": False, "transform": softened,
            "groups": {"weight_1": {"learning_rate": 0.5, "rho": 0.8, "momentum": 0.3}},
        },
        change_schedule,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_compiled_steps_equal_steps_in_place_without_compiling_again(
    float64: None, made: list[Any], name: str
) -> None:
    got = list(twins.train(SITUATIONS[name], True))
    twins.assert_same_trajectory(got, list(twins.train(SITUATIONS[name], "auto")))
    assert len(made) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_rounded_as_in_place(dtype: str) -> None:
    def options() -> dict[str, Any]:
        return {"use_ema": True, "ema_momentum": 0.5, "momentum": 0.5, "weight_decay": 0.1}

    got, want = (
        list(twins.train(Situation(options), mode, dtypes=(dtype, dtype)))
        for mode in (True, "auto")
    )
    for mine, theirs in zip(got, want, strict=True):
        # To the bit for the weights, which come first.
        models.assert_identical(mine[:2], theirs[:2])
    twins.assert_same_trajectory(got, want)


def test_any_set_of_missing_gradients_shares_one_program(float64: None, made: list[Any]) -> None:
    options = {"gradient_accumulation_steps": 2, "clipnorm": 1.0, "use_ema": True}
    got, want = (Training({**options, "jit_compile": mode}) for mode in (True, "auto"))
    given = [(1, 1), (1, 0), (0, 1), (1, 0), (1, 1), (0, 1), (0, 1)]
    rng = np.random.default_rng(0)
    for which in given:
        values = [rng.normal(size=shape) for shape in twins.SHAPES]
        gradients = models.tensors(values)
        for training in (got, want):
            training.apply(
                [g if there else None for g, there in zip(gradients, which, strict=True)]
            )
    assert len(made) == 2
    for mine, theirs in zip(got.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_a_bad_batch_is_skipped(float64: None) -> None:
    training = Training({"skip_nonfinite": True, "jit_compile": True})
    training.step(0)
    before = training.state()
    training.apply([torch.tensor(np.nan), torch.ones(2, 3)])
    assert training.optimizer.skipped_steps == 1
    models.assert_identical(training.state()[:2], before[:2])


def test_gradients_may_have_any_memory_layout_or_share_the_weights(float64: None) -> None:
    got, want = (Training({"jit_compile": mode}) for mode in (True, "auto"))
    for training in (got, want):
        weight = training.variables[1]
        for matrix in (
            torch.ones(3, 2, dtype=torch.float64).t(),
            torch.tensor(2.0, dtype=torch.float64).expand(2, 3),
            weight.value.detach(),
            weight.value * 1.0,
        ):
            training.apply([torch.tensor(1.0, dtype=torch.float64), matrix])
    for mine, theirs in zip(got.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_new_memory_and_a_new_layout_of_it_are_noticed(float64: None) -> None:
    got, want = (Training({"jit_compile": mode}) for mode in (True, "auto"))
    for training in (got, want):
        training.step(0)
        matrix = training.variables[1].value
        matrix.data = matrix.detach().clone()
        training.step(1)
        matrix.data = torch.empty_strided((2, 3), (1, 2), dtype=torch.float64).copy_(matrix)
        training.step(2)
    for mine, theirs in zip(got.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_autograd_notices_that_a_compiled_step_has_changed_a_weight() -> None:
    training = Training({"jit_compile": True}, dtypes=("float32",) * 2)
    matrix = training.variables[1].value
    loss = (matrix**2).sum()
    training.step(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def untraceable(name: str) -> Callable[..., Any]:
    """A transform that is not a function of tensors only."""
    variable = keras.Variable(2.0, name="outside")
    function = {
        "float": lambda g, _: g / float(keras.ops.max(keras.ops.abs(g))),
        "if": lambda g, _: g if keras.ops.max(g) > 0.0 else -g,
        "NumPy": lambda g, _: keras.ops.convert_to_tensor(np.asarray(g)),
        "variable": lambda g, _: g * variable,
    }[name]
    register = keras.saving.register_keras_serializable("tests", f"untraceable_{name}")
    return register(lambda g, w: function(g, w))


@pytest.mark.parametrize("name", ["float", "if", "NumPy", "variable"])
def test_a_transform_that_cannot_be_traced_is_refused(name: str) -> None:
    training = Training({"jit_compile": True, "transform": untraceable(name)}, ("float32",) * 2)
    training.optimizer.build(training.variables)
    before = training.state()
    with pytest.raises(Exception) as error:  # noqa: PT011 - torch's own errors
        training.step(0)
    assert "raised this while the step was being compiled" in error.value.__notes__[-1]
    models.assert_identical(training.state(), before)


def without_compiler(*_: Any) -> Any:
    """Fail as TorchInductor does without a compiler."""
    raise RuntimeError("No working C++ compiler found")


@pytest.mark.parametrize("name", ["traced", "compiled"])
def test_a_compilation_that_fails_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    training = Training({"jit_compile": True, "momentum": 0.5}, ("float32",) * 2)
    training.optimizer.build(training.variables)
    before = training.state()
    with monkeypatch.context() as patch:
        patch.setattr(_private, name, without_compiler)
        with pytest.raises(ValueError, match=r'No working C\+\+ compiler.*jit_compile="auto"'):
            training.step(0)
    models.assert_identical(training.state(), before)
    training.optimizer.jit_compile = "auto"
    training.step(0)


@pytest.mark.parametrize(
    "name", ["torch.fx.experimental.proxy_tensor.make_fx", "torch._inductor.compile"]
)
def test_without_a_private_name_the_step_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    importlib.import_module(name.rpartition(".")[0])
    monkeypatch.delattr(name)
    training = Training({"jit_compile": True}, ("float32",) * 2)
    with pytest.raises(ValueError, match=rf"cannot compile it.*{name.rpartition('.')[2]}"):
        training.step(0)
    training.optimizer.jit_compile = "auto"
    training.step(0)


def test_without_the_names_of_options_the_step_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._inductor.list_options")
    Training({"jit_compile": True}, ("float32",) * 2).step(0)


def test_an_interrupt_during_the_call_comes_after_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = _private.compiled

    def interrupted(*arguments: Any) -> Callable[..., Any]:
        call = compiled(*arguments)

        def with_interrupt(*tensors: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            call(*tensors)

        return with_interrupt

    monkeypatch.setattr(_private, "compiled", interrupted)
    training, want = (Training({"jit_compile": m}, ("float32",) * 2) for m in (True, "auto"))
    with pytest.raises(KeyboardInterrupt):
        training.step(0)
    want.step(0)
    for mine, theirs in zip(training.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_programs_are_few_and_die_with_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_private, "compiled", lambda *_: lambda *_: None)
    training = Training({"jit_compile": True}, ("float32",) * 2)
    for frequency in range(1, _compiled.PROGRAMS_KEPT + 4):
        training.optimizer.clipvalue = None if frequency % 2 else 1.0
        training.optimizer.ema_overwrite_frequency = frequency
        training.step(0)
    programs = _compiled._programs[training.optimizer._roster]
    assert len(programs.programs) <= _compiled.PROGRAMS_KEPT
    watched = weakref.ref(programs)
    del programs, training
    gc.collect()
    assert watched() is None


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


def test_a_compiled_run_resumed_in_a_new_process_is_bit_identical(tmp_path: pathlib.Path) -> None:
    def a_model() -> Any:
        network = twins.a_model()
        network.optimizer.jit_compile = True
        return network

    network = a_model()
    twins.go_on(network, range(4))
    network.save(tmp_path / "model.keras")
    uninterrupted = twins.go_on(a_model(), range(8))
    after = twins.run_in_new_process(NEW_PROCESS, tmp_path)
    models.assert_identical(
        [after[f"resumed_{i}"] for i in range(len(uninterrupted))], uninterrupted
    )


def test_two_threads_may_compile_at_the_same_time() -> None:
    def train(size: int) -> None:
        variable = keras.Variable(np.ones(size, "float32"))
        optimizer = keras_rmsprop.RMSprop(0.01, jit_compile=True)
        optimizer.apply([torch.ones(size)], [variable])
        steps.append(int(optimizer.iterations))

    steps: list[int] = []
    threads = [threading.Thread(target=train, args=(size,)) for size in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps == [1, 1]
