"""Test that the page on coming from other frameworks is true: its programs agree."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from yardsticks import peers

PAGE = (Path(__file__).parent.parent / "docs" / "migration.md").read_text()
STEPS = 12


def section(title: str) -> dict[str, str]:
    """The programs of a section, by their labels."""
    (text,) = re.findall(rf"^## From {title}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^```python (\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len({label for label, _ in found}) == len(found)
    return dict(found)


def run(program: str, **names: Any) -> dict[str, Any]:
    exec(program, names)
    return names


def skip_unless_available(name: str) -> None:
    reason = peers.unavailable(name)
    if reason is not None:
        pytest.skip(reason)


class Problem:
    """Weights, gradients at each step, and a rate that changes half-way."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        self.starts = [rng.normal(size=shape) for shape in shapes]
        self.gradients = [[rng.normal(0.3, 1.0, shape) for shape in shapes] for _ in range(STEPS)]

    def variables(self, *paths: str) -> list[Any]:
        """Keras variables with these paths."""
        made = []
        for path, start in zip(paths, self.starts, strict=True):
            folder, _, name = path.rpartition("/")
            with keras.name_scope(folder) if folder else keras.name_scope("layer"):
                made.append(keras.Variable(start, name=name))
        return made

    def train(self, optimizer: Any, variables: list[Any]) -> list[np.ndarray]:
        """Make all steps, and return the weights."""
        for t, gradients in enumerate(self.gradients):
            if t == STEPS // 2:
                optimizer.learning_rate = float(optimizer.learning_rate) / 2.0
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
        return [keras.ops.convert_to_numpy(v) for v in variables]


# Keras's trainer works in float64 on TensorFlow only.
TRAINER = 1e-12 if BACKEND == "tensorflow" else 1e-5


def assert_close(got: Any, want: Any, rtol: float = 1e-12) -> None:
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-2 * rtol)


def test_keras(float64):
    problem, programs = Problem((2, 3), (3,)), section("Keras")
    want, got = (
        problem.train(run(programs[which])["optimizer"], problem.variables("kernel", "bias"))
        for which in ("before", "after")
    )
    # Keras rounds the decay to float32, also for float64 weights.
    assert_close(got, want, 1e-9)


def test_a_model_that_keras_saved_goes_on(float64, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.RMSprop(0.01, momentum=0.5), loss="mse")
    model.fit(x, y, epochs=4, verbose=0, shuffle=False)
    monkeypatch.chdir(tmp_path)
    model.save("trained.keras")
    ours = run(section("Keras")["resume"])["model"]
    assert isinstance(ours.optimizer, keras_rmsprop.RMSprop)
    for each in (model, ours):
        each.fit(x, y, epochs=4, verbose=0, shuffle=False)
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def train_in_torch(problem: Problem, optimizer: Any, clip: float | None = None) -> list[Any]:
    import torch

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for t, gradients in enumerate(problem.gradients):
        for group in optimizer.param_groups:
            group["lr"] /= 2.0 if t == STEPS // 2 else 1.0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
    return [parameter.detach().numpy() for parameter in parameters]


def test_torch(float64):
    skip_unless_available("torch")
    import torch

    problem, programs = Problem((2, 3), (3,), (3, 1), (1,)), section("torch")
    names = ("hidden_kernel", "hidden_bias", "head_kernel", "head_bias")
    parameters = [torch.nn.Parameter(torch.tensor(start)) for start in problem.starts]
    theirs = run(programs["before"], **dict(zip(names, parameters, strict=True)))
    want = train_in_torch(problem, theirs["optimizer"])
    variables = problem.variables("hidden/kernel", "hidden/bias", "head/kernel", "head/bias")
    assert_close(problem.train(run(programs["after"])["optimizer"], variables), want)


def test_a_training_of_torch_goes_on_and_comes_back(float64):
    skip_unless_available("torch")
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    network = network.double()
    layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    there = torch.optim.RMSprop(network.parameters(), lr=0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))

    def train(steps: int) -> None:
        for _ in range(steps):
            there.zero_grad()
            torch.mean((network(torch.tensor(x)) - torch.tensor(y)) ** 2).backward()
            there.step()

    train(5)
    programs = section("torch")
    names = run(programs["carry"], network=network, model=model, torch_optimizer=there)
    train(5)
    model.fit(x, y, batch_size=8, epochs=5, verbose=0, shuffle=False)
    want = [p.detach().numpy().T for p in network.parameters()]
    assert_close(model.get_weights(), want, TRAINER)
    run(programs["back"], **{k: v for k, v in names.items() if k != "__builtins__"})
    train(5)
    model.fit(x, y, batch_size=8, epochs=5, verbose=0, shuffle=False)
    want = [p.detach().numpy().T for p in network.parameters()]
    assert_close(model.get_weights(), want, TRAINER)


def test_a_pair_of_the_page_is_replaced(float64):
    skip_unless_available("torch")
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
    layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    interop = keras_rmsprop.interop
    pairs = run(section("torch")["replace"], network=network, model=model, interop=interop)["pairs"]
    interop.torch.load_weights(network, pairs)
    x = np.ones((1, 3), "float32")
    want = network(torch.tensor(x)).detach().numpy()[:, [2, 3, 0, 1]]
    got = keras.ops.convert_to_numpy(keras.ops.stop_gradient(model(x)))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    interop.torch.export_weights(network, pairs)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])


def test_the_embedding_of_the_page_goes_on_with_the_steps_of_a_padded_one(float64):
    skip_unless_available("torch")
    import torch

    torch.manual_seed(0)
    steps = [torch.nn.Embedding(5, 3, padding_idx=0), torch.nn.Flatten(), torch.nn.Linear(12, 2)]
    network = torch.nn.Sequential(*steps).double()
    with torch.no_grad():
        network[0].weight[0] = 1.0
    there = torch.optim.RMSprop(network.parameters(), lr=0.01, momentum=0.5)
    rng = np.random.default_rng(0)
    data = [(rng.integers(0, 5, (6, 4)), rng.normal(size=(6, 2))) for _ in range(STEPS)]

    def train() -> None:
        for x, y in data:
            there.zero_grad()
            torch.mean((network(torch.tensor(x)) - torch.tensor(y)) ** 2).backward()
            there.step()

    train()
    embedding = run(section("torch")["padding"])["PaddedEmbedding"](5, 3)
    own = [embedding, keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((4,), dtype="int64"), *own])
    interop = keras_rmsprop.interop
    pairs = interop.torch.pairs(network, model, exact=False)
    interop.torch.load_weights(network, pairs)
    optimizer = interop.like(there, model.trainable_variables, pairs)
    model.compile(optimizer, loss="mse", run_eagerly=BACKEND == "torch")
    for x, y in data:
        model.train_on_batch(x, y)
    train()
    want = network[0].weight.detach().numpy()
    np.testing.assert_array_equal(want[0], 1.0)
    assert_close(model.get_weights()[:1], [want], TRAINER)


def test_optax(float64):
    skip_unless_available("optax")
    import jax

    problem, programs = Problem((2, 3), (3,)), section("optax")
    transformation = run(programs["before"])["transformation"]
    import optax

    with jax.enable_x64(True):
        parameters = [jax.numpy.asarray(start) for start in problem.starts]
        state = transformation.init(parameters)

        def train(parameters: Any, state: Any, gradients: Any) -> Any:
            for each in gradients:
                updates, state = transformation.update(list(map(jax.numpy.asarray, each)), state)
                parameters = optax.apply_updates(parameters, updates)
            return parameters, state

        want, _ = train(parameters, state, problem.gradients)
        half, state = train(parameters, state, problem.gradients[: STEPS // 2])
    optimizer = run(programs["after"])["optimizer"]
    variables = problem.variables("kernel", "bias")
    for gradients in problem.gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    assert_close([keras.ops.convert_to_numpy(v) for v in variables], map(np.asarray, want))
    # And a training that goes on.
    carried = [keras.Variable(np.asarray(w)) for w in half]
    with jax.enable_x64(True):
        names = run(
            programs["carry"], transformation=transformation, variables=carried, opt_state=state
        )
    for gradients in problem.gradients[STEPS // 2 :]:
        tensors = [keras.ops.convert_to_tensor(g) for g in gradients]
        names["optimizer"].apply(tensors, carried)
    assert_close([keras.ops.convert_to_numpy(v) for v in carried], map(np.asarray, want))


def test_tf1(float64):
    skip_unless_available("tf1")
    import tensorflow as tf

    problem, programs = Problem((2, 3), (3,)), section("TF1")
    theirs = run(programs["before"])["optimizer"]
    there = [tf.Variable(start) for start in problem.starts]
    for gradients in problem.gradients:
        pairs = zip(map(tf.constant, gradients), there, strict=True)
        theirs.apply_gradients(pairs)
    ours = run(programs["after"])["optimizer"]
    here = problem.variables("kernel", "bias")
    for gradients in problem.gradients:
        ours.apply([keras.ops.convert_to_tensor(g) for g in gradients], here)
    for a, b in zip(here, there, strict=True):
        # TF1 rounds its numbers to float32.
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="reads a checkpoint of TensorFlow")
def test_a_checkpoint_of_tf1_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), layer])
    programs = section("TF1")
    source = run(programs["after"])["optimizer"]
    source.apply([keras.ops.ones((3, 2)), keras.ops.ones(2)], model.trainable_variables)
    pairs = {"dense/kernel": layer.kernel, "dense/bias": layer.bias}
    keras_rmsprop.interop.tf1.save(source, "model.ckpt-1000", pairs)
    target = run(programs["after"])["optimizer"]
    run(programs["carry"], layer=layer, model=model, optimizer=target)
    want, got = source.state_dict(), target.state_dict()
    assert int(target.iterations) == 1
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_timm(float64, monkeypatch):
    skip_unless_available("timm")
    import torch

    timm = SimpleNamespace(RMSpropTF=peers.Timm.framework())
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(optim=timm))
    monkeypatch.setitem(sys.modules, "timm.optim", timm)
    problem, programs = Problem((2, 3), (3,)), section("timm")
    parameters = [torch.nn.Parameter(torch.tensor(start)) for start in problem.starts]
    want = train_in_torch(problem, run(programs["before"], parameters=parameters)["optimizer"])
    got = problem.train(run(programs["after"])["optimizer"], problem.variables("kernel", "bias"))
    assert_close(got, want)


def test_timm_s_groups():
    programs = section("timm")
    groups = run(programs["after"] + programs["groups"])["optimizer"]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    groups.build(model.trainable_variables)
    assert [groups._settings_of(i).l2 for i in range(2)] == [1e-5, 0.0]


def test_stable_baselines3(float64):
    skip_unless_available("torch")
    import torch

    problem, programs = Problem((2, 3), (3,)), section("Stable-Baselines3")
    kernel, bias = (torch.nn.Parameter(torch.tensor(start)) for start in problem.starts)
    theirs = run(programs["before"], kernel=kernel, bias=bias)["optimizer"]
    want = train_in_torch(problem, theirs, clip=0.5)
    got = problem.train(run(programs["after"])["optimizer"], problem.variables("kernel", "bias"))
    # torch adds 1e-6 to the norm before it divides by it.
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_every_link_of_the_page_leads_somewhere():
    folder = Path(__file__).parent.parent / "docs"
    targets = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert [target for target in targets if not (folder / target).exists()] == []
