"""Test that the state that another thread reads is that of one step."""

import contextlib
import sys
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
    order: list[str] = []

    def outer() -> None:
        thread = threading.Thread(target=gate.make_step, args=[order.append, "inner"])
        thread.start()
        thread.join(5.0)
        order.append("outer")

    gate.make_step(outer)
    assert order == ["inner", "outer"]


@pytest.mark.parametrize("nested", [False, True], ids="nested={}".format)
def test_a_step_waits_for_a_reader(nested):
    gate = Gate()
    order: list[str] = []

    with gate.read():
        if nested:
            with gate.read():
                pass
        thread = threading.Thread(target=gate.make_step, args=[order.append, "step"])
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
        first.set()
        second.wait(5.0)
        time.sleep(0.05)
        order.append("step")

    thread = threading.Thread(target=gate.make_step, args=[concurrent_step])

    def step() -> None:
        thread.start()
        assert first.wait(5.0)

    gate.make_step(step)
    second.set()
    with gate.read():
        order.append("read")
    thread.join(5.0)
    assert order == ["step", "read"]


def test_a_reader_never_reads_half_a_step():
    gate, values, torn = Gate(), [0, 0], []
    done = threading.Event()

    def step() -> None:
        values[0] += 1
        # Lets the other thread run in the middle of the step.
        time.sleep(0)
        values[1] += 1

    def steps() -> None:
        while not done.is_set():
            gate.make_step(step)

    thread = threading.Thread(target=steps)
    thread.start()
    for _ in range(3000):
        with gate.read():
            if values[0] != values[1]:
                torn.append(tuple(values))
    done.set()
    thread.join(5.0)
    assert torn == []


def test_an_interrupt_anywhere_leaves_the_gate_open():
    """Raise at each event at which Python handles signals, one after another."""
    gate, failed = Gate(), []

    def is_open() -> bool:
        entered: list[int] = []

        def read() -> None:
            if gate._mutex.acquire(timeout=1.0):
                gate._mutex.release()
                entered.append(1)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        return bool(entered)

    def step() -> None:
        sorted([])

    for at in range(100):
        events = 0

        def interrupt(frame, event, argument, at=at):
            nonlocal events
            # Signals are handled where a Python function begins, and after a call of C code. The
            # one call that a `with` cannot cover is the lock's own `acquire`.
            inside = frame.f_code.co_filename.endswith("_gate.py") or frame.f_code is step.__code__
            acquires = event == "c_return" and argument.__name__ == "acquire"
            if inside and event in ("call", "c_return") and not acquires:
                events += 1
                if events == at + 1:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        sys.setprofile(interrupt)
        try:
            gate.make_step(step)
        except KeyboardInterrupt:
            if not is_open():
                failed.append(at)
                gate = Gate()
        else:
            break
        finally:
            sys.setprofile(None)
    assert at > 3
    assert failed == []
