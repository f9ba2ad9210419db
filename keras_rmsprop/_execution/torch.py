"""How a step runs on torch: in place, many tensors to a call, or op by op."""

import contextlib
import itertools
import math
import operator
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import torch

from keras_rmsprop import _rule, _step
from keras_rmsprop._execution import _plain
from keras_rmsprop._execution._plain import in_stateless_scope, run_plainly, run_with_hook
from keras_rmsprop._rule import Form, Parameter, StepCoefficients

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]

# On a CPU a tensor with more elements than a piece goes through the whole update piece by piece:
# with their slots and temporaries they stay near the cores, where op after op over all would not.
PIECE = 2**20
# Smaller tensors go together, about so many elements at a time: each time costs 0.2 ms.
BLOCK = 2**22
# torch shares out square roots among threads in portions of so many.
ROOTS_PER_THREAD = 2**11
# torch adds up the squares of a norm in float32, one after the other: over 16 million elements
# that is off by 8e-4, over so many by 1e-6. The norms of such pieces are joined in float64.
NORM_BLOCK = 2**14

# Whether a gradient can come as the rows of a table.
GIVES_ROWS = False
outside_trace = contextlib.nullcontext
as_written, is_rows, shape_of = _plain.as_written, _plain.is_rows, _plain.shape_of


@torch.no_grad()
def run(optimizer: "RMSprop", gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step."""
    plan = optimizer._plan()
    if optimizer._update_hook() is not None:
        # A subclass's `update_step` changes the memory that a plain read would give out.
        rate = optimizer._given_learning_rate()
        keep = lambda v: read(v).clone()  # noqa: E731
        run_with_hook(optimizer, plan, gradients, rate, keep, lambda v, value: v.assign(value))
    elif (
        optimizer.jit_compile is False
        or in_stateless_scope()
        # Inside torch.compile a counter's value as a number would mean a new graph each step.
        or torch.compiler.is_compiling()
    ):
        rate = optimizer._given_learning_rate()
        write(run_plainly(optimizer, plan, gradients, rate, read))
    else:
        _run_in_place(optimizer, plan, gradients)


def read(variable: keras.Variable) -> torch.Tensor:
    """Return the variable's current value; the tensor is the variable's own memory."""
    return variable.value


def write(pairs: Iterable[tuple[Any, torch.Tensor]]) -> None:
    """Assign each value to its variable."""
    for variable, value in pairs:
        variable.assign(value)


def copy(value: torch.Tensor) -> torch.Tensor:
    """Return the value; assigning it copies it into the variable's own memory."""
    return value


def dense(gradient: Any, _: keras.Variable) -> torch.Tensor:
    """Return the gradient as one value per weight, a sparse one made dense."""
    if not isinstance(gradient, torch.Tensor):
        # Keras takes NumPy's arrays as well.
        gradient = keras.ops.convert_to_tensor(gradient)
    return gradient.to_dense() if gradient.is_sparse else gradient


class _Known(NamedTuple):
    """The value of a scalar tensor, which holds as long as its version does."""

    tensor: torch.Tensor
    version: int
    value: float


# Scalars of each optimizer whose values are known on the host, so that a step need not wait
# for the device to tell them.
_known: "weakref.WeakKeyDictionary[RMSprop, dict[str, _Known]]" = weakref.WeakKeyDictionary()


def _run_in_place(
    optimizer: "RMSprop", plan: _step.Plan, gradients: Sequence[torch.Tensor | None]
) -> None:
    """Make one step in the variables' own memory; the stages are those of `_step.step`."""
    numbers = optimizer._numbers()
    counter = read(optimizer._iterations)
    calls = int(_value_of(optimizer, "calls", counter))
    done = calls // plan.accumulation_steps
    given = {i: g for i, g in enumerate(gradients) if g is not None}
    values = {i: given.pop(i) for i in list(given) if plan.overwritten[i]}
    present = tuple(given)
    layout = _layout_of(optimizer, present, plan.decayed)
    parameters = layout.parameters
    batch = _unscaled(plan, numbers, list(given.values()))

    # Every call asks for the rate, also one that makes no step: a callable may count.
    rate = _learning_rate(optimizer, calls)
    if plan.skip_nonfinite:
        owners, shares = [parameters[i] for i in present], [None] * len(present)
        finite = _step.all_finite(plan, batch, owners, shares)
        if not all(map(bool, (finite, *(v.isfinite().all() for v in values.values())))):
            read(optimizer._skipped_steps).add_(1)
            return
    completes = (calls + 1) % plan.accumulation_steps == 0
    for i, value in values.items():
        accumulates = plan.accumulation_steps > 1
        taken = _step.take_as_value(parameters[i], value, completes if accumulates else None)
        for tensor, new in zip(parameters[i], taken, strict=True):
            if new is not tensor:
                tensor.copy_(new)
    if plan.accumulation_steps > 1:
        batch = _accumulated(plan, [parameters[i] for i in present], batch)
    if completes:
        step = _rule.step_coefficients(plan.form, numbers.coefficients, rate, done + 1, "float64")
        scales = _clip_scales(plan, numbers, batch)
        pieces: list[Tensors] = [(g,) for g in batch]
        for place in layout.split:
            pieces[place] = _split(batch[place], PIECE)
        for block in layout.blocks:
            members = [pieces[place][k] for place, k in block.sources]
            members = [g if g.dtype is block.dtype else g.to(block.dtype) for g in members]
            _advance(plan, numbers, step, block, _clipped(plan, numbers, block, members, scales))
        if plan.accumulation_steps > 1:
            torch._foreach_zero_([parameters[i].accumulator for i in present])

    if plan.use_ema:
        _average(plan, numbers, done, [p for p in parameters if p.average is not None])
    for i in present:
        constraint = plan.constraints[i]
        if constraint is not None:
            parameters[i].weight.copy_(constraint(parameters[i].weight))
    counter.add_(1)
    _remember(optimizer, "calls", counter, calls + 1)


def _unscaled(plan: _step.Plan, numbers: _step.Numbers, gradients: Tensors) -> Tensors:
    wide = [g if g.dtype in _WIDE else _step.widen(g) for g in gradients]
    return torch._foreach_div(wide, numbers.loss_scale) if plan.scaled_loss else wide


_WIDE = frozenset({torch.float32, torch.float64})


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


class _Block(NamedTuple):
    """Tensors of one device and dtype that go through the update together."""

    # Of the slots, and of the arithmetic.
    dtype: torch.dtype
    decayed: bool
    # For each tensor its gradient's place among those present, and which piece of it belongs.
    sources: list[tuple[int, int]]
    weights: Tensors
    square_averages: Tensors
    gradient_averages: Tensors
    momentums: Tensors
    # Memory for the roots, flat and as a view for each tensor; None where a list of tensors goes
    # through an operation as fast as one.
    scratch: torch.Tensor | None
    roots: Tensors


class _Layout(NamedTuple):
    """The blocks that a step goes through, good for as long as the tensors are where they are."""

    owners: tuple[Parameter, ...]
    # The variables one after the other, the tensors they held, and where.
    variables: list[keras.Variable]
    tensors: list[torch.Tensor]
    # `module.to(...)` puts other memory into the same tensors.
    addresses: list[int]
    # The tensors by parameter.
    parameters: list[Parameter]
    # Which variables have a gradient, and which of all variables decay.
    present: tuple[int, ...]
    decayed: tuple[bool, ...]
    # The places among the gradients present of those that are split into pieces.
    split: list[int]
    blocks: list[_Block]

    def holds(self) -> bool:
        """Whether the tensors are where they were."""
        tensors = [v._value for v in self.variables]
        return (
            all(map(operator.is_, tensors, self.tensors))
            and list(map(torch.Tensor.data_ptr, tensors)) == self.addresses
        )


# Sorting the tensors of a large model takes as long as a step of its smaller ones.
_layouts: "weakref.WeakKeyDictionary[RMSprop, _Layout]" = weakref.WeakKeyDictionary()


def _layout_of(
    optimizer: "RMSprop", present: tuple[int, ...], decayed: tuple[bool, ...]
) -> _Layout:
    owners = optimizer._parameters
    layout = _layouts.get(optimizer)
    if (
        layout is None
        or layout.owners is not owners
        or (layout.present, layout.decayed) != (present, decayed)
        or not layout.holds()
    ):
        variables = [v for parameter in owners for v in parameter if v is not None]
        parameters = [Parameter(*(None if v is None else v._value for v in p)) for p in owners]
        tensors = _existing(itertools.chain.from_iterable(parameters))
        split, blocks = _blocks([parameters[i] for i in present], [decayed[i] for i in present])
        layout = _layouts[optimizer] = _Layout(
            owners,
            variables,
            tensors,
            [t.data_ptr() for t in tensors],
            parameters,
            present,
            decayed,
            split,
            blocks,
        )
    return layout


def _blocks(parameters: list[Parameter], decayed: list[bool]) -> tuple[list[int], list[_Block]]:
    """Sort parameters into blocks of like tensors, see `PIECE` and `BLOCK`.

    Returns: the places of the parameters that are split into pieces, and the blocks.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, (p, decays) in enumerate(zip(parameters, decayed, strict=True)):
        kind = (p.weight.device, p.weight.dtype, p.square_average.dtype, decays)
        alike.setdefault(kind, []).append(place)
    split, blocks = [], []
    for (device, _, dtype, decays), places in alike.items():
        on_cpu = device.type == "cpu"
        piece_size, limit = (PIECE, BLOCK) if on_cpu else (math.inf, math.inf)
        gathered: list[list[tuple[tuple[int, int], Parameter]]] = [[]]
        sizes = [0]
        for place in places:
            p = parameters[place]._replace(accumulator=None, average=None)
            pieces = [p]
            if p.weight.numel() > piece_size and all(t.is_contiguous() for t in _existing(p)):
                split.append(place)
                absent = itertools.repeat(None)
                columns = [absent if t is None else _split(t, PIECE) for t in p]
                pieces = [Parameter(*tensors) for tensors in zip(*columns, strict=False)]
            for k, piece in enumerate(pieces):
                full = len(pieces) > 1 or sizes[-1] + piece.weight.numel() > limit
                if sizes[-1] and full:
                    gathered.append([])
                    sizes.append(0)
                gathered[-1].append(((place, k), piece))
                sizes[-1] += piece.weight.numel()
        scratch = torch.empty(max(sizes), dtype=dtype) if on_cpu else None
        blocks += [_block(dtype, decays, members, scratch) for members in gathered]
    return split, blocks


def _block(
    dtype: torch.dtype,
    decayed: bool,
    members: list[tuple[tuple[int, int], Parameter]],
    scratch: torch.Tensor | None,
) -> _Block:
    sources, pieces = [source for source, _ in members], [piece for _, piece in members]
    weights = [p.weight for p in pieces]
    roots: Tensors = []
    if scratch is not None:
        sizes = [w.numel() for w in weights]
        scratch = scratch[: sum(sizes)]
        roots = [r.view(w.shape) for r, w in zip(scratch.split(sizes), weights, strict=True)]
    return _Block(
        dtype,
        decayed,
        sources,
        weights,
        square_averages=[p.square_average for p in pieces],
        gradient_averages=_existing(p.gradient_average for p in pieces),
        momentums=_existing(p.momentum for p in pieces),
        scratch=scratch,
        roots=roots,
    )


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
    if not b:
        torch._foreach_addcdiv_(w, g, r, -lr)
        return
    inside, outside = (lr, 1.0) if form.lr_in_momentum else (1.0, lr)
    _scale(b, momentum)
    torch._foreach_addcdiv_(b, g, r, inside)
    if form.nesterov:
        torch._foreach_add_(w, b, alpha=-outside * momentum)
        torch._foreach_addcdiv_(w, g, r, -lr)
    else:
        torch._foreach_add_(w, b, alpha=-outside)


def _roots(form: Form, epsilon: float, block: _Block) -> Tensors:
    """`_rule.root` for a block; where it can be zero, infinity, by which g / r is zero."""
    averages, inside = block.square_averages, form.epsilon_inside_sqrt
    roots: Tensors
    memory: Tensors
    if block.scratch is None:
        if inside:
            roots = torch._foreach_add(averages, epsilon)
            torch._foreach_sqrt_(roots)
        else:
            roots = torch._foreach_sqrt(averages)
            torch._foreach_add_(roots, epsilon)
        memory = roots
    else:
        # On a CPU an operation costs more to start than a small tensor takes.
        flat = block.scratch
        roots, memory = block.roots, [flat]
        if len(roots) == 1:
            flat = averages[0].reshape(-1)
        else:
            torch._foreach_copy_(roots, averages)
        if inside:
            _take_root(torch.add(flat, epsilon, out=block.scratch), block.scratch)
        else:
            _take_root(flat, block.scratch)
            block.scratch.add_(epsilon)
    if form.guards_zero_root:
        for root in memory:
            root.masked_fill_(root == 0.0, torch.inf)
    return roots


def _take_root(values: torch.Tensor, roots: torch.Tensor) -> None:
    """Write the square roots of flat memory; the two may be the same."""
    if ROOTS_PER_THREAD < values.numel() <= 8 * ROOTS_PER_THREAD:
        # A second thread gains little here, and on a busy machine is waited for for milliseconds.
        pieces = zip(values.split(ROOTS_PER_THREAD), roots.split(ROOTS_PER_THREAD), strict=True)
        for value, root in pieces:
            torch.sqrt(value, out=root)
    else:
        torch.sqrt(values, out=roots)


def _average(
    plan: _step.Plan, numbers: _step.Numbers, done: int, parameters: list[Parameter]
) -> None:
    """Advance the moving average of the weights; the first one is a copy of them."""
    averages = [p.average for p in parameters]
    weights = [p.weight for p in parameters]
    if done == 0:
        torch._foreach_copy_(averages, weights)
    else:
        _scale(averages, numbers.ema_momentum)
        wide = [w.to(a.dtype) for w, a in zip(weights, averages, strict=True)]
        torch._foreach_add_(averages, wide, alpha=numbers.one_minus_ema_momentum)
    if plan.ema_overwrite_frequency and (done + 1) % plan.ema_overwrite_frequency == 0:
        torch._foreach_copy_(weights, averages)


def _scale(tensors: Tensors, factor: float) -> None:
    """Multiply every tensor by a number, in place."""
    first = tensors[0]
    if first.device.type != "cpu":
        torch._foreach_mul_(tensors, factor)
    else:
        # A number would be made a tensor anew for each of the list, which takes twice as long as
        # a small one's product.
        dtype = torch.promote_types(first.dtype, torch.float32)
        torch._foreach_mul_(tensors, torch.tensor(factor, dtype=dtype))


def _existing(tensors: Iterable[torch.Tensor | None]) -> list[torch.Tensor]:
    return [t for t in tensors if t is not None]


def _learning_rate(optimizer: "RMSprop", calls: int) -> float:
    """The rate of this step as a number of the host's."""
    if any(map(optimizer._overrides, ("learning_rate", "_get_current_learning_rate"))):
        return float(optimizer._current_learning_rate())
    rate = optimizer._learning_rate
    if isinstance(rate, keras.Variable):
        return _value_of(optimizer, "learning_rate", read(rate))
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        # Where the counter lives on a device, its value is known here without asking.
        with keras.device("cpu"):
            return float(rate(keras.ops.convert_to_tensor(calls)))
    return float(optimizer._current_learning_rate())


def _value_of(optimizer: "RMSprop", name: str, tensor: torch.Tensor) -> float:
    """The value of a scalar tensor, read from its device only if it has changed."""
    known = _known.setdefault(optimizer, {}).get(name)
    if known is None or known.tensor is not tensor or known.version != tensor._version:
        known = _remember(optimizer, name, tensor, tensor.item())
    return known.value


def _remember(optimizer: "RMSprop", name: str, tensor: torch.Tensor, value: float) -> _Known:
    known = _Known(tensor, tensor._version, value)
    _known.setdefault(optimizer, {})[name] = known
    return known
