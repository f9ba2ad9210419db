"""Test how torch rounds blocks of bfloat16 slots."""

import numpy as np
import pytest
from keras import ops

from keras_rmsprop._math import _rounding
from keras_rmsprop.reference import to_bfloat16
from tests.conftest import BACKEND

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from keras_rmsprop._execution.torch import _layout, _narrow
from keras_rmsprop._execution.torch._layout import Block

STEP = 7


def block(*shapes: tuple[int, ...], memory: bool) -> Block:
    """A block of tensors with a square average and a momentum buffer."""
    slots = [torch.full(shape, 1.0, dtype=torch.bfloat16) for shape in shapes]
    return Block(
        kind=_layout._Kind(torch.float32, True, 0, False),
        positions=list(range(len(shapes))),
        sources=[(i, 0) for i in range(len(shapes))],
        weights=[torch.zeros(shape) for shape in shapes],
        square_averages=slots,
        gradient_averages=[],
        momentums=[slot.clone() for slot in slots],
        roots=[],
        joined=[],
        widened=torch.zeros(3, 100_000) if memory else None,
    )


def add(block: Block, gradients: list[torch.Tensor]) -> None:
    """Add the gradients to both slots."""
    for slots in (block.square_averages, block.momentums):
        assert {slot.dtype for slot in slots} == {torch.float32}
        torch._foreach_add_(slots, gradients)


@pytest.mark.parametrize("limit", [1, 7, 64, 2**15])
@pytest.mark.parametrize("memory", [True, False], ids="kept memory {}".format)
def test_every_element_has_the_random_number_of_its_index(monkeypatch, memory, limit):
    monkeypatch.setattr(_layout, "GRAIN", limit)
    monkeypatch.setattr(_narrow, "CHUNK", 2 * limit)
    shapes = ((40, 5), (), (7,), (0,), (90,))
    made = block(*shapes, memory=memory)
    rng = np.random.default_rng(0)
    given = [torch.from_numpy(np.asarray(rng.random(s), np.float32)) for s in shapes]
    _narrow.update_narrow(add, made, given, done=STEP - 1)
    for kind, slots in ((0, made.square_averages), (2, made.momentums)):
        for i, (slot, gradient) in enumerate(zip(slots, given, strict=True)):
            want = to_bfloat16((1.0 + gradient).numpy(), step=STEP, weight=i, kind=kind)
            np.testing.assert_array_equal(slot.float().numpy(), want)


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**32 - 1, 2**32 + 5, 123456789, -3])
def test_the_keys_are_those_of_the_rule(number):
    signed = (number + 2**31) % 2**32 - 2**31
    want = int(_rounding.mixed(ops.convert_to_tensor(np.asarray(signed, np.int32))))
    assert _narrow.mixed(number) == want % 2**32
