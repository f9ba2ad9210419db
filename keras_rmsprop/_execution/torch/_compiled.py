"""A whole step as one compiled graph, for `jit_compile=True`.

`_step.step` is traced once on an optimizer's tensors, followed by a copy of each result into the
tensor it replaces. TorchInductor fuses this into loops that read and write each tensor once, where
a step in place passes over memory several times. Compilation takes seconds, and for hundreds of
tensors half a minute, so it must be asked for.

The graph is called without guards, because checking hundreds of tensors at each call takes longer
than updating small ones. Instead, the layout tells whether the tensors are still those that it was
made for, and gradients are given the devices, dtypes and strides that a program was compiled for.
All numbers are tensors, so that changing one compiles nothing.
"""

import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import torch

from keras_rmsprop._execution import _compilation, _interrupts
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._op_by_op import tensor_of
from keras_rmsprop._execution.torch import _private
from keras_rmsprop._execution.torch._layout import Layout, layout_of, overlap_of, span_of
from keras_rmsprop._execution.torch._values import check_devices, device_of, dtype_of, read, stored
from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import Parameter
from keras_rmsprop._variables._roster import Roster

_log = logging.getLogger(__name__)

# The number of programs kept for an optimizer: for other options or other dtypes of gradients.
PROGRAMS_KEPT = 8

# Round to half precision wherever the step does: otherwise a moving average would advance from a
# weight that has not been rounded yet.
OPTIONS = {"emulate_precision_casts": True}

Gradients = Sequence[torch.Tensor | None]


class _Kind(NamedTuple):
    """What a program is compiled for, besides the layout."""

    plan: _step.Plan
    # The settings of the constraints, which may change: a program keeps those it was made with.
    constraints: tuple[str | None, ...]
    # The positions of the parameters that take a gradient; None for all of them.
    takers: tuple[int, ...] | None
    # The dtypes of their gradients.
    dtypes: tuple[torch.dtype, ...]
    # Whether any of these gradients may be missing.
    flagged: bool
    rate_dtype: torch.dtype
    rate_device: torch.device
    in_inference_mode: bool


class _Program(NamedTuple):
    """A compiled step."""

    kind: _Kind
    call: Callable[..., Any]


class _Programs:
    """The programs of one optimizer, valid as long as its layout, with tensors they share.

    It holds tensors, but not the variables or their roster, which it must not keep alive.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        overlap = overlap_of(layout.tensors)
        if overlap is not None:
            one, other = (layout.variables[i].path for i in overlap)
            _compilation.raise_not_compilable(f"{one!r} and {other!r} share memory")
        # Without `requires_grad`; they share their memory and version counters with the originals.
        self.values = [t.detach() for t in layout.tensors]
        devices = dict.fromkeys(t.device for t in layout.tensors)
        if len(devices) > 1:
            names = ", ".join(map(str, devices))
            _compilation.raise_not_compilable(f"its variables are on several devices ({names})")
        self.device = next(iter(devices), torch.device("cpu"))
        self.is_wide = any(t.dtype is torch.float64 for t in layout.tensors)
        self.value_strides = [t.stride() for t in layout.tensors]
        self.devices = [self.device] * len(layout.parameters)
        self.strides = [p.weight.stride() for p in layout.parameters]
        self.weight_dtypes = [p.weight.dtype for p in layout.parameters]
        self.programs: list[_Program] = []
        self._numbers: tuple[tuple[_step.Numbers, bool], torch.Tensor] | None = None
        self._flags: tuple[list[bool], torch.Tensor] | None = None
        self._dummies: list[torch.Tensor] = []

    def is_valid_for(self, layout: Layout) -> bool:
        """Whether the programs were compiled for the memory that the layout describes."""
        strides = self.value_strides
        return self.layout is layout and list(map(torch.Tensor.stride, layout.tensors)) == strides

    def program(self, kind: _Kind) -> _Program | None:
        """Return the program of this kind, if there is one."""
        return next((p for p in self.programs if p.kind == kind), None)

    def keep(self, program: _Program) -> None:
        """Keep a program, in place of the oldest if there are too many."""
        self.programs = [*self.programs[1 - PROGRAMS_KEPT :], program]

    def numbers(self, numbers: _step.Numbers, kind: _Kind) -> torch.Tensor:
        """Return the numbers of a step as a vector.

        In float32 if the step has nothing wider, so that a loop need not convert them.
        """
        key = numbers, self.is_wide or torch.float64 in kind.dtypes
        if self._numbers is None or self._numbers[0] != key:
            dtype = torch.float64 if key[1] else torch.float32
            packed = torch.tensor(keras.tree.flatten(numbers), dtype=dtype, device="cpu")
            self._numbers = key, packed.to(self.device, non_blocking=True)
        return self._numbers[1]

    def flags(self, flags: list[bool]) -> torch.Tensor:
        """Return, as a vector, which gradients are present."""
        if self._flags is None or self._flags[0] != flags:
            self._flags = (
                flags,
                torch.tensor(flags, device="cpu").to(self.device, non_blocking=True),
            )
        return self._flags[1]

    def dummy(self, position: int) -> torch.Tensor:
        """Return a tensor in place of a missing gradient. What is in it does not matter.

        All of them share memory, as large as the largest weight.
        """
        if not self._dummies:
            weights = [p.weight for p in self.layout.parameters]
            # At least 1, as those of empty weights may be negative.
            spans = [1, *map(span_of, weights)]
            memory = {
                dtype: torch.zeros(max(spans), dtype=dtype, device=self.device)
                for dtype in set(self.weight_dtypes)
            }
            self._dummies = [memory[w.dtype].as_strided(w.shape, w.stride()) for w in weights]
        return self._dummies[position]


_compiling = threading.RLock()

_programs: "weakref.WeakKeyDictionary[Roster, _Programs]" = weakref.WeakKeyDictionary()


def run_compiled(step: Step, gradients: Gradients) -> None:
    """Make the step as one compiled call.

    Raises: ValueError if it cannot be compiled, or what a transform raises while it is traced.
        Nothing has changed then.
    """
    roster, plan = step.roster, step.plan
    programs = _programs_of(roster, plan)
    layout = programs.layout
    constraints: tuple[str | None, ...] = ()
    if any(plan.constraints):
        layout.try_constraints(tuple(i for i, g in enumerate(gradients) if g is not None))
        constraints = tuple(c and repr(c.get_config()) for c in plan.constraints)
    given = _given(programs, roster, gradients)
    if list(map(device_of, given.gradients)) != given.devices:
        check_devices(roster.weights, gradients)
    rate = tensor_of(step.rate.get_next(), stored)
    if not isinstance(rate, torch.Tensor):
        rate = torch.tensor(float(rate), dtype=torch.float64, device="cpu")
    elif rate.ndim or not rate.is_floating_point():
        rate = rate.reshape(()).to(torch.float64)

    corrects = any(group.form.bias_correction for group in plan.groups)
    if corrects and roster.counters.calls._value.device.type == "cpu":
        plan, numbers = _with_corrected_numbers(step)
    else:
        numbers = step.numbers
    kind = _Kind(
        plan,
        constraints,
        given.takers,
        tuple(map(dtype_of, given.gradients)),
        bool(given.flags),
        rate.dtype,
        rate.device,
        torch.is_inference_mode_enabled(),
    )
    program = programs.program(kind)
    if program is None:
        # Torch traces with global state.
        with _compiling:
            program = programs.program(kind) or _make_program(step, kind, programs)
    counters = [v._value for v in roster.counters if v is not None]
    extra = [rate, programs.numbers(numbers, kind)]
    if given.flags:
        extra.append(programs.flags(given.flags))
    arguments = layout.unaliased([*extra, *given.gradients])
    with _interrupts.deferred():
        program.call(*programs.values, *counters, *arguments)


class _Given(NamedTuple):
    """The gradients of a step in the form that a program takes."""

    # The positions of the parameters that take a gradient; None for all of them.
    takers: tuple[int, ...] | None
    # One for each of these, with the strides of its weight.
    gradients: Sequence[torch.Tensor]
    # The devices that they must be on.
    devices: list[torch.device]
    # Whether each of them is present rather than a dummy; empty if all are.
    flags: list[bool]


def _given(programs: _Programs, roster: Roster, gradients: Gradients) -> _Given:
    """Return the gradients in the form that a program takes."""
    if type(None) not in map(type, gradients):
        present: Any = gradients
        strides = programs.strides
        if list(map(torch.Tensor.stride, present)) != strides:
            present = list(map(_strided, present, strides))
        return _Given(None, present, programs.devices, [])
    takers = tuple(
        i
        for i, (g, weight) in enumerate(zip(gradients, roster.weights, strict=True))
        if g is not None or not _compilation.takes_no_gradient(weight)
    )
    flags = [gradients[i] is not None for i in takers]
    filled = []
    for i in takers:
        gradient, dtype = gradients[i], programs.weight_dtypes[i]
        if gradient is None:
            gradient = programs.dummy(i)
        elif gradient.dtype != dtype and torch.promote_types(gradient.dtype, dtype) == dtype:
            # So the dtypes, and with them the program, depend little on which are missing.
            gradient = gradient.to(dtype)
        filled.append(_strided(gradient, programs.strides[i]))
    return _Given(takers, filled, programs.devices[: len(filled)], [] if all(flags) else flags)


def _strided(gradient: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """Return the gradient in a memory layout of these strides."""
    if gradient.stride() == strides:
        return gradient
    result = torch.empty_strided(
        gradient.shape, strides, dtype=gradient.dtype, device=gradient.device
    )
    return result.copy_(gradient)


def _programs_of(roster: Roster, plan: _step.Plan) -> _Programs:
    layout = layout_of(roster, plan)
    programs = _programs.get(roster)
    if programs is None or not programs.is_valid_for(layout):
        # A step outside inference mode must be able to write to what is made here.
        with torch.inference_mode(False), torch.no_grad():
            programs = _Programs(layout)
        _programs[roster] = programs
    return programs


def _with_corrected_numbers(step: Step) -> tuple[_step.Plan, _step.Numbers]:
    """Return the plan and numbers of a step with the bias correction already applied.

    In the graph its exponentials would be computed again for every few elements.
    """
    plan, counter = step.plan, step.roster.counters.calls
    t = int(read(counter)) // plan.accumulation_steps + 1
    groups, numbers = [], []
    for group, own in zip(plan.groups, step.numbers.groups, strict=True):
        old = own.coefficients
        at_t = _rule.step_coefficients(group.form, old, 0.0, t, "float64")
        corrected = old._replace(rho=at_t.keep, one_minus_rho=at_t.weight)
        numbers.append(own._replace(coefficients=corrected))
        groups.append(group._replace(form=group.form._replace(bias_correction=False)))
    return plan._replace(groups=tuple(groups)), step.numbers._replace(groups=tuple(numbers))


def _make_program(step: Step, kind: _Kind, programs: _Programs) -> _Program:
    """Compile a step.

    Raises: what a transform raises; ValueError if the step cannot be compiled otherwise.
    """
    start = time.perf_counter()
    weights = [p.weight for p in programs.layout.parameters]
    takers = range(len(weights)) if kind.takers is None else kind.takers
    # Tensors like the arguments rather than these, which may be the same tensor several times.
    extra = [
        torch.zeros((), dtype=kind.rate_dtype, device=kind.rate_device),
        programs.numbers(step.numbers, kind),
    ]
    if kind.flagged:
        extra.append(programs.flags([True] * len(takers)))
    arguments = [
        *programs.values,
        *[v._value for v in step.roster.counters if v is not None],
        *extra,
        *[
            torch.empty_strided(w.shape, w.stride(), dtype=dtype, device=w.device)
            for w, dtype in zip([weights[i] for i in takers], kind.dtypes, strict=True)
        ],
    ]
    try:
        graph = _private.traced(_whole_step(kind, step.roster, takers), arguments)
        call = _private.compiled(graph, arguments, OPTIONS)
    except _step.TransformError:
        raise
    except _compilation.NotTraceableError as error:
        raise error.cause from None
    except Exception as error:
        words = f"{type(error).__name__}: {error}".partition("\n")[0]
        _compilation.raise_not_compilable(f"torch cannot compile it ({words:.300})", error)
    program = _Program(kind, call)
    programs.keep(program)
    seconds = time.perf_counter() - start
    if seconds > _compilation.LONG_COMPILATION:
        _log.info("%s: compiling its step took %.1f s.", step.name, seconds)
    return program


def _whole_step(kind: _Kind, roster: Roster, takers: Sequence[int]) -> Callable[..., tuple[()]]:
    """Return a function of the arguments of a program that makes a step, to be traced."""
    plan = _compilation.with_traceable_transforms(kind.plan, _compilation.WithoutVariables)
    fields = [[each is not None for each in owner] for owner in roster.parameters]
    counted = [each is not None for each in roster.counters]

    def whole_step(*arguments: torch.Tensor) -> tuple[()]:
        rest = iter(arguments)
        parameters = [Parameter(*_take(there, rest)) for there in fields]
        counters = _step.Counters(*_take(counted, rest))
        rate = next(rest)
        like = _step.like_numbers(len(plan.groups), 0.0)
        numbers = keras.tree.pack_sequence_as(like, list(next(rest).unbind()))
        flags: dict[int, torch.Tensor] = {}
        if kind.flagged:
            flags = dict(zip(takers, next(rest).unbind(), strict=True))
        gradients: list[torch.Tensor | None] = [None] * len(parameters)
        for i, gradient in zip(takers, rest, strict=True):
            if i in flags:
                gradient = torch.where(flags[i], gradient, torch.zeros_like(gradient))
            gradients[i] = gradient
        after, counters_after = _step.step(
            plan, numbers, counters, rate, parameters, gradients, flags=flags
        )
        olds = itertools.chain(*parameters, counters)
        news = itertools.chain(*after, counters_after)
        for old, new in zip(olds, news, strict=True):
            if new is not old:
                old.copy_(new)
        return ()

    return whole_step


def _take(there: Sequence[bool], tensors: Iterator[torch.Tensor]) -> list[torch.Tensor | None]:
    return [next(tensors) if is_there else None for is_there in there]
