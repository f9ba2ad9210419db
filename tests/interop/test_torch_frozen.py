"""Test carrying a training over from torch in which some parameters do not move."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import interop
from keras_rmsprop.interop import NotExactError
from yardsticks import peers

if peers.unavailable("torch"):
    pytest.skip(str(peers.unavailable("torch")), allow_module_level=True)

import torch
from torch import nn


class Network(nn.Module):
    """A body, a head, and a head that its loss does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the head."""
        return self.head(torch.tanh(self.body(x)))


def make(frozen: bool) -> tuple[Network, keras.Model, Any, Any]:
    """Both networks, the pairs, and torch's optimizer of all parameters."""
    torch.manual_seed(0)
    network = Network().double()
    body = keras.layers.Dense(4, activation="tanh", name="body")
    head = keras.layers.Dense(2, name="head")
    model = keras.Sequential([keras.Input((3,)), body, head])
    if frozen:
        network.body.requires_grad_(False)
        body.trainable = False
    pairs = interop.torch.pairs(network, {"body": body, "head": head})
    # A group for each layer: the body's rate is none that the head has.
    groups = [
        {"params": network.body.parameters(), "lr": 0.5},
        {"params": [*network.head.parameters(), *network.aux.parameters()]},
    ]
    return network, model, pairs, torch.optim.RMSprop(groups, lr=0.0625, momentum=0.5)


def gradients(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    shapes = {"body.weight": (4, 3), "body.bias": 4, "head.weight": (2, 4), "head.bias": 2}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def step_there(network: Network, optimizer: Any, step: int) -> None:
    named = dict(network.named_parameters())
    for name, gradient in gradients(step).items():
        if named[name].requires_grad:
            named[name].grad = torch.tensor(gradient)
    optimizer.step()


def step_here(pairs: Any, optimizer: Any, variables: list[Any], step: int) -> None:
    by_variable = {id(pair.variable): pair for pair in pairs}
    own = [by_variable[id(variable)] for variable in variables]
    arrays = [pair.to_keras(gradients(step)[pair.names[0]]) for pair in own]
    optimizer.apply([keras.ops.convert_to_tensor(a.copy()) for a in arrays], variables)


@pytest.mark.parametrize("as_list", [False, True], ids=["all pairs", "pairs of trained ones"])
@pytest.mark.parametrize("frozen", [False, True], ids="frozen={}".format)
def test_what_does_not_move_is_left_out_and_the_rest_is_exact(float64, frozen, as_list):
    network, model, pairs, there = make(frozen)
    for step in range(10):
        step_there(network, there, step)
    interop.torch.load_weights(network, pairs)
    given = [pair for pair in pairs if pair.variable.trainable] if as_list else pairs
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        optimizer = interop.like(there, model.trainable_variables, given, names=network)
    for step in range(10, 20):
        step_there(network, there, step)
        step_here(pairs, optimizer, model.trainable_variables, step)
    for pair in pairs:
        want = network.get_parameter(pair.names[0]).detach().numpy()
        got = pair.parts(keras.ops.convert_to_numpy(pair.variable))[0]
        np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=pair.names[0])
    back = interop.torch.state_dict(optimizer, there, given, names=network)
    want = there.state_dict()
    assert back["state"].keys() == want["state"].keys()
    assert [group["lr"] for group in back["param_groups"]] == [0.5, 0.0625]
    for number, own in want["state"].items():
        for kind, value in own.items():
            np.testing.assert_allclose(back["state"][number][kind], value, rtol=1e-12)


def test_a_frozen_parameter_is_known_before_the_first_step(float64):
    network, model, pairs, there = make(frozen=True)
    network.aux.requires_grad_(False)
    step_there(network, there, 0)
    optimizer = interop.like(there, model.trainable_variables, pairs)
    fresh = torch.optim.RMSprop(network.parameters(), lr=0.0625, momentum=0.5)
    state = interop.torch.state_dict(optimizer, fresh, pairs)["state"]
    assert sorted(state) == [2, 3]


def test_what_is_frozen_in_both_gets_no_state_where_it_is_in_both_optimizers(float64):
    network, model, pairs, there = make(frozen=False)
    step_there(network, there, 0)
    optimizer = interop.like(there, model.trainable_variables, pairs)
    network.body.requires_grad_(False)
    model.layers[0].trainable = False
    network.aux.requires_grad_(False)
    groups = [
        {"params": network.body.parameters(), "lr": 0.5},
        {"params": network.head.parameters()},
    ]
    fresh = torch.optim.RMSprop(groups, lr=0.0625, momentum=0.5)
    assert sorted(interop.torch.state_dict(optimizer, fresh, pairs)["state"]) == [2, 3]


def test_a_parameter_that_moves_there_needs_its_variable(float64):
    network, model, pairs, there = make(frozen=False)
    step_there(network, there, 0)
    model.layers[0].trainable = False
    message = r"'body\.weight' is paired with .*body/kernel', which is not a variable of the"
    with pytest.raises(ValueError, match=message) as raised:
        interop.like(there, model.trainable_variables, pairs)
    assert "did you mean" not in str(raised.value)
    fresh = torch.optim.RMSprop(network.parameters(), lr=0.0625, momentum=0.5)
    optimizer = interop.like(fresh, [*model.trainable_variables])
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=message):
        interop.torch.state_dict(optimizer, fresh, pairs)


def test_a_parameter_without_a_partner_is_missed_where_nothing_shows_that_it_rests(float64):
    network, model, pairs, _ = make(frozen=False)
    fresh = torch.optim.RMSprop(network.parameters())
    optimizer = interop.like(fresh)
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"no variable is paired with 'aux\.weight', 'aux\.bias'"):
        interop.torch.state_dict(optimizer, fresh, pairs)


def test_a_path_that_is_misspelt_is_not_taken_for_a_frozen_variable(float64):
    network, model, _, there = make(frozen=True)
    step_there(network, there, 0)
    head = model.layers[1]
    mapping = {
        "body.weight": "haed/kernel",
        "head.weight": (head.kernel, np.transpose, np.transpose),
        "head.bias": head.bias,
    }
    with pytest.raises(ValueError, match=r"'haed/kernel', which is not .* did you mean"):
        interop.like(there, model.trainable_variables, mapping, names=network)


def test_what_is_frozen_there_and_trained_here_is_refused(float64):
    network, model, pairs, there = make(frozen=True)
    network.aux.requires_grad_(False)
    model.layers[0].trainable = True
    message = (
        r"'body\.weight' is frozen there, and its partner 'sequential.*/body/kernel' is trained"
    )
    with pytest.raises(NotExactError, match=message):
        interop.like(there, model.trainable_variables, pairs)
    step_there(network, there, 0)
    with pytest.raises(NotExactError, match=message):
        interop.like(there, model.trainable_variables, pairs)
    with pytest.warns(UserWarning, match="these start afresh"):
        optimizer = interop.like(there, model.trainable_variables, pairs, exact=False)
    with pytest.raises(NotExactError, match=message):
        interop.torch.state_dict(optimizer, there, pairs)
    # Thawed there, it starts afresh in both.
    network.body.requires_grad_(True)
    with pytest.warns(UserWarning, match="these start afresh"):
        interop.like(there, model.trainable_variables, pairs)


def test_order_leaves_out_what_is_frozen(float64):
    parameters = [nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (2, 3, 4)]
    parameters[1].requires_grad_(False)
    there = torch.optim.RMSprop(parameters)
    for parameter in parameters[::2]:
        parameter.grad = torch.full_like(parameter, len(parameter))
    there.step()
    variables = [keras.Variable(np.ones(n)) for n in (2, 4)]
    optimizer = interop.like(there, variables, "order")
    for slot, parameter in zip(optimizer._square_averages, parameters[::2], strict=True):
        want = there.state[parameter]["square_avg"].numpy()
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(slot), want)
    assert sorted(interop.torch.state_dict(optimizer, there, "order")["state"]) == [0, 2]
