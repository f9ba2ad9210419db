"""Test `convert` with files that torch writes and reads."""

import contextlib
import itertools
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions
from tests.tools import commands, disk, models
from tests.tools.commands import HALF, RATE
from yardsticks import peers

if peers.unavailable("torch"):
    pytest.skip(str(peers.unavailable("torch")), allow_module_level=True)

import torch

MAP = {
    "fc1.weight": {"variable": "hidden/kernel", "transform": "transpose"},
    "fc1.bias": "hidden/bias",
    "fc2.weight": {"variable": "last/kernel", "transform": "transpose"},
    "fc2.bias": "last/bias",
}
CASES: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.5, "alpha": 0.75},
    "everything": {"momentum": 0.5, "centered": True, "weight_decay": 0.125, "eps": 1e-3},
}


def there(weights: Sequence[Any] | None = None, **arguments: Any) -> peers.Torch:
    """Return torch's optimizer, with weights in torch's layout."""
    start = commands.starts() if weights is None else weights
    return peers.Torch(commands.transposed(start), lr=RATE, **arguments)


def step_there(peer: peers.Torch, first: int, last: int) -> list[Any]:
    """Make steps, and return the weights in Keras's layout."""
    for step in commands.gradients()[first:last]:
        peer.step(peer.tensors(commands.transposed(step)))
    return commands.transposed(peer.weights())


def files(folder: Path, peer: peers.Torch, optimizer: Any) -> tuple[Path, ...]:
    """Write a model with a peer's weights, and the map; return the arguments that name them."""
    weights = commands.transposed(peer.weights())
    commands.save_model(folder / "model.keras", optimizer, weights)
    map_file = commands.write_json(folder / "map.json", MAP)
    return Path("--model"), folder / "model.keras", Path("--map"), map_file


@pytest.mark.parametrize("name", ["epoch=3.ckpt", "checkpoint.tar", "checkpoint"])
@pytest.mark.parametrize("zipped", [True, False], ids="zipped={}".format)
def test_a_file_of_torch_is_known_by_its_content(tmp_path, name, zipped):
    peer = there()
    step_there(peer, 0, HALF)
    options = files(tmp_path, peer, conventions.torch(RATE))
    state = {"epoch": 3, "optimizer_states": [peer.optimizer.state_dict()]}
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
    commands.succeeds("convert", tmp_path / name, tmp_path / "out.keras", *options)
    got = commands.go_on_here(tmp_path / "out.keras")
    commands.assert_same(got, step_there(peer, HALF, 2 * HALF))


def test_a_ckpt_that_is_neither_torch_s_nor_tf1_s_is_told_so(tmp_path):
    (tmp_path / "other.ckpt").write_bytes(b"other")
    options = files(tmp_path, there(), conventions.torch(RATE))
    words = commands.fails("convert", tmp_path / "other.ckpt", tmp_path / "out.keras", *options)
    assert "other.ckpt.index" in words
    assert "no file of torch" in words


CONTAINERS = {
    "state_dict": lambda state, _: state,
    "optimizer": lambda state, weights: {"epoch": 3, "optimizer": state, "model": weights},
    "optimizer_state_dict": lambda state, _: {"optimizer_state_dict": state, "loss": 0.5},
    "Lightning's": lambda state, weights: {"optimizer_states": [state], "state_dict": weights},
}


@pytest.mark.parametrize(
    ("container", "case"),
    [*((container, "momentum") for container in CONTAINERS), ("state_dict", "everything")],
)
def test_three_steps_there_and_three_here(tmp_path, container, case):
    peer = there(**CASES[case])
    step_there(peer, 0, HALF)
    weights = dict(zip(MAP, map(torch.tensor, peer.weights()), strict=True))
    torch.save(CONTAINERS[container](peer.optimizer.state_dict(), weights), tmp_path / "state.pt")
    options = files(tmp_path, peer, conventions.torch(lr=RATE, **CASES[case]))
    said = commands.succeeds("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options)
    assert f"{HALF} steps made, learning rate {RATE:g}" in said
    want = step_there(peer, HALF, 2 * HALF)
    commands.assert_same(commands.go_on_here(tmp_path / "out.keras"), want)


@pytest.mark.parametrize("case", CASES)
def test_three_steps_here_and_three_there(tmp_path, case):
    optimizer = conventions.torch(lr=RATE, **CASES[case])
    model = commands.save_model(tmp_path / "model.keras", optimizer, trained=True)
    map_file = commands.write_json(tmp_path / "map.json", MAP)
    said = commands.succeeds(
        "convert", tmp_path / "model.keras", tmp_path / "state.pt", "--map", map_file
    )
    assert "written  4  fc1.weight, fc1.bias, fc2.weight, fc2.bias" in said
    peer = there(model.get_weights(), **CASES[case])
    peer.optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    want = step_there(there(**CASES[case]), 0, 2 * HALF)
    got = step_there(peer, HALF, 2 * HALF)
    commands.assert_same(got, want)


def test_variables_with_other_settings_go_into_param_groups_of_their_own(tmp_path):
    optimizer = conventions.torch(
        lr=RATE, params=[{"params": "last/.*", "lr": RATE / 4}, {"params": ".*/bias", "eps": 0.5}]
    )
    groups = {"last/.*": {"learning_rate": 0.25}, "hidden/bias": {"epsilon": 0.5}}
    optimizer = keras_rmsprop.RMSprop.from_config({**optimizer.get_config(), "groups": groups})
    commands.save_model(tmp_path / "model.keras", optimizer, trained=True)
    map_file = commands.write_json(tmp_path / "map.json", MAP)
    said = commands.succeeds(
        "convert", tmp_path / "model.keras", tmp_path / "state.pt", "--map", map_file
    )
    assert "3 param groups" in said
    written = torch.load(tmp_path / "state.pt", weights_only=True)
    told = [
        (group["param_names"], group["params"], group["lr"], group["eps"])
        for group in written["param_groups"]
    ]
    assert told == [
        (["fc1.weight"], [0], RATE, 1e-8),
        (["fc1.bias"], [1], RATE, 0.5),
        (["fc2.weight", "fc2.bias"], [2, 3], RATE / 4, 1e-8),
    ]
    # It has names, so the way back needs no order.
    shuffled = commands.write_json(tmp_path / "shuffled.json", dict(reversed(MAP.items())))
    options = ("--model", tmp_path / "model.keras", "--map", shuffled)
    commands.succeeds("convert", tmp_path / "state.pt", tmp_path / "back.keras", *options)
    before, after = (
        keras.saving.load_model(tmp_path / name) for name in ("model.keras", "back.keras")
    )
    models.assert_identical(
        after.optimizer.state_dict().values(), before.optimizer.state_dict().values()
    )


def test_names_in_the_file_decide_not_the_order_of_the_map(tmp_path):
    peer = there(momentum=0.5)
    named = list(zip(MAP, peer.parameters, strict=True))
    peer.optimizer = torch.optim.RMSprop(named, lr=RATE, momentum=0.5)
    step_there(peer, 0, HALF)
    torch.save(peer.optimizer.state_dict(), tmp_path / "state.pt")
    options = files(tmp_path, peer, conventions.torch(lr=RATE, momentum=0.5))
    commands.write_json(tmp_path / "map.json", dict(reversed(MAP.items())))
    commands.succeeds("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options)
    want = step_there(peer, HALF, 2 * HALF)
    commands.assert_same(commands.go_on_here(tmp_path / "out.keras"), want)


@pytest.mark.parametrize("kind", ["timm", "stable-baselines3"])
def test_the_kind_of_the_file_says_where_epsilon_is(tmp_path, kind):
    # Both have it under the root, which the second's file does not show.
    peer = there(momentum=0.5)
    step_there(peer, 0, HALF)
    state = peer.optimizer.state_dict()
    if kind == "timm":
        state["param_groups"][0] |= {"lr_in_momentum": True, "decoupled_decay": False}
    torch.save(state, tmp_path / "state.pt")
    optimizer = conventions.timm(
        RATE, alpha=0.99, eps=1e-8, momentum=0.5, lr_in_momentum=kind == "timm"
    )
    options = files(tmp_path, peer, optimizer)
    if kind == "stable-baselines3":
        words = commands.fails("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options)
        assert "epsilon_inside_sqrt" in words
    more = ("--kind", kind)
    commands.succeeds("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options, *more)


def test_other_steps_are_refused_unless_inexact(tmp_path):
    peer = there(momentum=0.5)
    step_there(peer, 0, HALF)
    torch.save(peer.optimizer.state_dict(), tmp_path / "state.pt")
    options = files(tmp_path, peer, keras_rmsprop.RMSprop(RATE, momentum=0.5))
    arguments = ("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options)
    words = commands.fails(*arguments)
    assert "`epsilon_inside_sqrt` is True here and False there" in words
    assert "pass --inexact" in words
    assert "exact=False" not in words
    assert not (tmp_path / "out.keras").exists()
    assert "restored" in commands.succeeds(*arguments, "--inexact")


def test_a_map_in_another_order_than_the_optimizers_is_refused(tmp_path):
    peer = there()
    step_there(peer, 0, HALF)
    weights = dict(zip(MAP, map(torch.tensor, peer.weights()), strict=True))
    for name, content in {
        "bare.pt": peer.optimizer.state_dict(),
        "with_weights.pt": {"optimizer": peer.optimizer.state_dict(), "model": weights},
    }.items():
        torch.save(content, tmp_path / name)
        options = files(tmp_path, peer, conventions.torch(lr=RATE))
        commands.write_json(tmp_path / "map.json", dict(reversed(MAP.items())))
        words = commands.fails("convert", tmp_path / name, tmp_path / "out.keras", *options)
        assert "shape" in words
        assert "fc" in words


def test_without_names_and_a_map_nothing_is_matched(tmp_path):
    peer = there()
    step_there(peer, 0, HALF)
    torch.save(peer.optimizer.state_dict(), tmp_path / "state.pt")
    options = files(tmp_path, peer, conventions.torch(lr=RATE))[:2]
    words = commands.fails("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options)
    assert "--map" in words
    words = commands.fails("convert", tmp_path / "model.keras", tmp_path / "back.pt")
    assert "--map" in words


def test_a_map_that_lacks_parameters_of_a_file_without_names_is_refused(tmp_path):
    peer = there()
    step_there(peer, 0, HALF)
    torch.save(peer.optimizer.state_dict(), tmp_path / "state.pt")
    options = files(tmp_path, peer, conventions.torch(lr=RATE))
    commands.write_json(tmp_path / "map.json", dict([*MAP.items()][:3]))
    words = commands.fails("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options)
    assert "the state of 4 parameters without names, and the map has 3: fc1.weight" in words


def test_the_class_of_a_pickled_object_is_named(tmp_path):
    torch.save(torch.nn.Linear(2, 1), tmp_path / "network.pt")
    options = files(tmp_path, there(), conventions.torch(lr=RATE))
    words = commands.fails("convert", tmp_path / "network.pt", tmp_path / "out.keras", *options)
    assert "it names torch.nn.modules.linear.Linear;" in words


MALICIOUS = {
    "torch.save": (lambda thing, path: torch.save({"optimizer": thing}, path), "mkdir"),
    "torch.save as before 1.6": (
        lambda thing, path: torch.save(thing, path, _use_new_zipfile_serialization=False),
        "mkdir",
    ),
    "pickle": (
        lambda thing, path: path.write_bytes(pickle.dumps({"optimizer": thing})),
        "tensors and plain values alone",
    ),
}


@pytest.mark.parametrize("way", MALICIOUS)
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, way):
    trace = tmp_path / "trace"
    write, told = MALICIOUS[way]
    write(commands.leaves_a_trace(trace), tmp_path / "state.pt")
    options = files(tmp_path, there(), conventions.torch(lr=RATE))
    words = commands.fails("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options)
    assert told in words
    assert not trace.exists()
    # The file is what it is taken for.
    with contextlib.suppress(RuntimeError):
        torch.load(tmp_path / "state.pt", weights_only=False)
    assert trace.exists()


CONTENTS = {
    "a tensor": (torch.ones(3), "state_dict"),
    "a network's weights": ({"fc1.weight": torch.ones(3)}, "fc1.weight"),
    "another optimizer's state": (
        torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]).state_dict(),
        "not that of an RMSprop",
    ),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_without_the_state_of_an_rmsprop_is_refused(tmp_path, case):
    content, words = CONTENTS[case]
    torch.save(content, tmp_path / "state.pt")
    options = files(tmp_path, there(), conventions.torch(lr=RATE))
    arguments = ("convert", tmp_path / "state.pt", tmp_path / "out.keras", *options)
    assert words in commands.fails(*arguments)
    whole = (tmp_path / "state.pt").read_bytes()
    for damaged in (b"", b"nothing of torch's", whole[: len(whole) // 2]):
        (tmp_path / "state.pt").write_bytes(damaged)
        assert "not a file that torch.save writes" in commands.fails(*arguments)


def fields(**changed: Any) -> dict[str, Any]:
    """Return a state of two parameters, with other entries in its param group."""
    group = {
        "params": [0, 1], "lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.0, "centered": False,
        "weight_decay": 0.0,
    }  # fmt: skip
    return {"state": {}, "param_groups": [{**group, **changed}]}


def state_of(**own: Any) -> dict[str, Any]:
    """Return a state in which one parameter has these entries."""
    return {**fields(), "state": {0: {"square_avg": torch.ones(2), "step": 1, **own}}}


FIELDS = {
    "no groups": (fields() | {"param_groups": None}, "param_groups must be a list of dicts"),
    "a list as state": (fields() | {"state": [1]}, "state must be a dict with a dict for each"),
    "a word as state": (fields() | {"state": {0: "x"}}, "state must be a dict with a dict for eac"),
    "alpha None": (fields(alpha=None), "['alpha'] must be a finite number, received None"),
    "a rate in words": (fields(lr="x"), "['lr'] must be a finite number, received 'x'"),
    "two rates": (fields(lr=torch.ones(2)), "['lr'] must be a finite number, received tensor([1."),
    "no weight decay": (
        {**fields(), "param_groups": [{k: v for k, v in fields()["param_groups"][0].items()
                                       if k != "weight_decay"}]},
        "param_groups[0]['weight_decay'] must be a finite number, received None",
    ),
    "lists as numbers": (fields(params=[[0], [1]]), "['params'] must be a list of numbers"),
    "one number twice": (fields(params=[0, 0]), "of different parameters, received [0, 0]"),
    "numbers as names": (fields(param_names=[1, 2]), "['param_names'] must be a list of 2 names"),
    "names None": (fields(param_names=None), "['param_names'] must be a list of 2 names, received"),
    "step None": (state_of(step=None), "state[0]['step'] must be an integer >= 0, received None"),
    "step infinite": (state_of(step=math.inf), "['step'] must be an integer >= 0, received inf"),
    "step a half": (state_of(step=torch.tensor(0.5)), "['step'] must be an integer >= 0, received"),
    "a number as average": (state_of(square_avg=1.0), "['square_avg'] must be a dense tensor"),
    "a sparse average": (
        state_of(square_avg=torch.ones(2).to_sparse()), "['square_avg'] must be a dense tensor",
    ),
    "an average on no device": (
        state_of(grad_avg=torch.ones(2, device="meta")), "['grad_avg'] must be a dense tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_an_entry_of_another_kind_is_refused_with_its_file_and_place(tmp_path, case):
    content, words = FIELDS[case]
    torch.save(content, tmp_path / "state.pt")
    commands.save_model(tmp_path / "model.keras", conventions.torch(lr=RATE))
    entries = {"a": commands.PATHS[0], "b": commands.PATHS[1]}
    sentence = commands.fails(
        "convert", tmp_path / "state.pt", tmp_path / "out.keras",
        "--map", commands.write_json(tmp_path / "map.json", entries),
        "--model", tmp_path / "model.keras",
    )  # fmt: skip
    assert words in sentence
    assert "state.pt" in sentence


def test_every_transform_of_the_map_goes_over_and_back(tmp_path):
    # What torch's layers hold, and the layers of Keras that correspond.
    layers = {
        "conv": (torch.nn.Conv2d(2, 3, (2, 4)), keras.layers.Conv2D(3, (2, 4), name="conv")),
        "depthwise": (
            torch.nn.Conv2d(2, 6, 2, groups=2),
            keras.layers.DepthwiseConv2D(2, depth_multiplier=3, name="depthwise"),
        ),
        "gru": (torch.nn.GRU(2, 3), keras.layers.GRU(3, name="gru")),
        "lstm": (torch.nn.LSTM(2, 3), keras.layers.LSTM(3, name="lstm")),
    }
    paths = {
        "conv.weight": ("conv/kernel", "conv"),
        "conv.bias": ("conv/bias", "none"),
        "depthwise.weight": ("depthwise/kernel", "depthwise"),
        "depthwise.bias": ("depthwise/bias", "none"),
        "gru.weight_ih_l0": ("gru/gru_cell/kernel", "gru"),
        "gru.weight_hh_l0": ("gru/gru_cell/recurrent_kernel", "gru"),
        "gru.bias_ih_l0": ("gru/gru_cell/bias", "gru"),
        "gru.bias_hh_l0": ("gru/gru_cell/bias", "gru"),
        "lstm.weight_ih_l0": ("lstm/lstm_cell/kernel", "transpose"),
        "lstm.weight_hh_l0": ("lstm/lstm_cell/recurrent_kernel", "transpose"),
        "lstm.bias_ih_l0": ("lstm/lstm_cell/bias", "lstm"),
        "lstm.bias_hh_l0": ("lstm/lstm_cell/bias", "lstm"),
    }
    image, sequence = keras.Input((4, 5, 2)), keras.Input((4, 2))
    convolved, shifted = (layers[name][1](image) for name in ("conv", "depthwise"))
    outputs = [convolved, shifted, *(layers[name][1](sequence) for name in ("gru", "lstm"))]
    model = keras.Model([image, sequence], outputs)
    # The sum of two biases moves twice as far as each of them.
    groups = {"lstm/lstm_cell/bias": {"learning_rate": 2.0}}
    optimizer = keras_rmsprop.RMSprop.from_config(
        {**conventions.torch(lr=RATE).get_config(), "groups": groups}
    )
    model.compile(optimizer, loss="mse")
    model.save(tmp_path / "model.keras")

    parameters = {
        f"{name}.{own}": parameter
        for name, (module, _) in layers.items()
        for own, parameter in module.named_parameters()
    }
    assert list(parameters) == list(paths)
    theirs = torch.optim.RMSprop(parameters.items(), lr=RATE)
    rng = np.random.default_rng(0)
    for (name, parameter), number in zip(parameters.items(), itertools.count()):
        # Both biases of an LSTM always have the same gradient.
        seed = number - 1 if name == "lstm.bias_hh_l0" else number
        rng = np.random.default_rng(seed)
        parameter.grad = torch.tensor(rng.normal(size=parameter.shape), dtype=torch.float32)
    theirs.step()
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    entries = {name: {"variable": v, "transform": t} for name, (v, t) in paths.items()}
    map_file = commands.write_json(tmp_path / "map.json", entries)
    commands.succeeds(
        "convert", tmp_path / "state.pt", tmp_path / "out.keras", "--map", map_file,
        "--model", tmp_path / "model.keras",
    )  # fmt: skip
    out = tmp_path / "back.pt"
    commands.succeeds("convert", tmp_path / "out.keras", out, "--map", map_file)
    before, after = theirs.state_dict(), torch.load(out, weights_only=True)
    names = [name for group in after["param_groups"] for name in group["param_names"]]
    numbers = [number for group in after["param_groups"] for number in group["params"]]
    assert sorted(names) == sorted(paths)
    for name, number in zip(names, numbers, strict=True):
        want = before["state"][list(paths).index(name)]["square_avg"]
        torch.testing.assert_close(after["state"][number]["square_avg"], want, rtol=1e-6, atol=0.0)


def test_a_target_that_cannot_be_written_is_named_with_the_reason(tmp_path):
    commands.save_model(tmp_path / "old.keras", conventions.torch(RATE), trained=True)
    arguments = ("--map", commands.write_json(tmp_path / "map.json", MAP), "--force")
    target = tmp_path / "out.pt"
    target.write_bytes(b"precious")
    before = set(tmp_path.iterdir())
    with disk.full():
        words = commands.fails("convert", tmp_path / "old.keras", target, *arguments)
    assert words == f"File too large ({target})."
    assert target.read_bytes() == b"precious"
    assert set(tmp_path.iterdir()) == before
