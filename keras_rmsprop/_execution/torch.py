"""How a step runs on torch: in place, many tensors to a call, or op by op."""

import collections
import itertools
import operator
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import torch

from keras_rmsprop._execution import _interface, _interrupts, _plain
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._plain import in_stateless_scope, run_plainly, run_with_hook
from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import Form, Parameter, StepCoefficients
from keras_rmsprop._variables._roster import ParameterVariables, Roster, existing

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]

# On a CPU a tensor with more elements than a piece goes through the whole update piece by piece:
# with their slots and temporaries they stay near the cores, where op after op over all would not.
PIECE = 2**20
# Smaller tensors go together, about so many elements at a time: each time costs 0.2 ms.
BLOCK = 2**22
# torch's grain size: it shares an operation on more elements than that among threads. Where the
# other cores are busy, the first thread then waits for milliseconds, so that small tensors are
# never put together to more.
GRAIN = 2**15
# The same for square roots, which torch takes with another library.
ROOT_GRAIN = 2**11
# torch adds up the squares of a norm in float32, one after the other: over 16 million elements
# that is off by 8e-4, over so many by 1e-6. The norms of such pieces are joined in float64.
NORM_BLOCK = 2**14
# For so many sets of gradients the lists of their tensors are kept.
SETS_KEPT = 4

# Whether a gradient can come as the rows of a table.
GIVES_ROWS = False
# Whether a step in a graph changes variables while Python is elsewhere.
STEPS_IN_GRAPHS = False
is_recorded = torch.compiler.is_compiling
# What serves here as it does by default.
as_written = _interface.as_written
is_rows = _interface.is_rows
outside_trace = _interface.outside_trace
shape_of = _interface.shape_of
swapping_strategy = _interface.swapping_strategy


@torch.no_grad()
def run(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step."""
    if in_stateless_scope() or torch.compiler.is_compiling():
        # The caller decides what becomes of the values. Inside torch.compile a counter's value
        # as a number would mean a new graph each step.
        rate = step.rate.ask()
        if step.hook is not None:
            run_with_hook(step, gradients, rate, _copied, _assign)
        else:
            write(run_plainly(step, gradients, rate, read))
        return
    reason = None
    if step.mode is not False:
        reason = _plain.why_op_by_op(step)
        if reason is None:
            _run_in_place(step, gradients)
            return
        if step.mode is True:
            _plain.refuse(reason)
    _run_op_by_op(step, gradients)


def _run_op_by_op(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Compute a step whole and then write it."""
    _check_devices(step.roster, gradients)
    _check_writable(step.roster.variables)
    rate = step.rate.ask()
    if step.hook is not None:
        # A subclass's `update_step` writes by itself, before anybody knows how the step ends.
        run_with_hook(step, gradients, rate, _copied, _assign)
    else:
        pairs = run_plainly(step, gradients, rate, read)
        _plain.write_whole(pairs, _copied, _assign)


def read(variable: keras.Variable) -> torch.Tensor:
    """Return the variable's current value; the tensor is the variable's own memory."""
    return variable.value


def _copied(variable: keras.Variable) -> torch.Tensor:
    """The variable's value in memory of its own."""
    return read(variable).clone()


def write(pairs: Iterable[tuple[Any, torch.Tensor]]) -> None:
    """Assign each value to its variable."""
    for variable, value in pairs:
        variable.assign(value)


def _assign(variable: Any, value: torch.Tensor) -> None:
    variable.assign(value)


def copy(value: torch.Tensor) -> torch.Tensor:
    """Return the value; assigning it copies it into the variable's own memory."""
    return value


def dense(gradient: Any, variable: keras.Variable) -> torch.Tensor:
    """Return the gradient as one floating-point value per weight.

    Raises: ValueError if it is complex.
    """
    if not isinstance(gradient, torch.Tensor):
        # NumPy's arrays, lists and numbers.
        gradient = keras.ops.convert_to_tensor(gradient)
    if gradient.layout is not torch.strided:
        # Making it dense adds up what is given several times, in half precision badly.
        gradient = gradient.to(_widened(gradient.dtype)).to_dense()
    if gradient.dtype not in _FLOATING:
        gradient = _as_floating(gradient, variable)
    return gradient


_WIDE = frozenset({torch.float32, torch.float64})
_FLOATING = _WIDE | {torch.float16, torch.bfloat16}


def _widened(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _as_floating(gradient: torch.Tensor, variable: Any) -> torch.Tensor:
    """A gradient of integers, or of fewer than 16 bits, in the dtype of the variable's slots."""
    if gradient.is_complex():
        raise ValueError(
            f"The gradient of {variable.path!r} is complex, received dtype {gradient.dtype}. "
            "Pass its real part."
        )
    wide = _step.accumulator_dtype(keras.backend.standardize_dtype(variable.dtype))
    return gradient.to(getattr(torch, wide))


def _check_devices(roster: Roster, gradients: Sequence[torch.Tensor | None]) -> None:
    """Refuse gradients that are not where their variables are."""
    for variable, gradient in zip(roster.weights, gradients, strict=True):
        if gradient is not None and gradient.device != variable.value.device:
            raise ValueError(
                f"The gradient of {variable.path!r} is on the device {gradient.device}, but the "
                f"variable is on {variable.value.device}."
            )


def _run_in_place(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step in the variables' own memory; the stages are those of `_step.step`.

    What can fail or wait comes first; then everything is written without an interruption.
    """
    plan, numbers, roster = step.plan, step.numbers, step.roster
    layout = _layout_of(roster, plan)
    given = {i: g for i, g in enumerate(gradients) if g is not None}
    values = {i: given.pop(i) for i in list(given) if plan.overwritten[i]}
    chosen = layout.choose(tuple(given))
    present = list(given.values())
    if [g.device for g in present] != chosen.devices:
        _check_devices(roster, gradients)
    batch = _unscaled(plan, numbers, layout.apart(present))
    calls = int(_value_of(roster, "calls", read(roster.counters.calls)))

    # Every call asks for the rate, also one that makes no step: a callable may count.
    rate = _learning_rate(step, calls)
    if plan.skip_nonfinite:
        owners = [layout.parameters[i] for i in chosen.present]
        finite = _step.all_finite(plan, batch, owners, [None] * len(owners))
        if not all(map(bool, (finite, *(v.isfinite().all() for v in values.values())))):
            read(roster.counters.skipped).add_(1)
            return
    done = calls // plan.accumulation_steps
    scalars = _rule.step_coefficients(plan.form, numbers.coefficients, rate, done + 1, "float64")
    completes = (calls + 1) % plan.accumulation_steps == 0 if plan.accumulation_steps > 1 else None
    taken = {
        i: _step.take_as_value(layout.parameters[i], value, completes)
        for i, value in values.items()
    }
    with _interrupts.deferred():
        for i, after in taken.items():
            for tensor, new in zip(layout.parameters[i], after, strict=True):
                if new is not tensor:
                    tensor.copy_(new)
        _write_step(plan, numbers, scalars, layout, chosen, calls, batch)
        counter = read(roster.counters.calls)
        counter.add_(1)
        _remember(roster, "calls", counter, calls + 1)


def _write_step(
    plan: _step.Plan,
    numbers: _step.Numbers,
    step: StepCoefficients,
    layout: "_Layout",
    chosen: "_Choice",
    calls: int,
    batch: Tensors,
) -> None:
    """Take gradients, unscaled and found finite, through the stages that write."""
    parameters = layout.parameters
    if plan.accumulation_steps > 1:
        batch = _accumulated(plan, [parameters[i] for i in chosen.present], batch)
    if (calls + 1) % plan.accumulation_steps == 0:
        scales = _clip_scales(plan, numbers, batch)
        pieces: list[Tensors] = [(g,) for g in batch]
        for place in chosen.split:
            pieces[place] = _split(batch[place], PIECE)
        for block in chosen.blocks:
            members = [pieces[place][k] for place, k in block.sources]
            members = [g if g.dtype is block.dtype else g.to(block.dtype) for g in members]
            _advance(plan, numbers, step, block, _clipped(plan, numbers, block, members, scales))
        if plan.accumulation_steps > 1:
            torch._foreach_zero_([parameters[i].accumulator for i in chosen.present])

    if plan.use_ema:
        done = calls // plan.accumulation_steps
        for weights, averages in layout.averaged:
            _average(plan, numbers, done, weights, averages)
    for i in chosen.present:
        constraint = plan.constraints[i]
        if constraint is not None:
            parameters[i].weight.copy_(constraint(parameters[i].weight))


def _unscaled(plan: _step.Plan, numbers: _step.Numbers, gradients: Tensors) -> Tensors:
    wide = [g if g.dtype in _WIDE else _step.widen(g) for g in gradients]
    return torch._foreach_div(wide, numbers.loss_scale) if plan.scaled_loss else wide


def _accumulated(plan: _step.Plan, parameters: list[Parameter], gradients: Tensors) -> Tensors:
    """Add the gradients to their sums and return the means so far."""
    sums = [p.accumulator for p in parameters]
    torch._foreach_add_(sums, [g.to(s.dtype) for g, s in zip(gradients, sums, strict=True)])
    return torch._foreach_div(sums, plan.accumulation_steps)


def _clip_scales(
    plan: _step.Plan, numbers: _step.Numbers, gradients: Tensors
) -> torch.Tensor | None:
    """The factors, one in float64 for each gradient, that clip norms; None without that."""
    if plan.clip not in ("norm", "global_norm") or not gradients:
        return None
    # One vector for all norms, so that the scales cost a few operations and not a few for each.
    pieces = [_split(g, NORM_BLOCK) for g in gradients]
    norms = torch._foreach_norm(list(itertools.chain.from_iterable(pieces)))
    squares = torch.stack([norm.to(norms[0].device, torch.float64) for norm in norms]).square_()
    if plan.clip == "global_norm":
        lengths = squares.sum().sqrt().expand(len(gradients))
    else:
        counts = torch.tensor([len(split) for split in pieces], device=squares.device)
        lengths = torch.segment_reduce(squares, "sum", lengths=counts).sqrt()
    # lengths - lengths is 0 for finite norms and NaN otherwise.
    return torch.where(lengths > numbers.clip, numbers.clip / lengths, 1.0) + (lengths - lengths)


def _split(tensor: torch.Tensor, size: int) -> Tensors:
    """The tensor, or where it has more than `size` elements its flat pieces of that size."""
    return (tensor,) if tensor.numel() <= size else tensor.reshape(-1).split(size)


class _Member(NamedTuple):
    """A tensor with its slots, or a piece of one, as it goes through the update."""

    # Which of the optimizer's parameters, and which piece of it.
    position: int
    piece: int
    parameter: Parameter
    # Memory for the roots, of the weight's shape; None on a device, which has its own.
    root: torch.Tensor | None


class _Chunk(NamedTuple):
    """Small tensors whose roots lie one after the other, see `GRAIN`."""

    members: list[_Member]
    roots: torch.Tensor


class _Group(NamedTuple):
    """Tensors of one device and dtype that can go through the update together."""

    # Of the slots, and of the arithmetic.
    dtype: torch.dtype
    decayed: bool
    members: list[_Member]
    # The same members where they are small; otherwise empty.
    chunks: list[_Chunk]


class _Block(NamedTuple):
    """The tensors of a group that have a gradient, in lists for torch's operations on many."""

    dtype: torch.dtype
    decayed: bool
    # For each tensor its gradient's place among those present, and which piece of it belongs.
    sources: list[tuple[int, int]]
    weights: Tensors
    square_averages: Tensors
    gradient_averages: Tensors
    momentums: Tensors
    # For each tensor the memory of its roots; empty on a device.
    roots: Tensors
    # The same memory in as few tensors as `GRAIN` allows; empty for large tensors.
    joined: Tensors


class _Choice(NamedTuple):
    """What a step goes through, given which variables have a gradient."""

    present: tuple[int, ...]
    devices: list[torch.device]
    # The places among the gradients present of those that are split into pieces.
    split: list[int]
    blocks: list[_Block]


class _Layout(NamedTuple):
    """An optimizer's tensors sorted, good for as long as they are where they are."""

    # The variables one after the other, the tensors they held, and where.
    variables: list[keras.Variable]
    tensors: list[torch.Tensor]
    # `module.to(...)` puts other memory into the same tensors.
    addresses: list[int]
    # The tensors by parameter.
    parameters: list[Parameter]
    decayed: tuple[bool, ...]
    constraints: tuple[Any, ...]
    # Where the memories begin that a step writes to.
    memories: frozenset[int]
    # Whether a tensor was made under `torch.inference_mode` and can be written to only there.
    for_inference: bool
    # Which constraints have been tried.
    tried: set[int]
    groups: list[_Group]
    # The weights that have a moving average and their averages, those of like dtypes together.
    averaged: list[tuple[list[torch.Tensor], list[torch.Tensor]]]
    choices: dict[tuple[int, ...], _Choice]

    def serves(self, plan: _step.Plan) -> bool:
        """Whether the tensors are still where they were, and sorted as this plan needs them."""
        if self.decayed != plan.decayed:
            return False
        tensors = [v._value for v in self.variables]
        return (
            all(map(operator.is_, tensors, self.tensors))
            and list(map(torch.Tensor.data_ptr, tensors)) == self.addresses
            and all(map(operator.is_, self.constraints, plan.constraints))
            and (torch.is_inference_mode_enabled() or not self.for_inference)
        )

    def apart(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Copy the gradients that lie in memory that the step writes to."""
        starts: list[Any] = list(map(torch.Tensor.data_ptr, gradients))
        offsets = list(map(torch.Tensor.storage_offset, gradients))
        if any(offsets):
            starts = [
                start - offset * g.element_size()
                for start, offset, g in zip(starts, offsets, gradients, strict=True)
            ]
        if self.memories.isdisjoint(starts):
            return gradients
        return [
            g.clone() if start in self.memories else g
            for g, start in zip(gradients, starts, strict=True)
        ]

    def choose(self, present: tuple[int, ...]) -> _Choice:
        """Return the part of the tensors that has a gradient.

        Raises: what a constraint raises that does not fit its weight.
        """
        choice = self.choices.get(present)
        if choice is None:
            self._try_constraints(present)
            choice = _choice(self, present)
            if len(self.choices) == SETS_KEPT:
                # The set can be another one at every step, so the oldest has to go.
                del self.choices[next(iter(self.choices))]
            self.choices[present] = choice
        return choice

    def _try_constraints(self, present: tuple[int, ...]) -> None:
        """Find out before a step writes anything whether the constraints can be applied."""
        for i in present:
            constraint = self.constraints[i]
            if constraint is not None and i not in self.tried:
                constraint(self.parameters[i].weight)
                self.tried.add(i)


# Sorting the tensors of a large model takes as long as a step of its smaller ones.
_layouts: "weakref.WeakKeyDictionary[Roster, _Layout]" = weakref.WeakKeyDictionary()


def _layout_of(roster: Roster, plan: _step.Plan) -> _Layout:
    layout = _layouts.get(roster)
    if layout is None or not layout.serves(plan):
        # The old one goes first, for it may be all that holds memory that was replaced.
        layout = None
        _layouts.pop(roster, None)
        _check_writable(roster.variables)
        # A step outside inference mode must be able to write to what is made here.
        with torch.inference_mode(False), torch.no_grad():
            layout = _sorted(roster.parameters, plan)
        _layouts[roster] = layout
    return layout


def _check_writable(variables: list[keras.Variable]) -> None:
    """Refuse memory that torch does not write to, which a step would find out half-way.

    Raises: RuntimeError, as torch does.
    """
    for variable in variables:
        tensor = variable._value
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise RuntimeError(
                f"{variable.path!r} was made under `torch.inference_mode()`, and torch changes it "
                "only there. Build model and optimizer outside, or make the step inside."
            )
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        if tensor.numel() and any(n > 1 and stride == 0 for n, stride in steps):
            raise RuntimeError(
                f"Several elements of {variable.path!r} lie in the same memory, such as those of "
                "an expanded tensor. Give it memory of its own, as `clone()` does."
            )


def _sorted(owners: Sequence[ParameterVariables], plan: _step.Plan) -> _Layout:
    variables = existing(*owners)
    parameters = [p.read(operator.attrgetter("_value")) for p in owners]
    tensors = existing(itertools.chain.from_iterable(parameters))
    return _Layout(
        variables,
        tensors,
        addresses=[t.data_ptr() for t in tensors],
        parameters=parameters,
        decayed=plan.decayed,
        constraints=plan.constraints,
        memories=frozenset(t.untyped_storage().data_ptr() for t in tensors if t.numel()),
        for_inference=any(t.is_inference() for t in tensors),
        tried=set(),
        groups=_groups(parameters, plan.decayed),
        averaged=_averaged(parameters),
        choices={},
    )


def _groups(parameters: list[Parameter], decayed: Sequence[bool]) -> list[_Group]:
    """Sort parameters into groups of like tensors, see `PIECE`, `BLOCK` and `GRAIN`."""
    alike: dict[tuple[Any, ...], list[_Member]] = {}
    for index, (p, decays) in enumerate(zip(parameters, decayed, strict=True)):
        # Variables that take their gradient as value have no slots.
        if p.square_average is not None:
            small = p.weight.numel() <= min(GRAIN, PIECE)
            kind = (p.weight.device, p.weight.dtype, p.square_average.dtype, decays, small)
            alike.setdefault(kind, []).extend(_members(index, p))
    groups = []
    for (device, _, dtype, decays, small), members in alike.items():
        if device.type != "cpu":
            groups.append(_Group(dtype, decays, members, []))
            continue
        parts = _parted(members, BLOCK if small else PIECE)
        scratch = torch.zeros(max(map(_elements, parts)), dtype=dtype, device=device)
        for part in parts:
            rooted = _rooted(part, scratch)
            groups.append(_Group(dtype, decays, rooted, _chunks(rooted, scratch) if small else []))
    return groups


def _members(index: int, parameter: Parameter) -> list[_Member]:
    """Make a member of a parameter, or one of each piece of a large one."""
    parameter = parameter._replace(accumulator=None, average=None)
    tensors, weight = existing(parameter), parameter.weight
    if weight.device.type != "cpu" or weight.numel() <= PIECE:
        return [_Member(index, 0, parameter, None)]
    if not all(t.is_contiguous() for t in tensors):
        return [_Member(index, 0, parameter, None)]
    absent = itertools.repeat(None)
    columns = [absent if t is None else _split(t, PIECE) for t in parameter]
    pieces = itertools.starmap(Parameter, zip(*columns, strict=False))
    return [_Member(index, k, piece, None) for k, piece in enumerate(pieces)]


def _parted(members: list[_Member], limit: int) -> list[list[_Member]]:
    """Part members, in their order, into lists that reach `limit` elements, or of one member."""
    parts: list[list[_Member]] = []
    elements = 0
    for member in members:
        size = member.parameter.weight.numel()
        if not parts or elements + size > limit:
            parts.append([])
            elements = 0
        parts[-1].append(member)
        elements += size
    return parts


def _elements(members: list[_Member]) -> int:
    return sum(member.parameter.weight.numel() for member in members)


def _rooted(members: list[_Member], scratch: torch.Tensor) -> list[_Member]:
    """Give each member its part of the memory for roots."""
    weights = [member.parameter.weight for member in members]
    sizes = [weight.numel() for weight in weights]
    roots = scratch[: sum(sizes)].split(sizes)
    return [
        member._replace(root=root.view(weight.shape))
        for member, root, weight in zip(members, roots, weights, strict=True)
    ]


def _chunks(members: list[_Member], scratch: torch.Tensor) -> list[_Chunk]:
    """Put the members together whose roots an operation may take at once."""
    chunks = _parted(members, GRAIN)
    sizes = [_elements(chunk) for chunk in chunks]
    return list(map(_Chunk, chunks, scratch[: sum(sizes)].split(sizes)))


def _averaged(parameters: list[Parameter]) -> list[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Sort weights that have a moving average, with these, by the averages' device and dtype."""
    alike: dict[tuple[torch.device, torch.dtype], list[Parameter]] = {}
    for p in parameters:
        if p.average is not None:
            alike.setdefault((p.average.device, p.average.dtype), []).append(p)
    return [([p.weight for p in ps], [p.average for p in ps]) for ps in alike.values()]


def _choice(layout: _Layout, present: tuple[int, ...]) -> _Choice:
    places = {index: place for place, index in enumerate(present)}
    all_present = len(present) == len(layout.parameters)
    split: dict[int, None] = {}
    blocks = []
    for group in layout.groups:
        members = group.members
        if not all_present:
            members = [m for m in members if m.position in places]
        if members:
            split.update((places[m.position], None) for m in members if m.piece)
            blocks.append(_block(group, members, places))
    devices = [layout.parameters[index].weight.device for index in present]
    return _Choice(present, devices, list(split), blocks)


def _block(group: _Group, members: list[_Member], places: dict[int, int]) -> _Block:
    """List members of a group by what they have."""
    parameters = [m.parameter for m in members]
    return _Block(
        group.dtype,
        group.decayed,
        sources=[(places[m.position], m.piece) for m in members],
        weights=[p.weight for p in parameters],
        square_averages=[p.square_average for p in parameters],
        gradient_averages=existing([p.gradient_average for p in parameters]),
        momentums=existing([p.momentum for p in parameters]),
        roots=existing([m.root for m in members]),
        joined=_joined(group.chunks, members, places),
    )


def _joined(chunks: list[_Chunk], members: list[_Member], places: dict[int, int]) -> Tensors:
    """The memory of the members' roots in few tensors, which may hold roots of others too."""
    if sum(len(chunk.members) for chunk in chunks) == len(members):
        return [chunk.roots for chunk in chunks]
    joined: list[torch.Tensor] = []
    for chunk in chunks:
        present = [m for m in chunk.members if m.position in places]
        # An operation on everything takes less time than one for each unless little is needed.
        if 2 * _elements(present) >= chunk.roots.numel():
            joined.append(chunk.roots)
        else:
            joined += existing([m.root for m in present])
    return joined


def _clipped(
    plan: _step.Plan,
    numbers: _step.Numbers,
    block: _Block,
    gradients: Tensors,
    scales: torch.Tensor | None,
) -> Tensors:
    if plan.clip == "value":
        clipped = torch._foreach_clamp_min(gradients, -numbers.clip)
        torch._foreach_clamp_max_(clipped, numbers.clip)
        return clipped
    if scales is None:
        return gradients
    # A scalar of a wider dtype would widen a gradient that is a scalar too.
    chosen = scales[[place for place, _ in block.sources]]
    return torch._foreach_mul(gradients, chosen.to(gradients[0].device, block.dtype).unbind())


def _advance(
    plan: _step.Plan,
    numbers: _step.Numbers,
    step: StepCoefficients,
    block: _Block,
    gradients: Tensors,
) -> None:
    """Take a block through negation, penalty, decay and update."""
    narrow = block.weights[0].dtype != block.dtype
    weights = [w.to(block.dtype) for w in block.weights] if narrow else block.weights
    if plan.maximize:
        gradients = torch._foreach_neg(gradients)
    if plan.l2:
        gradients = torch._foreach_add(gradients, weights, alpha=numbers.l2)
    if block.decayed:
        # Not times 1 - decay: rounded to float32, that is off by a hundredth of a decay of 4e-6.
        decay = step.learning_rate * numbers.weight_decay
        torch._foreach_add_(weights, weights, alpha=-decay)
    _update(plan.form, step, block._replace(weights=weights), gradients)
    if narrow:
        torch._foreach_copy_(block.weights, weights)


def _update(form: Form, step: StepCoefficients, block: _Block, g: Tensors) -> None:
    """`_rule.update` for a block, in place."""
    w, s = block.weights, block.square_averages
    m, b = block.gradient_averages, block.momentums
    lr, keep, weight, momentum, epsilon = step
    if m:
        deviation = torch._foreach_sub(g, m)
        torch._foreach_add_(m, deviation, alpha=weight)
        torch._foreach_addcmul_(s, deviation, deviation, weight)
        _scale(s, keep)
    else:
        _scale(s, keep)
        torch._foreach_addcmul_(s, g, g, weight)

    r = _roots(form, epsilon, block)
    # By the roots themselves, or times what `_roots` gives in their place.
    add_quotient = torch._foreach_addcdiv_
    if _inverts(form, block):
        add_quotient = torch._foreach_addcmul_
    if not b:
        add_quotient(w, g, r, -lr)
        return
    inside, outside = (lr, 1.0) if form.lr_in_momentum else (1.0, lr)
    _scale(b, momentum)
    add_quotient(b, g, r, inside)
    if form.nesterov:
        torch._foreach_add_(w, b, alpha=-outside * momentum)
        add_quotient(w, g, r, -lr)
    else:
        torch._foreach_add_(w, b, alpha=-outside)


def _inverts(form: Form, block: _Block) -> bool:
    """Whether the update multiplies by 1 / r rather than divides by r.

    On a CPU 1 / r comes in one operation, correctly rounded and with `GRAIN`, while torch leaves
    r alone to a library that neither rounds every root alike nor leaves it to one thread.
    """
    return form.epsilon_inside_sqrt and bool(block.roots)


def _roots(form: Form, epsilon: float, block: _Block) -> Tensors:
    """`_rule.root` for a block, or its inverse, see `_inverts`.

    Where r can be zero it becomes infinite, and its inverse zero, so that g / r is zero.
    """
    averages, inside = block.square_averages, form.epsilon_inside_sqrt
    roots: Tensors = block.roots
    # What the operations go over one by one.
    memories: Tensors = block.joined or block.roots
    if not block.roots and inside:
        roots = memories = torch._foreach_add(averages, epsilon)
        torch._foreach_sqrt_(roots)
    elif not block.roots:
        roots = memories = torch._foreach_sqrt(averages)
        torch._foreach_add_(roots, epsilon)
    elif block.joined:
        torch._foreach_copy_(roots, averages)
        if inside:
            torch._foreach_add_(memories, epsilon)
            _each(torch.Tensor.rsqrt_, memories)
        else:
            for memory in memories:
                _each(torch.Tensor.sqrt_, memory.view(-1).split(ROOT_GRAIN))
            torch._foreach_add_(memories, epsilon)
    else:
        for average, root in zip(averages, roots, strict=True):
            if inside:
                torch.add(average, epsilon, out=root).rsqrt_()
            else:
                torch.sqrt(average, out=root).add_(epsilon)
    if form.guards_zero_root:
        singular, instead = (torch.inf, 0.0) if _inverts(form, block) else (0.0, torch.inf)
        for memory in memories:
            memory.masked_fill_(memory == singular, instead)
    return roots


def _each(operation: Callable[[torch.Tensor], torch.Tensor], tensors: Tensors) -> None:
    """Do an operation on each tensor in place, with nothing of Python's between them."""
    collections.deque(map(operation, tensors), maxlen=0)


def _average(
    plan: _step.Plan,
    numbers: _step.Numbers,
    done: int,
    weights: list[torch.Tensor],
    averages: list[torch.Tensor],
) -> None:
    """Advance moving averages of one dtype; the first ones are copies of the weights."""
    if done == 0:
        torch._foreach_copy_(averages, weights)
    else:
        _scale(averages, numbers.ema_momentum)
        dtype = averages[0].dtype
        wide = [w if w.dtype is dtype else w.to(dtype) for w in weights]
        torch._foreach_add_(averages, wide, alpha=numbers.one_minus_ema_momentum)
    if plan.ema_overwrite_frequency and (done + 1) % plan.ema_overwrite_frequency == 0:
        torch._foreach_copy_(weights, averages)


def _scale(tensors: Tensors, factor: float) -> None:
    """Multiply tensors of one device and dtype by a number, in place."""
    first = tensors[0]
    if first.device.type != "cpu":
        torch._foreach_mul_(tensors, factor)
    else:
        # A number would be made a tensor anew for each of the list, which takes twice as long as
        # a small one's product.
        dtype = torch.promote_types(first.dtype, torch.float32)
        # Not on the default device, which may be another.
        torch._foreach_mul_(tensors, torch.tensor(factor, dtype=dtype, device=first.device))


def _learning_rate(step: Step, calls: int) -> float:
    """The rate of this step as a number of the host's."""
    rate = step.rate.source
    if step.rate.is_overridden or not isinstance(rate, _Source):
        rate = step.rate.ask()
        return float(read(rate) if isinstance(rate, keras.Variable) else rate)
    if isinstance(rate, keras.Variable):
        return _value_of(step.roster, "learning_rate", read(rate))
    # Where the counter lives on a device, its value is known here without asking.
    with keras.device("cpu"):
        return float(rate(keras.ops.convert_to_tensor(calls)))


# Where a rate comes from that needs not be asked of the optimizer.
_Source = keras.Variable | keras.optimizers.schedules.LearningRateSchedule


class _Known(NamedTuple):
    """The value of a scalar tensor, which holds as long as its version does."""

    tensor: torch.Tensor
    version: int
    value: float


# Scalars of an optimizer that live on a device and whose values are known on the host, so that
# a step need not wait for the device to tell them. A change past torch's count of versions, such
# as one made through `.data`, is not seen there.
_known: "weakref.WeakKeyDictionary[Roster, dict[str, _Known]]" = weakref.WeakKeyDictionary()


def _value_of(roster: Roster, name: str, tensor: torch.Tensor) -> float:
    """The value of a scalar tensor, read from a device only if it has changed."""
    if not _is_remote(tensor):
        return tensor.item()
    known = _known.setdefault(roster, {}).get(name)
    if known is None or known.tensor is not tensor or known.version != tensor._version:
        value = tensor.item()
        _remember(roster, name, tensor, value)
        return value
    return known.value


def _remember(roster: Roster, name: str, tensor: torch.Tensor, value: float) -> None:
    if _is_remote(tensor):
        known = _Known(tensor, tensor._version, value)
        _known.setdefault(roster, {})[name] = known


def _is_remote(tensor: torch.Tensor) -> bool:
    """Whether reading the tensor means waiting, and its version can tell whether it changed."""
    return tensor.device.type != "cpu" and not tensor.is_inference()
