"""Test how the layers of torch and Keras are paired: their order of inputs, shapes and messages."""

import math
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import interop
from tests.conftest import BACKEND
from tests.tools import models
from yardsticks import peers

if peers.unavailable("torch"):
    pytest.skip(str(peers.unavailable("torch")), allow_module_level=True)

import torch
from torch import nn

layers = keras.layers
IMAGE = (6, 6, 2)


def convolutions(*head: nn.Module) -> nn.Module:
    """A network that makes 3 channels of 4 x 4."""
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), *head).double()


def flat_network() -> nn.Module:
    return convolutions(nn.Flatten(), nn.Linear(48, 5))


def sequential(*own: Any, shape: tuple[int, ...] = IMAGE) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *own])


def convolution(filters: int = 3) -> Any:
    return layers.Conv2D(filters, 3, activation="relu")


def plain() -> keras.Model:
    return sequential(convolution(), layers.Flatten(), layers.Dense(5))


def reshaped() -> keras.Model:
    return sequential(convolution(), layers.Reshape((48,)), layers.Dropout(0.5), layers.Dense(5))


def permuted() -> keras.Model:
    """A model that flattens in torch's order."""
    steps = [layers.Permute((3, 1, 2)), layers.Flatten(), layers.Dense(5)]
    return sequential(convolution(), *steps)


def of_operations() -> keras.Model:
    x = keras.Input(IMAGE)
    y = keras.ops.relu(layers.Conv2D(3, 3)(x))
    return keras.Model(x, layers.Dense(5)(keras.ops.reshape(y, (-1, 48))))


def nested() -> keras.Model:
    base = sequential(layers.Conv2D(3, 3), layers.ReLU())
    head = sequential(layers.Dense(5), shape=(48,))
    x = keras.Input(IMAGE)
    return keras.Model(x, head(layers.Flatten()(base(x))))


def assert_same_outputs(
    network: nn.Module, model: keras.Model, pairs: Any, *, is_first: bool = False
) -> None:
    """Compare the outputs, of a model with the channels of its input first or last."""
    interop.torch.load_weights(network, pairs)
    x = np.random.default_rng(0).normal(size=(4, *model.input_shape[1:]))
    network.eval()
    channels_first = torch.from_numpy(x if is_first else np.moveaxis(x, -1, 1).copy())
    want = network(channels_first).detach().numpy()
    got = keras.ops.convert_to_numpy(keras.ops.stop_gradient(model(x)))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [plain, reshaped, permuted, of_operations, nested])
def test_weights_after_a_flattened_convolution_are_in_keras_s_order(float64, make):
    network, model = flat_network(), make()
    pairs = interop.torch.pairs(network, model)
    assert_same_outputs(network, model, pairs)
    # And back.
    again = flat_network()
    interop.torch.export_weights(again, pairs)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value, err_msg=name)


FORMATS = ("channels_first", "channels_last")


@pytest.fixture(params=FORMATS, ids="global={}".format)
def image_data_format(request):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(request.param)
    yield request.param
    keras.config.set_image_data_format(before)


@pytest.mark.parametrize("flattening", ["Flatten", "Flatten twice", "Reshape", "pooled"])
@pytest.mark.parametrize("of_flatten", [None, *FORMATS], ids="flatten={}".format)
@pytest.mark.parametrize("of_convolution", [None, *FORMATS], ids="convolution={}".format)
@pytest.mark.parametrize("rank", [1, 2, 3], ids="{}D".format)
def test_the_data_formats_of_convolution_and_flatten_may_differ(
    float64, image_data_format, rank, of_convolution, of_flatten, flattening
):
    is_first = (of_convolution or image_data_format) == "channels_first"
    if is_first and BACKEND == "tensorflow":
        pytest.skip("TensorFlow has no convolution with the channels first on CPUs")
    sides = (4, 5, 6)[:rank]
    size = 3 * math.prod(side - 1 for side in sides)
    pooled = [getattr(layers, f"GlobalAveragePooling{rank}D")(data_format=of_convolution)]
    head = {
        "Flatten": [layers.Flatten(data_format=of_flatten)],
        "Flatten twice": [layers.Flatten(data_format=of_flatten) for _ in range(2)],
        "Reshape": [layers.Reshape((size,))],
        "pooled": [*pooled, layers.Flatten(data_format=of_flatten)],
    }[flattening]
    kind = getattr(layers, f"Conv{rank}D")
    model = sequential(
        kind(3, 2, data_format=of_convolution),
        *head,
        layers.Dense(5),
        shape=(2, *sides) if is_first else (*sides, 2),
    )
    pooling = [getattr(nn, f"AdaptiveAvgPool{rank}d")(1)] if flattening == "pooled" else []
    network = nn.Sequential(
        getattr(nn, f"Conv{rank}d")(2, 3, 2),
        *pooling,
        nn.Flatten(),
        nn.Linear(3 if pooling else size, 5),
    ).double()
    assert_same_outputs(network, model, interop.torch.pairs(network, model), is_first=is_first)


def test_layers_that_are_given_one_by_one_know_their_model_s_order(float64):
    network, model = flat_network(), plain()
    chosen = {"0": model.layers[0], "3": model.layers[2]}
    assert_same_outputs(network, model, interop.torch.pairs(network, chosen))


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_normalizations_of_a_flattened_tensor_are_permuted_too(float64, kind):
    norm = nn.BatchNorm1d(48, 1e-3, 0.01) if kind == "batch" else nn.LayerNorm(48, eps=1e-3)
    ours = layers.BatchNormalization() if kind == "batch" else layers.LayerNormalization()
    network = convolutions(nn.Flatten(), norm, nn.Linear(48, 5))
    network.load_state_dict(
        {k: torch.rand_like(v) if v.dtype.is_floating_point else v
         for k, v in network.state_dict().items()}
    )  # fmt: skip
    model = sequential(convolution(), layers.Flatten(), ours, layers.Dense(5))
    assert_same_outputs(network, model, interop.torch.pairs(network, model))


class TwoBranches(nn.Module):
    """Two convolutions whose flattened outputs are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(48 + 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        return self.head(torch.cat([self.a(x).flatten(1), self.b(x).flatten(1)], 1))


def test_joined_flattened_tensors_keep_their_places(float64):
    x = keras.Input(IMAGE)
    flat = [layers.Flatten()(layers.Conv2D(filters, 3)(x)) for filters in (3, 4)]
    model = keras.Model(x, layers.Dense(5)(layers.Concatenate()(flat)))
    network = TwoBranches().double()
    assert_same_outputs(network, model, interop.torch.pairs(network, model))


def test_what_has_one_order_in_both_is_not_permuted():
    def is_transposed(network: nn.Module, model: keras.Model) -> bool:
        pair = next(p for p in interop.torch.pairs(network, model) if p.names == ("3.weight",))
        array = np.arange(pair.variable.shape[0] * 5).reshape(5, -1)
        return np.array_equal(pair.to_keras(array), array.T)

    pooled = convolutions(nn.AdaptiveAvgPool2d(1), nn.Linear(3, 5))
    assert is_transposed(
        pooled, sequential(convolution(), layers.GlobalAveragePooling2D(), layers.Dense(5))
    )
    sequences = nn.Sequential(nn.Embedding(9, 4), nn.Identity(), nn.Flatten(), nn.Linear(12, 5))
    embedded = [layers.Embedding(9, 4), layers.Flatten(), layers.Dense(5)]
    assert is_transposed(sequences, sequential(*embedded, shape=(3,)))
    images = nn.Sequential(nn.Identity(), nn.Identity(), nn.Flatten(), nn.Linear(36, 5))
    for shape in ((6, 6), (6, 6, 1)):
        assert is_transposed(images, sequential(layers.Flatten(), layers.Dense(5), shape=shape))


def test_a_training_with_a_flattened_convolution_goes_on_and_comes_back(float64):
    network, model = flat_network(), plain()
    there = torch.optim.RMSprop(network.parameters(), lr=0.01, momentum=0.5)
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=tuple(p.shape)) for p in network.parameters()]
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = torch.from_numpy(gradient)
    there.step()
    pairs = interop.torch.pairs(network, model)
    interop.torch.load_weights(network, pairs)
    optimizer = interop.like(there, model.trainable_variables, pairs)
    by_name = dict(zip(dict(network.named_parameters()), gradients, strict=True))
    ours = [pair.to_keras(by_name[pair.names[0]]) for pair in pairs]
    optimizer.apply(
        [keras.ops.convert_to_tensor(g.copy()) for g in ours], model.trainable_variables
    )
    there.step()
    assert_same_outputs(network, model, [])
    state = interop.torch.state_dict(optimizer, there, pairs)["state"]
    for number, parameter in enumerate(network.parameters()):
        for kind in ("square_avg", "momentum_buffer"):
            want = there.state[parameter][kind]
            np.testing.assert_allclose(state[number][kind], want, rtol=1e-12)


# Where the order is not known.


class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.own = [convolution(), layers.Flatten(), layers.Dense(5)]

    def call(self, x: Any) -> Any:
        """Return the outputs."""
        for layer in self.own:
            x = layer(x)
        return x


def test_an_order_that_no_graph_shows_must_be_given(float64):
    network, model = flat_network(), Subclassed()
    model(np.zeros((1, *IMAGE)))
    with pytest.raises(ValueError, match=r"'3' has 48 inputs .* 3 channels.*Pass `flattened=\{'3'"):
        interop.torch.pairs(network, model)
    pairs = interop.torch.pairs(network, model, flattened={"3": (4, 4, 3)})
    interop.torch.load_weights(network, pairs)
    x = np.random.default_rng(0).normal(size=(4, *IMAGE))
    want = network(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).detach().numpy()
    got = keras.ops.convert_to_numpy(keras.ops.stop_gradient(model(x)))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_flattened_image_must_be_given_its_order(float64):
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 5)).double()
    model = sequential(layers.Flatten(), layers.Dense(5))
    with pytest.raises(ValueError, match=r"\(6, 6, 2\), and nothing shows whether torch has"):
        interop.torch.pairs(network, model)
    assert_same_outputs(network, model, interop.torch.pairs(network, model, flattened={"1": IMAGE}))
    first = sequential(layers.Flatten("channels_first"), layers.Dense(5), shape=(2, 6, 6))
    with pytest.raises(ValueError, match=r"\(6, 6, 2\), and nothing shows whether torch has"):
        interop.torch.pairs(network, first)
    pairs = interop.torch.pairs(network, first, flattened={"1": IMAGE})
    assert_same_outputs(network, first, pairs, is_first=True)
    same = interop.torch.pairs(network, model, flattened={"1": None})
    array = np.arange(5 * 72).reshape(5, 72)
    np.testing.assert_array_equal(same[0].to_keras(array), array.T)


def test_channels_that_become_features_of_a_sequence_must_be_given_their_order():
    network = nn.ModuleList([nn.Conv2d(2, 3, 3), nn.LSTM(12, 5, batch_first=True)])
    model = sequential(convolution(), layers.Reshape((4, 12)), layers.LSTM(5))
    with pytest.raises(ValueError, match=r"is reshaped from \(4, 4, 3\) to \(4, 12\)"):
        interop.torch.pairs(network, model)
    pairs = interop.torch.pairs(network, model, flattened={"1": (4, 3)})
    kernel = next(pair for pair in pairs if pair.names == ("1.weight_ih_l0",))
    inputs = kernel.to_keras(np.broadcast_to(np.arange(12), (20, 12)))[:, 0]
    # torch has all rows of the first channel, then those of the next.
    np.testing.assert_array_equal(inputs, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])
    recurrent = next(pair for pair in pairs if pair.names == ("1.weight_hh_l0",))
    array = np.arange(100).reshape(20, 5)
    np.testing.assert_array_equal(recurrent.to_keras(array), array.T)


def test_a_vector_that_becomes_an_image_is_refused():
    network = nn.Sequential(nn.Linear(4, 48), nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 2, 3))
    steps = [layers.Dense(48), layers.Reshape((4, 4, 3)), layers.Conv2D(2, 3)]
    model = sequential(*steps, shape=(4,))
    with pytest.raises(ValueError, match=r"was a vector before, .* `flattened=\{'2': None\}`"):
        interop.torch.pairs(network, model)
    assert len(interop.torch.pairs(network, model, flattened={"2": None})) == 4


def test_a_flattened_module_that_is_not_paired_is_refused():
    with pytest.raises(ValueError, match=r"`flattened` names 'fc', which is none of .* '0', '3'"):
        interop.torch.pairs(flat_network(), plain(), flattened={"fc": (4, 4, 3)})


# Other conversions.


def test_a_pair_is_replaced_and_the_others_stay(float64):
    network, model = flat_network(), plain()
    pairs = interop.torch.pairs(network, model)
    changed = pairs.replace("3.weight", lambda array: array.T[::-1], lambda array: array[::-1].T)
    assert changed.module is network
    for before, after in zip(pairs, changed, strict=True):
        assert after.variable is before.variable
        assert (after is before) is (before.names != ("3.weight",))
    interop.torch.load_weights(network, changed)
    want = network[3].weight.detach().numpy().T[::-1]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.layers[2].kernel), want)
    interop.torch.export_weights(network, changed)
    np.testing.assert_array_equal(network[3].weight.detach().numpy().T[::-1], want)
    with pytest.raises(ValueError, match=r"No pair is of 'fc\.weight' alone; .* '3\.weight'"):
        pairs.replace("fc.weight", np.transpose, np.transpose)


def test_weights_are_copied_by_a_mapping(float64):
    network = nn.Sequential(nn.Linear(3, 2)).double()
    (layer,) = (model := sequential(layers.Dense(2), shape=(3,))).layers
    mapping = {"0.weight": (layer.kernel, np.transpose, np.transpose), "0.bias": layer.bias}
    interop.torch.load_weights(network, mapping)
    weight, bias = (p.detach().numpy() for p in network.parameters())
    np.testing.assert_array_equal(model.get_weights()[0], weight.T)
    layer.kernel.assign(2.0 * weight.T)
    interop.torch.export_weights(network, mapping)
    np.testing.assert_array_equal(network[0].weight.detach(), model.get_weights()[0].T)
    np.testing.assert_array_equal(network[0].bias.detach(), bias)


# What is refused.


def test_layers_of_other_sizes_are_refused():
    network = nn.Sequential(nn.Linear(2, 8))
    with pytest.raises(ValueError, match=r"'0\.weight' has shape \(8, 2\).* has shape \(2, 9\)"):
        interop.torch.pairs(network, sequential(layers.Dense(9), shape=(2,)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda n, m: (m, n), "`module` must be a torch.nn.Module, .* received one of keras"),
        (lambda n, m: (n.state_dict(), m), "`module` must be a torch.nn.Module"),
        (lambda n, m: (torch.optim.RMSprop(n.parameters()), m), "received one of torch.optim"),
        (lambda n, _: (n, None), "`layers` must be a built Keras model .* received .*NoneType"),
        (lambda n, _: (n, n), "`layers` must be a built Keras model .* received .*torch.nn"),
        (lambda n, m: (n, [m, 3]), "`layers` must be .* received one of builtins.int"),
        (lambda n, _: (n, {"0": "dense"}), "`layers` must be .* received one of builtins.str"),
    ],
)
def test_other_arguments_of_pairs_are_refused(wrong, message):
    network, model = nn.Sequential(nn.Linear(3, 2)), sequential(layers.Dense(2), shape=(3,))
    with pytest.raises(ValueError, match=message):
        interop.torch.pairs(*wrong(network, model))


def test_other_arguments_for_weights_are_refused():
    network, model = nn.Sequential(nn.Linear(3, 2)), sequential(layers.Dense(2), shape=(3,))
    pairs = interop.torch.pairs(network, model)
    before = models.values(model.variables)
    with pytest.raises(ValueError, match=r"`module` must be a torch\.nn\.Module or its state_dict"):
        interop.torch.load_weights(model, pairs)
    with pytest.raises(ValueError, match="`pairs` must be a mapping"):
        interop.torch.load_weights(network, "order")
    with pytest.raises(ValueError, match="received the path 'dense/bias'"):
        interop.torch.load_weights(network, {"0.bias": "dense/bias"})
    with pytest.raises(ValueError, match="received a state_dict"):
        interop.torch.export_weights(network.state_dict(), pairs)
    models.assert_identical(models.values(model.variables), before)
