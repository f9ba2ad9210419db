"""Test that the optimizer follows the reference through any sequence of actions.

Hypothesis draws the actions, the same in each run: steps with some of the gradients, loads into
other configurations, new variables, changed settings, refused calls, interrupts. Weights are
float64 and float32; the reference performs the same actions independently, in float64.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import stateful
from hypothesis import strategies as st
from numpy.typing import NDArray

import keras_rmsprop
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from tests.tools import models
from yardsticks.agreement import SLOTS, rmsprop

Array = NDArray[Any]

# So that the learning rate is the same number for the reference and every variable.
pytestmark = pytest.mark.usefixtures("float64")

SHAPES: tuple[tuple[int, ...], ...] = ((), (3,), (2, 2))
RELATIVE = {"float64": 1e-11, "float32": 3e-5}

seeds = st.integers(0, 2**16)
rates = st.sampled_from([0.0, 0.001, 0.05])

# Options that decide which slots exist and what they mean; a load does not change them.
KINDS = st.sampled_from(
    [
        {},
        {"centered": True},
        {"use_ema": True, "ema_momentum": 0.5},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
        {"bias_correction": True},
        {"lr_in_momentum": False},
        {"skip_nonfinite": True},
    ]
)
# Options that may differ between the optimizer that saved and the one that loads. An epsilon as
# large as the averages of squares keeps float32 near the reference.
NUMBERS = st.fixed_dictionaries(
    {"rho": st.sampled_from([0.0, 0.5, 0.9]), "epsilon": st.sampled_from([0.01, 1.0])},
    optional={
        "momentum": st.sampled_from([0.25, 0.9]),
        "weight_decay": st.sampled_from([0.1, 0.5]),
        "clipnorm": st.sampled_from([0.5, 4.0]),
        "l2": st.sampled_from([0.01, 0.25]),
        "maximize": st.booleans(),
    },
)


class Stop:
    """A callable learning rate that can raise KeyboardInterrupt."""

    def __init__(self) -> None:
        self.rate = 0.01
        self.interrupts = False

    def __call__(self) -> float:
        if self.interrupts:
            raise KeyboardInterrupt
        return self.rate


class Actions(stateful.RuleBasedStateMachine):
    """An optimizer and the reference, which perform the same actions."""

    jit_compile: Any = False

    # The rules' names describe them.
    # ruff: noqa: D102

    @stateful.initialize(
        kind=KINDS,
        numbers=NUMBERS,
        dtypes=st.lists(st.sampled_from(["float64", "float32"]), min_size=2, max_size=2),
        calls=st.booleans(),
        excludes=st.booleans(),
    )
    def begin(
        self,
        kind: dict[str, Any],
        numbers: dict[str, Any],
        dtypes: list[str],
        calls: bool,
        excludes: bool,
    ) -> None:
        self.kind, self.numbers, self.excludes = kind, numbers, excludes
        self.stop = Stop() if calls else None
        self.variables: list[keras.Variable] = []
        self.rate = 0.01
        for dtype in dtypes:
            self._add(dtype, seed=1)
        self.optimizer = self._optimizer()
        self.optimizer.build(self.variables)
        self.reference = self._reference([np.asarray(v.numpy()) for v in self.variables])

    # Steps.

    @stateful.rule(seed=seeds, absent=st.sets(st.integers(0, 3)), rate=rates)
    def step(self, seed: int, absent: set[int], rate: float) -> None:
        gradients = self._gradients(seed, absent)
        self._set_rate(rate)
        with no_warning():
            self.optimizer.apply(models.tensors(gradients), self.variables)
        self.reference.apply(gradients, rate)

    @stateful.rule(seed=seeds)
    def step_backwards(self, seed: int) -> None:
        gradients = self._gradients(seed, set())
        pairs = zip(models.tensors(gradients), self.variables, strict=True)
        self.optimizer.apply_gradients(reversed(list(pairs)))
        self.reference.apply(gradients, self.rate)

    @stateful.precondition(lambda self: "gradient_accumulation_steps" not in self.kind)
    @stateful.rule(seed=seeds, chosen=st.integers(0, 3))
    def step_with_one_variable_only(self, seed: int, chosen: int) -> None:
        i = chosen % len(self.variables)
        gradients = self._gradients(seed, set(range(4)) - {i})
        self.optimizer.apply(models.tensors([gradients[i]]), [self.variables[i]])
        self.reference.apply(gradients, self.rate)

    # Saving and loading.

    @stateful.rule(numbers=NUMBERS)
    def load_a_file_into_another_configuration(self, numbers: dict[str, Any]) -> None:
        store: dict[str, Any] = {}
        self.optimizer.save_own_variables(store)
        self.numbers = numbers
        self.optimizer = self._optimizer()
        self.optimizer.build(self.variables)
        with no_warning():
            self.optimizer.load_own_variables(store)
        self._follow(numbers)

    @stateful.rule()
    def load_a_state_dict(self) -> None:
        state = self.optimizer.state_dict()
        self.optimizer = self._optimizer()
        self.optimizer.build(self.variables)
        self.optimizer.load_state_dict(state)

    @stateful.rule(seed=seeds)
    def go_back_to_an_earlier_state(self, seed: int) -> None:
        # A trial step that is undone completely.
        weights, state = models.values(self.variables), self.optimizer.state_dict()
        self.optimizer.apply(models.tensors(self._gradients(seed, set())), self.variables)
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)
        self.optimizer.load_state_dict(state)

    # Keras copies an optimizer through its config and a file, which cannot hold a callable.
    @stateful.precondition(lambda self: self.stop is None)
    @stateful.rule()
    def copy_deep(self) -> None:
        with self._nothing_changes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The copy may lack the state.
            other = copy.deepcopy(self.optimizer)
        assert other.get_config() == self.optimizer.get_config()

    @stateful.rule()
    def load_damage(self) -> None:
        store: dict[str, Any] = {}
        self.optimizer.save_own_variables(store)
        key = max(store, key=lambda name: np.asarray(store[name]).nbytes)
        damaged = np.array(store[key])
        damaged.view(np.uint8).reshape(-1)[0] ^= 1
        with self._nothing_changes(), pytest.raises(ValueError, match="damaged"):
            self.optimizer.load_own_variables({**store, key: damaged})

    # Settings and variables.

    @stateful.rule(rate=rates)
    def change_the_rate(self, rate: float) -> None:
        self._set_rate(rate)

    @stateful.rule(
        name=st.sampled_from(["rho", "weight_decay", "clipnorm", "l2", "momentum"]),
        value=st.sampled_from([0.125, 0.75]),
    )
    def change_a_setting(self, name: str, value: float) -> None:
        if name not in self.numbers:
            return
        setattr(self.optimizer, name, value)
        setattr(self.reference, name, value)
        self.numbers = {**self.numbers, name: value}

    @stateful.rule(seed=seeds, chosen=st.integers(0, 3))
    def replace_a_weight(self, seed: int, chosen: int) -> None:
        i = chosen % len(self.variables)
        value = random(seed, self.variables[i].shape, self.variables[i].dtype)
        self.variables[i].assign(value)
        self.reference.parameters[i].weight = np.array(value, np.float64)

    @stateful.precondition(lambda self: len(self.variables) < 4)
    @stateful.rule(dtype=st.sampled_from(["float64", "float32"]), seed=seeds)
    def add_a_variable(self, dtype: str, seed: int) -> None:
        self._add(dtype, seed)
        self.optimizer.add_variables(self.variables)
        weight = np.array(self.variables[-1].numpy(), np.float64)
        fresh = self._reference([weight])
        if self.optimizer.use_ema:
            fresh.parameters[0].average = weight.copy()
        self.reference.parameters += fresh.parameters
        self.reference.decayed += [True]
        self.reference.constraints += [None]
        self.reference.groups += [{}]

    # Refusals and interrupts.

    @stateful.rule(
        fault=st.sampled_from(["shape", "stranger", "none", "twice", "setting", "rate"]),
        seed=seeds,
    )
    def try_what_is_refused(self, fault: str, seed: int) -> None:
        gradients = models.tensors(self._gradients(seed, set()))
        variables = list(self.variables)
        match fault:
            case "shape":
                gradients[-1] = keras.ops.zeros((5, 1), variables[-1].dtype)
            case "stranger":
                variables[0] = keras.Variable(variables[0].numpy())
            case "none":
                gradients = [None] * len(gradients)
            case "twice":
                variables[-1], gradients[-1] = variables[0], gradients[0]
        with self._nothing_changes():
            if fault == "setting":
                with pytest.raises(ValueError, match="`rho` must be"):
                    self.optimizer.rho = float("nan")
            elif fault == "rate":
                with pytest.raises(ValueError, match="learning_rate"):
                    self.optimizer.learning_rate = -1.0
            else:
                with pytest.raises(ValueError, match=r"radient|ariable"):
                    self.optimizer.apply(gradients, variables)

    @stateful.precondition(lambda self: self.stop is not None)
    @stateful.rule(seed=seeds)
    def interrupt_a_step(self, seed: int) -> None:
        gradients = models.tensors(self._gradients(seed, set()))
        self.stop.interrupts = True
        with self._nothing_changes(), pytest.raises(KeyboardInterrupt):
            self.optimizer.apply(gradients, self.variables)
        self.stop.interrupts = False

    @stateful.precondition(lambda self: "skip_nonfinite" in self.kind)
    @stateful.rule(seed=seeds)
    def give_a_gradient_that_is_skipped(self, seed: int) -> None:
        gradients = self._gradients(seed, set())
        gradients[0] = np.full_like(gradients[0], np.nan)
        skipped = self.optimizer.skipped_steps
        with self._nothing_changes(but=self.optimizer._roster.counters.skipped):
            self.optimizer.apply(models.tensors(gradients), self.variables)
        assert self.optimizer.skipped_steps == skipped + 1

    # Checked after each action.

    @stateful.invariant()
    def optimizer_equals_reference(self) -> None:
        assert int(self.optimizer.iterations) == self.reference.iterations
        for owners, want in zip(
            self.optimizer._roster.parameters, self.reference.parameters, strict=True
        ):
            relative = RELATIVE[owners[0].dtype]
            for name, owner in zip(SLOTS, owners, strict=True):
                if owner is not None:
                    got = np.asarray(models.values([owner])[0], np.float64)
                    np.testing.assert_allclose(
                        got, getattr(want, name), rtol=relative, atol=relative, err_msg=name
                    )

    # Helpers.

    def _add(self, dtype: str, seed: int) -> None:
        shape = SHAPES[len(self.variables) % len(SHAPES)]
        name = f"weight_{len(self.variables)}"
        value = random(seed, shape, dtype)
        self.variables.append(keras.Variable(value, dtype=dtype, name=name))

    def _optimizer(self) -> keras_rmsprop.RMSprop:
        optimizer = rmsprop(
            learning_rate=self.stop or self.rate,
            jit_compile=self.jit_compile,
            **self.kind,
            **self.numbers,
        )
        if self.excludes:
            optimizer.exclude_from_weight_decay(var_names=["weight_1"])
        return optimizer

    def _reference(self, weights: list[Array]) -> Reference:
        arguments = {k: v for k, v in self.kind.items() if k != "skip_nonfinite"}
        decayed = [i != 1 or not self.excludes for i in range(len(weights))]
        return Reference(weights, decayed=decayed, **arguments, **self.numbers)

    def _follow(self, numbers: dict[str, Any]) -> None:
        """Give the reference these numbers and keep its state."""
        fresh = self._reference(self.reference.weights)
        fresh.parameters, fresh.calls = self.reference.parameters, self.reference.calls
        self.reference = fresh
        if "momentum" not in numbers:
            for parameter in fresh.parameters:
                parameter.momentum = np.zeros_like(parameter.momentum)

    def _set_rate(self, rate: float) -> None:
        self.rate = rate
        if self.stop is None:
            self.optimizer.learning_rate = rate
        else:
            self.stop.rate = rate

    def _gradients(self, seed: int, absent: set[int]) -> list[Any]:
        """A gradient for each variable, None for the absent ones; at least one is present."""
        gradients: list[Any] = [
            random(seed + i, variable.shape, variable.dtype)
            for i, variable in enumerate(self.variables)
        ]
        for i in sorted(absent)[: len(gradients) - 1]:
            if i < len(gradients):
                gradients[i] = None
        return gradients

    @contextlib.contextmanager
    def _nothing_changes(self, but: Any = None) -> Iterator[None]:
        owners = [v for v in [*self.variables, *self.optimizer.variables] if v is not but]
        before = models.values(owners)
        # A callable has no config.
        config = self.stop is None and self.optimizer.get_config()
        yield
        models.assert_identical(models.values(owners), before)
        assert config == (self.stop is None and self.optimizer.get_config())


def random(seed: int, shape: Any, dtype: str) -> Array:
    """Numbers around 0.3, of size 1."""
    return np.asarray(np.random.default_rng(seed).normal(0.3, 1.0, shape), dtype)


@contextlib.contextmanager
def no_warning() -> Iterator[None]:
    """Ignore the warnings about missing gradients and partly loaded state."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist for variables")
        warnings.filterwarnings("ignore", "The optimizer's state was loaded in part")
        yield


class CompiledActions(Actions):
    """The same actions with compiled steps."""

    jit_compile = "auto"


# Compiling takes seconds on TensorFlow and on JAX.
@pytest.mark.parametrize(
    ("machine", "examples"),
    [
        (Actions, {"tensorflow": 25, "jax": 20, "torch": 60}),
        (CompiledActions, {"tensorflow": 4, "jax": 4, "torch": 60}),
    ],
    ids=["op by op", "compiled"],
)
def test_any_actions_follow_the_reference(machine, examples):
    stateful.run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            derandomize=True,
            database=None,
            deadline=None,
            max_examples=examples[BACKEND],
            stateful_step_count=12,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
