"""Fixtures of the tests of steps on JAX."""

from typing import Any

import pytest

from tests.conftest import BACKEND

# The tests in this folder are skipped on other backends.
if BACKEND == "jax":
    from keras_rmsprop._execution.jax import _programs
    from tests.tools.steps_jax import patch_compiled_step


@pytest.fixture
def compiled_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by "full set" or "any set" (of gradients) with every compiled step."""
    calls: list[str] = []
    compiled = _programs.compiled_step

    def recorded(program: Any, *arguments: Any) -> Any:
        calls.append("any set" if program.flagged else "full set")
        return compiled(program, *arguments)

    patch_compiled_step(monkeypatch, recorded)
    return calls


@pytest.fixture
def nothing_compiled_yet() -> None:
    """Forget what earlier tests compiled, which JAX shares between optimizers."""
    _programs.compiled_step.clear_cache()


@pytest.fixture(autouse=True)
def keeps_second_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reuse memory on small tensors, too, as steps on large ones do by default."""
    monkeypatch.setenv("KERAS_RMSPROP_JAX_SECOND_COPY", "1")
