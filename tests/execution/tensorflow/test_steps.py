"""How a step runs on TensorFlow: when it is one compiled call, and what the call leaves alone."""

import contextlib
import functools
import gc
import logging
import pathlib
import signal
import sys
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop._math import _rule
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Situation, Training

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from keras_rmsprop._execution import _plain
from keras_rmsprop._execution.tensorflow import _engine, _programs, _values

MODES = ("auto", False)


@pytest.fixture(autouse=True)
def no_programs_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without compiled programs; another test's would serve this one as well."""
    monkeypatch.setattr(_programs, "_programs", OrderedDict())


@pytest.fixture
def worth_nesting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a step in a function be a compiled call of its own, as with large tensors."""
    monkeypatch.setattr(_engine, "NESTED_ELEMENTS", 0)


class WithOwnUpdate(keras_rmsprop.RMSprop):
    """An optimizer with an `update_step` that writes as it goes."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update and shrink the weight."""
        super().update_step(gradient, variable, learning_rate)
        self.assign(variable, variable * 0.5)


def compiled_steps(optimizer: Any) -> list[Any]:
    """The compiled steps that an optimizer has made so far."""
    bound = _programs._bound.get(optimizer._roster)
    return [] if bound is None else [step for step in bound.calls.values() if step is not None]


def courses(situation: Situation) -> list[Any]:
    """A situation's course as compiled and op by op."""
    return [list(twins.train(situation, mode)) for mode in MODES]


def is_nested(graph: tf.Graph) -> bool:
    """Whether some op of the graph is a call that must be compiled."""
    names = {op.type for op in graph.get_operations()}
    assert names, "an empty graph says nothing"
    return any(
        "_XlaMustCompile" in op.node_def.attr and op.node_def.attr["_XlaMustCompile"].b
        for op in graph.get_operations()
    )


def in_function(jit_compile: bool | None, tape: bool = False) -> Any:
    """A situation's beginning: each step is made by a `tf.function`."""

    def begin(training: Training) -> None:
        @tf.function(jit_compile=jit_compile, autograph=False)
        def feed(gradients: list[Any]) -> None:
            training.apply(gradients)

        training.feed = feed

    return begin


def sparse_from_now_on(training: Training) -> None:
    """Give the matrix's gradient as rows, one of them twice."""

    def feed(gradients: list[Any]) -> None:
        ids = tf.constant([1, 0, 1])
        rows = tf.IndexedSlices(tf.gather(gradients[1], ids), ids, tf.constant([2, 3]))
        training.apply([gradients[0], rows])

    training.feed = feed


def test_gradients_that_become_rows_are_summed_in_a_compiled_step_too(float64):
    compiled, op_by_op = courses(Situation(lambda: {"clipnorm": 1.0}, sparse_from_now_on))
    twins.assert_same_course(compiled, op_by_op)


@pytest.mark.parametrize("mode", ["auto", True], ids="jit_compile={}".format)
def test_nothing_is_traced_after_the_second_step(mode, monkeypatch):
    traces = twins.count_traces(monkeypatch)
    training = Training({"jit_compile": mode, "momentum": 0.5, "clipnorm": 1.0})
    training.step(0)
    training.step(1)
    assert len(traces) == (2 if mode == "auto" else 1)
    optimizer = training.optimizer
    for t in range(2, 6):
        optimizer.learning_rate = 0.1 / t
        optimizer.rho = 1.0 - 0.1 / t
        optimizer.clipnorm = 1.0 / t
        training.step(t)
    assert len(traces) <= 2


def test_tensors_of_one_shape_share_the_trace_of_their_update(monkeypatch):
    shapes = []
    original = _rule.update

    def counted(form, step, parameter, gradient):
        shapes.append(tuple(gradient.shape))
        return original(form, step, parameter, gradient)

    monkeypatch.setattr(_rule, "update", counted)
    variables = [keras.Variable(np.ones(shape, "float32")) for shape in [(3, 2), (4,)] * 5]
    optimizer = keras_rmsprop.RMSprop(jit_compile=True)
    optimizer.apply([keras.ops.ones(v.shape) for v in variables], variables)
    assert sorted(shapes) == [(3, 2), (4,)]


def test_a_rate_that_changes_by_itself_is_traced_once(monkeypatch):
    traces = twins.count_traces(monkeypatch)
    rates = [twins.changing_rate(), twins.rate_schedule()]
    trainings = [Training({"learning_rate": rate}) for rate in rates]
    for t in range(6):
        for training in trainings:
            training.step(t)
    assert len(traces) == 4


def test_a_step_runs_op_by_op_exactly_when_no_step_was_made():
    training = Training({})
    training.step(0)
    assert not compiled_steps(training.optimizer)
    training.step(1)
    assert len(compiled_steps(training.optimizer)) == 1
    resumed = Training({})
    resumed.optimizer.build(resumed.variables)
    resumed.optimizer._iterations.assign(7)
    resumed.step(0)
    assert len(compiled_steps(resumed.optimizer)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 1.0, "momentum": 0.5, "weight_decay": 0.1},
        {"use_ema": True, "ema_momentum": 0.7, "bias_correction": True},
        {"skip_nonfinite": True, "centered": True},
        {"gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_a_counter_set_back_makes_the_next_step_op_by_op_to_the_bit(options, monkeypatch):
    compiled, op_by_op = (
        Training({**options, "jit_compile": mode}, ("float32", "bfloat16")) for mode in MODES
    )
    for t in range(4):
        compiled.step(t)
    op_by_op.optimizer.build(op_by_op.variables)
    compiled.optimizer._iterations.assign(0)
    for mine, theirs in zip(
        [*op_by_op.variables, *op_by_op.optimizer.variables],
        [*compiled.variables, *compiled.optimizer.variables],
        strict=True,
    ):
        mine.assign(theirs.value)
    traces = twins.count_traces(monkeypatch)
    first = options.get("gradient_accumulation_steps", 1)
    for t in range(first):
        compiled.step(t)
    assert len(traces) == first
    for t in range(first):
        op_by_op.step(t)
    assert all(map(np.array_equal, compiled.state(), op_by_op.state()))
    compiled.step(first)
    assert len(traces) == 2 * first  # the compiled step there is goes on


def test_calls_that_only_accumulate_come_before_the_first_step():
    training = Training({"gradient_accumulation_steps": 2})
    for t in range(2):
        training.step(t)
    assert not compiled_steps(training.optimizer)
    training.step(2)
    assert compiled_steps(training.optimizer)


def test_jit_compile_true_compiles_the_first_step_and_false_none():
    insists, refuses = (Training({"jit_compile": mode}) for mode in (True, False))
    insists.step(0)
    assert compiled_steps(insists.optimizer)
    for t in range(3):
        refuses.step(t)
    assert not compiled_steps(refuses.optimizer)


def test_functions_that_run_eagerly_are_not_compiled(float64):
    tf.config.run_functions_eagerly(True)
    try:
        training = Training({})
        for t in range(3):
            training.step(t)
    finally:
        tf.config.run_functions_eagerly(False)
    assert not compiled_steps(training.optimizer)


def test_op_determinism_is_heeded(float64):
    tf.config.experimental.enable_op_determinism()
    try:
        training = Training({})
        for t in range(3):
            training.step(t)
    finally:
        disable_op_determinism()
    assert not compiled_steps(training.optimizer)


@pytest.fixture
def without_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the placement check find no compiler, as on a device without one."""
    monkeypatch.setattr(_programs, "_has_xla", lambda _: False)


def test_what_cannot_be_compiled_runs_op_by_op_and_says_so_once(float64, without_xla, caplog):
    caplog.set_level(logging.DEBUG, "keras_rmsprop")
    compiled, op_by_op = courses(Situation(lambda: {"learning_rate": twins.changing_rate()}))
    # A callable that was asked twice in a step would be ahead.
    models.assert_identical(compiled[-1], op_by_op[-1])
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert "no XLA compiler for" in record.getMessage()


def test_jit_compile_true_raises_each_time_where_it_cannot_compile(without_xla):
    training = Training({"jit_compile": True})
    training.optimizer.build(training.variables)
    before = training.state()
    for t in range(2):
        with pytest.raises(ValueError, match="there is no XLA compiler for"):
            training.step(t)
    models.assert_identical(training.state(), before)


@contextlib.contextmanager
def run_eagerly() -> Iterator[None]:
    """Have TensorFlow's functions run eagerly."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@contextlib.contextmanager
def determinism() -> Iterator[None]:
    """Have TensorFlow's operations be deterministic."""
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        disable_op_determinism()


class Halved(keras.constraints.Constraint):
    """A constraint of a user's."""

    def __call__(self, w: Any) -> Any:
        """Halve the weight."""
        return 0.5 * w


def with_a_constraint(training: Training) -> None:
    training.variables[1].constraint = Halved()


def nothing(_: Training) -> None:
    pass


# What is done to a training, in which context, with which class, and why nothing can compile.
OBSTACLES: dict[str, tuple[Any, Any, Any, str]] = {
    "update_step": (nothing, contextlib.nullcontext, WithOwnUpdate, "an `update_step` of its own"),
    "constraint": (with_a_constraint, contextlib.nullcontext, None, "the constraint Halved"),
    "eager functions": (nothing, run_eagerly, None, "run_functions_eagerly"),
    "determinism": (nothing, determinism, None, "op determinism is on"),
}


@pytest.mark.parametrize("in_function", [False, True], ids="in_function={}".format)
@pytest.mark.parametrize("name", OBSTACLES)
def test_jit_compile_true_says_what_keeps_it_from_compiling(name, in_function):
    change, setting, make, reason = OBSTACLES[name]
    make = make or keras_rmsprop.RMSprop
    training = Training({"jit_compile": True}, make=make)
    change(training)
    training.optimizer.build(training.variables)
    before = training.state()
    step = tf.function(training.apply, autograph=False) if in_function else training.apply
    gradients = [tf.ones(shape, tf.float64) for shape in twins.SHAPES]
    with setting():
        with pytest.raises(ValueError, match=f"jit_compile=True.*{reason}"):
            step(gradients)
        models.assert_identical(training.state(), before)
        training.optimizer.jit_compile = "auto"
        step(gradients)
    assert training.optimizer.iterations.numpy() == 1


def test_jit_compile_true_is_refused_under_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        weight = keras.Variable([1.0, 2.0])
        optimizer = keras_rmsprop.RMSprop(0.1, jit_compile=True)
        optimizer.build([weight])
    steps = [
        lambda: optimizer.apply([tf.ones(2)], [weight]),
        lambda: strategy.run(lambda: optimizer.apply([tf.ones(2)], [weight])),
        lambda: strategy.run(tf.function(lambda: optimizer.apply([tf.ones(2)], [weight]))),
    ]
    for step in steps:
        with pytest.raises(ValueError, match=r"jit_compile=True.*distribution strategy"):
            step()
    np.testing.assert_array_equal(weight.numpy(), [1.0, 2.0])
    assert optimizer.iterations.numpy() == 0


def test_a_failure_of_the_compiler_itself_is_survived(float64, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise tf.errors.InvalidArgumentError(None, None, "beyond XLA")

    monkeypatch.setattr(_programs._Program, "_call", fail)
    caplog.set_level(logging.DEBUG, "keras_rmsprop")
    compiled, op_by_op = courses(Situation())
    models.assert_identical(compiled[-1], op_by_op[-1])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("options", [{}, {"clipnorm": 1.0, "use_ema": True}], ids=["plain", "more"])
def test_a_step_in_a_function_of_the_users_is_the_compiled_step(float64, worth_nesting, options):
    situation = Situation(lambda: options, begin=in_function(None))
    twins.assert_same_course(*courses(situation))


@pytest.mark.parametrize("mode", [True, "auto"])
def test_a_function_calls_the_step_compiled_and_xla_takes_it_with_the_rest(mode, worth_nesting):
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
def test_a_function_of_few_large_tensors_is_worth_a_call_of_its_own(shapes, mode, nested):
    variables = [keras.Variable(tf.zeros(shape)) for shape in shapes]
    optimizer = keras_rmsprop.RMSprop(jit_compile=mode)
    optimizer.build(variables)
    function = tf.function(optimizer.apply, autograph=False)
    gradients = [tf.TensorSpec(shape) for shape in shapes]
    assert is_nested(function.get_concrete_function(gradients).graph) is nested


def test_xla_around_the_step_gives_the_same_weights(float64):
    want = list(twins.train(Situation(), jit_compile=False))
    got = list(twins.train(Situation(begin=in_function(True)), jit_compile="auto"))
    twins.assert_same_course(got, want)


def test_a_loop_in_a_function_makes_its_steps_compiled(float64, worth_nesting):
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


def test_a_function_of_the_users_that_autograph_converts_hears_no_warning(caplog, capfd):
    training = Training({})
    training.optimizer.build(training.variables)

    @tf.function
    def step(gradients: list[Any]) -> None:
        training.optimizer.apply(gradients, training.variables)

    step([tf.ones(shape, tf.float64) for shape in twins.SHAPES])
    assert "AutoGraph" not in caplog.text + "".join(capfd.readouterr())


def test_a_tape_that_is_still_open_does_not_notice_the_step(float64):
    got, want = (Training({"jit_compile": mode}) for mode in MODES)
    for training in (got, want):
        weight = training.variables[1].value
        for _ in range(3):
            with tf.GradientTape(persistent=True) as tape:
                loss = tf.reduce_sum(weight**2)
                training.apply([tf.constant(0.5, tf.float64), tape.gradient(loss, weight)])
                # What the weight was is not what it is.
                later = tf.reduce_sum(weight**2)
            np.testing.assert_array_equal(tape.gradient(later, weight), 2.0 * weight)
    assert compiled_steps(got.optimizer)
    for mine, theirs in zip(got.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_an_optimizer_that_nobody_holds_is_gone_though_its_program_stays():
    def train() -> list[weakref.ref[Any]]:
        training = Training({"clipnorm": 1.0, "jit_compile": True})
        for t in range(3):
            training.step(t)
        function = tf.function(training.apply, autograph=False)
        function([tf.ones(shape, tf.float64) for shape in twins.SHAPES])
        bound = _programs._bound[training.optimizer._roster]
        held = [training.optimizer, training.variables[0], training.variables[0].value, bound]
        return [weakref.ref(x) for x in held]

    references = train()
    gc.collect()
    assert [reference() for reference in references] == [None] * 4
    assert len(_programs._programs) == 1


def test_one_program_serves_all_optimizers_of_the_same_shapes_and_options(float64, monkeypatch):
    traces = twins.count_traces(monkeypatch)
    rates = [0.1, 0.2, 0.3, 0.4]
    trainings = [Training({"learning_rate": rate, "rho": 1.0 - rate}) for rate in rates]
    for training in trainings:
        for t in range(3):
            training.step(t)
    # The first step of each is made op by op.
    assert len(traces) == len(rates) + 1
    for rate, training in zip(rates, trainings, strict=True):
        alone = Training({"learning_rate": rate, "rho": 1.0 - rate, "jit_compile": False})
        for t in range(3):
            alone.step(t)
        for mine, theirs in zip(training.state(), alone.state(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-13)


@pytest.mark.parametrize(
    "other",
    [
        {"momentum": 0.5},
        {"clipnorm": 1.0},
        {"nesterov": True, "momentum": 0.5},
        {"use_ema": True},
        {"learning_rate": twins.rate_schedule()},
        {"weight_decay": 0.1},
    ],
    ids=lambda options: " ".join(options),
)
def test_a_program_serves_no_optimizer_of_other_options(float64, other):
    first = Training({})
    for t in range(2):
        first.step(t)
    second, op_by_op = (Training({**other, "jit_compile": mode}) for mode in MODES)
    for t in range(3):
        second.step(t)
        op_by_op.step(t)
    for mine, theirs in zip(second.state(), op_by_op.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_a_constraint_of_other_numbers_needs_another_program(float64):
    ends = []
    for limit in (0.5, 0.25):
        training = Training({"jit_compile": True})
        training.variables[1].constraint = keras.constraints.MaxNorm(limit, axis=None)
        training.step(0)
        ends.append(np.linalg.norm(training.variables[1].numpy()))
    np.testing.assert_allclose(ends, [0.5, 0.25], rtol=1e-6)
    assert len(_programs._programs) == 2


def test_a_compilation_that_is_interrupted_is_made_at_the_next_step(monkeypatch):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    training = Training({})
    training.step(0)
    before = training.state()
    for name in ("__init__", "_call"):
        with monkeypatch.context() as patch:
            patch.setattr(_programs._Program, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                training.step(1)
        assert not _programs._programs
        models.assert_identical(training.state(), before)
    training.step(1)
    assert len(compiled_steps(training.optimizer)) == 1


@pytest.mark.parametrize("limit", [0.0, 60.0])
def test_a_long_compilation_is_logged_with_its_time(limit, monkeypatch, caplog):
    monkeypatch.setattr(_plain, "LONG_COMPILATION", limit)
    caplog.set_level(logging.INFO, "keras_rmsprop")
    training = Training({})
    for t in range(4):
        training.step(t)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (limit == 0.0)
    assert all("compiled its step in" in message for message in messages)


def test_an_optimizer_keeps_a_bounded_number_of_compiled_steps(monkeypatch):
    monkeypatch.setattr(_programs, "CAPACITY", 2)
    training = Training({})
    training.step(0)
    for dtype in ("float16", "float32", "float64"):
        training.apply([tf.ones(shape, dtype) for shape in twins.SHAPES])
        assert len(compiled_steps(training.optimizer)) <= 2
        assert len(_programs._programs) <= 2


def test_compiled_steps_do_not_enter_a_checkpoint(tmp_path):
    training = Training({})
    for t in range(2):
        training.step(t)
    checkpoint = tf.train.Checkpoint(optimizer=training.optimizer)
    with_step = {name for name, _ in tf.train.list_variables(checkpoint.save(tmp_path / "a"))}
    other = Training({"jit_compile": False})
    for t in range(2):
        other.step(t)
    checkpoint = tf.train.Checkpoint(optimizer=other.optimizer)
    without = {name for name, _ in tf.train.list_variables(checkpoint.save(tmp_path / "b"))}
    assert with_step == without


class Interrupted:
    """A training whose next step is interrupted by SIGINT at a chosen line of Python.

    A line of Keras's or ours: TensorFlow's own Python is also run by its C++, and an exception
    there has been seen to end the process with a segmentation fault.
    """

    def __init__(self, **setting: Any) -> None:
        self.training = Training(**setting)
        self.training.optimizer.build(self.training.variables)

    def lines_of(self, t: int) -> int:
        """Make step `t` and return how many lines it runs through."""
        return self._step(t, None)

    def step(self, t: int, line: int) -> None:
        """Begin step `t`, and interrupt it there."""
        with contextlib.suppress(KeyboardInterrupt):
            self._step(t, line)

    def _step(self, t: int, line: int | None) -> int:
        passed = 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal passed
            if "/tensorflow/python/" in frame.f_code.co_filename:
                return None
            if event == "line":
                passed += 1
                if passed == line:
                    signal.raise_signal(signal.SIGINT)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            self.training.step(t)
        finally:
            sys.settrace(before)
        return passed


INTERRUPTED: dict[str, dict[str, Any]] = {
    "compiled": {"options": {"jit_compile": True, "momentum": 0.5}},
    "op by op": {"options": {"jit_compile": False, "momentum": 0.5}},
    "own update_step": {"options": {"momentum": 0.5}, "make": WithOwnUpdate},
    "keras": {"options": {"momentum": 0.5}, "make": keras.optimizers.RMSprop},
}


@pytest.mark.parametrize("how", INTERRUPTED)
def test_an_interrupted_step_is_made_or_not_made(how):
    setting = INTERRUPTED[how]

    def after(steps: int) -> list[Any]:
        training = Interrupted(**setting).training
        for t in range(steps):
            training.step(t)
        return training.state()

    before, made = after(2), after(3)
    probe = Interrupted(**setting)
    for t in range(2):
        probe.training.step(t)
    lines = probe.lines_of(2)
    half = 0
    # Keras's own class is here to show that interrupts come in the middle of steps; one shows it,
    # but where its writes are among the lines differs from process to process.
    points = [np.linspace(1, lines, count, dtype=int) for count in (40, 400)]
    for line in np.concatenate(points) if how == "keras" else np.unique(points[0]):
        if how == "keras" and half:
            break
        interrupted = Interrupted(**setting)
        for t in range(2):
            interrupted.training.step(t)
        interrupted.step(2, line)
        state = interrupted.training.state()
        half += not any(all(map(np.array_equal, state, whole)) for whole in (before, made))
    assert half > 0 if how == "keras" else half == 0


def test_a_write_that_fails_leaves_an_eager_step_unmade(monkeypatch):
    training = Training({"jit_compile": False, "momentum": 0.5})
    training.step(0)
    before = training.state()
    write, left = _values.assign, [3]

    def fails_once(variable: Any, value: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        write(variable, value)

    monkeypatch.setattr(_values, "assign", fails_once)
    with pytest.raises(MemoryError):
        training.step(1)
    assert left[0] < 0
    models.assert_identical(training.state(), before)


def gradients_of(training: Training, present: Sequence[bool], dtype: str = "float64") -> list[Any]:
    """A gradient for each variable of which it is said that there is one."""
    rng = np.random.default_rng(int.from_bytes(bytes(present)) + 3)
    return [
        tf.constant(rng.normal(size=v.shape), dtype) if is_there else None
        for v, is_there in zip(training.variables, present, strict=True)
    ]


SETS = [(True, False), (True, True), (False, True), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"centered": True, "momentum": 0.5},
        {"global_clipnorm": 0.5},
        {"clipnorm": 0.5, "weight_decay": 0.1},
        {"use_ema": True, "l2": 0.1},
        {"skip_nonfinite": True},
        {"gradient_accumulation_steps": 2},
        {"learning_rate": 0.1, "bias_correction": True},
    ],
    ids=str,
)
def test_any_set_of_missing_gradients_takes_one_program(options, float64, monkeypatch):
    compiled, op_by_op = (Training({**options, "jit_compile": mode}) for mode in (True, False))
    for present in SETS:
        for training in (compiled, op_by_op):
            training.apply(gradients_of(training, present))
        for mine, theirs in zip(compiled.state(), op_by_op.state(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    # One for the full set, and one for any other.
    assert len(compiled_steps(compiled.optimizer)) == 2


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "float64")])
@pytest.mark.parametrize("given", [None, "float32", "float64"])
def test_the_dtypes_of_missing_gradients_make_no_further_programs(dtypes, given):
    training = Training({"jit_compile": True}, dtypes)
    for present in SETS:
        gradients = gradients_of(training, present, "float64")
        training.apply(
            [
                None if g is None else tf.cast(g, given or v.dtype)
                for g, v in zip(gradients, training.variables, strict=True)
            ]
        )
    assert len(compiled_steps(training.optimizer)) <= (2 if given is None else 3)


def test_which_program_runs_follows_from_the_set_of_gradients_alone():
    """A run that begins with another set comes to the same bits as one that does not."""
    runs = []
    for first in SETS[:2]:
        training = Training({"jit_compile": True, "global_clipnorm": 0.5}, ("float32", "float32"))
        training.optimizer.build(training.variables)
        start = training.state()
        training.apply(gradients_of(training, first, "float32"))
        for variable, value in zip(
            [*training.variables, *training.optimizer.variables], start, strict=True
        ):
            variable.assign(value)
        for present in SETS:
            training.apply(gradients_of(training, present, "float32"))
        runs.append(training.state())
    models.assert_identical(*runs)


@pytest.fixture(params=[None, "mirrored"])
def scope(request: pytest.FixtureRequest) -> Any:
    """Where a model is made: under no strategy, or under one."""
    if request.param is None:
        return contextlib.nullcontext()
    return tf.distribute.MirroredStrategy(["CPU:0"]).scope()


def watched(network: keras.Model) -> tuple[keras.callbacks.Callback, dict[str, list[Any]]]:
    """A callback that notes the weights before, during and after each evaluation."""
    seen: dict[str, list[Any]] = {"before": [], "during": [], "after": [], "averages": []}

    def note(key: str) -> Any:
        return lambda *_, **__: seen[key].append(models.values(network.trainable_variables))

    def before(*_: Any, **__: Any) -> None:
        note("before")()
        seen["averages"].append(models.values(network.optimizer._model_variables_moving_average))

    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=before,
        on_epoch_end=note("after"),
        on_test_batch_end=note("during"),
    )
    return callback, seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_swapping_averages_takes_half_precision_and_loses_no_bit_of_the_weights(dtype, scope):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        with scope:
            network = models.model()
            network.compile(
                keras_rmsprop.RMSprop(0.01, use_ema=True, ema_momentum=0.5),
                loss="mse",
                jit_compile=False,
            )
        watch, seen = watched(network)
        x, y = models.data()
        network.fit(
            x,
            y,
            batch_size=len(x),
            validation_data=(x, y),
            epochs=3,
            verbose=0,
            callbacks=[keras.callbacks.SwapEMAWeights(), watch],
        )
    finally:
        keras.config.set_dtype_policy(policy)
    for before, during, after, averages in zip(*seen.values(), strict=True):
        models.assert_identical(after, before)
        models.assert_identical(
            during, [a.astype(d.dtype) for a, d in zip(averages, during, strict=True)]
        )
        assert averages[0].dtype == np.float32
    assert not np.array_equal(seen["during"][-1][0], seen["after"][-1][0])


NEW_PROCESS = """
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_rmsprop
from keras_rmsprop._execution.tensorflow import _engine
from keras_rmsprop._execution.tensorflow._programs import _bound
_engine.NESTED_ELEMENTS = 0
from tests.tools import twins
folder = sys.argv[1]
results = {}

def number_compiled(optimizer):
    bound = _bound.get(optimizer._roster)
    return 0 if bound is None else sum(step is not None for step in bound.calls.values())

# A run that goes on here.
network = keras.models.load_model(folder + "/model.keras")
state = twins.go_on(network, range(4, 8))
results |= {f"resumed_{i}": x for i, x in enumerate(state)}
results["resumed_compiled"] = number_compiled(network.optimizer)

# An exported function, without the package's help.
module = tf.saved_model.load(folder + "/module")
for t in range(4):
    module.step(tf.fill([2, 3], 0.5 + t))
results["exported"] = module.weight

# Variables, calls and gradients on two devices.
def placed(first, second, optimizer, call, function):
    with tf.device(first):
        a = keras.Variable([1.0, 2.0])
    with tf.device(second):
        b = keras.Variable([1.0, 2.0])
        gradient = tf.constant([0.5, -0.5])
    with tf.device(optimizer):
        rmsprop = keras_rmsprop.RMSprop(0.1)
        rmsprop.build([a, b])
    def step():
        with tf.device(call):
            rmsprop.apply([gradient, 2.0 * gradient], [a, b])
    step = tf.function(step, autograph=False) if function else step
    for _ in range(3):
        step()
    return [number_compiled(rmsprop), *a.numpy(), *b.numpy()]

for name, devices in {
    "weights apart": ("CPU:0", "CPU:1", None, None),
    "all elsewhere": ("CPU:1", "CPU:1", "CPU:1", None),
    "called from elsewhere": ("CPU:0", "CPU:0", "CPU:0", "CPU:1"),
    "counter apart": ("CPU:1", "CPU:1", "CPU:0", None),
    "all here": ("CPU:0", "CPU:0", None, None),
}.items():
    results[name] = placed(*devices, False)
    results[name + " in a function"] = placed(*devices, True)

# Variables of a strategy, used outside it.
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    weight = keras.Variable([1.0, 2.0])
    rmsprop = keras_rmsprop.RMSprop(0.1)
    rmsprop.build([weight])
for _ in range(3):
    rmsprop.apply([tf.constant([0.5, -0.5])], [weight])
results["mirrored"] = [copy.numpy() for copy in weight.value.values]
np.savez(folder + "/results.npz", **results)
"""


class Exported(tf.Module):
    """A module with a training function, for export."""

    def __init__(self) -> None:
        self.weight = tf.Variable(tf.ones((2, 3)))
        self.optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5, jit_compile=True)
        self.optimizer.build([self.weight])

    @tf.function(input_signature=[tf.TensorSpec((2, 3), tf.float32)], autograph=False)
    def step(self, gradient: tf.Tensor) -> None:
        """Make a step."""
        self.optimizer.apply([gradient], [self.weight])


class Before:
    """What a new process is to go on from, and what comes out where none is begun."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.unstopped = twins.go_on(twins.a_model(), range(8))
        network = twins.a_model()
        twins.go_on(network, range(4))
        network.save(folder / "model.keras")
        module = Exported()
        tf.saved_model.save(module, str(folder / "module"))
        for t in range(4):
            module.step(tf.fill([2, 3], 0.5 + t))
        self.exported = module.weight.numpy()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Before, dict[str, Any]]:
    """This process's results and those of a new one that goes on from here."""
    folder = tmp_path_factory.mktemp("process")
    before = Before(folder)
    return before, twins.run_in_new_process(NEW_PROCESS, folder)


def test_a_run_resumed_in_a_new_process_is_bit_identical_to_one_that_was_not_stopped(processes):
    before, after = processes
    assert after["resumed_compiled"] == 1
    resumed = [after[f"resumed_{i}"] for i in range(len(before.unstopped))]
    models.assert_identical(resumed, before.unstopped)


def test_an_exported_training_function_runs_in_a_new_process(processes):
    before, after = processes
    np.testing.assert_array_equal(after["exported"], before.exported)


@functools.cache
def on_one_device() -> np.ndarray:
    """Where the placed weights of the new process should end."""
    optimizer = keras_rmsprop.RMSprop(0.1, jit_compile=False)
    variables = [keras.Variable([1.0, 2.0]) for _ in range(2)]
    for _ in range(3):
        optimizer.apply([tf.constant([0.5, -0.5]), tf.constant([1.0, -1.0])], variables)
    return np.concatenate(models.values(variables))


@pytest.mark.parametrize("where", ["", " in a function"], ids=["eager", "in a function"])
@pytest.mark.parametrize(
    ("placement", "compiles"),
    {
        "all here": True,
        "weights apart": False,
        "all elsewhere": True,
        "called from elsewhere": True,
        "counter apart": False,
    }.items(),
)
def test_a_step_runs_wherever_its_variables_are(processes, placement, compiles, where):
    _, after = processes
    compiled, *weights = after[placement + where]
    assert compiled == compiles
    np.testing.assert_allclose(weights, on_one_device(), rtol=1e-6)


def test_variables_of_a_strategy_move_together_outside_it_too(processes):
    _, after = processes
    for copy in after["mirrored"]:
        np.testing.assert_allclose(copy, on_one_device()[:2], rtol=1e-6)
