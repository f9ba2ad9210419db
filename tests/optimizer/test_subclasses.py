"""Test that an `update_step` of a subclass is used in the whole step."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop.reference import Reference
from tests.tools.two_weights import ones_like, two_weights, values_of

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipnorm": {"clipnorm": 1.0},
    "global_clipnorm": {"global_clipnorm": 1.0},
    "decay": {"weight_decay": 0.1},
    "accumulation": {"gradient_accumulation_steps": 3},
    "ema": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    "loss_scale": {"loss_scale_factor": 4.0},
    "l2": {"l2": 0.1},
    "maximize": {"maximize": True},
    "all": {
        "clipnorm": 1.0,
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 3,
        "use_ema": True,
        "momentum": 0.9,
        "centered": True,
        "l2": 0.1,
    },
}


def test_a_subclass_may_have_an_attribute_named_groups() -> None:
    class Grouped(RMSprop):
        def __init__(self) -> None:
            super().__init__(0.1, groups={".*": {"learning_rate": 0.5}})
            self.groups = ["mine"]

        def empty(self) -> None:
            self.groups = []

    optimizer, weights = Grouped(), two_weights()
    before = values_of(weights)
    optimizer.apply(ones_like(weights), weights)
    assert optimizer.groups == ["mine"]
    optimizer.empty()
    assert optimizer.groups == []
    del optimizer.groups
    assert list(optimizer.groups) == [".*"]
    for new, old in zip(values_of(weights), before, strict=True):
        np.testing.assert_allclose(new, old - 0.05 / np.sqrt(0.1), rtol=1e-5)


@pytest.mark.parametrize("name", ["transform", "lazy"])
def test_a_method_named_like_a_setting_is_refused(name: str) -> None:
    named = type("Named", (RMSprop,), {name: lambda _: None})
    with pytest.raises(TypeError, match=f"Named has a method `{name}`, but that is a setting"):
        named()


class Delegating(RMSprop):
    """A subclass that keeps the rule and records for which variables it is called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.called: list[str] = []

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Record the variable's name and make the step."""
        self.called.append(variable.name)
        super().update_step(gradient, variable, learning_rate)


class Descent(RMSprop):
    """A subclass that replaces the rule by plain gradient descent."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Step along the gradient."""
        self.assign_sub(variable, learning_rate * gradient)


def test_an_overridden_update_step_is_called_for_each_variable() -> None:
    optimizer, variables = Delegating(), two_weights()
    optimizer.apply(ones_like(variables), variables)
    assert [name.split(":")[0] for name in optimizer.called] == ["matrix", "scalar"]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_overridden_update_step_works_with_every_option(
    options: dict[str, Any], rng: np.random.Generator
) -> None:
    results = []
    gradients = [[rng.normal(size=(2, 3)), rng.normal()] for _ in range(7)]
    for kind in (RMSprop, Delegating):
        optimizer, variables = kind(0.1, jit_compile=False, **options), two_weights()
        for batch in gradients:
            optimizer.apply([ops.convert_to_tensor(g, "float32") for g in batch], variables)
        results.append(values_of([*variables, *optimizer.variables]))
    for plain, overridden in zip(*results, strict=True):
        np.testing.assert_allclose(overridden, plain, rtol=1e-6, atol=1e-7)


def test_a_replaced_rule_gets_clipped_and_accumulated_gradients_and_decayed_weights() -> None:
    optimizer = Descent(0.5, clipvalue=1.0, weight_decay=0.1, gradient_accumulation_steps=2)
    weight = keras.Variable([2.0, 4.0])
    for gradient in ([4.0, 0.25], [6.0, 0.75]):
        optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
    # The mean gradient (5, 0.5) is clipped to (1, 0.5); the weights decay by 0.5 * 0.1 first.
    np.testing.assert_allclose(weight.numpy(), [2.0 * 0.95 - 0.5, 4.0 * 0.95 - 0.25], rtol=1e-6)
    assert int(optimizer.iterations) == 1


def test_an_update_step_that_raises_changes_nothing() -> None:
    class Failing(RMSprop):
        def build(self, variables: Any) -> None:
            if not self.built:
                self.seen = self.add_variable((), dtype="int32", name="seen")
            super().build(variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate)
            self.seen.assign_add(1)
            if fails and variable is variables[1]:
                raise KeyboardInterrupt

    variables = two_weights()
    optimizer = Failing(0.1, momentum=0.5, weight_decay=0.1)
    fails = False
    optimizer.apply(ones_like(variables), variables)
    before = values_of([*variables, *optimizer.variables])
    fails = True
    with pytest.raises(KeyboardInterrupt):
        optimizer.apply(ones_like(variables), variables)
    for value, old in zip(values_of([*variables, *optimizer.variables]), before, strict=True):
        np.testing.assert_array_equal(value, old)
    fails = False
    optimizer.apply(ones_like(variables), variables)
    assert int(optimizer.iterations) == 2


def test_update_step_can_be_called_for_one_variable(float64: None) -> None:
    optimizer, variables = RMSprop(momentum=0.9, centered=True), two_weights("float64")
    optimizer.build(variables)
    reference = Reference(values_of(variables), momentum=0.9, centered=True)
    optimizer.update_step(3.0 * ops.ones((2, 3), "float64"), variables[0], 0.1)
    reference.apply([np.full((2, 3), 3.0), None], 0.1)
    np.testing.assert_allclose(variables[0].numpy(), reference.weights[0], rtol=1e-14)
    assert variables[1].numpy() == 0.5


def test_a_subclass_round_trips_through_its_config() -> None:
    again = Descent.from_config(Descent(0.5, rho=0.5).get_config())
    assert type(again) is Descent
    assert again.rho == 0.5
