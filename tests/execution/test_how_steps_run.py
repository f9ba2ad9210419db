"""Test that what is said of how steps are run is how they are run."""

import importlib
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_rmsprop
from keras_rmsprop._execution import engine
from tests.conftest import BACKEND

ENGINE = importlib.import_module(f"keras_rmsprop._execution.{BACKEND}._engine")


class WithOwnUpdate(keras_rmsprop.RMSprop):
    """A subclass whose update has side effects."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update as usual."""
        super().update_step(gradient, variable, learning_rate)


class WithOwnClipping(keras_rmsprop.RMSprop):
    """A subclass that overrides one of Keras's stages."""

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        return grads


class Halved(keras.constraints.Constraint):
    """A constraint that is not Keras's own."""

    def __call__(self, w: Any) -> Any:
        """Halve the weight."""
        return 0.5 * w


@keras.saving.register_keras_serializable(package="tests", name="by_hand")
def by_hand(gradient: Any, weight: Any) -> Any:
    """A transform that needs the value of the gradient, which is unknown in a trace."""
    return gradient / (1.0 + float(ops.max(gradient)))


def execution_of(optimizer: Any) -> str:
    """What a description says of how steps are run."""
    printed: list[str] = []
    optimizer.describe(print_fn=printed.append)
    (line,) = [line for line in printed[0].splitlines() if line.startswith("Execution: ")]
    return line


def count_compiled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record, for each compiled step or step in place on torch, whether it succeeded."""
    made: list[bool] = []

    def spied(name: str, succeeded: Any) -> None:
        run = getattr(ENGINE, name)

        def spy(*arguments: Any) -> Any:
            result = run(*arguments)
            made.append(succeeded(result))
            return result

        monkeypatch.setattr(ENGINE, name, spy)

    if BACKEND == "tensorflow":
        spied("run_compiled", bool)
    elif BACKEND == "jax":
        spied("run_compiled", lambda reason: reason is None)
    else:
        spied("_run_in_place", lambda _: True)
    return made


SITUATIONS: dict[str, tuple[type[keras_rmsprop.RMSprop], dict[str, Any], Any, str]] = {
    "auto": (keras_rmsprop.RMSprop, {}, None, ""),
    "with_groups": (keras_rmsprop.RMSprop, {"groups": {".*": {"l2": 0.1}}}, None, ""),
    "switched_off": (
        keras_rmsprop.RMSprop,
        {"jit_compile": False},
        None,
        "run op by op, because `jit_compile` is False;",
    ),
    "own_update": (
        WithOwnUpdate,
        {},
        None,
        "run op by op, because WithOwnUpdate has an `update_step` of its own;",
    ),
    "own_constraint": (
        keras_rmsprop.RMSprop,
        {},
        Halved(),
        "run op by op, because the constraint Halved is not one of Keras's own;",
    ),
    "keras_constraint": (keras_rmsprop.RMSprop, {}, keras.constraints.MaxNorm(1.0), ""),
    "own_clipping": (
        WithOwnClipping,
        {},
        None,
        "run op by op, because WithOwnClipping overrides _clip_gradients, so Keras's own stages "
        "make the step;",
    ),
}
COMPILED = {
    "tensorflow": "run as one compiled call, the first one op by op;",
    "jax": "run as one compiled call, the first one op by op;",
    "torch": "run in place with multi-tensor operations, not compiled;",
}[BACKEND]


@pytest.mark.parametrize("name", SITUATIONS)
def test_steps_are_run_as_the_description_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, arguments, constraint, words = SITUATIONS[name]
    optimizer = make(0.1, **arguments)
    weight = keras.Variable(np.ones(3, "float32"), name="weight")
    weight.constraint = constraint
    if constraint is None:
        # What the settings alone decide is known before the build.
        assert (words or COMPILED) in execution_of(optimizer)
    optimizer.build([weight])
    said = [execution_of(optimizer)]
    made = count_compiled(monkeypatch)
    for _ in range(3):
        optimizer.apply([ops.ones(3)], [weight])
    said.append(execution_of(optimizer))
    assert all((words or COMPILED) in text for text in said)
    first_is_compiled = BACKEND == "torch"
    assert made == ([] if words else [True] * (3 if first_is_compiled else 2))


@pytest.mark.skipif(BACKEND == "torch", reason="a step in place needs no trace")
def test_a_transform_that_could_not_be_traced_is_the_reason_once_that_is_known() -> None:
    optimizer = keras_rmsprop.RMSprop(0.1, transform=by_hand)
    weight = keras.Variable(np.ones(3, "float32"), name="weight")
    for _ in range(2):
        optimizer.apply([ops.ones(3)], [weight])
    reason = "run op by op, because the transform `by_hand` cannot be traced ("
    assert reason in execution_of(optimizer)
    optimizer.transform = None
    assert COMPILED in execution_of(optimizer)


def test_what_jit_compile_true_refuses_is_said_before_it_is() -> None:
    optimizer = WithOwnUpdate(0.1, jit_compile=True)
    weight = keras.Variable(np.ones(3, "float32"), name="weight")
    optimizer.build([weight])
    reason = "WithOwnUpdate has an `update_step` of its own"
    said = f"eager steps raise an error, because `jit_compile` is True, but {reason};"
    assert said in execution_of(optimizer)
    with pytest.raises(ValueError, match=reason):
        optimizer.apply([ops.ones(3)], [weight])


def test_jit_compile_true_compiles_the_first_step_as_well() -> None:
    words = {"torch": "run as one graph, compiled by TorchInductor;"}
    said = execution_of(keras_rmsprop.RMSprop(jit_compile=True))
    assert f"eager steps {words.get(BACKEND, 'run as one compiled call;')}" in said


def test_describing_makes_no_step_and_changes_no_state() -> None:
    optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5, groups={".*": {"learning_rate": 0.5}})
    weight = keras.Variable(np.ones(3, "float32"), name="weight")
    optimizer.apply([ops.ones(3)], [weight])
    before = optimizer.state_dict()
    execution_of(optimizer)
    after = optimizer.state_dict()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only there steps are nested in a graph")
def test_a_step_that_is_worth_it_is_compiled_in_a_plain_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = keras_rmsprop.RMSprop(0.1)
    optimizer.build([keras.Variable(np.ones(3, "float32"))])
    assert "they are compiled if XLA compiles the graph." in execution_of(optimizer)
    monkeypatch.setattr(ENGINE, "NESTED_ELEMENTS", 1)
    assert "they are compiled, even if the graph is not." in execution_of(optimizer)
    optimizer.jit_compile = False
    assert "they are compiled if XLA compiles the graph." in execution_of(optimizer)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a switch of TensorFlow's")
def test_what_is_switched_globally_is_a_reason() -> None:
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        said = execution_of(keras_rmsprop.RMSprop())
    finally:
        tf.config.run_functions_eagerly(False)
    assert "run op by op, because `tf.config.run_functions_eagerly` is on;" in said


@pytest.mark.skipif(BACKEND != "jax", reason="a switch of JAX's")
def test_a_switch_of_jax_is_a_reason() -> None:
    import jax

    with jax.disable_jit():
        said = execution_of(keras_rmsprop.RMSprop())
    assert "run op by op, because JAX is set to run without `jit`" in said


def test_the_engine_has_the_interface() -> None:
    assert engine.how_steps_run is ENGINE.how_steps_run
