"""Test that a file of weights loads into any model as with Keras's own class.

Every kind of file is loaded into every kind of model. Then training goes on, and the result is
saved and opened.
"""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.tools import models

RATE = 2.0**-6
CLASSES = {"keras": keras.optimizers.RMSprop, "ours": keras_rmsprop.RMSprop}

# The optimizer with which a saved model was compiled, None if it was not compiled.
SAVED: dict[str, Any] = {
    "uncompiled": lambda: None,
    "SGD": lambda: keras.optimizers.SGD(RATE, momentum=0.5),
    "Adam": lambda: keras.optimizers.Adam(RATE),
    "Keras": lambda: keras.optimizers.RMSprop(RATE),
    "ours": lambda: keras_rmsprop.RMSprop(RATE, jit_compile=False),
    "wrapped": lambda: keras.optimizers.LossScaleOptimizer(
        keras_rmsprop.RMSprop(RATE, jit_compile=False)
    ),
}
MODELS = ("same", "new head", "frozen base", "added layer")


def network(kind: str = "same") -> keras.Model:
    """Return a model with generated names."""
    keras.utils.set_random_seed(0)
    units = 2 if kind == "new head" else 1
    more = [keras.layers.Dense(5)] if kind == "added layer" else []
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), *more, keras.layers.Dense(units)]
    )
    model.layers[0].trainable = kind != "frozen base"
    return model


def go_on(model: keras.Model, batches: int = 1) -> None:
    """Train, without the cost of compiling."""
    x, y = models.data()
    y = np.repeat(y, model.output_shape[-1], axis=1)
    for _ in range(batches):
        model.train_on_batch(x, y)


def compiled(model: keras.Model, optimizer: Any) -> keras.Model:
    model.compile(optimizer, loss="mse", run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> dict[str, Path]:
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for name, make in SAVED.items():
        model, optimizer = network(), make()
        if optimizer is not None:
            # JAX traces both branches of the scaling, which does not run eagerly in Keras.
            model.compile(optimizer, loss="mse", run_eagerly=keras.backend.backend() != "jax")
            go_on(model, 2)
        paths[name] = folder / f"{name}.weights.h5"
        model.save_weights(paths[name])
    return paths


def optimizer_of(package: str, wrapped: bool) -> Any:
    options = {"jit_compile": False} if package == "ours" else {}
    optimizer = CLASSES[package](RATE / 2, **options)
    return keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer


def outcome(package: str, path: Path, kind: str, built: bool) -> Any:
    """Load and make two steps; return both weights, the model, and the steps that it loaded."""
    model = compiled(network(kind), optimizer_of(package, wrapped=False))
    if built:
        model.optimizer.build(model.trainable_variables)
    model.load_weights(path, skip_mismatch=kind in ("new head", "added layer"))
    loaded = model.get_weights()
    steps = int(model.optimizer.iterations)
    go_on(model)
    go_on(model)
    assert int(model.optimizer.iterations) == steps + 2
    return loaded, model.get_weights(), model, steps


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize("file", SAVED)
def test_a_file_loads_into_a_model_as_with_keras(files, tmp_path, file, built, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = outcome("keras", files[file], kind, built)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = outcome("ours", files[file], kind, built)
    models.assert_identical(ours[0], theirs[0])
    messages = [str(each.message) for each in caught]
    warned = [m for m in messages if "optimizer" in m and "could not be loaded" not in m]

    takes = built and file in ("Keras", "ours")
    assert ours[3] == (2 if takes else 0)
    if takes:
        # The state of the layers that are the same in both.
        report = ours[2].optimizer.load_report
        restored = {"same": 4, "new head": 2, "frozen base": 2, "added layer": 2}[kind]
        assert sum(name.endswith("square_average") for name in report.restored) >= restored
        assert len(warned) == (kind != "same")
    else:
        # Both start afresh, but Keras mistakes SGD's buffers for averages of squares.
        misled = file == "SGD" and built and kind in ("same", "new head")
        for mine, other in zip(ours[1], theirs[1], strict=True) if not misled else ():
            np.testing.assert_allclose(mine, other, rtol=2e-5, atol=2e-6)
        nothing_lost = not built and file == "uncompiled"
        assert len(warned) == (not nothing_lost)

    # The result can be saved and opened.
    ours[2].save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations) == ours[3] + 2
    models.assert_identical(again.get_weights(), ours[1])


@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize("file", ["uncompiled", "ours", "wrapped"])
def test_a_file_loads_into_a_model_that_scales_its_loss(files, file, built):
    weights = []
    for package in CLASSES:
        model = network()
        model.compile(optimizer_of(package, wrapped=True), loss="mse", jit_compile=False)
        if built:
            model.optimizer.build(model.trainable_variables)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_weights(files[file])
        takes = built and file == "wrapped"
        assert int(model.optimizer.iterations) == (2 if takes else 0)
        weights.append(model.get_weights())
        go_on(model)
        assert all(np.all(np.isfinite(w)) for w in model.get_weights())
    models.assert_identical(*weights)


def test_after_a_damaged_state_the_model_trains_on_with_the_loaded_weights(tmp_path):
    import h5py

    saved = compiled(network(), optimizer_of("ours", wrapped=False))
    go_on(saved, 2)
    path = tmp_path / "damaged.weights.h5"
    saved.save_weights(path)
    with h5py.File(path, "r+") as file:
        file["optimizer/vars/0.square_average"][0, 0] += 1.0
    model = compiled(network(), optimizer_of("ours", wrapped=False))
    go_on(model, 3)
    before = model.optimizer.state_dict()
    with pytest.raises(ValueError, match="is damaged"):
        model.load_weights(path)
    models.assert_identical(model.get_weights(), saved.get_weights())
    models.assert_identical(model.optimizer.state_dict().values(), before.values())
    go_on(model, 2)
    model.save(tmp_path / "model.keras")
    assert int(keras.saving.load_model(tmp_path / "model.keras").optimizer.iterations) == 5
