"""Test which layers of torch and Keras are paired, and what is said of those that are not."""

from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import interop
from keras_rmsprop.interop._source import NotExactError
from tests.tools.torch_training import train
from yardsticks import peers

if peers.unavailable("torch"):
    pytest.skip(str(peers.unavailable("torch")), allow_module_level=True)

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

layers = keras.layers


def sequential(*own: Any, shape: tuple[int, ...] = (4,)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *own])


# What has no parameter, or no variable.


def old_weight_norm(module: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(module)


COMPUTED: dict[str, Any] = {
    "weight norm": (old_weight_norm, "weight_g' and 'weight_v'.*utils.remove_weight_norm"),
    "spectral norm": (nn.utils.spectral_norm, "weight_orig' and 'weight_u'.*remove_spectral_norm"),
    "pruned": (
        lambda module: prune.random_unstructured(module, "weight", 0.5),
        "weight_orig' and 'weight_mask'.*prune.remove",
    ),
    "parametrization": (
        parametrizations.weight_norm,
        r"'parametrizations\.weight\.original0' and .*original1'.*remove_parametrizations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bias", [True, False], ids="bias={}".format)
@pytest.mark.parametrize("case", COMPUTED)
def test_a_weight_that_torch_computes_is_refused_with_what_ends_it(case, bias):
    make, message = COMPUTED[case]
    network = nn.Sequential(make(nn.Linear(4, 2, bias=bias)), nn.Linear(2, 3))
    model = sequential(layers.Dense(2, use_bias=bias), layers.Dense(3))
    with pytest.raises(ValueError, match=f"'0' computes its weight from .*{message}"):
        interop.torch.pairs(network, model)
    with pytest.raises(ValueError, match=message):
        interop.torch.pairs(network, {"0": model.layers[0]})
    # Other layers are no concern of it.
    assert len(interop.torch.pairs(network, {"1": model.layers[1]})) == 2


def test_a_weight_that_torch_computed_is_paired_after_that_ended():
    network = nn.Sequential(prune.random_unstructured(nn.Linear(4, 2), "weight", 0.5))
    prune.remove(network[0], "weight")
    assert len(interop.torch.pairs(network, sequential(layers.Dense(2)))) == 2


def test_a_lazy_module_must_be_called_before_it_is_paired():
    network, model = nn.Sequential(nn.LazyLinear(2)), sequential(layers.Dense(2))
    with pytest.raises(ValueError, match=r"'0' is a LazyLinear, .* Call the network with a batch"):
        interop.torch.pairs(network, model)
    # Others are paired without it.
    both = nn.Sequential(nn.Linear(4, 2), nn.LazyLinear(2))
    assert len(interop.torch.pairs(both, {"0": model.layers[0]})) == 2
    network(torch.ones(1, 4))
    assert len(interop.torch.pairs(network, model)) == 2


def test_a_model_that_is_not_built_is_told_to_be_built():
    network = nn.Sequential(nn.Linear(4, 2))
    model = keras.Sequential([layers.Dense(2, name="fc")])
    for unbuilt in (model, [model], model.layers, {"0": model.layers[0]}):
        with pytest.raises(
            ValueError, match=r"'fc' is not built\. Build the model first"
        ) as raised:
            interop.torch.pairs(network, unbuilt)
        assert "mapping" not in str(raised.value)
    model(np.zeros((1, 4)))
    assert len(interop.torch.pairs(network, model)) == 2


# Parameters and variables that are shared.


class Tied(nn.Module):
    """A network whose second layer has the first one's kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def untied_model() -> keras.Model:
    hidden = [layers.Dense(4, "tanh", name=name) for name in ("a", "b")]
    return sequential(*hidden, layers.Dense(2, name="c"))


def test_one_parameter_of_two_variables_is_refused_with_both_names():
    network, model = Tied(), untied_model()
    message = r"'a\.weight' and 'b\.weight' are one parameter, .* '.*a/kernel' and '.*b/kernel'"
    with pytest.raises(NotExactError, match=message):
        interop.torch.pairs(network, model)
    # One of them alone is no concern, and has the name that the optimizer knows.
    alone = interop.torch.pairs(network, {"b": model.layers[1], "c": model.layers[2]})
    assert alone[0].names == ("a.weight",)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_one_parameter_of_two_variables_gives_both_its_weights_but_takes_one_value(order):
    network, model = Tied(), untied_model()
    by_name = {name: model.get_layer(name) for name in order}
    pairs = interop.torch.pairs(network, by_name, exact=False)
    assert {name for pair in pairs for name in pair.names} == {
        "a.weight", "a.bias", "b.weight", "b.bias",
    }  # fmt: skip
    interop.torch.load_weights(network, pairs)
    kernels = [model.get_layer(name).kernel for name in "ab"]
    start = network.a.weight.detach().numpy().copy()
    for kernel in kernels:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), start.T)
    interop.torch.export_weights(network, pairs)
    for kernel in kernels:
        kernel.assign_add(keras.ops.ones((4, 4)))
        if kernel is kernels[0]:
            with pytest.raises(ValueError, match=r"are one parameter, and .*, differ\. Nothing"):
                interop.torch.export_weights(network, pairs)
            np.testing.assert_array_equal(network.a.weight.detach(), start)
    interop.torch.export_weights(network, pairs)
    np.testing.assert_array_equal(network.b.weight.detach(), start + 1.0)


def test_a_mapping_of_one_s_own_cannot_give_one_parameter_two_values():
    network, model = Tied(), untied_model()
    start = network.a.weight.detach().clone()
    moved = [(each.kernel, np.transpose, np.transpose) for each in model.layers]
    with pytest.raises(ValueError, match=r"'a\.weight' and 'b\.weight' are one parameter"):
        interop.torch.export_weights(network, {"a.weight": moved[0], "b.weight": moved[1]})
    assert torch.equal(network.a.weight, start)
    # Nor one variable.
    before = keras.ops.convert_to_numpy(model.layers[0].bias).copy()
    with pytest.raises(ValueError, match=r"'a\.bias' and 'b\.bias' are both paired with .*a/bias"):
        interop.torch.load_weights(
            network, {"a.bias": model.layers[0].bias, "b.bias": model.layers[0].bias}
        )
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.layers[0].bias), before)


class SharedKernel(layers.Layer):
    """A layer that computes with the kernel of another."""

    def __init__(self, other: Any, **options: Any) -> None:
        super().__init__(**options)
        # In a function, so that Keras does not take the other for a layer in this one.
        self.kernel_of = lambda: other.kernel

    def call(self, x: Any) -> Any:
        """Return the outputs."""
        return keras.ops.tanh(keras.ops.matmul(x, self.kernel_of()))


class Recurring(nn.Module):
    """A network that has one kernel twice, in two modules or in one that is called twice."""

    def __init__(self, modules: int) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False)
        self.b = self.a if modules == 1 else nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.c = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def shared_layer() -> keras.Model:
    x, own = keras.Input((4,)), layers.Dense(4, "tanh", use_bias=False, name="a")
    return keras.Model(x, layers.Dense(2, name="c")(own(own(x))))


def shared_variable() -> keras.Model:
    x, own = keras.Input((4,)), layers.Dense(4, "tanh", use_bias=False, name="a")
    return keras.Model(x, layers.Dense(2, name="c")(SharedKernel(own)(own(x))))


@pytest.mark.parametrize("modules", [1, 2], ids="modules={}".format)
@pytest.mark.parametrize("make", [shared_layer, shared_variable])
def test_a_training_goes_on_with_one_parameter_and_one_variable(float64, make, modules):
    torch.manual_seed(0)
    network, model = Recurring(modules).double(), make()
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(5, 4)), rng.normal(size=(5, 2))) for _ in range(8)]
    there = torch.optim.RMSprop(network.parameters(), lr=0.01, momentum=0.5)
    train(network, there, data[:4])
    pairs = interop.torch.pairs(network, model)
    assert [pair.names for pair in pairs] == [("a.weight",), ("c.weight",), ("c.bias",)]
    interop.torch.load_weights(network, pairs)
    optimizer = interop.like(there, model.trainable_variables, pairs)
    model.compile(optimizer, loss="mse", run_eagerly=keras.backend.backend() == "torch")
    ours = [float(model.train_on_batch(x, y)) for x, y in data[4:]]
    np.testing.assert_allclose(ours, train(network, there, data[4:]), rtol=1e-6)
    interop.torch.export_weights(network, pairs)
    there.load_state_dict(interop.torch.state_dict(optimizer, there, pairs))


def test_one_variable_in_two_layers_is_paired_once():
    network, model = Recurring(2), shared_layer()
    both = {"a": model.get_layer("a"), "b": model.get_layer("a")}
    assert [pair.names for pair in interop.torch.pairs(network, both)] == [("a.weight",)]
    network.b.weight = nn.Parameter(network.a.weight.detach().clone())
    message = r"'a\.weight' and 'b\.weight' are not the same, but both are paired with 'a/kernel'"
    for exact in (True, False):
        with pytest.raises(ValueError, match=message):
            interop.torch.pairs(network, both, exact=exact)


def test_one_variable_in_two_layouts_is_refused():
    network = nn.ModuleDict({"a": nn.Embedding(4, 4), "b": nn.Linear(4, 4, bias=False)})
    network["b"].weight = network["a"].weight
    embedding = layers.Embedding(4, 4)
    embedding.build()

    class Untransposed(layers.Dense):
        @property
        def kernel(self) -> Any:
            return embedding.embeddings

    dense = Untransposed(4, use_bias=False)
    dense.build((None, 4))
    with pytest.raises(ValueError, match="are not the same, but both are paired with"):
        interop.torch.pairs(network, {"a": embedding, "b": dense})


# Layers that compute otherwise.


def lstm(**options: Any) -> Any:
    return layers.LSTM(3, **options)


def bidirectional(**options: Any) -> Any:
    return layers.Bidirectional(
        layers.GRU(3), backward_layer=layers.GRU(3, go_backwards=True, **options)
    )


UNLIKE: dict[str, Any] = {
    "strides": (
        nn.Conv2d(3, 4, 3, stride=(2, 1)),
        lambda strides=1: layers.Conv2D(4, 3, strides=strides), (8, 8, 3), {"strides": (2, 1)},
        r"`strides` is \(2, 1\) in torch's '0' and \(1, 1\) in Keras's 'conv2d",
    ),
    "strides in depth": (
        nn.Conv1d(3, 3, 3, stride=2, groups=3),
        lambda strides=1: layers.DepthwiseConv1D(3, strides), (8, 3), {"strides": 2},
        r"`strides` is \(2,\) in torch's '0' and \(1,\) in Keras's 'depthwise_conv1d",
    ),
    "dilation": (
        nn.Conv1d(3, 4, 3, dilation=2),
        lambda dilation=1: layers.Conv1D(4, 3, dilation_rate=dilation), (8, 3), {"dilation": 2},
        r"`dilation_rate` is \(2,\) in torch's '0' and \(1,\) in Keras's 'conv1d",
    ),
    "epsilon of LayerNorm": (
        nn.LayerNorm(4), layers.LayerNormalization, (4,), {"epsilon": 1e-5},
        r"`epsilon` is 1e-05 in torch's '0' and 0\.001 in Keras's 'layer",
    ),
    "epsilon of BatchNorm": (
        nn.BatchNorm1d(4, eps=1e-4, momentum=0.01), layers.BatchNormalization, (4,),
        {"epsilon": 1e-4},
        r"`epsilon` is 0\.0001 in torch's '0' and 0\.001 in Keras's 'batch",
    ),
    "epsilon of GroupNorm": (
        nn.GroupNorm(2, 4), lambda **options: layers.GroupNormalization(2, **options), (4,),
        {"epsilon": 1e-5},
        r"`epsilon` is 1e-05 in torch's '0' and 0\.001 in Keras's 'group",
    ),
    "epsilon without scale": (
        nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2)),
        lambda **options: keras.Sequential(
            [layers.LayerNormalization(scale=False, center=False, **options), layers.Dense(2)]
        ),
        (4,), {"epsilon": 1e-5},
        r"`epsilon` is 1e-05 in torch's '0\.0' and 0\.001 in Keras's 'layer",
    ),
    "groups": (
        nn.GroupNorm(4, 4, eps=1e-3), lambda groups=2: layers.GroupNormalization(groups), (4,),
        {"groups": -1}, "`groups` is 4 in torch's '0' and 2 in Keras's 'group",
    ),
    "activation of an LSTM": (
        nn.LSTM(4, 3), lambda activation="relu": lstm(activation=activation), (5, 4),
        {"activation": keras.ops.tanh},
        "`activation` is tanh in torch's '0' and relu in Keras's 'lstm",
    ),
    "recurrent activation": (
        nn.LSTM(4, 3), lambda a="hard_sigmoid": lstm(recurrent_activation=a), (5, 4),
        {"a": "sigmoid"},
        "`recurrent_activation` is sigmoid in torch's '0' and hard_sigmoid in Keras's 'lstm",
    ),
    "activation of one direction": (
        nn.GRU(4, 3, bidirectional=True),
        lambda activation="relu": bidirectional(activation=activation), (5, 4),
        {"activation": "tanh"}, "`activation` is tanh in torch's '0' and relu in Keras's 'gru",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNLIKE)
def test_a_layer_that_computes_otherwise_is_refused_with_both_values(case):
    module, make, shape, alike, message = UNLIKE[case]
    network = nn.Sequential(module)
    model = sequential(make(), shape=shape)
    with pytest.raises(NotExactError, match=message):
        interop.torch.pairs(network, model)
    assert interop.torch.pairs(network, model, exact=False)
    assert interop.torch.pairs(network, sequential(make(**alike), shape=shape))


EMBEDDINGS: dict[str, Any] = {
    "padding_idx": (
        0,
        r"row 0 of 'words' gets no gradient in torch .* Keras's 'words'.*docs/migration\.md",
    ),
    "max_norm": (1.0, r"down to a norm of 1\.0 \(max_norm\), and Keras's 'words' does not"),
    "scale_grad_by_freq": (True, r"how often the batch has it \(scale_grad_by_freq=True\)"),
}


@pytest.mark.parametrize("option", EMBEDDINGS)
def test_an_embedding_that_keras_has_not_is_refused_unless_other_steps_are_meant(option):
    value, message = EMBEDDINGS[option]
    network = nn.ModuleDict({"words": nn.Embedding(7, 3, **{option: value})})
    layer = layers.Embedding(7, 3, mask_zero=True, name="words")
    layer.build()
    with pytest.raises(NotExactError, match=f"{message}.*pass exact=False to pair them all"):
        interop.torch.pairs(network, layer)
    (pair,) = interop.torch.pairs(network, layer, exact=False)
    assert pair.variable is layer.embeddings


def test_all_differences_are_said_at_once():
    network = nn.Sequential(nn.Embedding(7, 4, padding_idx=0, max_norm=1.0), nn.LayerNorm(4))
    model = sequential(layers.Embedding(7, 4), layers.LayerNormalization(), shape=(3,))
    with pytest.raises(NotExactError, match=r"padding_idx.*max_norm.*`epsilon` is 1e-05 in"):
        interop.torch.pairs(network, model)


def test_what_is_trained_on_neither_side_may_have_other_gradients():
    network = nn.Sequential(
        nn.Embedding.from_pretrained(torch.randn(7, 4), padding_idx=0),
        nn.BatchNorm1d(4, eps=1e-3).requires_grad_(False).eval(),
    )
    model = sequential(
        layers.Embedding(7, 4, trainable=False),
        layers.BatchNormalization(trainable=False),
        shape=(3,),
    )
    assert len(interop.torch.pairs(network, model)) == 5
    model.layers[0].trainable = True
    with pytest.raises(NotExactError, match="padding_idx=0"):
        interop.torch.pairs(network, model)


@pytest.mark.parametrize("activation", [layers.Activation("tanh"), lambda x: keras.ops.tanh(x)])
def test_activations_are_compared_by_what_they_compute(activation):
    model = sequential(layers.LSTM(3, activation=activation), shape=(5, 4))
    assert len(interop.torch.pairs(nn.Sequential(nn.LSTM(4, 3)), model)) == 3
    model = sequential(layers.LSTM(3, activation=lambda x: x / 2.0), shape=(5, 4))
    with pytest.raises(NotExactError, match="`activation` is tanh in torch's '0' and <lambda> in"):
        interop.torch.pairs(nn.Sequential(nn.LSTM(4, 3)), model)


@pytest.mark.parametrize(
    ("momentum", "message"),
    [
        (0.1, r"'0' has momentum=0\.1, which in Keras is 0\.9, and Keras's 'batch.*' has 0\.99"),
        (None, r"those of torch's '0' are of all batches \(momentum=None\), and those of Keras's"),
    ],
)
def test_other_running_averages_are_warned_of_where_pairs_is_called(momentum, message):
    network = nn.Sequential(nn.BatchNorm1d(4, eps=1e-3, momentum=momentum))
    model = sequential(layers.BatchNormalization())
    with pytest.warns(UserWarning, match=message) as caught:
        assert len(interop.torch.pairs(network, model)) == 4
    assert caught[0].filename == __file__
    assert len(interop.torch.pairs(network, model, exact=False)) == 4


def test_the_same_momentum_is_written_otherwise_and_does_not_warn():
    for momentum in (0.1, 0.01, 0.003):
        network = nn.Sequential(nn.BatchNorm1d(4, eps=1e-3, momentum=momentum))
        model = sequential(layers.BatchNormalization(momentum=1.0 - momentum))
        assert len(interop.torch.pairs(network, model)) == 4


# Weights under other names.


def a_pair_of_networks() -> tuple[nn.Module, Any, keras.Model]:
    network, model = nn.Sequential(nn.Linear(4, 2)), sequential(layers.Dense(2))
    return network, interop.torch.pairs(network, model), model


class Wrapper(nn.Module):
    """A module around another, as DataParallel and torch.compile make one."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.add_module(name, module)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_names_with_a_prefix_are_told_to_lose_it(name):
    network, pairs, model = a_pair_of_networks()
    around = Wrapper(name, network)
    message = rf"with '0\.weight'; received '{name}\.0\.weight', .* after '{name}\.'"
    for carry in (interop.torch.load_weights, interop.torch.export_weights):
        with pytest.raises(ValueError, match=rf"after '{name}\.'\. Pass its submodule '{name}'\."):
            carry(around, pairs)
        carry(getattr(around, name), pairs)
    with pytest.raises(ValueError, match=rf"{message}.*Pass {{.*}}\. Nothing has") as raised:
        interop.torch.load_weights(around.state_dict(), pairs)
    # The remedy is a program.
    program = str(raised.value).partition("Pass ")[2].rpartition(". Nothing")[0]
    interop.torch.load_weights(eval(program, {"it": around.state_dict()}), pairs)
    np.testing.assert_array_equal(model.get_weights()[0].T, network[0].weight.detach())


def test_the_wrapper_s_names_are_those_of_torch():
    network, _, _ = a_pair_of_networks()
    assert "module.0.weight" in nn.DataParallel(network).state_dict()
    assert "_orig_mod.0.weight" in torch.compile(network, backend="eager").state_dict()


def test_a_whole_checkpoint_is_told_which_entry_has_the_weights():
    network, pairs, model = a_pair_of_networks()
    optimizer = torch.optim.RMSprop(network.parameters())
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "optimizer": optimizer.state_dict(), "net": network.state_dict()}
    before = model.get_weights()
    with pytest.raises(
        ValueError, match=r"received 'epoch', .*\. Its entry 'net' is one\. Nothing"
    ):
        interop.torch.load_weights(checkpoint, pairs)
    with pytest.raises(ValueError, match=r"first of its entry 'nets' is one"):
        interop.torch.load_weights({"nets": [network.state_dict()]}, pairs)
    with pytest.raises(ValueError, match="It is the state_dict of an optimizer"):
        interop.torch.load_weights(checkpoint["optimizer"], pairs)
    with pytest.raises(ValueError, match=r"received '1\.weight'\. Nothing has changed"):
        interop.torch.load_weights({"1.weight": torch.ones(2, 4)}, pairs)
    with pytest.raises(ValueError, match=r"received 0\. Its entry 0 is one"):
        interop.torch.load_weights({0: network.state_dict()}, pairs)
    for got, want in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)
    interop.torch.load_weights(checkpoint["net"], pairs)
