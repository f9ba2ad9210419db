"""Test steps inside a user's `tf.function`, under XLA and under a tape."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import twins
from tests.tools.twins import Situation, Training

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf

from keras_rmsprop._execution.tensorflow import _engine
from tests.tools.steps_tensorflow import MODES, compiled_steps, trajectories


@pytest.fixture
def worth_nesting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a step in a function a compiled call of its own, as with large tensors."""
    monkeypatch.setattr(_engine, "NESTED_ELEMENTS", 0)


def is_nested(graph: tf.Graph) -> bool:
    """Return whether an op of the graph is a call that must be compiled."""
    names = {op.type for op in graph.get_operations()}
    assert names, "an empty graph proves nothing"
    return any(
        "_XlaMustCompile" in op.node_def.attr and op.node_def.attr["_XlaMustCompile"].b
        for op in graph.get_operations()
    )


def in_function(jit_compile: bool | None, tape: bool = False) -> Any:
    """The start of a situation in which each step is made by a `tf.function`."""

    def begin(training: Training) -> None:
        @tf.function(jit_compile=jit_compile, autograph=False)
        def feed(gradients: list[Any]) -> None:
            training.apply(gradients)

        training.feed = feed

    return begin


@pytest.mark.parametrize("options", [{}, {"clipnorm": 1.0, "use_ema": True}], ids=["plain", "more"])
def test_a_compiled_step_in_a_user_function_equals_an_op_by_op_step(
    float64, worth_nesting, options
):
    situation = Situation(lambda: options, begin=in_function(None))
    twins.assert_same_trajectory(*trajectories(situation))


@pytest.mark.parametrize("mode", [True, "auto"])
def test_a_step_is_a_nested_call_in_a_graph_and_inlined_under_xla(mode, worth_nesting):
    training = Training({"jit_compile": mode})
    training.optimizer.build(training.variables)
    gradients = [tf.ones(shape, tf.float64) for shape in twins.SHAPES]
    for jit_compile, nested in [(None, True), (True, False)]:
        function = tf.function(training.apply, jit_compile=jit_compile, autograph=False)
        assert is_nested(function.get_concrete_function(gradients).graph) is nested


@pytest.mark.parametrize(
    ("shapes", "mode", "nested"),
    [
        ([(2, 3)], "auto", False),
        ([(2, 3)], True, True),
        ([(512, 512)], "auto", True),
        ([(512, 512)] * 3, "auto", False),
        ([(1024, 1024), (1024,)], "auto", True),
        ([(512, 512), (512,)], "auto", False),
        ([(1024, 1024)], False, False),
    ],
    ids=str,
)
def test_a_step_of_few_large_tensors_is_a_nested_call(shapes, mode, nested):
    variables = [keras.Variable(tf.zeros(shape)) for shape in shapes]
    optimizer = keras_rmsprop.RMSprop(jit_compile=mode)
    optimizer.build(variables)
    function = tf.function(optimizer.apply, autograph=False)
    gradients = [tf.TensorSpec(shape) for shape in shapes]
    assert is_nested(function.get_concrete_function(gradients).graph) is nested


def test_xla_around_the_step_gives_the_same_weights(float64):
    want = list(twins.train(Situation(), jit_compile=False))
    got = list(twins.train(Situation(begin=in_function(True)), jit_compile="auto"))
    twins.assert_same_trajectory(got, want)


def test_the_steps_of_a_loop_in_a_function_are_compiled(float64, worth_nesting):
    got, want = Training({}), Training({"jit_compile": False})
    gradients = [tf.ones(shape, tf.float64) for shape in twins.SHAPES]
    got.optimizer.build(got.variables)

    @tf.function(autograph=False)
    def loop() -> None:
        def body(i: tf.Tensor) -> tf.Tensor:
            got.apply([g * tf.cast(i, g.dtype) for g in gradients])
            return i + 1

        tf.while_loop(lambda i: i < 5, body, [tf.constant(1)])

    loop()
    for i in range(1, 5):
        want.apply([g * i for g in gradients])
    assert compiled_steps(got.optimizer)
    for mine, theirs in zip(got.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_a_user_function_that_autograph_converts_does_not_warn(caplog, capfd):
    training = Training({})
    training.optimizer.build(training.variables)

    @tf.function
    def step(gradients: list[Any]) -> None:
        training.optimizer.apply(gradients, training.variables)

    step([tf.ones(shape, tf.float64) for shape in twins.SHAPES])
    assert "AutoGraph" not in caplog.text + "".join(capfd.readouterr())


def test_an_open_tape_does_not_record_the_step(float64):
    got, want = (Training({"jit_compile": mode}) for mode in MODES)
    for training in (got, want):
        weight = training.variables[1].value
        for _ in range(3):
            with tf.GradientTape(persistent=True) as tape:
                loss = tf.reduce_sum(weight**2)
                training.apply([tf.constant(0.5, tf.float64), tape.gradient(loss, weight)])
                # The weight has changed since the first loss.
                later = tf.reduce_sum(weight**2)
            np.testing.assert_array_equal(tape.gradient(later, weight), 2.0 * weight)
    assert compiled_steps(got.optimizer)
    for mine, theirs in zip(got.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)
