"""Test which programs steps on JAX need if some of the gradients are missing."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models
from tests.tools.twins import Training

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)

import jax.numpy as jnp

from keras_rmsprop._execution.jax import _programs
from tests.tools.steps_jax import arrays


def about_half(t: int, gradients: list[Any]) -> list[Any]:
    """About half of the gradients, another choice for each `t`."""
    rng = np.random.default_rng(t)
    chosen = rng.random(len(gradients)) < 0.5
    chosen[t % len(gradients)] = True
    return [g if there else None for g, there in zip(gradients, chosen, strict=True)]


def make_steps_of_changing_sets(optimizer: keras.optimizers.Optimizer, steps: int) -> list[Any]:
    """Make steps with another set of gradients each; return weights and state."""
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (2,)] * 6
    variables = [keras.Variable(rng.normal(size=s), dtype="float32") for s in shapes]
    optimizer.build(variables)
    for t in range(steps):
        gradients = models.tensors(rng.normal(size=s).astype("float32") for s in shapes)
        if t % 5:
            gradients = about_half(t, gradients)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
            optimizer.apply(gradients, variables)
    return models.values([*variables, *optimizer.variables])


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.5, "centered": True, "global_clipnorm": 0.5, "use_ema": True}]
)
def test_changing_sets_of_gradients_need_two_programs(nothing_compiled_yet, options):
    got = make_steps_of_changing_sets(keras_rmsprop.RMSprop(0.1, **options), 40)
    assert _programs.compiled_step._cache_size() == 2
    options["jit_compile"] = False
    want = make_steps_of_changing_sets(keras_rmsprop.RMSprop(0.1, **options), 40)
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)


def test_a_full_set_of_gradients_gives_the_same_bits_after_a_partial_set(compiled_calls):
    training, other = Training({}), Training({})
    for each in (training, other):
        for t in range(3):
            each.step(t)
    owners = [*training.variables, *training.optimizer.variables]
    before = arrays(training)
    training.apply([None, jnp.ones((2, 3))])
    assert compiled_calls[-1] == "any set"
    for owner, array in zip(owners, before, strict=True):
        owner.assign(array)
    for each in (training, other):
        each.step(3)
    assert compiled_calls[-1] == "full set"
    models.assert_identical(training.state(), other.state())


def test_missing_gradients_of_any_dtype_need_one_more_program(nothing_compiled_yet):
    training = Training({}, dtypes=("float64", "float64"))
    for t in range(2):
        training.step(t)
    kept = _programs.compiled_step._cache_size()
    for dtype in ("float16", "float32", "float64"):
        training.apply([None, jnp.ones((2, 3), dtype)])
        training.apply([jnp.ones((), dtype), None])
    assert _programs.compiled_step._cache_size() == kept + 1


def test_steps_with_few_of_many_gradients_do_not_compute_all_of_them(compiled_calls):
    variables = [keras.Variable(np.ones((64, 64))) for _ in range(20)]
    optimizer = keras_rmsprop.RMSprop(0.1)
    optimizer.build(variables)
    optimizer._iterations.assign(1)
    counts = []
    for given in (20, 19, 3, 2, 1):
        gradients = [jnp.ones((64, 64)) if i < given else None for i in range(20)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
            optimizer.apply(gradients, variables)
        counts.append(len(compiled_calls))
    assert counts == [1, 2, 3, 3, 3]
    optimizer.jit_compile = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist for variables")
        optimizer.apply(gradients, variables)
    assert len(compiled_calls) == 4
