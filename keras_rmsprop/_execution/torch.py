"""How a step runs on torch: in place, many tensors to a call, or op by op."""

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import keras
import torch

from keras_rmsprop import _rule, _step
from keras_rmsprop._execution._plain import in_stateless_scope, run_plainly
from keras_rmsprop._rule import Form, Parameter, StepCoefficients

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]

# On a CPU so many elements are taken through the whole update at a time: with their slots and
# temporaries they stay in a core's cache, where op after op over all weights would not.
BLOCK = 2**16

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Whether a gradient can come as the rows of a table.
GIVES_ROWS = False
outside_trace = contextlib.nullcontext


def as_written(function: _Function) -> _Function:
    """Return the function: nothing here rewrites Python's code."""
    return function


@torch.no_grad()
def run(optimizer: "RMSprop", gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step."""
    plan = optimizer._plan()
    if optimizer._update_hook() is not None:
        # A subclass's `update_step` changes the memory that a plain read would give out.
        rate = optimizer._given_learning_rate()
        write(run_plainly(optimizer, plan, gradients, rate, lambda v: read(v).clone()))
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


def shape_of(gradient: torch.Tensor) -> tuple[int, ...]:
    """Return the gradient's shape."""
    return tuple(gradient.shape)


def is_rows(_: Any) -> bool:
    """Whether a gradient is the rows of a table and their ids: here it never is."""
    return False


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
    parameters = [
        Parameter(*(None if owner is None else owner._value for owner in owners))
        for owners in optimizer._parameters
    ]
    present = {i: g for i, g in enumerate(gradients) if g is not None}
    batch = _unscaled(plan, numbers, list(present.values()))

    # Every call asks for the rate, also one that makes no step: a callable may count.
    rate = _learning_rate(optimizer, calls)
    if plan.skip_nonfinite and not bool(_step.all_finite(batch)):
        read(optimizer._skipped_steps).add_(1)
        return
    completes = (calls + 1) % plan.accumulation_steps == 0
    if plan.accumulation_steps > 1:
        batch = _accumulated(plan, [parameters[i] for i in present], batch)
    if completes:
        step = _rule.step_coefficients(plan.form, numbers.coefficients, rate, done + 1, "float64")
        batch = _clipped(plan, numbers, batch)
        for block in _blocks(plan, parameters, list(present), batch):
            _advance(plan, numbers, step, block)
        if plan.accumulation_steps > 1:
            torch._foreach_zero_(_existing(p.accumulator for p in parameters))

    if plan.use_ema:
        _average(plan, numbers, done, [p for p in parameters if p.average is not None])
    for i in present:
        constraint = plan.constraints[i]
        if constraint is not None:
            parameters[i].weight.copy_(constraint(parameters[i].weight))
    counter.add_(1)
    _remember(optimizer, "calls", counter, calls + 1)


def _unscaled(plan: _step.Plan, numbers: _step.Numbers, gradients: Tensors) -> Tensors:
    wide = [_step.widen(g) for g in gradients]
    return torch._foreach_div(wide, numbers.loss_scale) if plan.scaled_loss else wide


def _accumulated(plan: _step.Plan, parameters: list[Parameter], gradients: Tensors) -> Tensors:
    """Add the gradients to their sums and return the means so far."""
    sums = [p.accumulator for p in parameters]
    torch._foreach_add_(sums, [g.to(s.dtype) for g, s in zip(gradients, sums, strict=True)])
    return torch._foreach_div(sums, plan.accumulation_steps)


def _clipped(plan: _step.Plan, numbers: _step.Numbers, gradients: Tensors) -> Tensors:
    if plan.clip is None or not gradients:
        return gradients
    limit = numbers.clip
    if plan.clip == "value":
        clipped = torch._foreach_clamp_min(gradients, -limit)
        torch._foreach_clamp_max_(clipped, limit)
        return clipped
    # One vector for all norms, so that the scales cost a few operations and not a few for each.
    norms = torch._foreach_norm(gradients)
    gathered = torch.stack([norm.to(norms[0].device, torch.float64) for norm in norms])
    if plan.clip == "global_norm":
        gathered = torch.linalg.vector_norm(gathered).expand(len(gradients))
    # norm - norm is 0 for a finite norm and NaN otherwise.
    scales = torch.where(gathered > limit, limit / gathered, 1.0) + (gathered - gathered)
    return torch._foreach_mul(
        gradients,
        [s.to(g.device, g.dtype) for s, g in zip(scales.unbind(), gradients, strict=True)],
    )


class _Block(NamedTuple):
    """Tensors of one device and dtype that go through the update together.

    `weights` are views of the weights themselves, or copies in the slots' wider dtype.
    """

    decayed: bool
    gradients: Tensors
    weights: Tensors
    square_averages: Tensors
    gradient_averages: Tensors
    momentums: Tensors
    # Narrow weights and their wide copies, to be rounded back at the end.
    narrow: Tensors


def _blocks(
    plan: _step.Plan, parameters: list[Parameter], present: list[int], gradients: Tensors
) -> Iterator[_Block]:
    """Sort the present parameters into blocks of like tensors."""
    alike: dict[tuple[Any, ...], list[tuple[Parameter, torch.Tensor]]] = {}
    for i, gradient in zip(present, gradients, strict=True):
        p = parameters[i]
        kind = (p.weight.device, p.weight.dtype, p.square_average.dtype, plan.decayed[i])
        alike.setdefault(kind, []).append((p, gradient.to(p.square_average.dtype)))
    for (device, narrow, wide, decayed), members in alike.items():
        limit = BLOCK if device.type == "cpu" else 2**62
        for pieces in _in_blocks(members, limit):
            ps = [p for p, _ in pieces]
            weights = [p.weight for p in ps]
            yield _Block(
                decayed=decayed,
                gradients=[g for _, g in pieces],
                weights=weights if narrow == wide else [w.to(wide) for w in weights],
                square_averages=[p.square_average for p in ps],
                gradient_averages=_existing(p.gradient_average for p in ps),
                momentums=_existing(p.momentum for p in ps),
                narrow=[] if narrow == wide else weights,
            )


def _in_blocks(
    members: list[tuple[Parameter, torch.Tensor]], limit: int
) -> Iterator[list[tuple[Parameter, torch.Tensor]]]:
    """Gather small tensors, and split large ones, into lists of about `limit` elements."""
    block: list[tuple[Parameter, torch.Tensor]] = []
    size = 0
    for p, gradient in members:
        p = p._replace(accumulator=None, average=None)
        tensors = [*_existing(p), gradient]
        if gradient.numel() > limit and all(t.is_contiguous() for t in tensors):
            flat = Parameter(*(None if t is None else t.view(-1).split(limit) for t in p))
            absent = itertools.repeat(None)
            columns = zip(*(absent if t is None else t for t in flat), strict=False)
            for column, g in zip(columns, gradient.view(-1).split(limit), strict=False):
                yield [(Parameter(*column), g)]
            continue
        if block and size + gradient.numel() > limit:
            yield block
            block, size = [], 0
        block.append((p, gradient))
        size += gradient.numel()
    if block:
        yield block


def _advance(
    plan: _step.Plan, numbers: _step.Numbers, step: StepCoefficients, block: _Block
) -> None:
    """Take a block through negation, penalty, decay and update."""
    g, w = block.gradients, block.weights
    if plan.maximize:
        g = torch._foreach_neg(g)
    if plan.l2:
        g = torch._foreach_add(g, w, alpha=numbers.l2)
    if block.decayed:
        torch._foreach_mul_(w, 1.0 - step.learning_rate * numbers.weight_decay)
    _update(plan.form, step, block._replace(gradients=g))
    if block.narrow:
        torch._foreach_copy_(block.narrow, w)


def _update(form: Form, step: StepCoefficients, block: _Block) -> None:
    """`_rule.update` for a block, in place."""
    g, w, s, m, b = block[1:6]
    lr, keep, weight, momentum, epsilon = step
    if m:
        deviation = torch._foreach_sub(g, m)
        torch._foreach_add_(m, deviation, alpha=weight)
        torch._foreach_addcmul_(s, deviation, deviation, weight)
        torch._foreach_mul_(s, keep)
    else:
        torch._foreach_mul_(s, keep)
        torch._foreach_addcmul_(s, g, g, weight)

    if form.epsilon_inside_sqrt:
        r = torch._foreach_add(s, epsilon)
        torch._foreach_sqrt_(r)
    else:
        r = torch._foreach_sqrt(s)
        torch._foreach_add_(r, epsilon)
    if form.guards_zero_root:
        for root in r:
            root.masked_fill_(root == 0.0, torch.inf)

    if not b:
        torch._foreach_addcdiv_(w, g, r, -lr)
        return
    inside, outside = (lr, 1.0) if form.lr_in_momentum else (1.0, lr)
    torch._foreach_mul_(b, momentum)
    torch._foreach_addcdiv_(b, g, r, inside)
    if form.nesterov:
        torch._foreach_add_(w, b, alpha=-outside * momentum)
        torch._foreach_addcdiv_(w, g, r, -lr)
    else:
        torch._foreach_add_(w, b, alpha=-outside)


def _average(
    plan: _step.Plan, numbers: _step.Numbers, done: int, parameters: list[Parameter]
) -> None:
    """Advance the moving average of the weights; the first one is a copy of them."""
    averages = [p.average for p in parameters]
    weights = [p.weight for p in parameters]
    if done == 0:
        torch._foreach_copy_(averages, weights)
    else:
        torch._foreach_mul_(averages, numbers.ema_momentum)
        wide = [w.to(a.dtype) for w, a in zip(weights, averages, strict=True)]
        torch._foreach_add_(averages, wide, alpha=numbers.one_minus_ema_momentum)
    if plan.ema_overwrite_frequency and (done + 1) % plan.ema_overwrite_frequency == 0:
        torch._foreach_copy_(weights, averages)


def _existing(tensors: Iterable[torch.Tensor | None]) -> Tensors:
    return [t for t in tensors if t is not None]


def _learning_rate(optimizer: "RMSprop", calls: int) -> float:
    """The rate of this step as a number of the host's."""
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
