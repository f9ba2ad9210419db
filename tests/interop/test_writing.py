"""Test that weights and state are written whole or not at all, also at Ctrl-C."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from keras_rmsprop import RMSprop, interop
from tests.conftest import BACKEND
from tests.tools import models
from yardsticks import peers

SHAPES = {"a": (2,), "b": (3,)}


class Writer(NamedTuple):
    """A function of `interop` that writes variables, and what it writes."""

    write: Callable[[], None]
    # Its variables, in the order in which it writes them.
    values: Callable[[], list[Any]]
    # The last of them, whose assignment can be made to fail.
    last: Any


def variables(fill: float) -> dict[str, Any]:
    return {
        name: keras.Variable(np.full(s, fill, "float32"), name=name) for name, s in SHAPES.items()
    }


def trained() -> RMSprop:
    optimizer = RMSprop(0.5, momentum=0.9, jit_compile=False)
    own = list(variables(0.0).values())
    optimizer.build(own)
    for _ in range(5):
        optimizer.apply(models.tensors([np.ones(s, "float32") for s in SHAPES.values()]), own)
    return optimizer


def torch_weights(_: Path) -> Writer:
    torch = pytest.importorskip("torch")
    own = variables(0.0)
    network = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    pairs = [interop.Pair((name,), variable) for name, variable in own.items()]
    return Writer(
        lambda: interop.torch.load_weights(network, pairs),
        lambda: models.values(own.values()),
        own["b"],
    )


def torch_export(_: Path) -> Writer:
    torch = pytest.importorskip("torch")
    module = torch.nn.Module()
    for name, shape in SHAPES.items():
        module.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
    pairs = [interop.Pair((name,), variable) for name, variable in variables(1.0).items()]
    return Writer(
        lambda: interop.torch.export_weights(module, pairs),
        lambda: [p.detach().numpy().copy() for p in module.parameters()],
        None,
    )


def keras_state(_: Path) -> Writer:
    source, target = trained(), keras.optimizers.RMSprop(0.01, momentum=0.9)
    target.build(list(variables(0.0).values()))
    return Writer(
        lambda: interop.keras.assign(source, target, "order"),
        lambda: models.values([*target._velocities, *target._momentums, target._learning_rate]),
        target._learning_rate,
    )


def tf_keras_state(_: Path) -> Writer:
    tf_keras = pytest.importorskip("tf_keras")
    import tensorflow as tf

    source = trained()
    target = tf_keras.optimizers.RMSprop(0.01, momentum=0.9, jit_compile=False)
    target.build([tf.Variable(np.zeros(s, "float32"), name=n) for n, s in SHAPES.items()])
    return Writer(
        lambda: interop.tf_keras.assign(source, target, "order"),
        lambda: [v.numpy() for v in [*target._velocities, *target._momentums]],
        None,
    )


def tf1_weights(folder: Path) -> Writer:
    if peers.unavailable("tf1"):
        pytest.skip(str(peers.unavailable("tf1")))
    own = variables(1.0)
    optimizer = RMSprop(0.01)
    optimizer.build(list(own.values()))
    interop.tf1.save(optimizer, folder / "model.ckpt", own, exact=False)
    own = variables(0.0)
    return Writer(
        lambda: interop.tf1.load_weights(folder / "model.ckpt", own),
        lambda: models.values(own.values()),
        own["b"],
    )


WRITERS = [torch_weights, torch_export, keras_state, tf_keras_state, tf1_weights]
each_writer = pytest.mark.parametrize("make", WRITERS, ids=lambda make: make.__name__)


@each_writer
def test_an_interrupt_after_the_first_write_comes_after_the_last(tmp_path, no_collection, make):
    if make is torch_export and BACKEND != "torch":
        pytest.skip("the same on every backend")
    writer, whole = make(tmp_path), make(tmp_path)
    whole.write()
    before = writer.values()
    previous = sys.gettrace()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if event == "line" and not np.array_equal(writer.values()[0], before[0]):
            sys.settrace(previous)
            signal.raise_signal(signal.SIGINT)
        return trace

    def write() -> None:
        try:
            sys.settrace(trace)
            writer.write()
        finally:
            sys.settrace(previous)

    with pytest.raises(KeyboardInterrupt):
        write()
    models.assert_identical(writer.values(), whole.values())


@pytest.mark.parametrize(
    "make", [torch_weights, keras_state, tf1_weights], ids=lambda make: make.__name__
)
def test_a_write_that_fails_is_rolled_back(tmp_path, monkeypatch, make):
    writer = make(tmp_path)
    before = writer.values()
    assign = type(writer.last).assign

    def fails(variable: Any, value: Any) -> Any:
        if variable is writer.last and np.any(value != before[-1]):
            raise RuntimeError("as planned")
        return assign(variable, value)

    monkeypatch.setattr(type(writer.last), "assign", fails)
    with pytest.raises(RuntimeError, match="as planned"):
        writer.write()
    models.assert_identical(writer.values(), before)


def test_a_count_that_the_target_cannot_hold_is_refused_before_anything_is_written():
    source = trained()
    source.iterations.assign(2_000_000_000)
    target = keras.optimizers.RMSprop(0.01, momentum=0.9, gradient_accumulation_steps=4)
    target.build(list(variables(0.0).values()))
    before = models.values(target.variables)
    dtype = keras.backend.standardize_dtype(target._iterations.dtype)
    if np.iinfo(dtype).max > 8_000_000_000:
        interop.keras.assign(source, target, "order", exact=False)
        assert int(target._iterations) == 8_000_000_000
        return
    with pytest.raises(ValueError, match=r"8e\+09 is too large for '.*iteration"):
        interop.keras.assign(source, target, "order", exact=False)
    models.assert_identical(models.values(target.variables), before)


def test_a_weight_that_would_become_infinite_is_refused():
    own = variables(0.0)
    pairs = [interop.Pair((name,), variable) for name, variable in own.items()]
    network = {"a": np.ones(2), "b": np.full(3, 1e300)}
    with pytest.raises(ValueError, match=r"1e\+300 is too large for 'b'"):
        interop.torch.load_weights(network, pairs)
    assert [float(np.max(value)) for value in models.values(own.values())] == [0.0, 0.0]
    # What is infinite there may be so here.
    interop.torch.load_weights(network | {"b": np.full(3, np.inf)}, pairs)
    assert np.all(np.isinf(models.values([own["b"]])[0]))


@pytest.mark.parametrize(
    ("dtype", "weight"), [("float16", 1e10), ("float32", 1e300), ("bfloat16", 1e300)]
)
def test_a_weight_that_would_become_infinite_in_torch_is_refused(dtype, weight):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 1).to(getattr(torch, dtype))
    before = [p.detach().clone() for p in module.parameters()]
    bias = keras.Variable(np.ones(1), dtype="float64", name="bias")
    kernel = keras.Variable(np.full((2, 1), weight), dtype="float64", name="kernel")
    pairs = {"bias": bias, "weight": (kernel, np.transpose, np.transpose)}
    with pytest.raises(
        ValueError,
        match=rf"1e\+\d+ is too large for 'weight', which has the dtype {dtype}\. Nothing",
    ):
        interop.torch.export_weights(module, pairs)
    assert all(map(torch.equal, module.parameters(), before))
    # What is infinite here may be so there.
    kernel.assign(np.full((2, 1), np.inf))
    interop.torch.export_weights(module, pairs)
    assert bool(torch.all(torch.isinf(module.weight)))
