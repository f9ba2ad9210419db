"""Test which layers of torch and Keras are paired, and what is said of those that are not."""

from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import interop
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
