"""Test `convert` with arrays of a state of optax, written and read as its help says."""

import functools
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions
from keras_rmsprop._command_line import _npz
from keras_rmsprop._command_line._form import Options
from tests.tools import commands, models
from tests.tools.commands import HALF, PATHS, RATE
from yardsticks import peers

if peers.unavailable("optax"):
    pytest.skip(str(peers.unavailable("optax")), allow_module_level=True)

import jax
import optax

CASES: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.5},
    "centered": {"centered": True, "momentum": 0.5, "nesterov": True, "eps": 1e-3},
    "bias_correction": {"bias_correction": True, "eps_in_sqrt": False},
}


class There:
    """A training in optax, whose parameters are named as Keras's variables are."""

    def __init__(self, transformation: Any, weights: Any = None) -> None:
        start = commands.starts() if weights is None else weights
        self.transformation = transformation
        self.params = nested(map(jax.numpy.asarray, start))
        self.state = transformation.init(self.params)

    def step(self, first: int, last: int) -> list[Any]:
        """Make steps, and return the weights."""
        for step in commands.gradients()[first:last]:
            gradients = nested(map(jax.numpy.asarray, step))
            updates, self.state = self.transformation.update(gradients, self.state, self.params)
            self.params = optax.apply_updates(self.params, updates)
        return [np.asarray(self.params[layer][name]) for layer, name in map(split, PATHS)]


def split(path: str) -> tuple[str, str]:
    layer, name = path.split("/")
    return layer, name


def nested(arrays: Any) -> dict[str, dict[str, Any]]:
    """Return arrays in the order of `PATHS` as a pytree."""
    tree: dict[str, dict[str, Any]] = {}
    for path, array in zip(PATHS, arrays, strict=True):
        layer, name = split(path)
        tree.setdefault(layer, {})[name] = array
    return tree


def documented_lines() -> tuple[str, str]:
    """Return the lines of the documentation that write a file and read one."""
    text = inspect.getdoc(_npz)
    assert text is not None
    blocks = re.findall(r"(?:^    .+\n)+", text, re.MULTILINE)
    write, read = map(textwrap.dedent, blocks)
    return write, read


def write(opt_state: Any, folder: Path, monkeypatch: Any) -> Path:
    """Write a state as the documentation says."""
    monkeypatch.chdir(folder)
    names = {"jax": jax, "np": np, "functools": functools, "opt_state": opt_state}
    exec(documented_lines()[0], names)
    return folder / "state.npz"


def read(transformation: Any, params: Any, folder: Path, monkeypatch: Any) -> Any:
    """Read a state as the documentation says."""
    monkeypatch.chdir(folder)
    key = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    names = {
        "jax": jax, "np": np, "key": key, "transformation": transformation, "params": params,
    }  # fmt: skip
    exec(documented_lines()[1], names)
    return names["opt_state"]


def test_the_help_shows_the_lines_that_write_a_file(tmp_path, monkeypatch):
    there = There(optax.rmsprop(RATE, momentum=0.5))
    there.step(0, HALF)
    want = dict(np.load(write(there.state, tmp_path, monkeypatch)))
    lines = commands.succeeds("convert", "--help").partition("state.npz is written")[2]
    exec(
        inspect.cleandoc(lines.partition("\n")[2]),
        {"jax": jax, "np": np, "opt_state": there.state},
    )
    got = dict(np.load(tmp_path / "state.npz"))
    assert list(got) == list(want)
    assert "0/nu/hidden/kernel" in got


@pytest.mark.parametrize("case", CASES)
def test_three_steps_there_and_three_here(tmp_path, monkeypatch, case):
    there = There(optax.rmsprop(RATE, **CASES[case]))
    weights = there.step(0, HALF)
    file = write(there.state, tmp_path, monkeypatch)
    optimizer = conventions.optax(RATE, **CASES[case])
    commands.save_model(tmp_path / "model.keras", optimizer, weights)
    options = ["--model", tmp_path / "model.keras"]
    commands.succeeds("convert", file, tmp_path / "out.keras", *options)
    model = keras.saving.load_model(tmp_path / "out.keras")
    # A state without bias correction and schedule has no count.
    assert int(model.optimizer.iterations) == (HALF if case == "bias_correction" else 0)
    got = commands.step_here(model, commands.gradients()[HALF:])
    commands.assert_same(got, there.step(HALF, 2 * HALF))


@pytest.mark.parametrize("case", CASES)
def test_three_steps_here_and_three_there(tmp_path, monkeypatch, case):
    optimizer = conventions.optax(RATE, **CASES[case])
    model = commands.save_model(tmp_path / "model.keras", optimizer, trained=True)
    said = commands.succeeds("convert", tmp_path / "model.keras", tmp_path / "state.npz")
    want = There(optax.rmsprop(RATE, **CASES[case])).step(0, 2 * HALF)
    # The transformation that the state is said to be of.
    transformation = eval(re.search(r"is one of (.+)\.$", said, re.MULTILINE)[1], {"optax": optax})
    there = There(transformation, model.get_weights())
    there.state = read(transformation, there.params, tmp_path, monkeypatch)
    commands.assert_same(there.step(HALF, 2 * HALF), want)


def test_a_schedule_clipping_and_l2_have_their_places_in_the_state(tmp_path, monkeypatch):
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 2, 0.5)
    optimizer = keras_rmsprop.RMSprop(schedule, momentum=0.5, l2=0.25, global_clipnorm=0.5)
    model = commands.save_model(tmp_path / "model.keras", optimizer, trained=True)
    said = commands.succeeds("convert", tmp_path / "model.keras", tmp_path / "state.npz")
    words = re.search(r"is one of (.+)\.$", said, re.MULTILINE)[1]
    assert words.startswith("optax.chain(optax.clip_by_global_norm(0.5), ")
    names = {"optax": optax, "schedule": optax.exponential_decay(RATE, 2, 0.5)}
    want = There(eval(words, names)).step(0, 2 * HALF)
    there = There(eval(words, names), model.get_weights())
    there.state = read(there.transformation, there.params, tmp_path, monkeypatch)
    commands.assert_same(there.step(HALF, 2 * HALF), want)


WRAPPERS = {
    "masked": lambda inner: optax.masked(inner, True),
    "multi_transform": lambda inner: optax.multi_transform(
        {"nu": inner, "count": inner}, {"hidden": "nu", "last": "count"}
    ),
    "apply_if_finite": lambda inner: optax.apply_if_finite(inner, 3),
    "MultiSteps": lambda inner: optax.MultiSteps(inner, 1),
    "inject_hyperparams": lambda _: optax.inject_hyperparams(optax.rmsprop)(
        learning_rate=RATE, momentum=0.5
    ),
    "a chain": lambda inner: optax.chain(optax.clip(1e6), optax.chain(inner)),
    "a dict": lambda inner: inner,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_state_is_found_in_whatever_it_is_wrapped(tmp_path, monkeypatch, name):
    there = There(WRAPPERS[name](optax.rmsprop(RATE, momentum=0.5)))
    there.step(0, HALF)
    state = there.state
    if name == "a dict":
        state = {"params": there.params, "opt_state": state}
    arrays = dict(np.load(write(state, tmp_path, monkeypatch)))
    source = _npz.source_of(arrays, tmp_path / "state.npz")
    assert sorted(source.slots) == sorted(PATHS)
    plain = There(optax.rmsprop(RATE, momentum=0.5))
    plain.step(0, HALF)
    for layer, own in map(split, PATHS):
        slots = source.slots[f"{layer}/{own}"]
        np.testing.assert_allclose(slots.square_average, plain.state[0].nu[layer][own], rtol=1e-5)
        trace = plain.state[2].trace[layer][own]
        np.testing.assert_allclose(slots.momentum, -trace, rtol=1e-4, atol=1e-9)
    counts = {"MultiSteps": HALF, "inject_hyperparams": HALF}
    assert source.steps == counts.get(name)


def test_parameters_in_a_list_are_in_the_order_of_the_variables(tmp_path, monkeypatch):
    transformation = optax.rmsprop(RATE)
    params = [jax.numpy.asarray(weight) for weight in commands.starts()]
    gradients = [jax.numpy.asarray(each) for each in commands.gradients()[0]]
    _, state = transformation.update(gradients, transformation.init(params), params)
    file = write(state, tmp_path, monkeypatch)
    commands.save_model(tmp_path / "model.keras", conventions.optax(RATE))
    options = ["--model", tmp_path / "model.keras"]
    commands.succeeds("convert", file, tmp_path / "out.keras", *options)
    model = keras.saving.load_model(tmp_path / "out.keras")
    held = [
        value for name, value in model.optimizer.state_dict().items() if "square_average" in name
    ]
    for ours, theirs in zip(held, state[0].nu, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_gradients_that_are_accumulated_are_not_lost_silently(tmp_path, monkeypatch):
    there = There(optax.MultiSteps(optax.rmsprop(RATE), 2))
    there.step(0, HALF)
    file = write(there.state, tmp_path, monkeypatch)
    commands.save_model(tmp_path / "model.keras", conventions.optax(RATE))
    options = ["--model", tmp_path / "model.keras"]
    words = commands.fails("convert", file, tmp_path / "out.keras", *options)
    assert "1 accumulated" in words


def test_a_state_of_accumulated_gradients_is_for_an_optimizer_that_accumulates(
    tmp_path, monkeypatch
):
    there = There(optax.MultiSteps(optax.rmsprop(RATE), HALF))
    there.step(0, HALF)
    file = write(there.state, tmp_path, monkeypatch)
    arguments = ("convert", file, tmp_path / "out.keras", "--model", tmp_path / "model.keras")
    commands.save_model(tmp_path / "model.keras", conventions.optax(RATE))
    assert "gradient_accumulation_steps" in commands.fails(*arguments)
    optimizer = keras_rmsprop.RMSprop(RATE, epsilon=1e-8, gradient_accumulation_steps=HALF)
    commands.save_model(tmp_path / "model.keras", optimizer)
    assert "1 step made" in commands.succeeds(*arguments)


OTHERS = {
    "sgd": (optax.sgd(RATE, momentum=0.5), "no state of optax.rmsprop"),
    "adam": (optax.adam(RATE), "bias_correction"),
    "amsgrad": (optax.amsgrad(RATE), "amsgrad"),
    "adagrad": (optax.adagrad(RATE), "no state of optax.rmsprop"),
    "lion": (optax.lion(RATE), "no state of optax.rmsprop"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_optimizers_state_is_refused(tmp_path, monkeypatch, name):
    transformation, words = OTHERS[name]
    there = There(transformation)
    there.step(0, HALF)
    file = write(there.state, tmp_path, monkeypatch)
    commands.save_model(tmp_path / "model.keras", conventions.optax(RATE))
    options = ["--model", tmp_path / "model.keras"]
    assert words in commands.fails("convert", file, tmp_path / "out.keras", *options)


def test_what_optax_cannot_go_on_with_is_refused_unless_inexact(tmp_path):
    optimizer = keras_rmsprop.RMSprop(RATE, weight_decay=0.25)
    commands.save_model(tmp_path / "model.keras", optimizer, trained=True)
    arguments = ("convert", tmp_path / "model.keras", tmp_path / "state.npz")
    words = commands.fails(*arguments)
    assert "`weight_decay` is 0.25 here" in words
    assert "--inexact" in words
    assert not (tmp_path / "state.npz").exists()
    commands.succeeds(*arguments, "--inexact")


def slots_in(path: Path) -> dict[str, Any]:
    held = keras.saving.load_model(path).optimizer.state_dict()
    return {name: np.array(value) for name, value in held.items() if "/" in name}


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_gives_the_same_bytes_until_optax_makes_a_step(tmp_path, case):
    arguments = {**CASES[case], "decay": 0.7}
    commands.save_model(
        tmp_path / "model.keras", conventions.optax(RATE, **arguments), trained=True
    )
    commands.succeeds("convert", tmp_path / "model.keras", tmp_path / "state.npz")
    options = ["--model", tmp_path / "model.keras", "--force"]
    commands.succeeds("convert", tmp_path / "state.npz", tmp_path / "out.keras", *options)
    want, got = slots_in(tmp_path / "model.keras"), slots_in(tmp_path / "out.keras")
    assert got.keys() == want.keys()
    assert {name for name in want if got[name].tobytes() != want[name].tobytes()} == set()
    # What optax has changed counts.
    arrays = dict(np.load(tmp_path / "state.npz"))
    key = next(key for key in arrays if key.endswith("nu/hidden/kernel"))
    assert arrays[key].dtype == "float32"
    arrays[key] = 4.0 * arrays[key]
    np.savez(tmp_path / "state.npz", **arrays)
    commands.succeeds("convert", tmp_path / "state.npz", tmp_path / "out.keras", *options)
    changed = slots_in(tmp_path / "out.keras")
    assert np.all(
        changed["hidden/kernel/square_average"] > 3.0 * want["hidden/kernel/square_average"]
    )


@pytest.mark.filterwarnings("ignore:.*makes the first variance exactly")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("centered", [False, True], ids="centered={}".format)
@pytest.mark.parametrize("bias_correction", [False, True], ids="bias_correction={}".format)
def test_averages_in_other_terms_than_optax_s_come_back_within_roundings(
    tmp_path, dtype, centered, bias_correction
):
    rng = np.random.default_rng(0)
    file = tmp_path / "state.npz"
    size = 10_000
    variable = keras.Variable(np.ones(size), dtype=dtype, name="x")
    averages = {
        "square_average": 10.0 ** rng.uniform(-8, 4, size) * (rng.random(size) > 0.1),
        "gradient_average": rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3, size),
    }

    def build() -> Any:
        optimizer = conventions.optax(
            RATE, decay=0.7, centered=centered, bias_correction=bias_correction
        )
        optimizer.build([variable])
        return optimizer

    def held(optimizer: Any) -> dict[str, Any]:
        return {kind: v for v in optimizer.variables for kind in averages if kind in v.path}

    here, back = build(), build()
    here.iterations.assign(3)
    for kind, slot in held(here).items():
        slot.assign(averages[kind])
    _npz.write(here, file, None, Options())
    _npz.read(file, Options())(back, None)
    want, got = (
        {kind: np.array(keras.ops.convert_to_numpy(slot)) for kind, slot in held(each).items()}
        for each in (here, back)
    )
    if not centered and not bias_correction:
        models.assert_identical(got.values(), want.values())
        return
    squares = want["square_average"].astype(np.float64)
    mean = want.get("gradient_average", np.zeros(size)).astype(np.float64)
    moment = squares + mean**2
    assert np.all(np.abs(got["square_average"] - squares) <= 2e-15 * moment)
    if centered:
        assert np.all(np.abs(got["gradient_average"] - mean) <= 2e-15 * np.abs(mean))
    if dtype == "float32":
        large = squares > 1e-7 * moment
        assert np.any(large)
        for kind in want:
            chosen = large if kind == "square_average" else slice(None)
            np.testing.assert_array_equal(got[kind][chosen], want[kind][chosen])


@pytest.mark.parametrize("count", [np.nan, np.inf, -1, 2.5])
@pytest.mark.parametrize("key", ["0/count", "mini_step"])
def test_a_count_that_is_none_is_refused_with_its_file_and_key(tmp_path, key, count):
    slots = {f"0/nu/{p}": np.ones_like(w) for p, w in zip(PATHS, commands.starts(), strict=True)}
    np.savez(tmp_path / "state.npz", **slots, **{key: np.asarray(count)})
    commands.save_model(tmp_path / "model.keras", conventions.optax(RATE))
    words = commands.fails(
        "convert",
        tmp_path / "state.npz",
        tmp_path / "out.keras",
        "--model",
        tmp_path / "model.keras",
    )
    assert f"state.npz: {key!r} must be an integer >= 0, received {count:g}" in words
