"""Test that variables added to a built optimizer leave its state unchanged."""

import numpy as np
import pytest

import keras_rmsprop
from tests.tools import models
from tests.tools.states import RATE, built, step, trained, weights


def test_added_variables_start_afresh_and_leave_the_existing_state():
    variables = weights("b", "c")
    optimizer = trained(variables, momentum=0.5, use_ema=True)
    before = optimizer.state_dict()
    more = weights("a")
    optimizer.add_variables(more)
    state = optimizer.state_dict()
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value)
    assert set(state) - set(before) == {"a/square_average", "a/momentum", "a/average"}
    assert not np.any(state["a/square_average"])
    models.assert_identical([state["a/average"]], models.values(more))


@pytest.mark.usefixtures("float64")
def test_each_variable_keeps_its_own_slots_in_whatever_order_they_are_added():
    options = {"momentum": 0.5, "centered": True, "gradient_accumulation_steps": 2}
    variables = weights("a", "b", "c")
    joined = trained(variables[:0:-1], calls=3, **options)
    joined.add_variables(variables)
    step(joined, variables, range(3, 9))

    # Variables are independent, so two optimizers together equal the joined one.
    copies = weights("a", "b", "c")
    early = trained(copies[1:], calls=3, **options)
    late = built(copies[:1], **options)
    late.load_state_dict(late.state_dict() | {"iteration": 3})
    step(early, copies[1:], range(3, 9))
    step(late, copies[:1], range(3, 9))
    models.assert_identical(models.values(variables), models.values(copies))


def test_variables_added_to_an_optimizer_that_is_not_built_build_it():
    variables = weights("a")
    optimizer = keras_rmsprop.RMSprop()
    optimizer.add_variables(variables)
    assert optimizer.built
    assert "a/square_average" in optimizer.state_dict()


def test_layers_unfrozen_during_training_are_fitted_and_restored_from_a_file(tmp_path):
    network = models.model()
    hidden = network.layers[0]
    hidden.trainable = False
    models.fit(network, keras_rmsprop.RMSprop(RATE, momentum=0.5))
    frozen = models.values(hidden.weights)
    before = network.optimizer.state_dict()

    hidden.trainable = True
    network.optimizer.add_variables(network.trainable_variables)
    for name, value in before.items():
        np.testing.assert_array_equal(network.optimizer.state_dict()[name], value)
    models.fit(network, network.optimizer)
    assert np.any(models.values(hidden.weights)[0] != frozen[0])
    assert int(network.optimizer.iterations) == 4 * models.BATCHES

    network.save_weights(tmp_path / "all.weights.h5")
    want = models.go_on(network)
    other = models.model()
    other.compile(keras_rmsprop.RMSprop(RATE, momentum=0.5), loss="mse")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "all.weights.h5")
    models.assert_identical(models.go_on(other), want)
