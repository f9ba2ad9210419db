"""Test that the state that another thread reads is that of one step."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop._variables._gate import Gate
from tests.conftest import BACKEND

COUNT = 12


@contextlib.contextmanager
def in_another_thread(work: Callable[[], None]) -> Iterator[None]:
    """Repeat `work` in another thread within the context; raise its error at the end."""
    stopped, errors = threading.Event(), []

    def run() -> None:
        try:
            while not stopped.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    if errors:
        raise errors[0]


def averages(steps: int) -> Any:
    """The square average after each step with gradients of 1 and rho 0.75."""
    return 1.0 - 0.75 ** np.arange(steps + 1)


@pytest.mark.parametrize("graph", [False, True], ids="graph={}".format)
def test_a_state_dict_read_by_another_thread_is_of_one_step(graph):
    if graph and BACKEND != "tensorflow":
        pytest.skip("a graph of TensorFlow's")
    variables = [keras.Variable(np.ones((64, 64), "float32")) for _ in range(COUNT)]
    optimizer = keras_rmsprop.RMSprop(1e-3, rho=0.75)
    gradients = [keras.ops.ones((64, 64)) for _ in range(COUNT)]
    optimizer.build(variables)

    def work() -> None:
        optimizer.apply(gradients, variables)
        # Start again before the averages come too close to 1 to identify the step.
        if int(optimizer.iterations) >= 40:
            optimizer.load_state_dict(start)
        # As long as a quick batch takes.
        time.sleep(0.002)

    start = optimizer.state_dict()
    if graph:
        import tensorflow as tf

        step = tf.function(lambda: optimizer.apply(gradients, variables), autograph=False)
        step()
        optimizer.load_state_dict(start)

        def work() -> None:  # type: ignore[no-redef]
            step()
            if int(optimizer.iterations) >= 40:
                optimizer.load_state_dict(start)
            time.sleep(0.01)

    else:
        for _ in range(2):
            work()
    want, seen = averages(60), set()
    with in_another_thread(work):
        until = time.monotonic() + 1.0
        while time.monotonic() < until or len(seen) < 3:
            state = optimizer.state_dict()
            step_made = int(state["iteration"])
            seen.add(step_made)
            for name, array in state.items():
                if name.endswith("square_average"):
                    np.testing.assert_allclose(array, want[step_made], rtol=1e-5, atol=1e-7)


def test_steps_of_two_threads_do_not_wait_for_each_other():
    gate = Gate()
    assert gate.enter()
    entered: list[bool] = []
    thread = threading.Thread(target=lambda: entered.append(gate.enter()))
    thread.start()
    thread.join(5.0)
    assert entered == [False]
    gate.leave(held=True)


def test_a_step_waits_for_a_reader():
    gate = Gate()
    order: list[str] = []

    def step() -> None:
        with gate.step():
            order.append("step")

    with gate.read():
        thread = threading.Thread(target=step)
        thread.start()
        thread.join(0.05)
        order.append("read")
    thread.join(5.0)
    assert order == ["read", "step"]


def test_a_reader_waits_for_every_concurrent_step():
    gate = Gate()
    order: list[str] = []
    first, second = threading.Event(), threading.Event()

    def concurrent_step() -> None:
        with gate.step():
            first.set()
            second.wait(5.0)
            time.sleep(0.05)
            order.append("step")

    with gate.step():
        thread = threading.Thread(target=concurrent_step)
        thread.start()
        assert first.wait(5.0)
    second.set()
    with gate.read():
        order.append("read")
    thread.join(5.0)
    assert order == ["step", "read"]


def test_a_reader_never_reads_half_a_step():
    gate, values, torn = Gate(), [0, 0], []
    done = threading.Event()

    def step() -> None:
        while not done.is_set():
            with gate.step():
                values[0] += 1
                # Lets the other thread run in the middle of the step.
                time.sleep(0)
                values[1] += 1

    thread = threading.Thread(target=step)
    thread.start()
    for _ in range(3000):
        with gate.read():
            if values[0] != values[1]:
                torn.append(tuple(values))
    done.set()
    thread.join(5.0)
    assert torn == []
