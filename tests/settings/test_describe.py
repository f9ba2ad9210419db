"""Test that the optimizer follows the equations that it prints."""

import math
import re
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import RMSprop, conventions, recipes
from keras_rmsprop._settings import _validation
from keras_rmsprop._settings._describe import describe
from keras_rmsprop.reference import Reference
from tests.tools.models import WithPath
from yardsticks.agreement import TOLERANCE, rmsprop
from yardsticks.variants import Variant, option_variants, rule_variants

RATE = 0.02
VARIANTS = {variant.id: variant for variant in [*rule_variants(), *option_variants()]}


class Printed:
    """The printed equations, run as Python code."""

    def __init__(self, text: str, weights: list[np.ndarray], decayed: list[bool]) -> None:
        self.blocks: dict[str, list[str]] = {}
        for line in text.splitlines()[1:]:
            if not line.startswith(" "):
                block = self.blocks.setdefault(line, [])
                continue
            equation, meaning = re.split(" {2,}|$", line.strip(), maxsplit=1)
            if "=" in equation:
                block.append(f"if decayed: {equation}" if "decay" in meaning else equation)
        norm = np.linalg.norm
        functions = {"sqrt": np.sqrt, "clip": np.clip, "min": min, "norm": norm}
        self.states = [
            {"w": weight, "decayed": decays, "constraint": np.abs, **functions}
            for weight, decays in zip(weights, decayed, strict=True)
        ]
        self.calls = 0
        self._run("At the start:")

    def call(self, gradients: list[np.ndarray]) -> None:
        """Run the equations of one call."""
        for state, gradient in zip(self.states, gradients, strict=True):
            state.update(g=gradient, t=self.calls + 1, calls=self.calls)
        for head in list(self.blocks)[1:]:
            if accumulating := re.search(r"t = calls // (\d+) \+ 1", head):
                for state in self.states:
                    state["t"] = self.calls // int(accumulating[1]) + 1
            completing = re.search(r"every call number (\d+) \* t", head)
            if completing is None or self.calls + 1 == int(completing[1]) * self.states[0]["t"]:
                self._run(head)
        self.calls += 1

    def _run(self, head: str) -> None:
        for equation in self.blocks[head]:
            everything = np.concatenate([np.ravel(state.get("g", 0.0)) for state in self.states])
            for state in self.states:
                exec(equation, state | {"all_g": everything}, state)


def configuration(**arguments: Any) -> dict[str, Any]:
    """The hyperparameters of an optimizer with these arguments, by name."""
    optimizer = rmsprop(name="rmsprop", **arguments)
    return {name: getattr(optimizer, name) for name in (*_validation.HYPERPARAMETERS, "name")}


def text_of(**arguments: Any) -> str:
    """The equations and the table that `describe` prints for an optimizer."""
    printed: list[str] = []
    rmsprop(name="rmsprop", **arguments).describe(print_fn=printed.append)
    (text,) = printed
    return text.partition("\n\n")[0]


def table_in(text: str) -> list[str]:
    """The lines of the table of groups."""
    return text.partition("\n\n")[0].partition("Settings of single variables:\n")[2].splitlines()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_printed_equations_follow_the_reference(
    variant: Variant, rng: np.random.Generator
) -> None:
    starts = [rng.normal(0.0, 1.0, shape) for shape in ((), (2, 3))]
    decayed = [True, variant.levels.get("decay") != "decay_but_one"]
    constrained = variant.levels.get("constraint") == "constrained"
    text = describe(configuration(**variant.arguments), RATE, constrained=constrained)
    printed = Printed(text, starts, decayed)
    constraints = [np.abs, np.abs] if constrained else None
    reference = Reference(starts, decayed=decayed, constraints=constraints, **variant.arguments)
    for _ in range(9):
        gradients = [rng.normal(0.3, 2.0, start.shape) for start in starts]
        printed.call(gradients)
        reference.apply(gradients, RATE)
    for start, state, want in zip(starts, printed.states, reference.parameters, strict=True):
        for name, slot in {"w": "weight", "s": "square_average", "b": "momentum"}.items():
            if name in state:
                expected = getattr(want, slot)
                scale = np.max(np.abs(expected - start)) if name == "w" else np.max(expected)
                off = np.max(np.abs(state[name] - expected))
                assert (
                    off <= TOLERANCE["float64"] * abs(scale) + 9 * np.spacing(np.abs(start)).max()
                )


# For each option a part of a line that is printed only with it.
VISIBLE = {
    "loss_scale_factor": ({"loss_scale_factor": 8.0}, "g = g / 8 "),
    "skip_nonfinite": ({"skip_nonfinite": True}, "is not finite for any weight, the call ends"),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 4}, "g = total / 4 "),
    "clipvalue": ({"clipvalue": 0.5}, "g = clip(g, -0.5, 0.5) "),
    "clipnorm": ({"clipnorm": 2.0}, "g = g * min(1, 2 / norm(g)) "),
    "global_clipnorm": ({"global_clipnorm": 2.0}, "g = g * min(1, 2 / norm(all_g)) "),
    "maximize": ({"maximize": True}, "g = -g "),
    "transform": ({"transform": "centralize"}, "g = centralize(g, w) "),
    "state_dtype": ({"state_dtype": "bfloat16"}, "s rounded to bfloat16 at random after each step"),
    "l2": ({"l2": 0.01}, "g = g + 0.01 * w "),
    "weight_decay": ({"weight_decay": 0.004}, "w = w - lr * 0.004 * w "),
    "rho": ({"rho": 0.99}, "s = 0.99 * s + 0.01 * g**2"),
    "bias_correction": ({"bias_correction": True}, "k = (1 - 0.9) / (1 - 0.9**t) "),
    "centered": ({"centered": True}, "m = m + 0.1 * d"),
    "initial_square_average": ({"initial_square_average": 1.0}, "s = 1 "),
    "epsilon": ({"epsilon": 1e-3}, "r = sqrt(s + 0.001)"),
    "epsilon_inside_sqrt": ({"epsilon_inside_sqrt": False}, "r = sqrt(s) + 1e-07"),
    "momentum": ({"momentum": 0.9}, "w = w - b"),
    "nesterov": ({"momentum": 0.9, "nesterov": True}, "w = w - (0.9 * b + u) "),
    "lr_in_momentum": ({"momentum": 0.9, "lr_in_momentum": False}, "w = w - lr * b"),
    "use_ema": ({"use_ema": True}, "a = 0.99 * a + 0.01 * w if t > 1 else w "),
    "ema_momentum": ({"use_ema": True, "ema_momentum": 0.5}, "a = 0.5 * a + 0.5 * w "),
    "ema_overwrite_frequency": (
        {"use_ema": True, "ema_overwrite_frequency": 10},
        "w = a if t % 10 == 0 else w ",
    ),
}


@pytest.mark.parametrize(("arguments", "line"), VISIBLE.values(), ids=VISIBLE)
def test_an_option_is_visible_when_it_is_on_and_only_then(
    arguments: dict[str, Any], line: str
) -> None:
    assert line in text_of(**arguments)
    assert line not in text_of()


def test_every_option_of_the_equations_is_in_the_table() -> None:
    how_a_step_is_run = {"jit_compile", "lazy", "diagnostics"}
    assert set(_validation.HYPERPARAMETERS) - set(VISIBLE) <= how_a_step_is_run


def test_the_default_prints_the_plain_rule() -> None:
    assert [re.split(" {3,}", line.strip())[0] for line in text_of().splitlines()] == [
        "rmsprop: RMSprop",
        "At the start:",
        "s = 0",
        "In step t = 1, 2, ..., with gradient g of the weight w:",
        "lr = 0.001",
        "s = 0.9 * s + 0.1 * g**2",
        "r = sqrt(s + 1e-07)",
        "u = g / r",
        "w = w - lr * u",
    ]


def test_ema_overwrite_frequency_does_not_show_without_use_ema() -> None:
    assert text_of(ema_overwrite_frequency=10) == text_of()


def test_zero_over_zero_is_explained_when_epsilon_is_zero() -> None:
    assert "u is 0 where g and r are 0" in text_of(epsilon=0.0)


def test_a_changed_attribute_shows() -> None:
    optimizer = RMSprop()
    optimizer.rho = 0.5
    optimizer.learning_rate = 0.25
    printed: list[str] = []
    optimizer.describe(print_fn=printed.append)
    assert "s = 0.5 * s + 0.5 * g**2" in printed[0]
    assert "lr = 0.25 " in printed[0]


def test_a_schedule_shows_with_its_arguments() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)
    text = text_of(learning_rate=schedule)
    assert "lr = schedule(calls) " in text
    assert "ExponentialDecay(initial_learning_rate=0.1, decay_steps=10, decay_rate=0.5" in text


def test_a_schedule_that_has_no_config_shows_by_its_name() -> None:
    class Halving(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return 0.5**step

    assert "Halving()" in text_of(learning_rate=Halving())


def test_a_schedule_that_cannot_be_saved_shows_by_its_name() -> None:
    schedule = conventions.CountSchedule(lambda count: 0.1 / (1 + count))
    assert "CountSchedule()" in text_of(learning_rate=schedule)


def test_a_callable_shows_by_its_name() -> None:
    def my_rate() -> float:
        return 0.1

    assert re.search(r"lr = rate\(\) +my_rate, called each time", text_of(learning_rate=my_rate))


def test_a_float64_learning_rate_shows_all_its_digits(float64: None) -> None:
    assert f"lr = {math.pi / 100:.15g} " in text_of(learning_rate=math.pi / 100)


def test_a_constraint_shows_once_the_optimizer_is_built() -> None:
    optimizer = RMSprop()
    printed: list[str] = []
    optimizer.describe(print_fn=printed.append)
    weight = keras.Variable([1.0])
    weight.constraint = keras.constraints.NonNeg()
    optimizer.build([weight])
    optimizer.describe(print_fn=printed.append)
    assert ["w = constraint(w)" in text for text in printed] == [False, True]


def test_it_prints_to_the_screen_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    RMSprop(name="mine").describe()
    assert capsys.readouterr().out.startswith("mine: RMSprop\n")


# Groups, in a table.

GROUPS = {
    "backbone/.*": {"learning_rate": 0.1, "transform": "centralize"},
    ".*/bias": {"momentum": 0.0},
}


def test_groups_are_shown_in_a_table_before_the_build() -> None:
    assert table_in(text_of(momentum=0.9, groups=GROUPS)) == [
        "    group          lr times  momentum  transform",
        "    'backbone/.*'  0.1       0.9       centralize",
        "    '.*/bias'      1         0         None",
        "    all others     1         0.9       None",
    ]


def test_the_table_has_a_row_for_each_variable_that_is_built() -> None:
    printed: list[str] = []
    optimizer = rmsprop(momentum=0.9, weight_decay=0.01, groups=GROUPS)
    optimizer.exclude_from_weight_decay(var_names=["scale"])
    variables = [
        WithPath(path) for path in ("backbone/kernel", "head/kernel", "head/bias", "head/scale")
    ]
    optimizer.build(variables)
    optimizer.groups["backbone/.*"].learning_rate = 0.25
    optimizer.describe(print_fn=printed.append)
    assert table_in(printed[0]) == [
        "    variables        group          lr times  momentum  transform   weight_decay",
        "    backbone/kernel  'backbone/.*'  0.25      0.9       centralize  0.01",
        "    head/kernel                     1         0.9       None        0.01",
        "    head/bias        '.*/bias'      1         0         None        0.01",
        "    head/scale                      1         0.9       None        excluded",
    ]


def test_without_groups_and_exclusions_there_is_no_table() -> None:
    assert "Settings of single variables" not in text_of(weight_decay=0.1)


def test_a_schedule_in_a_schedule_is_written_as_a_call() -> None:
    text: list[str] = []
    optimizer = recipes.get("mnasnet", batch_size=256, steps_per_epoch=10)
    optimizer.describe(text.append)
    assert "WarmUp(schedule=StaircaseDecay(initial_learning_rate=0.016, " in text[0]
    assert "class_name" not in text[0]
