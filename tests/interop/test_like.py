"""Test making the optimizer that takes the steps of another: what frameworks have in common."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import RMSprop, conventions, interop
from keras_rmsprop.interop import NotExactError


def stepped(optimizer: RMSprop, steps: int = 3) -> list[keras.Variable]:
    """Variables with which an optimizer has made some steps."""
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=shape)) for shape in ((2, 3), (3,))]
    for _ in range(steps):
        gradients = [keras.ops.convert_to_tensor(rng.normal(size=v.shape)) for v in variables]
        optimizer.apply(gradients, variables)
    return variables


def test_an_optimizer_of_this_package_is_copied_with_its_state(float64):
    source = conventions.torch(0.02, momentum=0.5, weight_decay=0.1, centered=True)
    variables = stepped(source)
    copy = interop.like(source, variables, jit_compile=False)
    assert copy is not source
    assert copy.get_config() == {**source.get_config(), "jit_compile": False}
    want = source.state_dict()
    got = copy.state_dict()
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_without_variables_there_is_no_state():
    source = keras.optimizers.RMSprop(0.02, momentum=0.5, clipnorm=1.0, weight_decay=0.01)
    source.build([keras.Variable(np.zeros(3, "float32"))])
    optimizer = interop.like(source)
    assert not optimizer.built
    assert (optimizer.momentum, optimizer.clipnorm, optimizer.weight_decay) == (0.5, 1.0, 0.01)
    assert float(optimizer.learning_rate) == pytest.approx(0.02)


def test_options_take_precedence_and_are_refused_if_they_change_the_steps(float64):
    source = keras.optimizers.RMSprop(0.02, momentum=0.5)
    variables = stepped(source)
    optimizer = interop.like(source, variables, skip_nonfinite=True, name="mine")
    assert optimizer.skip_nonfinite
    assert optimizer.name == "mine"
    with pytest.raises(NotExactError, match=r"`momentum` is 0\.9 here and 0\.5 there"):
        interop.like(source, variables, momentum=0.9)
    changed = interop.like(source, variables, momentum=0.9, exact=False)
    assert changed.momentum == 0.9
    assert int(changed.iterations) == 3
    with pytest.raises(ValueError, match="momentun"):
        interop.like(source, momentun=0.9)


def test_a_subclass_of_keras_s_class_is_known_as_one():
    class Mine(keras.optimizers.RMSprop):
        """Has a name of its own."""

    assert interop.like(Mine(0.5)).get_config()["learning_rate"] == 0.5


def test_a_subclass_of_keras_s_class_with_steps_of_its_own_is_refused():
    class Half(keras.optimizers.RMSprop):
        """Halves its gradients."""

        def update_step(self, gradient, variable, learning_rate):
            """Update a variable."""
            super().update_step(gradient / 2.0, variable, learning_rate)

    source, variable = Half(0.5), keras.Variable(np.ones(3))
    words = r"`update_step` is that of .*Half there"
    with pytest.raises(NotExactError, match=words):
        interop.like(source)
    source.build([variable])
    with pytest.raises(NotExactError, match=words):
        interop.like(source, [variable])
    optimizer = interop.like(source, [variable], exact=False)
    with pytest.raises(NotExactError, match=words):
        interop.keras.load(optimizer, source)


def test_a_method_of_an_optimizer_of_keras_that_was_replaced_is_refused():
    source = keras.optimizers.RMSprop(0.5)
    source.apply = lambda *_: None
    with pytest.raises(NotExactError, match=r"`apply` is that of RMSprop there"):
        interop.like(source)


@pytest.mark.parametrize("source", [keras.optimizers.Adam(), "rmsprop", None, 3, RMSprop])
def test_anything_else_is_refused(source):
    with pytest.raises(ValueError, match=r"`interop\.like` knows the RMSprops of"):
        interop.like(source)


def test_an_accumulating_optimizer_is_carried_between_steps_only(float64):
    source = RMSprop(0.02, gradient_accumulation_steps=2)
    variables = stepped(source, 3)
    target = keras.optimizers.RMSprop(0.02)
    target.build(variables)
    with pytest.raises(ValueError, match="1 of 2 gradients are accumulated"):
        interop.keras.assign(source, target)
    stepped_once_more = [keras.ops.ones(v.shape) for v in variables]
    source.apply(stepped_once_more, variables)
    interop.keras.assign(source, target)
    assert int(target.iterations) == 2


def test_only_a_built_optimizer_takes_state():
    source = keras.optimizers.RMSprop()
    source.build([keras.Variable(np.zeros(3))])
    with pytest.raises(ValueError, match="must be built first"):
        interop.keras.load(RMSprop(), source)
    with pytest.raises(
        ValueError, match=r"must be a keras_rmsprop\.RMSprop, received one of keras"
    ):
        interop.keras.load(source, source)


def test_options_that_change_the_steps_of_a_copy_are_refused(float64):
    source = RMSprop(0.02, momentum=0.5)
    variables = stepped(source)
    with pytest.raises(NotExactError, match="rho change the steps"):
        interop.like(source, variables, rho=0.5)
    copy = interop.like(source, variables, lr_in_momentum=False, exact=False)
    buffers = [float(keras.ops.max(keras.ops.abs(each._momentums[0]))) for each in (source, copy)]
    assert buffers[1] == pytest.approx(buffers[0] / 0.02)


def test_a_copy_takes_state_by_position(float64):
    source = RMSprop(0.02)
    stepped(source)
    others = [keras.Variable(np.zeros(shape), name=f"other_{shape}") for shape in ((2, 3), (3,))]
    copy = interop.like(source, others)
    for ours, theirs in zip(copy._square_averages, source._square_averages, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )
    with pytest.raises(ValueError, match="have the shapes"):
        interop.like(source, others[::-1])
    with pytest.raises(ValueError, match="paired by position"):
        interop.like(source, others, "order")


def sources() -> dict[str, Callable[[], tuple[Any, list[Any]]]]:
    """Optimizers with a rate of 0.02 that have made steps, and their variables."""

    def keras_s() -> tuple[Any, list[Any]]:
        source = keras.optimizers.RMSprop(0.02)
        return source, stepped(source)

    def ours() -> tuple[Any, list[Any]]:
        source = RMSprop(0.02)
        return source, stepped(source)

    return {"keras": keras_s, "ours": ours}


@pytest.mark.filterwarnings("ignore:The optimizer's state was loaded in part")
@pytest.mark.parametrize("name", sources())
def test_a_rate_that_is_given_is_not_replaced_by_that_of_the_state(float64, name):
    source, variables = sources()[name]()
    with pytest.raises(NotExactError, match=r"`learning_rate` is 0\.5 here and 0\.02 there"):
        interop.like(source, variables, learning_rate=0.5)
    optimizer = interop.like(source, variables, learning_rate=0.5, exact=False)
    assert float(optimizer.learning_rate) == 0.5
    assert int(optimizer.iterations) == 3
    assert float(interop.like(source, variables, learning_rate=0.02).learning_rate) == 0.02
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    optimizer = interop.like(source, variables, learning_rate=schedule, exact=False)
    assert float(optimizer.learning_rate) == 0.0625


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("transform", "centralize"),
        ("state_dtype", "bfloat16"),
        ("loss_scale_factor", 100.0),
        ("groups", {".*": {"rho": 0.5}}),
        ("learning_rate", lambda: 0.02),
    ],
)
@pytest.mark.filterwarnings("ignore:The optimizer's state was loaded in part")
@pytest.mark.parametrize("name", sources())
def test_every_option_that_changes_the_steps_is_refused(float64, name, option, value):
    source, variables = sources()[name]()
    with pytest.raises(NotExactError):
        interop.like(source, variables, **{option: value})
    interop.like(source, variables, exact=False, **{option: value})
    # Without a state nothing is lost.
    interop.like(source, **{option: value})


def test_options_that_are_as_they_were_are_no_change():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    same = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    source = RMSprop(schedule, rho=0.75, groups={".*": {"rho": 0.5}}, transform="centralize")
    variables = stepped(source)
    optimizer = interop.like(
        source,
        variables,
        rho=0.75,
        learning_rate=same,
        groups={".*": {"rho": 0.5}},
        transform="centralize",
        name="copy",
    )
    assert int(optimizer.iterations) == 3


@pytest.mark.parametrize("exact", [True, False])
def test_a_begun_sum_of_gradients_is_not_dropped_from_a_copy(float64, exact):
    source = RMSprop(0.02, gradient_accumulation_steps=2)
    variables = stepped(source, 3)
    with pytest.raises(ValueError, match="1 of 2 gradients are accumulated, which would be lost"):
        interop.like(source, variables, gradient_accumulation_steps=None, exact=exact)
    copy = interop.like(source, variables)
    assert int(copy._iterations) == 3
