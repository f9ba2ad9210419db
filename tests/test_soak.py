"""Run a short soak, and test that it detects what it looks for."""

import mmap
from typing import Any

import numpy as np
import pytest

from tests.conftest import BACKEND
from tests.tools.soak import MIB, Findings, Training, soak


@pytest.fixture(scope="module")
def findings() -> Findings:
    """The findings of a short run."""
    return soak(1000, samples=8)


def test_memory_stays_flat_and_no_object_is_left_over(findings: Findings) -> None:
    failures = findings.failures()
    assert not [sentence for sentence in failures if "Memory" in sentence or "Objects" in sentence]


def test_nothing_is_traced_after_the_warm_up(findings: Findings) -> None:
    # Op by op once, and a compiled step for the full set of gradients and one for all others;
    # torch works in place.
    expected = 0 if BACKEND == "torch" else 1 + 2
    assert findings.traces == (expected, expected)


def test_weights_and_slots_stay_near_the_float64_reference(findings: Findings) -> None:
    assert set(findings.shares) >= {"weight", "square_average", "momentum", "average"}
    assert max(findings.shares.values()) <= 1.0


def test_a_float64_run_stays_within_its_bounds(float64: None) -> None:
    assert soak(300, seed=1, samples=4).failures() == []


@pytest.fixture(scope="module")
def spoiled() -> list[str]:
    """The failures of a run that leaks at each step, and half-way retraces and deviates."""
    leaked: list[mmap.mmap] = []
    original = Training.step

    def step(self: Any) -> None:
        original(self)
        # Memory from the system: an allocator could reuse what other tests have freed.
        leaked.append(mmap.mmap(-1, 2**17))
        leaked[-1].write(bytes(2**17))
        if self.steps == 200:
            self.optimizer.l2 = 1e-30
            self.reference.rho += 1e-4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "step", step)
        patch.setattr(Training, "run_event", lambda _: None)
        return soak(400, samples=8).failures()


def test_a_leak_is_detected(spoiled: list[str]) -> None:
    assert any("Memory grew by" in sentence for sentence in spoiled)


@pytest.mark.skipif(BACKEND == "torch", reason="torch's steps are not traced")
def test_a_new_trace_is_detected(spoiled: list[str]) -> None:
    assert "Steps traced after the warm-up: 1." in spoiled


def test_a_wrong_rho_is_detected(spoiled: list[str]) -> None:
    assert any("Deviation of square_average" in sentence for sentence in spoiled)


@pytest.mark.parametrize(
    "found",
    [
        {"traces": (4, 5)},
        {"memory": np.linspace(600 * MIB, 625 * MIB, 40)},
        {"objects": np.linspace(0, 200, 40)},
        {"shares": {"weight": 1.01}},
        {"shares": {"weight": np.nan}},
    ],
    ids=["traces", "memory", "objects", "deviation", "nan"],
)
def test_each_bound_can_fail_by_itself(found: dict[str, Any]) -> None:
    flat = Findings(1000, 1.0, (4, 4), [600 * MIB] * 40, [500] * 40, {"weight": 0.9})
    assert flat.failures() == []
    assert len(flat._replace(**found).failures()) == 1
