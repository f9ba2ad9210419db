"""Does the optimizer keep house as Keras expects: slots, errors, subclasses, configurations?"""

import copy
import inspect
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop._settings import _validation
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from yardsticks.agreement import rmsprop

EVERYTHING = {
    "momentum": 0.9,
    "centered": True,
    "use_ema": True,
    "gradient_accumulation_steps": 2,
}


def two_weights(dtype: str = "float32") -> list[keras.Variable]:
    """A matrix and a scalar."""
    return [
        keras.Variable(np.arange(1.0, 7.0).reshape(2, 3), dtype=dtype, name="matrix"),
        keras.Variable(0.5, dtype=dtype, name="scalar"),
    ]


def ones_like(variables: list[keras.Variable]) -> list[Any]:
    """A gradient of ones for each variable."""
    return [ops.ones(variable.shape, variable.dtype) for variable in variables]


def values_of(variables: list[keras.Variable]) -> list[np.ndarray]:
    """The variables' values, copied."""
    return [np.array(variable.numpy()) for variable in variables]


# Slots.


@pytest.mark.parametrize(
    ("arguments", "slots"),
    [
        ({}, ["square_average"]),
        ({"momentum": 0.9}, ["square_average", "momentum"]),
        ({"centered": True}, ["square_average", "gradient_average"]),
        ({"use_ema": True}, ["average", "square_average"]),
        ({"gradient_accumulation_steps": 2}, ["gradient_accumulator", "square_average"]),
        (
            EVERYTHING,
            ["average", "gradient_accumulator", "square_average", "momentum", "gradient_average"],
        ),
    ],
    ids=["plain", "momentum", "centered", "ema", "accumulation", "everything"],
)
def test_there_is_a_slot_for_each_option_and_no_other(
    arguments: dict[str, Any], slots: list[str]
) -> None:
    optimizer = RMSprop(**arguments)
    optimizer.build(two_weights())
    assert [variable.name for variable in optimizer.variables] == [
        "iteration",
        "learning_rate",
        *(f"{weight}_{slot}" for slot in slots for weight in ("matrix", "scalar")),
    ]


@pytest.mark.parametrize("option", [*EVERYTHING, None])
def test_the_variables_are_those_of_keras_in_its_order(option: str | None) -> None:
    arguments = {option: EVERYTHING[option]} if option else EVERYTHING
    ours, kerass = RMSprop(**arguments), keras.optimizers.RMSprop(**arguments)
    variables = two_weights()
    ours.build(variables)
    kerass.build(variables)
    words = {"velocity": "square_average", "average_gradient": "gradient_average"}
    pattern = re.compile("velocity|average_gradient")
    translated = [pattern.sub(lambda m: words[m[0]], v.name) for v in kerass.variables]
    assert [v.name for v in ours.variables] == translated
    assert [v.shape for v in ours.variables] == [v.shape for v in kerass.variables]
    assert [v.dtype for v in ours.variables] == [v.dtype for v in kerass.variables]


def test_a_schedule_needs_no_variable() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    assert [v.name for v in RMSprop(learning_rate=schedule).variables] == ["iteration"]


def test_the_slots_carry_the_optimizers_name() -> None:
    optimizer = RMSprop(name="mine")
    optimizer.build(two_weights())
    assert {variable.path.split("/")[0] for variable in optimizer.variables} == {"mine"}


@pytest.mark.parametrize(
    ("dtype", "slots"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_a_slot_has_the_weights_dtype_but_never_less_than_float32(dtype: str, slots: str) -> None:
    optimizer = RMSprop(**EVERYTHING)
    optimizer.build(two_weights(dtype))
    assert {variable.dtype for variable in optimizer.variables[2:]} == {slots}


def test_slots_start_from_zero_and_the_square_average_where_it_is_told_to() -> None:
    optimizer = RMSprop(initial_square_average=0.25, **EVERYTHING)
    optimizer.build(two_weights())
    for variable in optimizer.variables[2:]:
        start = 0.25 if "square_average" in variable.name else 0.0
        np.testing.assert_array_equal(variable.numpy(), np.full(variable.shape, start))


def test_a_float64_start_is_not_rounded_to_float32() -> None:
    optimizer = RMSprop(initial_square_average=0.1)
    optimizer.build(two_weights("float64"))
    assert optimizer.variables[-1].numpy() == 0.1


def test_building_twice_keeps_the_slots() -> None:
    optimizer = RMSprop()
    variables = two_weights()
    optimizer.build(variables)
    before = optimizer.variables
    optimizer.build(variables)
    assert all(a is b for a, b in zip(before, optimizer.variables, strict=True))


def test_the_first_call_builds() -> None:
    optimizer, variables = RMSprop(), two_weights()
    optimizer.apply(ones_like(variables), variables)
    assert optimizer.built
    assert int(optimizer.iterations) == 1


# Errors leave everything as it was.

Call = Callable[[RMSprop, list[keras.Variable]], None]


def wrong_shape(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((2, 3)), ops.ones((3,))], variables)


def transposed(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((3, 2)), ops.ones(())], variables)


def too_few(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((2, 3))], variables)


def too_few_without_variables(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((2, 3))])


def twice(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((2, 3))] * 2, [variables[0]] * 2)


def unknown(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    stranger = keras.Variable(0.0, name="stranger")
    optimizer.apply([ops.ones((2, 3)), ops.ones(())], [variables[0], stranger])


def no_gradients(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([None, None], variables)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (wrong_shape, r"gradient of 'scalar' has shape \(3,\), but the variable has shape \(\)"),
        (transposed, r"gradient of 'matrix' has shape \(3, 2\), but the variable .*\(2, 3\)"),
        (too_few, "received 1 gradients for 2 variables"),
        (too_few_without_variables, "received 1 gradients for 2 variables"),
        (twice, "'matrix' occurs more than once .* Add its gradients up"),
        (unknown, "Unknown variable: .*stranger"),
        (no_gradients, "No gradients provided for any variable"),
    ],
)
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_call_that_is_refused_leaves_everything_as_it_was(
    call: Call, message: str, options: dict[str, Any]
) -> None:
    optimizer, variables = RMSprop(0.1, weight_decay=0.1, **options), two_weights()
    for _ in range(3):
        optimizer.apply(ones_like(variables), variables)
    before = values_of([*variables, *optimizer.variables])
    with pytest.raises(ValueError, match=message):
        call(optimizer, variables)
    after = values_of([*variables, *optimizer.variables])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("call", [too_few, twice, no_gradients])
def test_a_first_call_that_is_refused_does_not_build(call: Call) -> None:
    optimizer = RMSprop()
    with pytest.raises(ValueError, match="gradient"):
        call(optimizer, two_weights())
    assert not optimizer.built


def test_gradients_without_variables_before_build_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"not built\. Pass the variables, or call `optimizer.bui"):
        RMSprop().apply([ops.ones(())])


def test_no_gradients_at_all_are_no_step() -> None:
    optimizer, variables = RMSprop(), two_weights()
    optimizer.build(variables)
    optimizer.apply([], [])
    assert int(optimizer.iterations) == 0


def test_a_missing_gradient_warns_and_leaves_its_weight_and_slots() -> None:
    optimizer, variables = RMSprop(0.1), two_weights()
    optimizer.build(variables)
    with pytest.warns(UserWarning, match=r"Gradients do not exist for variables \['scalar'\]"):
        optimizer.apply([ops.ones((2, 3)), None], variables)
    assert variables[1].numpy() == 0.5
    assert optimizer.variables[-1].numpy() == 0.0
    assert np.all(optimizer.variables[-2].numpy() > 0.0)
    assert int(optimizer.iterations) == 1


def test_the_order_of_the_variables_in_a_call_does_not_matter() -> None:
    results = []
    for order in (1, -1):
        optimizer, variables = RMSprop(0.1), two_weights()
        optimizer.build(variables)
        gradients = [3.0 * gradient for gradient in ones_like(variables)]
        for _ in range(2):
            optimizer.apply(gradients[::order], variables[::order])
        results.append(values_of([*variables, *optimizer.variables]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_apply_gradients_takes_pairs_and_returns_the_calls_made() -> None:
    optimizer, variables = RMSprop(), two_weights()
    calls = optimizer.apply_gradients(zip(ones_like(variables), variables, strict=True))
    assert int(calls) == 1


def test_weight_decay_can_be_excluded_late_exactly_where_keras_allows_it() -> None:
    outcomes = []
    for optimizer in (RMSprop(weight_decay=0.1), keras.optimizers.RMSprop(weight_decay=0.1)):
        variables = two_weights()
        optimizer.build(variables)
        try:
            optimizer.exclude_from_weight_decay(var_list=variables[:1])
        except ValueError as error:
            outcomes.append(str(error))
        else:
            outcomes.append([optimizer._use_weight_decay(v) for v in variables])
    assert outcomes[0] == outcomes[1]


def test_the_effective_learning_rate_of_an_unbuilt_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"before the optimizer is built\. Make a step"):
        RMSprop().effective_learning_rate(two_weights()[0])


def test_the_effective_learning_rate_of_a_stranger_is_refused() -> None:
    optimizer = RMSprop()
    optimizer.build(two_weights())
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.effective_learning_rate(keras.Variable(0.0))


@pytest.mark.parametrize("inside", [True, False])
def test_the_effective_learning_rate_is_the_step_of_a_unit_gradient(inside: bool) -> None:
    optimizer = RMSprop(0.1, rho=0.75, epsilon=0.25, epsilon_inside_sqrt=inside)
    variables = two_weights()
    optimizer.apply([2.0 * gradient for gradient in ones_like(variables)], variables)
    rate = optimizer.effective_learning_rate(variables[0])
    # s = (1 - rho) * 2**2 = 1
    expected = 0.1 / np.sqrt(1.25) if inside else 0.1 / 1.25
    np.testing.assert_allclose(ops.convert_to_numpy(rate), np.full((2, 3), expected), rtol=1e-6)


# Keras's private names.


# Subclasses that override `update_step`.

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


class Delegating(RMSprop):
    """Leaves the rule as it is, and notes for which variables it was asked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[str] = []

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Note the variable's name."""
        self.asked.append(variable.name)
        super().update_step(gradient, variable, learning_rate)


class Descent(RMSprop):
    """Plain gradient descent, as a subclass may replace the rule by its own."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Step along the gradient."""
        self.assign_sub(variable, learning_rate * gradient)


def test_an_overridden_update_step_is_called_for_each_variable() -> None:
    optimizer, variables = Delegating(), two_weights()
    optimizer.apply(ones_like(variables), variables)
    assert [name.split(":")[0] for name in optimizer.asked] == ["matrix", "scalar"]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_overridden_update_step_takes_part_in_the_whole_step(
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


def test_a_rule_of_its_own_sees_clipped_and_accumulated_gradients_and_decayed_weights() -> None:
    optimizer = Descent(0.5, clipvalue=1.0, weight_decay=0.1, gradient_accumulation_steps=2)
    weight = keras.Variable([2.0, 4.0])
    for gradient in ([4.0, 0.25], [6.0, 0.75]):
        optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
    # The mean gradient (5, 0.5) is clipped to (1, 0.5); the weights decay by 0.5 * 0.1 first.
    np.testing.assert_allclose(weight.numpy(), [2.0 * 0.95 - 0.5, 4.0 * 0.95 - 0.25], rtol=1e-6)
    assert int(optimizer.iterations) == 1


def test_an_update_step_that_raises_leaves_everything_as_it_was() -> None:
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


# Configurations and copies.

CHANGED = {
    "learning_rate": 0.25,
    "rho": 0.5,
    "momentum": 0.25,
    "epsilon": 0.125,
    "centered": True,
    "weight_decay": 0.1,
    "clipnorm": 2.0,
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 3,
    "loss_scale_factor": 8.0,
    "gradient_accumulation_steps": 2,
    "name": "mine",
    "nesterov": True,
    "epsilon_inside_sqrt": False,
    "lr_in_momentum": False,
    "bias_correction": True,
    "l2": 0.2,
    "maximize": True,
    "jit_compile": False,
}


def test_the_config_holds_every_argument() -> None:
    assert set(RMSprop().get_config()) == set(inspect.signature(RMSprop).parameters)


def test_the_config_is_plain_json() -> None:
    config = rmsprop(**CHANGED).get_config()
    assert json.loads(json.dumps(config)) == config


def test_the_config_makes_the_same_optimizer_again() -> None:
    config = rmsprop(**CHANGED).get_config()
    assert {name: config[name] for name in CHANGED} == CHANGED
    with pytest.warns(UserWarning, match="first variance exactly zero"):
        again = RMSprop.from_config(config)
    assert again.get_config() == config


@pytest.mark.parametrize("name", sorted(set(_validation.HYPERPARAMETERS) - {"jit_compile"}))
def test_an_assigned_hyperparameter_is_in_the_config(name: str) -> None:
    optimizer = RMSprop(momentum=0.5 if name == "nesterov" else 0.0)
    old = getattr(optimizer, name)
    new = (not old) if isinstance(old, bool) else 2 if old is None else 0.25
    setattr(optimizer, name, new)
    assert optimizer.get_config()[name] == new


def test_the_config_that_is_read_is_left_as_it_was() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    config = RMSprop(learning_rate=schedule).get_config()
    before = copy.deepcopy(config)
    RMSprop.from_config(config)
    assert config == before


def test_a_config_of_keras_is_understood() -> None:
    arguments = {"rho": 0.5, "momentum": 0.25, "centered": True, "clipnorm": 2.0, "use_ema": True}
    config = keras.optimizers.RMSprop(0.25, **arguments).get_config()
    ours = RMSprop.from_config(config).get_config()
    assert {name: ours[name] for name in config} == config


def test_a_config_with_an_unknown_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="no argument `lr`"):
        RMSprop.from_config({"lr": 0.1})


@pytest.mark.parametrize(
    "rate",
    [0.25, keras.optimizers.schedules.ExponentialDecay(0.25, 10, 0.5)],
    ids=["number", "schedule"],
)
def test_keras_serializes_and_gets_it_by_its_registered_name(rate: Any) -> None:
    optimizer = RMSprop(learning_rate=rate, rho=0.5, nesterov=True, momentum=0.5)
    serialized = keras.optimizers.serialize(optimizer)
    assert serialized["registered_name"] == "keras_rmsprop>RMSprop"
    again = keras.optimizers.deserialize(json.loads(json.dumps(serialized)))
    assert type(again) is RMSprop
    assert again.get_config() == optimizer.get_config()


def test_keras_gets_it_by_name() -> None:
    assert type(keras.optimizers.get("keras_rmsprop>RMSprop")) is RMSprop


def test_the_wrong_package_name_gives_keras_own_class() -> None:
    assert not isinstance(keras.optimizers.get("rmsprop"), RMSprop)


# Keras copies through its own saving.
copies = pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))],
    ids=["deepcopy", "pickle"],
)


@copies
def test_an_unbuilt_copy_has_the_same_settings(copied: Callable[[Any], Any]) -> None:
    optimizer = RMSprop(0.25, rho=0.5, momentum=0.5, nesterov=True)
    assert copied(optimizer).get_config() == optimizer.get_config()


@copies
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_built_copy_has_the_same_settings(copied: Callable[[Any], Any]) -> None:
    optimizer, variables = RMSprop(0.25, momentum=0.5), two_weights()
    optimizer.apply(ones_like(variables), variables)
    assert copied(optimizer).get_config() == optimizer.get_config()


@copies
def test_the_copy_of_a_built_keras_optimizer_loses_the_state(copied: Callable[[Any], Any]) -> None:
    optimizer, variables = keras.optimizers.RMSprop(0.25, momentum=0.5), two_weights()
    optimizer.apply(ones_like(variables), variables)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        duplicate = copied(optimizer)
    assert int(duplicate.iterations) == 0


@copies
def test_a_copy_trains_on_its_own(copied: Callable[[Any], Any]) -> None:
    optimizer, variables = RMSprop(0.25), two_weights()
    duplicate = copied(optimizer)
    for _ in range(2):
        duplicate.apply(ones_like(variables), variables)
    assert int(duplicate.iterations) == 2
    assert not optimizer.built


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.Variable is TensorFlow's")
def test_raw_tf_variables_can_be_trained() -> None:
    import tensorflow as tf

    optimizer, weight = RMSprop(0.1, epsilon=0.0), tf.Variable([1.0, 2.0], name="raw")
    optimizer.apply([tf.constant([3.0, -4.0])], [weight])
    np.testing.assert_allclose(weight.numpy(), [0.683772, 2.316228], rtol=1e-6)
    assert optimizer.variables[-1].name == "raw_0_square_average"


# Settings that change without an assignment.


def test_a_setting_that_is_changed_past_every_setter_acts_at_the_next_step() -> None:
    weights = []
    for change in (
        lambda optimizer: setattr(optimizer, "rho", 0.3),
        lambda optimizer: vars(optimizer).update(rho=0.3),
        lambda optimizer: object.__setattr__(optimizer, "rho", 0.3),
    ):
        optimizer, variable = RMSprop(0.1), keras.Variable([1.0, 2.0])
        for t in range(6):
            if t == 3:
                change(optimizer)
            optimizer.apply([ops.ones(2)], [variable])
        weights.append(values_of([variable])[0])
    np.testing.assert_array_equal(weights[1], weights[0])
    np.testing.assert_array_equal(weights[2], weights[0])


def test_an_override_of_use_weight_decay_is_asked_at_every_step() -> None:
    class Late(RMSprop):
        def _use_weight_decay(self, variable: Any) -> bool:
            del variable
            return int(self.iterations) >= 3

    optimizer, variable = Late(0.1, weight_decay=1.0), keras.Variable([1.0, 2.0])
    for t in range(5):
        before = values_of([variable])[0]
        optimizer.apply([ops.zeros(2)], [variable])
        factor = 0.9 if t >= 3 else 1.0
        np.testing.assert_allclose(values_of([variable])[0], factor * before, rtol=1e-6)


def test_a_pattern_that_cannot_be_searched_for_is_refused_and_changes_nothing() -> None:
    a, b = keras.Variable([1.0], name="a"), keras.Variable([1.0], name="b")
    optimizer = RMSprop(0.1, weight_decay=1.0)
    optimizer.exclude_from_weight_decay([a])
    with pytest.raises(ValueError, match=r"`var_names` must be regular expressions"):
        optimizer.exclude_from_weight_decay([b], ["["])
    optimizer.apply([ops.zeros(1)] * 2, [a, b])
    np.testing.assert_allclose(values_of([a, b]), [[1.0], [0.9]], rtol=1e-6)
