"""Test the data of the recipes against a second list of the same publications, written by hand.

Schedules are compared with formulas that are written anew here, and on TensorFlow with the
functions that the sources themselves call.
"""

import re
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop, conventions, recipes
from keras_rmsprop.recipes._recipe import CHOICES, DECAYING, SIZES
from keras_rmsprop.recipes._table import RECIPES
from tests.conftest import BACKEND

# What a source does not publish.
ASKED = None


class Row(NamedTuple):
    """A publication: numbers as published, ASKED for those that are not."""

    convention: str
    learning_rate: float | None
    rho: float | None
    momentum: float | None
    epsilon: float | None
    decay: float | None = 0.0
    average: float | None = 0.0
    limit: float = 0.0
    batch_size: int | None = None
    centered: bool = False


PUBLISHED = {
    "inception_v3_paper": Row("tf1", 0.045, 0.9, ASKED, 1.0, 0.0, ASKED, 2.0, 32),
    "inception_v3": Row("tf1", 0.1, 0.9, 0.9, 1.0, 4e-5, 0.9999, 0.0, 256),
    "inception_v3_tpu": Row("tf1", 0.165, 0.9, 0.9, 1.0, 4e-5, 0.995, 0.0, 1024),
    "inception_v4_paper": Row("tf1", 0.045, 0.9, ASKED, 1.0, 0.0, ASKED),
    "inception_v4_tpu": Row("tf1", 0.164588, 0.9, 0.9, 1.0, 4e-5, 0.995, 0.0, 256),
    "slim": Row("tf1", 0.01, 0.9, 0.9, 1.0, 4e-5, 0.0, 0.0, 32),
    "mobilenet_v1_tpu": Row("tf1", 0.165, 0.9, 0.9, 1.0, 4e-5, 0.995),
    "mobilenet_v2_paper": Row("tf1", 0.045, 0.9, 0.9, ASKED, 4e-5, 0.0, 0.0, 96),
    "mobilenet_v2_slim": Row("tf1", 0.045, 0.9, 0.9, 1.0, 4e-5, 0.9999, 0.0, 96),
    "mobilenet_v1_garden": Row("tf_keras_legacy", 0.008, 0.9, 0.9, 0.002, 1e-5, 0.0, 0.0, 4096),
    "mobilenet_v2_garden": Row("tf_keras_legacy", 0.008, 0.9, 0.9, 0.002, 1e-5, 0.0, 0.0, 4096),
    "mobilenet_garden": Row("tf_keras_legacy", 0.008, 0.9, 0.9, 0.002, 1e-5, 0.0, 0.0, 4096),
    "mobilenet_v3_paper": Row("tf1", 0.1, ASKED, 0.9, ASKED, 1e-5, 0.9999, 0.0, 4096),
    "mobilenet_v3_torchvision": Row("torch", 0.064, 0.9, 0.9, 0.0316, 1e-5, 0.0, 0.0, 1024),
    "mobilenet_v3_timm": Row("timm", 0.064, 0.9, 0.9, 0.001, 1e-5, 0.9999, 0.0, 1024),
    "mnasnet_paper": Row("tf1", 0.256, 0.9, 0.9, ASKED, 1e-5, 0.0, 0.0, 4096),
    "mnasnet": Row("tf1", 0.016, 0.9, 0.9, 0.001, 1e-5, 0.9999, 0.0, 1024),
    "efficientnet_paper": Row("tf1", 0.256, 0.9, 0.9, ASKED, 1e-5),
    "efficientnet": Row("tf1", 0.016, 0.9, 0.9, 0.001, 1e-5, 0.9999, 0.0, 2048),
    "efficientnet_v2_paper": Row("tf1", 0.256, 0.9, 0.9, ASKED, 1e-5, 0.9999, 0.0, 4096),
    "efficientnet_b0_timm": Row("timm", 0.048, 0.9, 0.9, 0.001, 1e-5, 0.9999, 0.0, 768),
    "efficientnet_b2_timm": Row("timm", 0.016, 0.9, 0.9, 0.001, 1e-5, 0.9999, 0.0, 256),
    "efficientnet_es_timm": Row("timm", 0.064, 0.9, 0.9, 0.001, 1e-5, 0.0, 0.0, 1024),
    "amoebanet_tpu": Row("tf1", 0.64, 0.9, 0.9, 1.0, 4e-5, 0.9999, 0.0, 256),
    "nasnet_a_card": Row("tf1", ASKED, ASKED, 0.9, 1.0, ASKED),
    "pnasnet_5_card": Row("tf1", ASKED, ASKED, 0.9, ASKED, ASKED, 0.0, 0.0, 1600),
    "dqn_nature": Row("graves", 2.5e-4, 0.95, 0.0, 0.01, 0.0, 0.0, 0.0, 32, centered=True),
    "dqn_dopamine": Row("tf1", 2.5e-4, 0.95, 0.0, 1e-5, 0.0, 0.0, 0.0, 32, centered=True),
    "dqn_zoo": Row("optax", 2.5e-4, 0.95, 0.0, 9.765625e-06, 0.0, 0.0, 0.0, 32, centered=True),
    "dqn_zoo_prioritized": Row(
        "optax", 6.25e-5, 0.95, 0.0, 6.103515625e-07, 0.0, 0.0, 0.0, 32, centered=True
    ),
    "a3c": Row("optax", 7e-4, 0.99, 0.0, 0.1),
    "impala": Row("tf1", 4.8e-4, 0.99, 0.0, 0.1),
    "impala_torchbeast": Row("torch", 4.8e-4, 0.99, 0.0, 0.01, 0.0, 0.0, 40.0, 8),
    "a2c_baselines": Row("tf1", 7e-4, 0.99, 0.0, 1e-5, 0.0, 0.0, 0.5),
    "acer_baselines": Row("tf1", 7e-4, 0.99, 0.0, 1e-5, 0.0, 0.0, 10.0),
    "a2c_sb3": Row("torch", 7e-4, 0.99, 0.0, 1e-5, 0.0, 0.0, 0.5),
    "pymarl": Row("torch", 5e-4, 0.99, 0.0, 1e-5, 0.0, 0.0, 10.0),
    "wgan": Row("torch", 5e-5, 0.99, 0.0, 1e-8, 0.0, 0.0, 0.0, 64),
    "char_rnn": Row("torch", 2e-3, 0.95, 0.0, 1e-8, 0.0, 0.0, 5.0, 50),
    "graves_handwriting": Row("graves", 1e-4, 0.95, 0.9, 1e-4, centered=True),
    "keras_lstm_text_generation": Row("tf_keras_legacy", 1e-2, 0.9, 0.0, 1e-7),
    "keras_cifar10_cnn": Row("tf_keras_legacy", 1e-4, 0.9, 0.0, 1e-7),
    "keras_mnist_mlp": Row("tf_keras_legacy", 1e-3, 0.9, 0.0, 1e-7),
}

# Which batch size the rate is for, where it is scaled by it.
PER_BATCH = {
    **dict.fromkeys(["inception_v3_tpu", "inception_v4_tpu", "mobilenet_v1_tpu"], 256),
    **dict.fromkeys(["mnasnet", "efficientnet"], 256),
    "mobilenet_v2_slim": 96,
    **dict.fromkeys(["mobilenet_v1_garden", "mobilenet_v2_garden", "mobilenet_garden"], 128),
}

# Questions that are not about a number of the row.
FURTHER = {
    "inception_v3_paper": {"clip"},
    "mobilenet_v2_paper": {"weight_decay_form"},
    "mobilenet_v3_paper": {"decay_rate"},
    "mobilenet_v3_timm": {"warmup_epochs"},
    "mnasnet_paper": {"weight_decay_form", "decay_counts_from"},
    "efficientnet_paper": {"weight_decay_form"},
    "efficientnet_v2_paper": {"weight_decay_form", "warmup_epochs", "decay_counts_from"},
    **{f"efficientnet_{size}_timm": {"warmup_epochs"} for size in ("b0", "b2", "es")},
    "nasnet_a_card": {"weight_decay_form"},
    "pnasnet_5_card": {"weight_decay_form"},
    "a3c": {"initial_square_average"},
}

each_recipe = pytest.mark.parametrize("name", recipes.names())


def test_the_second_list_is_of_the_same_recipes() -> None:
    assert list(PUBLISHED) == list(recipes.names())
    assert {*FURTHER, *PER_BATCH} <= set(PUBLISHED)


@each_recipe
def test_the_numbers_are_those_of_the_second_list(name: str) -> None:
    recipe, row = recipes.about(name), PUBLISHED[name]
    assert recipe.convention == row.convention
    assert recipe.learning_rate == (
        row.learning_rate if name != "inception_v4_tpu" else pytest.approx(row.learning_rate, 1e-5)
    )
    assert recipe.per_batch == PER_BATCH.get(name)
    assert (recipe.rho, recipe.momentum, recipe.epsilon) == row[2:5]
    assert recipe.centered == row.centered
    assert (recipe.weight_decay.amount if recipe.weight_decay else 0.0) == row.decay
    assert (recipe.average.momentum if recipe.average else 0.0) == row.average
    assert (recipe.clip.limit if recipe.clip else 0.0) == row.limit
    assert recipe.batch_size == row.batch_size


@each_recipe
def test_what_is_not_published_is_asked_for_and_nothing_else(name: str) -> None:
    row = PUBLISHED[name]
    words = {"decay": "weight_decay", "average": "ema_momentum"}
    asked = {
        words.get(field, field)
        for field in ("learning_rate", "rho", "momentum", "epsilon", "decay", "average")
        if getattr(row, field) is ASKED
    }
    assert set(recipes.about(name).unpublished) == asked | FURTHER.get(name, set())


@each_recipe
def test_a_record_is_complete(name: str) -> None:
    recipe = recipes.about(name)
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", recipe.name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.source
    assert recipe.convention in conventions.__all__
    assert all(recipe.unpublished.values())
    if recipe.weight_decay is not None:
        assert recipe.weight_decay.of in DECAYING
    assert all(remark.endswith(".") for remark in recipe.remarks)


def test_kinds_of_clipping_are_those_of_the_sources() -> None:
    kinds = {name: r.clip.kind for name, r in RECIPES.items() if r.clip is not None}
    norms = ["impala_torchbeast", "a2c_baselines", "acer_baselines", "a2c_sb3", "pymarl"]
    assert kinds == {
        "inception_v3_paper": ASKED,
        "char_rnn": "clipvalue",
        **dict.fromkeys(norms, "global_clipnorm"),
    }


def test_exemptions_from_weight_decay_are_those_of_the_sources() -> None:
    decays = {name: r.weight_decay for name, r in RECIPES.items() if r.weight_decay is not None}
    exempting = {name: decay.of for name, decay in decays.items() if decay.of != "all"}
    timm = ["mobilenet_v3_timm", *(f"efficientnet_{size}_timm" for size in ("b0", "b2", "es"))]
    slim = ["mobilenet_v1_tpu", "mobilenet_v2_slim"]
    garden = ["mobilenet_v1_garden", "mobilenet_v2_garden", "mobilenet_garden"]
    inception = ["inception_v3", "inception_v3_tpu", "inception_v4_tpu", "slim", "amoebanet_tpu"]
    assert exempting == {
        **dict.fromkeys(["mnasnet", "efficientnet"], "all but normalization"),
        **dict.fromkeys(timm, "all but biases and normalization"),
        **dict.fromkeys(inception, "kernels"),
        **dict.fromkeys([*slim, *garden], "kernels but depthwise ones"),
    }
    assert {decay.form for decay in decays.values()} == {"coupled", ASKED}


# Answers for what recipes ask, and sizes.
ANSWERS: dict[str, Any] = {
    "learning_rate": 0.01,
    "rho": 0.9,
    "momentum": 0.75,
    "epsilon": 0.001,
    "weight_decay": 1e-4,
    "weight_decay_form": "decoupled",
    "ema_momentum": 0.875,
    "clip": "global_clipnorm",
    "decay_rate": 0.99,
    "warmup_epochs": 3,
    "decay_counts_from": "end of warm-up",
    "initial_square_average": 0.5,
}


def arguments_of(name: str, **sizes: int) -> dict[str, Any]:
    """Arguments with which a recipe can be got."""
    recipe = recipes.about(name)
    sizes = {"batch_size": 4096, "steps_per_epoch": 312, "total_steps": 1000, **sizes}
    asked = {question: ANSWERS[question] for question in recipe.unpublished}
    return {**{size: sizes[size] for size in recipe.needs}, **asked}


@each_recipe
def test_the_optimizer_has_the_numbers_and_the_answers(name: str) -> None:
    row, asked = PUBLISHED[name], recipes.about(name).unpublished
    optimizer = recipes.get(name, **arguments_of(name))
    assert type(optimizer) is RMSprop
    assert optimizer.name == name

    def published(field: str, word: str | None = None) -> Any:
        value = getattr(row, field)
        return ANSWERS[word or field] if value is ASKED else value

    assert optimizer.rho == published("rho")
    assert optimizer.momentum == published("momentum")
    assert optimizer.epsilon == published("epsilon")
    assert optimizer.centered == row.centered
    form = "weight_decay" if "weight_decay_form" in asked else "l2"
    own = [optimizer, *optimizer.groups.values()]
    decay = published("decay", "weight_decay")
    assert max(getattr(settings, form) or 0.0 for settings in own) == decay
    other = "l2" if form == "weight_decay" else "weight_decay"
    assert not any(getattr(settings, other) for settings in own)
    assert optimizer.use_ema == (row.average != 0.0)
    if optimizer.use_ema:
        assert optimizer.ema_momentum == published("average", "ema_momentum")
    limits = {kind: getattr(optimizer, kind) for kind in CHOICES["clip"]}
    kind = "clipvalue" if name == "char_rnn" else "global_clipnorm"
    assert limits == {**dict.fromkeys(limits), **({kind: row.limit} if row.limit else {})}


@pytest.mark.parametrize(
    ("convention", "start", "inside", "lr_in_momentum"),
    [
        ("tf1", 1.0, True, True),
        ("timm", 1.0, True, True),
        ("torch", 0.0, False, False),
        ("graves", 0.0, True, True),
        ("optax", 0.0, True, True),
        ("tf_keras_legacy", 0.0, None, True),
    ],
)
def test_the_optimizer_has_the_form_of_its_convention(
    convention: str, start: float, inside: bool | None, lr_in_momentum: bool
) -> None:
    found = [name for name, row in PUBLISHED.items() if row.convention == convention]
    assert found
    for name in found:
        optimizer = recipes.get(name, **arguments_of(name))
        asked = "initial_square_average" in recipes.about(name).unpublished
        assert optimizer.initial_square_average == (0.5 if asked else start)
        # tf_keras has epsilon inside the root only with momentum.
        by_momentum = optimizer.momentum > 0.0
        assert optimizer.epsilon_inside_sqrt == (by_momentum if inside is None else inside)
        assert optimizer.lr_in_momentum == lr_in_momentum


# Schedules, by formulas written anew.

SPE = 313


def staircase(first: float, factor: float, epochs: float, step: int, spe: int = SPE) -> float:
    # A hair beyond the product, where a period that ends at a whole step was rounded up.
    return first * factor ** int(step / (epochs * spe) + 1e-9)


def efficientnet(step: int, batch_size: int) -> float:
    first = 0.016 * batch_size / 256
    warmup_steps = 5 * SPE
    return first * step / warmup_steps if step < warmup_steps else staircase(first, 0.97, 2.4, step)


def inception_v4(step: int, batch_size: int) -> float:
    first = 0.15 * batch_size / 256 / 0.94**1.5
    epoch = step // SPE
    if epoch == 0:
        return 1e-3
    if epoch < 3:
        return epoch * first / 3
    return max(first * 0.94 ** (epoch // 2), 1e-4 * first)


def garden(step: int, factor: float) -> float:
    period = int(2.5 * SPE)

    def decayed(n: int) -> float:
        return 0.256 * factor ** (n // period)

    return decayed(5 * SPE) * step / (5 * SPE) if step < 5 * SPE else decayed(step)


def timm(step: int, first: float, factor: float) -> float:
    epoch = step // SPE
    if epoch < 3:
        return 1e-6 + epoch * (first - 1e-6) / 3
    return first * factor ** int(epoch / 2.4 + 1e-9)


FORMULAS: dict[str, Any] = {
    "mnasnet": lambda n: efficientnet(n, 4096),
    "efficientnet": lambda n: efficientnet(n, 4096),
    "inception_v3": lambda n: 0.1 * 0.16 ** (n // (30 * SPE)),
    "inception_v3_tpu": lambda n: max(staircase(2.64, 0.94, 3, n), 2.64e-4),
    "inception_v4_tpu": lambda n: inception_v4(n, 4096),
    "inception_v3_paper": lambda n: staircase(0.045, 0.94, 2, n),
    "inception_v4_paper": lambda n: staircase(0.045, 0.94, 2, n),
    "slim": lambda n: staircase(0.01, 0.94, 2, n),
    "mobilenet_v1_tpu": lambda n: max(staircase(2.64, 0.94, 3, n), 2.64e-4),
    "mobilenet_v2_paper": lambda n: staircase(0.045, 0.98, 1, n),
    # 2.5 epochs of 313 steps are 782.5, which slim and the Model Garden round down.
    "mobilenet_v2_slim": lambda n: 0.045 * 4096 / 96 * 0.98 ** (n // 782),
    "mobilenet_v1_garden": lambda n: garden(n, 0.94),
    "mobilenet_v2_garden": lambda n: garden(n, 0.96),
    "mobilenet_garden": lambda n: garden(n, 0.98),
    "mobilenet_v3_paper": lambda n: staircase(0.1, 0.99, 3, n),
    "mobilenet_v3_torchvision": lambda n: staircase(0.064, 0.973, 2, n),
    "mobilenet_v3_timm": lambda n: timm(n, 0.064, 0.973),
    "efficientnet_b0_timm": lambda n: timm(n, 0.048, 0.97),
    "efficientnet_b2_timm": lambda n: timm(n, 0.016, 0.97),
    "efficientnet_es_timm": lambda n: timm(n, 0.064, 0.97),
    # The epochs of decay count from the end of the warm-up, as `ANSWERS` says.
    "mnasnet_paper": lambda n: (
        0.256 * n / (5 * SPE) if n < 5 * SPE else staircase(0.256, 0.97, 2.4, n - 5 * SPE)
    ),
    "efficientnet_v2_paper": lambda n: (
        0.256 * n / (3 * SPE) if n < 3 * SPE else staircase(0.256, 0.97, 2.4, n - 3 * SPE)
    ),
    "efficientnet_paper": lambda n: staircase(0.256, 0.97, 2.4, n),
    "amoebanet_tpu": lambda n: max(
        0.64 * n / (3 * SPE) if n < 3 * SPE else staircase(0.64, 0.9, 1, n), 0.64e-4
    ),
    "a3c": lambda n: 7e-4 * max(0, 1000 - n) / 1000,
    "impala": lambda n: 4.8e-4 * max(0, 1000 - n) / 1000,
    "impala_torchbeast": lambda n: 4.8e-4 * max(0, 1000 - n) / 1000,
    "a2c_baselines": lambda n: 7e-4 * max(0, 1000 - n) / 1000,
    "acer_baselines": lambda n: 7e-4 * max(0, 1000 - n) / 1000,
    # Multiplied at the end of epoch 10 and of each one after it.
    "char_rnn": lambda n: 2e-3 * 0.97 ** sum(n >= epoch * SPE for epoch in range(10, 2000)),
    "keras_cifar10_cnn": lambda n: 1e-4 / (1 + 1e-6 * n),
}


def steps_of_interest() -> list[int]:
    """The first steps, ends of epochs and of periods of 2.4 and 2.5, and late ones."""
    ends = [epoch * SPE for epoch in (1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 30, 60, 100, 450, 700)]
    periods = [752, 1503, 3756, 782, 783, 1564, 1565]
    around = [end + shift for end in (*ends, *periods) for shift in (-1, 0, 1)]
    return [0, 1, 100, 500, 999, 1000, 1001, *around]


@each_recipe
def test_the_rate_is_that_of_a_formula_written_anew(float64: None, name: str) -> None:
    rate = recipes.about(name).rate(**arguments_of(name, steps_per_epoch=SPE))
    if name not in FORMULAS:
        assert rate == (PUBLISHED[name].learning_rate or ANSWERS["learning_rate"])
        return
    steps = steps_of_interest()
    np.testing.assert_allclose(
        [float(rate(step)) for step in steps],
        [FORMULAS[name](step) for step in steps],
        rtol=1e-13,
        atol=0.0,
    )


def test_mnasnet_at_chosen_steps() -> None:
    rate = recipes.about("mnasnet").rate(batch_size=4096, steps_per_epoch=312)
    for step, want in {
        0: 0.0,
        780: 0.128,
        1559: 0.256 * 1559 / 1560,
        1560: 0.256 * 0.97**2,
        3743: 0.256 * 0.97**4,
        3744: 0.256 * 0.97**5,
    }.items():
        assert float(rate(step)) == pytest.approx(want, rel=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the sources' functions are TensorFlow's")
@pytest.mark.parametrize("name", ["efficientnet", "inception_v3_tpu", "amoebanet_tpu", "slim"])
def test_the_rate_is_that_of_the_functions_that_the_source_calls(name: str) -> None:
    import tensorflow as tf

    def decay(first: float, epochs: float, factor: float, step: int) -> float:
        function = tf.compat.v1.train.exponential_decay(
            first, step, epochs * SPE, factor, staircase=True
        )
        return float(function())

    def source(step: int) -> float:
        match name:
            case "efficientnet":
                warmup = 0.256 * step / (5 * SPE)
                return warmup if step < 5 * SPE else decay(0.256, 2.4, 0.97, step)
            case "inception_v3_tpu":
                return max(decay(2.64, 3, 0.94, step), 2.64e-4)
            case "amoebanet_tpu":
                warmup = 0.64 * step / (3 * SPE)
                return max(warmup if step < 3 * SPE else decay(0.64, 1, 0.9, step), 0.64e-4)
        return decay(0.01, 2, 0.94, step)

    rate = recipes.about(name).rate(**arguments_of(name, steps_per_epoch=SPE))
    # Where a period of 2.4 epochs ends at a whole step, TensorFlow rounds its end.
    steps = [step for step in steps_of_interest() if step % 3756]
    np.testing.assert_allclose(
        [float(rate(step)) for step in steps], [source(step) for step in steps], rtol=2e-6
    )


def test_the_rate_of_a_linear_schedule_ends_at_zero() -> None:
    optimizer = recipes.get("impala", total_steps=3)
    variable = keras.Variable([1.0])
    for _ in range(3):
        optimizer.apply([ops.ones((1,))], [variable])
    assert float(optimizer.learning_rate) == 0.0


def test_the_sizes_are_those_that_the_rates_need() -> None:
    assert {size for recipe in RECIPES.values() for size in recipe.needs} == set(SIZES)
    assert recipes.about("mnasnet").needs == ("batch_size", "steps_per_epoch")
    assert recipes.about("a2c_sb3").needs == ()
