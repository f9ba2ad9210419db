"""Test carrying state between torch's RMSprop and this package's."""

import contextlib
import functools
import importlib
import itertools
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions, interop
from keras_rmsprop.interop import NotExactError, Pair, _carry
from tests.conftest import BACKEND
from tests.tools import halfway, models
from tests.tools.torch_training import train
from yardsticks import peers

if peers.unavailable("torch"):
    pytest.skip(str(peers.unavailable("torch")), allow_module_level=True)

import torch

SHAPES = ((), (2, 4), (3,))
WHOLE = {"momentum": 0.5, "centered": True, "weight_decay": 0.125, "alpha": 0.9, "eps": 1e-3}
CASES = {
    "plain": {},
    "momentum": {"momentum": 0.75},
    "centered": {"centered": True},
    "everything": WHOLE,
    "maximize": {"maximize": True, "momentum": 0.5},
}
# The classes that have torch's form, with arguments.
CELLS = {
    **{f"torch, {case}": ("torch", arguments) for case, arguments in CASES.items()},
    "timm, plain": ("timm", {}),
    "timm, momentum": ("timm", {"momentum": 0.75, "weight_decay": 0.125, "decoupled_decay": True}),
    "timm, everything": ("timm", WHOLE),
    "timm, directions": ("timm", {**WHOLE, "lr_in_momentum": False}),
    "Stable-Baselines3, plain": ("stable_baselines3", {}),
    "Stable-Baselines3, momentum": ("stable_baselines3", {"momentum": 0.75}),
    "Stable-Baselines3, everything": ("stable_baselines3", WHOLE),
}


def convention(name: str, arguments: dict[str, Any]) -> Any:
    """An optimizer of a class's convention, with the class's own defaults."""
    if name == "stable_baselines3":
        name, defaults = "timm", {"alpha": 0.99, "eps": 1e-8, "lr_in_momentum": False}
        arguments = defaults | arguments
    return getattr(conventions, name)(**arguments)


def skip_unless_available(name: str) -> None:
    reason = peers.unavailable(name)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("moving", [False, True], ids=["constant rate", "moving rate"])
@pytest.mark.parametrize("cell", CELLS)
def test_ten_steps_there_and_ten_here(float64, cell, moving):
    name, arguments = CELLS[cell]
    skip_unless_available(name)
    problem = halfway.make_problem(*SHAPES, moving=moving)
    want = peers.follow(name, problem.starts, problem.gradients, problem.rates, **arguments)

    def bring(peer: Any, variables: list[Any]) -> Any:
        return interop.like(peer.optimizer, variables, "order")

    got = halfway.there_then_here(peers.PEERS[name](problem.starts, **arguments), bring, problem)
    halfway.assert_same(got, want, problem)


@pytest.mark.parametrize("moving", [False, True], ids=["constant rate", "moving rate"])
@pytest.mark.parametrize("cell", CELLS)
def test_ten_steps_here_and_ten_there(float64, cell, moving):
    name, arguments = CELLS[cell]
    skip_unless_available(name)
    problem = halfway.make_problem(*SHAPES, moving=moving)
    want = peers.follow(name, problem.starts, problem.gradients, problem.rates, **arguments)

    def take(optimizer: Any, peer: Any, _: list[Any]) -> None:
        state = interop.torch.state_dict(optimizer, peer.optimizer, "order")
        peer.optimizer.load_state_dict(state)

    got = halfway.here_then_there(
        convention(name, arguments), lambda w: peers.PEERS[name](w, **arguments), take, problem
    )
    halfway.assert_same(got, want, problem)


def test_a_buffer_of_directions_becomes_one_of_steps_while_the_rate_is_constant(float64):
    # Keras's buffer holds steps. The two are the same at a constant rate, with epsilon 0.
    problem = halfway.make_problem(*SHAPES, moving=False)
    arguments = {"momentum": 0.75, "eps": 0.0, "alpha": 0.9}
    want = peers.follow("torch", problem.starts, problem.gradients, problem.rates, **arguments)

    def bring(peer: Any, variables: list[Any]) -> Any:
        optimizer = keras_rmsprop.RMSprop(halfway.RATE, rho=0.9, momentum=0.75, epsilon=0.0)
        optimizer.build(variables)
        interop.torch.load(optimizer, peer.optimizer, "order")
        return optimizer

    got = halfway.there_then_here(peers.Torch(problem.starts, **arguments), bring, problem)
    weights_only = [each._replace(slots={}) for each in got]
    halfway.assert_same(weights_only, [each._replace(slots={}) for each in want], problem)
    for step, theirs in zip(got, want[halfway.HALF :], strict=True):
        for ours, directions in zip(step.slots["momentum"], theirs.slots["momentum"], strict=True):
            np.testing.assert_allclose(ours, halfway.RATE * directions, rtol=1e-12, atol=1e-15)


def test_a_buffer_of_directions_is_refused_where_the_rate_is_a_schedule(float64):
    peer = stepped(momentum=0.75, eps=0.0, alpha=0.9)
    variables = [keras.Variable(w) for w in peer.weights()]
    schedule = keras.optimizers.schedules.ExponentialDecay(halfway.RATE, 10, 0.5)
    optimizer = keras_rmsprop.RMSprop(schedule, rho=0.9, momentum=0.75, epsilon=0.0)
    optimizer.build(variables)
    with pytest.raises(NotExactError, match=r"lr_in_momentum.* it is a schedule"):
        interop.torch.load(optimizer, peer.optimizer, "order")


def stepped(**arguments: Any) -> peers.Torch:
    """Ten steps of torch's optimizer."""
    problem = halfway.make_problem(*SHAPES, moving=False)
    peer = peers.Torch(problem.starts, **arguments)
    halfway.steps(peer, problem, 0, halfway.HALF)
    return peer


# Param groups.


class Network(torch.nn.Module):
    """Two layers, of unlike shapes, and their twin in Keras."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(3, 4)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        return self.head(torch.tanh(self.hidden(x)))


def make_twin() -> keras.Model:
    twin = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="tanh", name="hidden"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    assert len(twin.trainable_variables) == 4
    return twin


def twins(network: Network | None = None) -> tuple[Network, keras.Model, Any]:
    torch.manual_seed(0)
    network = Network().double() if network is None else network
    model = make_twin()
    pairs = interop.torch.pairs(network, model)
    interop.torch.load_weights(network, pairs)
    return network, model, pairs


def mapping_of(model: keras.Model) -> dict[str, Any]:
    """The pairs of the twins, one by one."""
    hidden, head = model.layers
    return {
        "hidden.weight": (hidden.kernel, np.transpose, np.transpose),
        "hidden.bias": hidden.bias,
        "head.weight": (head.kernel, np.transpose, np.transpose),
        "head.bias": head.bias,
    }


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(5, 3)), rng.normal(size=(5, 2))) for _ in range(count)]


def train_keras(model: keras.Model, optimizer: Any, data: Any) -> list[float]:
    model.compile(optimizer, loss="mse", run_eagerly=keras.backend.backend() == "torch")
    return [float(model.train_on_batch(x, y)) for x, y in data]


GROUPS = {
    "rates": [{"lr": 0.01}, {"lr": 0.001}],
    "everything": [
        {"lr": 0.0},
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "momentum": 0.5, "weight_decay": 0.1},
    ],
}  # fmt: skip


def torch_optimizer(network: Network, groups: str, **arguments: Any) -> torch.optim.RMSprop:
    settings = GROUPS[groups]
    params = [list(network.hidden.parameters()), list(network.head.parameters())]
    return torch.optim.RMSprop(
        [{"params": p, **own} for p, own in zip(params, settings, strict=True)], **arguments
    )


@pytest.mark.parametrize("centered", [False, True], ids="centered={}".format)
@pytest.mark.parametrize("groups", GROUPS)
def test_param_groups_become_groups_and_come_back(float64, groups, centered):
    network, _, _ = twins()
    there = torch_optimizer(network, groups, centered=centered)
    data = batches(30)
    train(network, there, data[:10])
    _, model, pairs = twins(network)
    optimizer = interop.like(there, model.trainable_variables, pairs)
    train_keras(model, optimizer, data[10:20])
    train(network, there, data[10:20])
    assert_close(model, network)
    # And back, to a torch optimizer that knows nothing yet.
    back = Network().double()
    interop.torch.export_weights(back, pairs)
    again = torch_optimizer(back, groups, centered=centered)
    again.load_state_dict(interop.torch.state_dict(optimizer, again, pairs, names=back))
    train(network, there, data[20:])
    train(back, again, data[20:])
    for (name, a), b in zip(network.named_parameters(), back.parameters(), strict=True):
        np.testing.assert_allclose(
            b.detach(), a.detach(), rtol=TRAINER, atol=1e-2 * TRAINER, err_msg=name
        )


# Keras's trainer works in float64 on TensorFlow only.
TRAINER = 1e-12 if BACKEND == "tensorflow" else 1e-5


def assert_close(model: keras.Model, network: Network) -> None:
    want = [p.detach().numpy() for p in network.parameters()]
    for ours, theirs in zip(model.get_weights(), want, strict=True):
        np.testing.assert_allclose(ours, theirs.T, rtol=TRAINER, atol=1e-2 * TRAINER)


def test_a_scheduler_s_rate_is_that_of_the_next_step(float64):
    network, _, _ = twins()
    there = torch.optim.RMSprop(network.parameters(), lr=0.01, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(there, 0.9)
    data = batches(20)
    train(network, there, data[:10], scheduler)
    _, model, pairs = twins(network)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 1, 0.9)
    optimizer = interop.like(there, model.trainable_variables, pairs, learning_rate=schedule)
    assert int(optimizer.iterations) == 10
    train_keras(model, optimizer, data[10:])
    train(network, there, data[10:], scheduler)
    want = [p.detach().numpy().T for p in network.parameters()]
    for ours, theirs in zip(model.get_weights(), want, strict=True):
        # Keras computes schedules in float32.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_a_schedule_with_another_rate_is_refused(float64):
    network, _, _ = twins()
    there = torch.optim.RMSprop(network.parameters(), lr=0.01)
    train(network, there, batches(10))
    _, model, pairs = twins(network)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 1, 0.9)
    with pytest.raises(NotExactError, match=r"is 0\.00348678\d here and 0\.01 there"):
        interop.like(there, model.trainable_variables, pairs, learning_rate=schedule)


# Names and shapes.


def test_swapped_names_of_unlike_shape_are_refused_and_named(float64):
    network, model, _ = twins()
    there = torch.optim.RMSprop(network.parameters())
    train(network, there, batches(3))
    right = mapping_of(model)
    swapped = right | {"hidden.weight": right["head.weight"], "head.weight": right["hidden.weight"]}
    optimizer = conventions.torch()
    optimizer.build(model.trainable_variables)
    before = models.values(optimizer.variables)
    with pytest.raises(ValueError, match="hidden") as raised:
        interop.torch.load(optimizer, there, swapped, names=network)
    words = str(raised.value)
    assert "'hidden.weight' has shape (4, 3), which is (3, 4) in Keras's layout" in words
    assert "'head.weight' has shape (2, 4), which is (4, 2) in Keras's layout" in words
    assert "Nothing has changed" in words
    models.assert_identical(models.values(optimizer.variables), before)


def test_parameters_are_known_by_identity_whatever_their_order(float64):
    network, _, _ = twins()
    backwards = list(network.parameters())[::-1]
    there = torch.optim.RMSprop(backwards, lr=0.01)
    data = batches(20)
    train(network, there, data[:10])
    _, model, pairs = twins(network)
    optimizer = interop.like(there, model.trainable_variables, pairs)
    train_keras(model, optimizer, data[10:])
    train(network, there, data[10:])
    assert_close(model, network)


def test_a_state_dict_s_order_is_checked_by_shapes(float64):
    network, model, pairs = twins()
    there = torch.optim.RMSprop(list(network.parameters())[::-1])
    train(network, there, batches(3))
    optimizer = conventions.torch()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"'hidden\.weight' has shape \(2,\)|cannot be converted"):
        interop.torch.load(optimizer, there.state_dict(), pairs)


def test_a_state_dict_with_named_parameters_needs_no_module(float64):
    network, _, _ = twins()
    there = torch.optim.RMSprop(reversed(list(network.named_parameters())), lr=0.01)
    data = batches(20)
    train(network, there, data[:10])
    _, model, _ = twins(network)
    hidden, head = model.layers
    mapping = {
        "hidden.weight": (hidden.kernel, np.transpose, np.transpose),
        "hidden.bias": "hidden/bias",
        "head.weight": (head.kernel, np.transpose, np.transpose),
        "head.bias": head.bias,
    }
    optimizer = conventions.torch(0.01)
    optimizer.build(model.trainable_variables)
    report = interop.torch.load(optimizer, there.state_dict(), mapping)
    assert report.initialized == report.dropped == ()
    train_keras(model, optimizer, data[10:])
    train(network, there, data[10:])
    assert_close(model, network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {k: v for k, v in m.items() if k != "head.bias"}, "paired with 'head.bias'"),
        (lambda m: {**m, "head.bais": m["head.bias"]}, "head.bais"),
        (lambda m: {**m, "head.bias": "haed/bias"}, "did you mean"),
        (lambda m: {**m, "hidden.bias": m["head.bias"]}, "both paired with"),
        (lambda m: {**m, "head.bias": ("head/bias", 3, 4)}, "a function"),
    ],
)  # fmt: skip
def test_incomplete_or_wrong_pairs_are_refused(float64, change, message):
    network, model, _ = twins()
    there = torch.optim.RMSprop(network.parameters())
    train(network, there, batches(3))
    mapping = mapping_of(model)
    optimizer = conventions.torch()
    optimizer.build(model.trainable_variables)
    before = models.values(optimizer.variables)
    with pytest.raises(ValueError, match=message):
        interop.torch.load(optimizer, there, change(mapping), names=network)
    models.assert_identical(models.values(optimizer.variables), before)


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ({"alpha": 0.9}, {}, "`rho` is 0.9 here and 0.99 there"),
        ({"eps": 1e-3}, {}, "`epsilon` is 0.001 here and 1e-08 there"),
        ({"momentum": 0.5}, {}, "`momentum` is 0.5 here and 0.0 there"),
        ({}, {"weight_decay": 0.1}, "`l2` is 0.0 here and 0.1 there"),
        ({}, {"centered": True}, "`centered` is False here and True there"),
        ({}, {"maximize": True}, "`maximize` is False here and True there"),
    ],
)
def test_other_steps_are_refused_unless_wanted(float64, ours, theirs, words):
    network, model, pairs = twins()
    there = torch.optim.RMSprop(network.parameters(), **theirs)
    train(network, there, batches(3))
    optimizer = conventions.torch(**ours)
    optimizer.build(model.trainable_variables)
    before = models.values(optimizer.variables)
    with pytest.raises(NotExactError) as raised:
        interop.torch.load(optimizer, there, pairs)
    assert words in str(raised.value)
    models.assert_identical(models.values(optimizer.variables), before)
    with pytest.raises(NotExactError) as raised:
        interop.torch.state_dict(optimizer, there, pairs)
    assert words in str(raised.value)
    with contextlib.suppress(UserWarning):
        interop.torch.load(optimizer, there, pairs, exact=False)
    average = optimizer._square_averages[0]
    want = there.state[network.hidden.weight]["square_avg"].numpy().T
    np.testing.assert_allclose(keras.ops.convert_to_numpy(average), want, rtol=1e-12)


def test_another_optimizer_is_refused(float64):
    network, model, pairs = twins()
    there = torch.optim.Adam(network.parameters())
    train(network, there, batches(3))
    optimizer = conventions.torch()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"received torch\.optim\.adam\.Adam, which is another"):
        interop.torch.load(optimizer, there, pairs)
    with pytest.raises(ValueError, match="not that of an RMSprop"):
        interop.torch.load(optimizer, there.state_dict(), pairs)
    with pytest.raises(ValueError, match=r"received one of torch\.optim\.adam\.Adam"):
        interop.like(there)


def test_another_package_s_rmsprop_is_not_taken_for_torch_s():
    another = type("RMSprop", (torch.optim.SGD,), {"__module__": "another.optim"})
    optimizer = conventions.torch()
    optimizer.build([keras.Variable(np.ones(3))])
    there = another([torch.nn.Parameter(torch.ones(3))])
    with pytest.raises(ValueError, match=r"received another\.optim\.RMSprop, which is another"):
        interop.torch.load(optimizer, there, "order")
    subclass = type("RMSprop", (torch.optim.RMSprop,), {"__module__": "another.optim"})
    assert interop.like(subclass([torch.nn.Parameter(torch.ones(3))], lr=0.5)).rho == 0.99


def test_a_parameter_that_made_no_step_starts_afresh(float64):
    network, model, pairs = twins()
    there = torch.optim.RMSprop(network.parameters())
    network.hidden.requires_grad_(False)
    train(network, there, batches(3))
    network.hidden.requires_grad_(True)
    with pytest.warns(UserWarning, match="start afresh: sequential.*hidden/kernel/square_average"):
        optimizer = interop.like(there, model.trainable_variables, pairs)
    assert int(optimizer.iterations) == 3


def test_the_order_of_a_state_dict_is_not_trusted_where_shapes_are_equal(float64):
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)).double()
    there = torch.optim.RMSprop(list(network.parameters())[::-1])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), keras.layers.Dense(3)])
    pairs = interop.torch.pairs(network, model)
    train(network, there, [(np.ones((2, 3)), np.zeros((2, 3)))] * 3)
    optimizer = conventions.torch()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="nothing shows which is which"):
        interop.torch.load(optimizer, there.state_dict(), pairs)
    names = [name for name, _ in network.named_parameters()][::-1]
    interop.torch.load(optimizer, there.state_dict(), pairs, names=names)
    want = there.state[network[0].weight]["square_avg"].numpy().T
    got = keras.ops.convert_to_numpy(optimizer._square_averages[0])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transform": "centralize"}, "`transform` changes the gradients here only"),
        ({"use_ema": True, "ema_overwrite_frequency": 2}, "replaces the weights here only"),
        ({"rho": 1.0 - 1e-7}, "`rho` is"),
    ],
)
def test_what_torch_does_not_do_is_refused(float64, options, words):
    network, model, pairs = twins()
    there = torch.optim.RMSprop(network.parameters(), alpha=1.0 - 2e-7, lr=0.5)
    train(network, there, batches(3))
    given = {"rho": 1.0 - 2e-7, "epsilon": 1e-8, "epsilon_inside_sqrt": False, **options}
    optimizer = keras_rmsprop.RMSprop(0.5, lr_in_momentum=False, **given)
    optimizer.build(model.trainable_variables)
    with pytest.raises(NotExactError) as raised:
        interop.torch.load(optimizer, there, pairs)
    assert words in str(raised.value)
    with pytest.raises(NotExactError) as raised:
        interop.torch.state_dict(optimizer, there, pairs)
    assert words in str(raised.value)


def test_groups_are_of_their_layers_also_if_the_model_has_a_layer_s_name(float64):
    network, _, _ = twins()
    there = torch_optimizer(network, "rates")
    layers = [keras.layers.Dense(4, activation="tanh", name="hidden")]
    layers.append(keras.layers.Dense(2, name="head"))
    model = keras.Sequential([keras.Input((3,)), *layers], name="head")
    pairs = interop.torch.pairs(network, model)
    optimizer = interop.like(there, model.trainable_variables, pairs)
    assert optimizer._roster.members == (0, 0, 1, 1)


def test_torch_goes_on_from_a_state_without_its_buffers(float64):
    network, model, pairs = twins()
    optimizer = conventions.torch()
    optimizer.build(model.trainable_variables)
    train_keras(model, optimizer, batches(2))
    there = torch.optim.RMSprop(network.parameters(), momentum=0.5, centered=True)
    with pytest.raises(NotExactError, match="`momentum` is 0"):
        interop.torch.state_dict(optimizer, there, pairs)
    there.load_state_dict(interop.torch.state_dict(optimizer, there, pairs, exact=False))
    train(network, there, batches(1))
    assert float(there.state[network.head.bias]["step"]) == 3.0


def test_a_buffer_of_one_bias_of_two_is_refused(float64):
    module = torch.nn.LSTM(3, 4, batch_first=True).double()
    module.bias_hh_l0.requires_grad_(False)
    there = torch.optim.RMSprop(module.parameters())
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4, return_sequences=True)])
    network_losses(module, there, [(np.ones((2, 5, 3)), np.ones((2, 5, 4)))])
    pairs = interop.torch.pairs(module, model)
    with pytest.raises(NotExactError, match="only one of 'bias_ih_l0' and 'bias_hh_l0'"):
        interop.like(there, model.trainable_variables, pairs)


# Layers.


LAYERS: dict[str, Any] = {
    "Dense": lambda: (torch.nn.Linear(3, 4), keras.layers.Dense(4), (5, 3)),
    "Dense without bias": lambda: (
        torch.nn.Linear(3, 4, bias=False), keras.layers.Dense(4, use_bias=False), (5, 3),
    ),
    "Conv1D": lambda: (torch.nn.Conv1d(2, 3, 3), keras.layers.Conv1D(3, 3), (5, 7, 2)),
    "Conv2D": lambda: (
        torch.nn.Conv2d(2, 3, (3, 2)), keras.layers.Conv2D(3, (3, 2)), (5, 7, 6, 2),
    ),
    "Conv2D in groups": lambda: (
        torch.nn.Conv2d(4, 6, 2, groups=2), keras.layers.Conv2D(6, 2, groups=2), (5, 4, 4, 4),
    ),
    "Conv3D": lambda: (
        torch.nn.Conv3d(2, 3, (2, 3, 1)), keras.layers.Conv3D(3, (2, 3, 1)), (2, 4, 5, 3, 2),
    ),
    "DepthwiseConv2D": lambda: (
        torch.nn.Conv2d(3, 6, (3, 2), groups=3),
        keras.layers.DepthwiseConv2D((3, 2), depth_multiplier=2), (4, 6, 5, 3),
    ),
    "LayerNormalization": lambda: (
        torch.nn.LayerNorm(4, eps=1e-3), keras.layers.LayerNormalization(epsilon=1e-3), (5, 4),
    ),
    "BatchNormalization": lambda: (
        torch.nn.BatchNorm2d(3), keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        (5, 4, 4, 3),
    ),
    "GRU": lambda: (
        torch.nn.GRU(3, 4, batch_first=True), keras.layers.GRU(4, return_sequences=True), (2, 5, 3),
    ),
    "LSTM": lambda: (
        torch.nn.LSTM(3, 4, batch_first=True), keras.layers.LSTM(4, return_sequences=True),
        (2, 5, 3),
    ),
    "bidirectional GRU": lambda: (
        torch.nn.GRU(3, 4, batch_first=True, bidirectional=True),
        keras.layers.Bidirectional(keras.layers.GRU(4, return_sequences=True)), (2, 5, 3),
    ),
    "bidirectional LSTM": lambda: (
        torch.nn.LSTM(3, 4, batch_first=True, bidirectional=True),
        keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True)), (2, 5, 3),
    ),
}  # fmt: skip


def outputs_of(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Call a torch layer with the channels last."""
    if isinstance(module, torch.nn.RNNBase):
        return module(x)[0]
    moved = isinstance(module, torch.nn.modules.conv._ConvNd | torch.nn.BatchNorm2d)
    return torch.movedim(module(torch.movedim(x, -1, 1)), 1, -1) if moved else module(x)


def network_losses(module: torch.nn.Module, optimizer: Any, data: Any) -> list[float]:
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = torch.mean((outputs_of(module, torch.tensor(x)) - torch.tensor(y)) ** 2)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_goes_on_training_in_keras_and_back_in_torch(float64, name):
    torch.manual_seed(0)
    module, layer, shape = LAYERS[name]()
    module = module.double()
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    rng = np.random.default_rng(0)
    target = rng.normal(size=(1, *model.output_shape[1:]))
    data = [(rng.normal(size=shape), np.repeat(target, shape[0], 0)) for _ in range(12)]
    arguments = {"lr": 0.02, "momentum": 0.5, "centered": True}
    there = torch.optim.RMSprop(module.parameters(), **arguments)
    network_losses(module, there, data[:4])
    pairs = interop.torch.pairs(module, model)
    interop.torch.load_weights(module, pairs)
    optimizer = interop.like(there, model.trainable_variables, pairs, jit_compile=False)
    ours = train_keras(model, optimizer, data[4:8])
    theirs = network_losses(module, there, data[4:8])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    # And back, into a module that has trained on something else meanwhile.
    again = torch.optim.RMSprop(module.parameters(), **arguments)
    interop.torch.export_weights(module, pairs)
    again.load_state_dict(interop.torch.state_dict(optimizer, again, pairs))
    ours = train_keras(model, optimizer, data[8:])
    theirs = network_losses(module, again, data[8:])
    np.testing.assert_allclose(theirs, ours, rtol=1e-6)
    assert theirs[-1] < ours[0] * 10


def test_an_embedding_is_paired(float64):
    module = torch.nn.Embedding(7, 3).double()
    layer = keras.layers.Embedding(7, 3)
    layer.build()
    (pair,) = interop.torch.pairs(module, layer)
    assert pair.names == ("weight",)
    assert pair.variable is layer.embeddings
    interop.torch.load_weights(module, [pair])
    np.testing.assert_array_equal(layer.get_weights()[0], module.weight.detach())


def test_the_bias_of_an_lstm_is_refused_where_it_cannot_follow(float64):
    module = torch.nn.LSTM(3, 4, batch_first=True).double()
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4)])
    pairs = interop.torch.pairs(module, model)
    optimizer = conventions.torch(weight_decay=0.1)
    optimizer.build(model.trainable_variables)
    there = torch.optim.RMSprop(module.parameters(), weight_decay=0.1)
    with pytest.raises(NotExactError) as raised:
        interop.torch.load(optimizer, there, pairs)
    assert "2 times that of 'bias_ih_l0' and 'bias_hh_l0'" in str(raised.value)
    assert "decays" in str(raised.value)


def scale_down(parameters: list[Any]) -> None:
    """Clip gradients to a common norm of 0.5, without the 1e-6 that torch adds to the norm."""
    norm = torch.sqrt(sum(p.grad.square().sum() for p in parameters))
    for parameter in parameters:
        parameter.grad *= torch.clamp(0.5 / norm, max=1.0)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
@pytest.mark.parametrize("clip", ["global_clipnorm", "clipnorm", "clipvalue"])
def test_clipping_of_the_two_biases_is_that_of_torch_or_refused(float64, name, clip):
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(3, 4, batch_first=True).double()
    layer = getattr(keras.layers, name)(4, return_sequences=True)
    model = keras.Sequential([keras.Input((5, 3)), layer])
    pairs = interop.torch.pairs(module, model)
    there = torch.optim.RMSprop(module.parameters(), lr=0.25, eps=0.25)
    rng = np.random.default_rng(0)

    def step_there(gradients: dict[str, Any]) -> None:
        for key, parameter in module.named_parameters():
            parameter.grad = torch.tensor(gradients[key])
        if clip == "global_clipnorm":
            scale_down(list(module.parameters()))
        for parameter in module.parameters():
            if clip == "clipnorm":
                scale_down([parameter])
            if clip == "clipvalue":
                torch.nn.utils.clip_grad_value_([parameter], 0.5)
        there.step()

    def gradients_there() -> dict[str, Any]:
        found = {n: rng.normal(size=p.shape) for n, p in module.named_parameters()}
        if name == "LSTM":
            found["bias_hh_l0"] = found["bias_ih_l0"]
        return found

    step_there(gradients_there())
    interop.torch.load_weights(module, pairs)
    options = {clip: 0.5, "jit_compile": False}
    if (name, clip) in {("LSTM", "global_clipnorm"), ("GRU", "clipnorm")}:
        for carry in (
            lambda: interop.like(there, model.trainable_variables, pairs, **options),
            lambda: interop.torch.state_dict(
                interop.like(there, model.trainable_variables, pairs, exact=False, **options),
                there,
                pairs,
            ),
        ):
            with pytest.raises(NotExactError) as raised:
                carry()
            assert clip in str(raised.value)
            assert "each of 'bias_ih_l0' and 'bias_hh_l0'" in str(raised.value)
        return
    optimizer = interop.like(there, model.trainable_variables, pairs, **options)
    start = model.get_weights()
    gradients = gradients_there()
    step_there(gradients)
    by_variable = {id(pair.variable): pair for pair in pairs}
    found = []
    for variable in model.trainable_variables:
        pair = by_variable[id(variable)]
        value = pair.converted([gradients[n] for n in pair.names], tuple(variable.shape))
        found.append(keras.ops.convert_to_tensor(value))
    optimizer.apply(found, model.trainable_variables)
    got = model.get_weights()
    interop.torch.load_weights(module, pairs)
    models.assert_same(got, model.get_weights(), start, steps=1)


def test_layers_that_do_not_correspond_are_refused():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Conv1d(2, 3, 3))
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.Dense(4), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"'1' is a Conv1d, and .* a Dense"):
        interop.torch.pairs(network, model)
    with pytest.raises(ValueError, match=r"2 torch modules .* and 1 Keras layers"):
        interop.torch.pairs(network, model.layers[0])
    with pytest.raises(ValueError, match="There is no submodule 'encoder'"):
        interop.torch.pairs(network, {"encoder": model.layers[0]})
    with pytest.raises(ValueError, match="No pairs are known for torch's Bilinear"):
        interop.torch.pairs(torch.nn.Bilinear(2, 3, 4), model.layers[0])


def a_network(*names: str) -> torch.nn.Module:
    network = torch.nn.Module()
    for name in names:
        parent = network
        *outer, last = name.split(".")
        for each in outer:
            if not hasattr(parent, each):
                parent.add_module(each, torch.nn.Module())
            parent = getattr(parent, each)
        parent.add_module(last, torch.nn.Linear(4, 4, bias=False))
    return network


def a_model(*names: str) -> keras.Model:
    """Return a model of equal layers; names with a "/" are of layers in a model of their own."""
    inner: dict[str, list[Any]] = {}
    for name in names:
        first, _, last = name.rpartition("/")
        layer = keras.layers.Dense(4, use_bias=False, name=last)
        inner.setdefault(first or name, []).append(layer)
    layers = [
        each[0] if each[0].name == name else keras.Sequential(each, name=name)
        for name, each in inner.items()
    ]
    return keras.Sequential([keras.Input((4,)), *layers], name="model")


PAIRED = {
    "names in another order": (["second", "first"], ["first", "second"], [1, 0]),
    "names in models": (
        ["decoder.fc", "encoder.fc"], ["encoder/fc", "decoder/fc"], [1, 0],
    ),
    "the end of a name decides": (["net.head", "net.body"], ["body", "head"], [1, 0]),
    "no names in common": (["1", "0"], ["first", "second"], [0, 1]),
    "some names, in order": (["first", "1"], ["first", "second"], [0, 1]),
    "one name twice": (["b.fc", "a.fc"], ["fc", "other"], [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRED)
def test_layers_are_paired_by_name_if_all_have_one_and_otherwise_by_order(case):
    theirs, ours, positions = PAIRED[case]
    model = a_model(*ours)
    pairs = interop.torch.pairs(a_network(*theirs), model)
    assert [pair.names for pair in pairs] == [(f"{name}.weight",) for name in theirs]
    found = [pair.variable for pair in pairs]
    assert all(v is model.weights[i] for v, i in zip(found, positions, strict=True))


def test_names_that_contradict_the_order_are_refused_unless_a_mapping_decides():
    network, model = a_network("second", "1", "2"), a_model("first", "second", "third")
    with pytest.raises(ValueError, match=r"By order 'second' .* 'first', but by name to 'second'"):
        interop.torch.pairs(network, model)
    layers = dict(zip(("second", "1", "2"), model.layers, strict=True))
    pairs = interop.torch.pairs(network, layers)
    assert pairs[0].variable is model.layers[0].kernel


@pytest.mark.parametrize("what", ["LoRA", "quantized"])
def test_a_kernel_that_is_computed_is_refused(what):
    layer = keras.layers.Dense(4, lora_rank=2 if what == "LoRA" else None)
    model = keras.Sequential([keras.Input((4,)), layer])
    if what == "quantized":
        layer.quantize("int8")
    with pytest.raises(ValueError, match=what):
        interop.torch.pairs(torch.nn.Linear(4, 4), model)


def test_weights_go_to_variables_only():
    network = {"weight": torch.ones(2)}
    for other in ("dense/kernel", torch.ones(2)):
        with pytest.raises(ValueError, match="Weights need variables, received"):
            interop.torch.load_weights(network, [Pair(("weight",), other)])


# Other optimizers of torch.


def one_step(name: str, **arguments: Any) -> Any:
    """An optimizer of one of torch's classes, after a step."""
    skip_unless_available(name)
    peer = peers.PEERS[name]([np.zeros((2, 3))], **arguments)
    peer.step(peer.tensors([np.ones((2, 3))]))
    return peer.optimizer


# What makes the steps others.


def stepped_once(optimizer: Any) -> Any:
    """An optimizer of torch after a step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def parameters(*sizes: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(size, dtype=torch.float64)) for size in sizes]


class OwnStep(torch.optim.RMSprop):
    """A class of a user's that halves its gradients."""

    def step(self, closure: Any = None) -> Any:
        """Make a step."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad /= 2.0
        return super().step(closure)


class WrappedStep(torch.optim.RMSprop):
    """As OwnStep, but it looks like torch's."""

    @functools.wraps(torch.optim.RMSprop.step)
    def step(self, closure: Any = None) -> Any:
        """Make a step."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad /= 2.0
        return super().step(closure)


def with_hook(own: list[torch.nn.Parameter]) -> Any:
    optimizer = torch.optim.RMSprop(own)
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


def with_own_step(own: list[torch.nn.Parameter]) -> Any:
    optimizer = torch.optim.RMSprop(own)
    step = optimizer.step
    optimizer.step = lambda: step()
    return optimizer


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (OwnStep, r"`step` is that of OwnStep there"),
        (WrappedStep, r"`step` is that of WrappedStep there"),
        (with_own_step, r"`step` is that of RMSprop there"),
        (with_hook, r"hooks are registered there \(register_step_pre_hook\)"),
    ],
)
def test_code_of_a_user_s_in_the_steps_is_refused(float64, make, words):
    variable = keras.Variable(np.ones(3))
    for source in (make(parameters(3)), stepped_once(make(parameters(3)))):
        with pytest.raises(NotExactError, match=words):
            interop.like(source, [variable], "order")
    assert int(interop.like(source, [variable], "order", exact=False).iterations) == 1
    optimizer = conventions.torch()
    optimizer.build([variable])
    for call in (interop.torch.load, interop.torch.state_dict):
        with pytest.raises(NotExactError, match=words):
            call(optimizer, source, "order")


def test_hooks_of_all_optimizers_are_refused(float64):
    module = importlib.import_module("torch.optim.optimizer")  # hidden by another name
    hook = module.register_optimizer_step_pre_hook(lambda *_: None)
    source = torch.optim.RMSprop(parameters(3))
    try:
        with pytest.raises(NotExactError, match=r"\(register_optimizer_step_pre_hook\)"):
            interop.like(source)
    finally:
        hook.remove()
    interop.like(source)


def test_a_subclass_with_torch_s_own_steps_is_accepted(float64):
    named = type("Named", (torch.optim.RMSprop,), {"name": "mine"})
    source = stepped_once(named(parameters(3)))
    # A scheduler wraps `step` of the object.
    torch.optim.lr_scheduler.StepLR(source, 10)
    assert int(interop.like(source, [keras.Variable(np.ones(3))], "order").iterations) == 1


def test_a_momentum_that_a_scheduler_cycles_is_refused(float64):
    source = stepped_once(torch.optim.RMSprop(parameters(3), momentum=0.9))
    one_cycle, variable = torch.optim.lr_scheduler.OneCycleLR, keras.Variable(np.ones(3))
    one_cycle(source, 0.1, total_steps=20, cycle_momentum=False)
    interop.like(source, [variable], "order")
    one_cycle(source, 0.1, total_steps=20, base_momentum=0.9, max_momentum=0.9)
    interop.like(source, [variable], "order")
    one_cycle(source, 0.1, total_steps=20)
    for each in (source, source.state_dict()):
        with pytest.raises(
            NotExactError, match=r"a scheduler cycles the momentum .* 0\.85 and 0\.95"
        ):
            interop.like(each, [variable], "order")
    # It has ended.
    for group in source.param_groups:
        del group["max_momentum"], group["base_momentum"]
    interop.like(source, [variable], "order")


def test_groups_of_variables_that_have_the_same_path_are_refused(float64):
    # As the variables of two models that are parts of a third.
    own = parameters(2, 3)
    source = torch.optim.RMSprop([{"params": own[:1], "lr": 0.001}, {"params": own[1:]}], lr=0.1)
    variables = [keras.Variable(np.ones(size), name="kernel") for size in (2, 3)]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Two variables have the path 'kernel' and different"):
            interop.like(source, variables, "order")
        stepped_once(source)


def test_a_rate_of_zero_beside_one_of_a_frozen_parameter(float64):
    own = parameters(2, 3)
    own[1].requires_grad_(False)
    source = torch.optim.RMSprop([{"params": own[:1], "lr": 0.0}, {"params": own[1:]}], lr=0.1)
    own[0].grad = torch.ones_like(own[0])
    source.step()
    optimizer = interop.like(source, [keras.Variable(np.ones(2))], "order")
    optimizer.apply([keras.ops.ones(2)])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(optimizer._roster.weights[0]), 1.0)


@pytest.mark.parametrize("groups", [[], [{"params": []}]])
def test_an_optimizer_without_parameters_is_refused(groups):
    source = torch.optim.RMSprop(parameters(1)).state_dict()
    source["param_groups"] = [{**source["param_groups"][0], **own} for own in groups]
    with pytest.raises(ValueError, match="The torch optimizer has no parameters"):
        interop.like(source)


def edited(change: Any) -> dict[str, Any]:
    """A state_dict that was changed by hand."""
    arguments = {"momentum": 0.9, "centered": True}
    state = stepped_once(torch.optim.RMSprop(parameters(3), **arguments)).state_dict()
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["state"][0].pop("momentum_buffer"), "there is no momentum buffer of '0'"),
        (lambda s: s["state"][0].pop("grad_avg"), "no average of the gradients of '0'"),
        (
            lambda s: s["state"][0].update(momentum_buffer=torch.ones(3, dtype=torch.float16)),
            "the slots are rounded to float16 there",
        ),
        (
            lambda s: s.update(state={"0": s["state"][0]}),
            r"state must be of the parameters in param_groups, \[0\], received \['0'\]",
        ),
        (
            lambda s: s["state"][0].update(
                square_avg=torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
            ),
            "'square_avg'\\] must be a dense tensor",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_state_dict_that_lacks_something_is_refused(float64, change, words):
    with pytest.raises(ValueError, match=words):
        interop.like(edited(change), [keras.Variable(np.ones(3))], "order")


def test_entries_of_a_state_that_are_of_no_parameter_stay_with_torch(float64):
    source = stepped_once(torch.optim.RMSprop(parameters(3)))
    source.state["amp"] = {"step": "none"}
    for each in (source, source.state_dict()):
        assert int(interop.like(each, [keras.Variable(np.ones(3))], "order").iterations) == 1


def test_the_variance_about_an_infinite_mean_is_not_zero(float64):
    source = edited(lambda state: state["state"][0]["grad_avg"].fill_(np.inf))
    optimizer = interop.like(source, [keras.Variable(np.ones(3))], "order")
    assert np.all(np.isnan(keras.ops.convert_to_numpy(optimizer._square_averages[0])))


def test_rate_and_step_of_an_export_are_of_one_moment(float64):
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 1, 0.999)
    variable = keras.Variable(np.ones(3))
    optimizer = conventions.torch(schedule)
    optimizer.build([variable])
    there = torch.optim.RMSprop(parameters(3))
    gate = _carry._outgoing

    def step_meanwhile(*arguments: Any) -> Any:
        optimizer.apply([keras.ops.ones(3)], [variable])
        return gate(*arguments)

    with mock.patch.object(_carry, "_outgoing", step_meanwhile):
        state = interop.torch.state_dict(optimizer, there, "order", exact=False)
    assert int(optimizer.iterations) == 1
    assert int(state["state"][0]["step"]) == 0
    np.testing.assert_allclose(state["param_groups"][0]["lr"], 1e-3, rtol=1e-7)


def test_timm_s_state_dict_is_known_by_its_entries(float64):
    there = one_step("timm", lr=0.01, eps=1e-3, momentum=0.9, weight_decay=0.1)
    optimizer = conventions.timm(0.01, eps=1e-3, momentum=0.9, weight_decay=0.1)
    optimizer.build([keras.Variable(np.zeros((2, 3)))])
    interop.torch.load(optimizer, there.state_dict(), "order")
    (own,) = there.state.values()
    for slot, entry in (
        (optimizer._momentums[0], "momentum_buffer"),
        (optimizer._square_averages[0], "square_avg"),
    ):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(slot), own[entry].numpy())
    there.param_groups[0]["decoupled_decay"] = True
    with pytest.raises(NotExactError, match=r"`l2` is 0\.1 here and 0\.0 there"):
        interop.torch.load(optimizer, there.state_dict(), "order")


@pytest.mark.parametrize("setting", ["caution", "corrected_weight_decay"])
def test_what_timm_does_otherwise_is_refused(float64, setting):
    there = one_step(
        "timm", momentum=0.9, weight_decay=0.1, decoupled_decay=True, **{setting: True}
    )
    for source in (there, there.state_dict()):
        with pytest.raises(ValueError, match=f"timm's {setting} changes the steps"):
            interop.like(source)


def test_a_rate_that_is_a_tensor_stays_one(float64):
    network, model, pairs = twins()
    there = torch.optim.RMSprop(network.parameters(), lr=torch.tensor(0.5), foreach=False)
    optimizer = conventions.torch(0.25)
    optimizer.build(model.trainable_variables)
    rate = interop.torch.state_dict(optimizer, there, pairs)["param_groups"][0]["lr"]
    assert torch.is_tensor(rate)
    assert float(rate) == 0.25
    assert float(there.param_groups[0]["lr"]) == 0.5


def test_rates_that_float32_rounds_come_back_with_their_own_digits():
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3)]
    groups = [{"params": parameters[:1], "lr": 3e-4}, {"params": parameters[1:]}]
    there = torch.optim.RMSprop(groups, lr=0.07)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    there.step()
    variables = [keras.Variable(np.ones(n, "float32")) for n in (2, 3)]
    optimizer = interop.like(there, variables, "order")

    def rates() -> list[float]:
        state = interop.torch.state_dict(optimizer, there, "order")
        return [group["lr"] for group in state["param_groups"]]

    assert rates() == [3e-4, 0.07]
    for other in (0.0, 1.0):
        optimizer.learning_rate = np.nextafter(np.float32(3e-4), np.float32(other))
        assert rates()[0] == float(optimizer.learning_rate) != 3e-4


def test_stable_baselines3_s_state_dict_is_named_by_the_caller(float64):
    # It has the entries of torch's.
    there = one_step("stable_baselines3", lr=0.01, alpha=0.9, eps=1e-5)
    optimizer = conventions.timm(0.01, alpha=0.9, eps=1e-5, lr_in_momentum=False)
    optimizer.build([keras.Variable(np.zeros((2, 3)))])
    state = there.state_dict()
    with pytest.raises(NotExactError, match="`epsilon_inside_sqrt` is True here and False there"):
        interop.torch.load(optimizer, state, "order")
    kind = "Stable-Baselines3's RMSpropTFLike"
    interop.torch.load(optimizer, state, "order", kind=kind)
    back = interop.torch.state_dict(optimizer, state, "order", kind=kind)
    np.testing.assert_array_equal(back["state"][0]["square_avg"], state["state"][0]["square_avg"])


def test_half_precision_state_is_widened():
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    there = torch.optim.RMSprop([parameter], lr=0.01)
    parameter.grad = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)
    there.step()
    variable = keras.Variable(np.ones(3, "float32"))
    message = "the slots are rounded to bfloat16 there, and not here"
    for source in (there, there.state_dict()):
        with pytest.raises(NotExactError, match=message):
            interop.torch.load(built_like(there, variable), source, "order")
    optimizer = interop.like(there, [variable], "order", exact=False)
    want = there.state[parameter]["square_avg"].float().numpy()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(optimizer._square_averages[0]), want)
    # Also if the other has no slots yet, which would be in the parameter's dtype.
    fresh = torch.optim.RMSprop([parameter], lr=0.01)
    with pytest.raises(NotExactError, match=message):
        interop.torch.state_dict(optimizer, fresh, "order")
    interop.torch.state_dict(optimizer, fresh, "order", exact=False)


def built_like(there: Any, variable: Any) -> Any:
    """An optimizer of the same settings, without state."""
    optimizer = interop.like(there)
    optimizer.build([variable])
    return optimizer


def test_averages_that_float32_cannot_hold_are_refused(float64):
    variable = keras.Variable(np.ones(3), name="a")
    optimizer = conventions.torch(0.01)
    optimizer.build([variable])
    optimizer._square_averages[0].assign(np.full(3, 1e59))
    parameter = torch.nn.Parameter(torch.ones(3))
    there = torch.optim.RMSprop([parameter], lr=0.01)
    with pytest.raises(NotExactError, match=r"reaches 1e\+59, which is infinite in float32 there"):
        interop.torch.state_dict(optimizer, there, "order")
    wide = torch.optim.RMSprop([torch.nn.Parameter(torch.ones(3).double())], lr=0.01)
    state = interop.torch.state_dict(optimizer, wide, "order")
    assert float(state["state"][0]["square_avg"][0]) == 1e59


def test_the_present_rate_of_a_callable_is_compared(float64):
    parameter = torch.nn.Parameter(torch.ones(3))
    there = torch.optim.RMSprop([parameter], lr=0.25)
    parameter.grad = torch.ones(3)
    there.step()
    variable = keras.Variable(np.ones(3))
    for rate, fits in ((0.25, True), (0.5, False)):
        optimizer = conventions.torch(lambda rate=rate: rate)
        optimizer.build([variable])
        if fits:
            interop.torch.load(optimizer, there, "order")
            continue
        with pytest.raises(NotExactError, match=r"is 0\.5 here and 0\.25 there"):
            interop.torch.load(optimizer, there, "order")


def test_a_pair_may_have_its_own_conversions():
    pair = Pair(
        ("a", "b"), "joined", lambda a, b: np.concatenate([a, b]), lambda x: tuple(np.split(x, 2))
    )
    got = pair.converted([np.arange(3.0), np.arange(3.0) + 5.0], (6,))
    assert [*itertools.chain(*pair.parts(got))] == [0, 1, 2, 5, 6, 7]
