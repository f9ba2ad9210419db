"""Test what `recipes.get` returns: it trains, is saved and loaded, and what it refuses."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_rmsprop import recipes
from tests.conftest import BACKEND
from tests.recipes.test_table import ANSWERS, arguments_of
from tests.tools import models

each_recipe = pytest.mark.parametrize("name", recipes.names())


def network() -> keras.Model:
    """A convolution, its batch normalization and a dense layer, the same at every call."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(3, 3, use_bias=False, name="convolution"),
            layers.BatchNormalization(name="normalization"),
            layers.Flatten(),
            layers.Dense(2, name="dense"),
        ],
        name="network",
    )


def data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 4, 4, 2)).astype("float32"), rng.integers(2, size=8)


def train(model: keras.Model, epochs: int = 1) -> None:
    """Make two steps per epoch."""
    x, y = data()
    model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


def small(name: str) -> dict[str, Any]:
    """Arguments for a training of two steps per epoch, with a rate that does move the weights."""
    return arguments_of(name, batch_size=4, steps_per_epoch=2, total_steps=8)


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@each_recipe
def test_every_recipe_trains_and_is_saved_and_loaded_with_the_model(
    tmp_path: Path, name: str
) -> None:
    model = network()
    optimizer = recipes.get(name, **small(name))
    # Compiling takes seconds, and is tested below.
    optimizer.jit_compile = False
    model.compile(optimizer, LOSS, run_eagerly=True)
    train(model)
    assert int(optimizer.iterations) == 2
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())
    # Not the weights, which are their averages now, if the recipe has any.
    for square_average in models.values(optimizer._square_averages):
        assert np.any(square_average != optimizer.initial_square_average)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    configs = [each.get_config() for each in (loaded.optimizer, optimizer)]
    for config in configs:
        # A loaded model's paths lack the name of the model.
        config.pop("group_members", None)
    assert configs[0] == configs[1]
    loaded.run_eagerly = True
    train(model)
    train(loaded)
    models.assert_identical(loaded.get_weights(), model.get_weights())
    models.assert_identical(
        models.values(loaded.optimizer.variables), models.values(optimizer.variables)
    )


@pytest.mark.parametrize("name", ["mnasnet", "inception_v4_tpu"])
def test_a_compiled_fit_makes_the_same_steps(name: str) -> None:
    trained = []
    for run_eagerly in (True, False):
        model = network()
        optimizer = recipes.get(name, **small(name))
        optimizer.jit_compile = False
        # The averages hardly move in a few steps.
        optimizer.use_ema = False
        model.compile(optimizer, LOSS, run_eagerly=run_eagerly)
        start = model.get_weights()
        train(model, epochs=4)
        trained.append(model.get_weights())
    for mine, theirs, before in zip(*trained, start, strict=True):
        travelled = np.max(np.abs(mine - before))
        np.testing.assert_allclose(mine, theirs, rtol=0.0, atol=1e-4 * travelled + 1e-6)


# Which variables decay.


def layers_of_every_kind() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(2, 3, name="convolution"),
            layers.BatchNormalization(name="batch"),
            layers.DepthwiseConv2D(3),
            layers.SeparableConv2D(2, 2, name="separable"),
            layers.LayerNormalization(name="layer"),
            layers.Flatten(),
            layers.Dense(3, name="dense"),
        ],
        name="model",
    )


VECTORS = {"convolution/bias", "depthwise_conv2d/bias", "separable/bias", "dense/bias"}
KERNELS = {"convolution/kernel", "separable/pointwise_kernel", "dense/kernel"}
DEPTHWISE = {"depthwise_conv2d/kernel", "separable/depthwise_kernel"}
DECAYS = {
    "efficientnet": KERNELS | DEPTHWISE | VECTORS,
    "efficientnet_b0_timm": KERNELS | DEPTHWISE,
    "inception_v3": KERNELS | DEPTHWISE,
    "mobilenet_v2_slim": KERNELS,
}


def decaying(optimizer: Any, model: keras.Model) -> set[str]:
    """The paths, without the model's name, of the variables that the optimizer lets decay."""
    optimizer.build(model.trainable_variables)
    return {
        variable.path.removeprefix(f"{model.name}/")
        for i, variable in enumerate(model.trainable_variables)
        if optimizer._settings_of(i).l2 > 0.0
    }


def test_the_variables_decay_that_the_source_lets_decay() -> None:
    keras.backend.clear_session()  # so that the depthwise layer is called depthwise_conv2d
    model = layers_of_every_kind()
    found = {name: decaying(recipes.get(name, **arguments_of(name)), model) for name in DECAYS}
    assert found == DECAYS


def test_torchvision_lets_all_variables_decay() -> None:
    optimizer = recipes.get("mobilenet_v3_torchvision", steps_per_epoch=10)
    assert optimizer.l2 == 1e-5
    assert not optimizer.groups


@pytest.mark.skipif(BACKEND != "torch", reason="names do not differ, and others build slowly")
def test_depthwise_kernels_are_recognized_in_a_network_of_keras() -> None:
    model = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None)
    depthwise = {
        variable.path.removeprefix(f"{model.name}/")
        for layer in model.layers
        if isinstance(layer, layers.DepthwiseConv2D)
        for variable in layer.trainable_variables
    }
    kernels = {
        variable.path.removeprefix(f"{model.name}/")
        for variable in model.trainable_variables
        if variable.name == "kernel"
    }
    optimizer = recipes.get("mobilenet_v1_tpu", batch_size=256, steps_per_epoch=10)
    assert len(depthwise) == 13
    assert decaying(optimizer, model) == kernels - depthwise


@pytest.mark.parametrize("name", DECAYS)
def test_a_model_without_exempt_variables_is_trained(name: str) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False)])
    optimizer = recipes.get(name, **small(name))
    assert len(decaying(optimizer, model)) == 1


def test_a_model_without_variables_that_decay_is_refused() -> None:
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization()])
    optimizer = recipes.get("efficientnet", batch_size=256, steps_per_epoch=10)
    with pytest.raises(ValueError, match=r"matches none of the optimizer's variables"):
        optimizer.build(model.trainable_variables)


# What is refused.


@each_recipe
def test_each_argument_that_is_not_published_is_asked_for_with_its_reason(name: str) -> None:
    recipe, arguments = recipes.about(name), arguments_of(name)
    for question, why in recipe.unpublished.items():
        others = {key: value for key, value in arguments.items() if key != question}
        with pytest.raises(ValueError, match=f"The recipe '{name}' needs `{question}`") as error:
            recipes.get(name, **others)
        assert why in str(error.value)


@each_recipe
def test_each_size_that_is_needed_is_asked_for_by_name(name: str) -> None:
    arguments = arguments_of(name)
    for size in recipes.about(name).needs:
        others = {key: value for key, value in arguments.items() if key != size}
        with pytest.raises(ValueError, match=f"The recipe '{name}' needs `{size}`, the number of"):
            recipes.get(name, **others)


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"steps_per_epoch.*epsilon.*weight_decay_form") as error:
        recipes.get("efficientnet_paper")
    assert "0.256, x 0.97 every 2.4 epochs" in str(error.value)


def test_sizes_that_a_recipe_does_not_need_are_accepted() -> None:
    sizes = {"batch_size": 32, "steps_per_epoch": 10, "total_steps": 100}
    assert float(recipes.get("wgan", **sizes).learning_rate) == pytest.approx(5e-5)


@pytest.mark.parametrize("size", ["batch_size", "steps_per_epoch", "total_steps"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "10", float("nan")], ids=repr)
def test_a_size_that_is_not_a_positive_integer_is_refused(size: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{size}` must be a positive integer, the number of"):
        recipes.get("wgan", **{size: value})


def test_a_size_may_be_an_integer_of_numpy() -> None:
    optimizer = recipes.get("impala", total_steps=np.int64(100))
    assert float(optimizer.learning_rate) == pytest.approx(4.8e-4)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("epsilon", 0.01, "sets `epsilon` to 0.001, as published, received epsilon=0.01"),
        ("rho", 0.99, "sets `rho` to 0.9, as published"),
        ("learning_rate", 0.1, r"sets `learning_rate` to 0.016 x batch_size / 256, warm-up"),
        ("weight_decay", 0.1, "sets `weight_decay` to 1e-5 coupled, all but normalization"),
        ("ema_momentum", 0.9, "sets `ema_momentum` to 0.9999"),
        ("l2", 0.1, "has no argument `l2`.*assign to `optimizer.l2`"),
        ("batchsize", 10, "has no argument `batchsize`.* Did you mean `batch_size`?"),
        ("colour", "red", "has no argument `colour`, received colour='red'. Accepted are `batch"),
    ],
)
def test_an_argument_that_the_source_decides_is_refused(
    argument: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipes.get("mnasnet", batch_size=256, steps_per_epoch=10, **{argument: value})


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("inception_v3_paper", "clip", 2.0, "`clip` must be 'clipvalue' or 'clipnorm' or 'global"),
        ("efficientnet_paper", "weight_decay_form", "l2", "must be 'coupled' or 'decoupled'"),
        ("mnasnet_paper", "decay_counts_from", 0, "must be 'start' or 'end of warm-up'"),
        ("mobilenet_v3_timm", "warmup_epochs", 2.5, "`warmup_epochs` must be an integer >= 0"),
        ("mobilenet_v3_timm", "warmup_epochs", -1, "`warmup_epochs` must be an integer >= 0"),
        ("mobilenet_v3_paper", "decay_rate", 1.5, r"`decay_rate` must be a number in \(0, 1\]"),
        ("mobilenet_v3_paper", "decay_rate", True, r"`decay_rate` must be a number in \(0, 1\]"),
        ("efficientnet_paper", "epsilon", -1.0, "`epsilon` must be a finite number >= 0"),
        ("nasnet_a_card", "learning_rate", -0.1, "`learning_rate` must be a finite number >= 0"),
    ],
)
def test_an_invalid_answer_is_refused(name: str, argument: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipes.get(name, **{**arguments_of(name), argument: value})


def test_answers_decide_what_the_source_leaves_open() -> None:
    epochs = (0, 1, 3, 5, 6)

    def rates(**answers: Any) -> list[float]:
        given = {**ANSWERS, **answers}
        asked = recipes.about("mnasnet_paper").unpublished
        rate = recipes.about("mnasnet_paper").rate(
            steps_per_epoch=10, **{question: given[question] for question in asked}
        )
        return [float(rate(epoch * 10)) / 0.256 for epoch in epochs]

    from_start = [0.0, 0.2, 0.6, 0.97**2, 0.97**2]
    assert rates(decay_counts_from="start") == pytest.approx(from_start)
    assert rates(decay_counts_from="end of warm-up") == pytest.approx([0.0, 0.2, 0.6, 1.0, 1.0])
    no_warmup = recipes.about("mobilenet_v3_timm").rate(steps_per_epoch=10, warmup_epochs=0)
    assert float(no_warmup(0)) == pytest.approx(0.064)


@pytest.mark.parametrize("clip", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_the_kind_of_clipping_is_the_answer(clip: str) -> None:
    arguments = {**arguments_of("inception_v3_paper"), "clip": clip}
    optimizer = recipes.get("inception_v3_paper", **arguments)
    limits = {kind: getattr(optimizer, kind) for kind in ("clipvalue", "clipnorm")}
    limits["global_clipnorm"] = optimizer.global_clipnorm
    assert limits == {**dict.fromkeys(limits), clip: 2.0}


def test_an_unpublished_rate_may_be_a_schedule() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    arguments = {**arguments_of("nasnet_a_card"), "learning_rate": schedule}
    assert float(recipes.get("nasnet_a_card", **arguments).learning_rate) == 0.5


def test_a_published_number_can_be_changed_on_the_optimizer() -> None:
    optimizer = recipes.get("mnasnet", batch_size=256, steps_per_epoch=10)
    optimizer.epsilon = 0.01
    optimizer.use_ema = False
    optimizer.build(network().trainable_variables)
    assert optimizer.epsilon == 0.01
    (group,) = optimizer.groups.values()
    assert group.epsilon == 0.01


# Names and texts.


def test_an_unknown_name_is_refused_with_similar_ones() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'mnasnett'\. Did you mean 'mnasnet'"):
        recipes.get("mnasnett")
    with pytest.raises(ValueError, match=r"Did you mean .*'dqn_nature'"):
        recipes.about("DQN")
    with pytest.raises(ValueError, match=r"no recipe 'xyzzy'\. `recipes\.names"):
        recipes.about("xyzzy")


def test_the_list_has_a_line_for_each_recipe() -> None:
    printed: list[str] = []
    recipes.list(printed.append)
    (text,) = printed
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == list(recipes.names())
    (line,) = [line for line in lines if line.startswith("efficientnet ")]
    numbers = "tf1 0.9 0.9 0.001 0.016 x batch_size / 256, warm-up of 5 epochs from 0, x 0.97"
    assert " ".join(line.split()).startswith(f"efficientnet {numbers} every 2.4 epochs")


def test_the_list_is_printed_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    recipes.list()
    assert "mnasnet_paper" in capsys.readouterr().out


@each_recipe
def test_the_text_of_a_recipe_says_all_of_it(name: str) -> None:
    recipe, text = recipes.about(name), str(recipes.about(name))
    assert text.startswith(f"{name}: {recipe.title}\n")
    assert max(map(len, text.splitlines())) <= 96
    text = " ".join(text.split())
    for part in (recipe.source, recipe.rate_text, f"conventions.{recipe.convention}"):
        assert part in text
    for question, why in recipe.unpublished.items():
        assert f" {question}: {why}" in text
    for remark in recipe.remarks:
        assert remark in text


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the same on every backend")
def test_the_records_are_fixed() -> None:
    with pytest.raises(AttributeError):
        recipes.about("wgan").rho = 0.5  # type: ignore[misc]
