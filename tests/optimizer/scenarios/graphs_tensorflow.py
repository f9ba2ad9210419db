"""Steps in traced functions of TensorFlow, and gradients that only TensorFlow has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.optimizer.scenarios import scenario

here = scenario(backends=("tensorflow",))

# Small weights are updated in the user's graph, large ones by a compiled call of their own.
SHAPES = [(2,), (512, 513)]


def each_shape(run: Callable[[Any, Any, tuple[int, ...]], None], RMSprop: Any) -> list[Any]:
    """For each shape two elements and the count of steps after `run(optimizer, weight, shape)`."""
    ends = []
    for shape in SHAPES:
        weight = keras.Variable(np.ones(shape, "float32"))
        optimizer = RMSprop(0.1)
        optimizer.build([weight])
        run(optimizer, weight, shape)
        ends += [weight.numpy().ravel()[:2], optimizer.iterations.numpy()]
    return ends


@here
def a_condition_decides_whether_a_step_is_made(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    def run(optimizer: Any, weight: Any, shape: tuple[int, ...]) -> None:
        @tf.function
        def maybe(gradient: Any, do: Any) -> None:
            if do:
                optimizer.apply([gradient], [weight])

        for do in (True, False, True):
            maybe(tf.fill(shape, 0.5), tf.constant(do))

    return each_shape(run, RMSprop)


@here
def a_loop_in_a_graph_makes_steps(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    def run(optimizer: Any, weight: Any, shape: tuple[int, ...]) -> None:
        @tf.function
        def loop(gradient: Any) -> None:
            for i in tf.range(4):
                optimizer.apply([gradient * tf.cast(i + 1, tf.float32)], [weight])

        loop(tf.fill(shape, 0.5))

    return each_shape(run, RMSprop)


@here
def a_python_function_in_a_graph_makes_steps(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    def run(optimizer: Any, weight: Any, shape: tuple[int, ...]) -> None:
        def apply(gradient: Any) -> None:
            optimizer.apply([gradient], [weight])

        @tf.function
        def step(gradient: Any) -> None:
            tf.py_function(apply, [gradient], [])

        for _ in range(3):
            step(tf.fill(shape, 0.5))

    return each_shape(run, RMSprop)


@here
def gradients_have_shapes_that_are_unknown_in_the_graph(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    def run(optimizer: Any, weight: Any, shape: tuple[int, ...]) -> None:
        @tf.function(input_signature=[tf.TensorSpec([None, *shape[1:]])])
        def step(gradient: Any) -> None:
            optimizer.apply([gradient], [weight])

        for _ in range(3):
            step(tf.fill(shape, 0.5))

    return each_shape(run, RMSprop)


@here
def two_optimizers_share_their_variables_in_one_graph(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    def run(optimizer: Any, weight: Any, shape: tuple[int, ...]) -> None:
        other = RMSprop(0.2)
        other.build([weight])

        @tf.function
        def step(gradient: Any) -> None:
            optimizer.apply([gradient], [weight])
            other.apply([2.0 * gradient], [weight])

        for _ in range(3):
            step(tf.fill(shape, 0.5))

    return each_shape(run, RMSprop)


@here
def many_optimizers_are_made_one_after_the_other(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    ends = []
    for rate in (0.1, 0.2, 0.3):
        weights = [keras.Variable([1.0, 2.0]), keras.Variable(3.0)]
        optimizer = RMSprop(rate)
        for t in range(4):
            gradients = [tf.constant([0.5, -0.5]), tf.constant(float(t))]
            optimizer.apply(gradients, weights)
        ends += [weight.numpy() for weight in weights]
    return ends


@here
def different_gradients_are_missing_at_every_step(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    weights = [keras.Variable(np.ones(3, "float32")) for _ in range(5)]
    optimizer = RMSprop(0.1)
    for t in range(40):
        gradients = [
            tf.fill((3,), 0.5 + i) if (t * 7 + i * t) % 3 else None for i in range(len(weights))
        ]
        if any(gradient is not None for gradient in gradients):
            optimizer.apply(gradients, weights)
    return [weight.numpy() for weight in weights]


@here
def gradients_are_lists_numbers_and_arrays(RMSprop: Any, folder: Path) -> Any:
    weights = [keras.Variable([1.0, 2.0]), keras.Variable(3.0), keras.Variable([4.0])]
    optimizer = RMSprop(0.1)
    for _ in range(3):
        optimizer.apply([[0.5, -0.5], 0.25, np.array([1.0])], weights)
    return [weight.numpy() for weight in weights]


@here
def rows_come_with_a_tuple_as_their_dense_shape(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    table = keras.Variable(np.ones((4, 2), "float32"))
    optimizer = RMSprop(0.1)
    for t in range(3):
        ids = tf.constant([t, t + 1])
        optimizer.apply([tf.IndexedSlices(tf.ones((2, 2)), ids, (4, 2))], [table])
    return [table.numpy()]


@here
def scales_of_float8_layers_are_trained_as_well(RMSprop: Any, folder: Path) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16)])
    model.quantize("float8")
    lazy = {} if RMSprop is keras.optimizers.RMSprop else {"lazy": True}
    model.compile(RMSprop(0.01, **lazy), loss="mse", jit_compile=False)
    model.fit(np.ones((4, 16)), np.ones((4, 16)), epochs=4, verbose=0)
    return [model.get_weights()[0]]
