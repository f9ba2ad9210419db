"""An optimizer's tensors, grouped for torch's multi-tensor operations."""

import itertools
import operator
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import torch

from keras_rmsprop._execution.torch._values import check_writable, stored
from keras_rmsprop._math import _rounding, _step
from keras_rmsprop._math._rule import Parameter
from keras_rmsprop._variables._roster import ParameterVariables, Roster, flat_without_none

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]

# On a CPU a larger tensor is updated in pieces of this many elements, which stay in the cache with
# their slots and temporaries.
PIECE = 2**20

# Small tensors are updated together, about this many elements at a time; each pass costs 0.2 ms.
BLOCK = 2**22

# On a GPU, where blocks are not limited otherwise, about this many elements of bfloat16 slots are
# widened at a time: their float32 copies would take more memory than the slots save.
WIDENED = 2**24

# torch's grain size: larger operations are split among threads, which can wait for milliseconds
# when other programs occupy the cores. So small tensors are joined up to this size only.
GRAIN = 2**15

# The number of different sets of gradients for which the lists of tensors are cached.
SELECTIONS_KEPT = 4


class _Member(NamedTuple):
    """A weight with its slots, or a piece of one, as the update processes it."""

    # The index of the parameter, and of the piece within it.
    position: int
    piece: int
    parameter: Parameter
    # Memory for the roots, of the weight's shape; None for tensors that are not on the CPU.
    root: torch.Tensor | None


class _Chunk(NamedTuple):
    """Small tensors whose roots are adjacent in memory (see `GRAIN`)."""

    members: list[_Member]
    roots: torch.Tensor


class _Kind(NamedTuple):
    """What tensors must have in common to be updated together."""

    # The dtype of the arithmetic, and of the slots unless they are narrow.
    dtype: torch.dtype
    # Whether the slots are stored in bfloat16.
    narrow: bool
    # The index of their settings in `Plan.groups`.
    group: int
    decayed: bool


class _Bundle(NamedTuple):
    """Tensors of one kind and device that can be updated together."""

    kind: _Kind
    members: list[_Member]
    # The same members if they are small; otherwise empty.
    chunks: list[_Chunk]
    # Memory for the float32 values of narrow slots, shape (3, elements); None if there are none, or
    # not on the CPU.
    widened: torch.Tensor | None


class Block(NamedTuple):
    """The tensors of a bundle that have a gradient, as lists for multi-tensor operations."""

    kind: _Kind
    # For each tensor, the index of its parameter.
    positions: list[int]
    # For each tensor, its gradient's index among those present, and the index of the piece.
    sources: list[tuple[int, int]]
    weights: Tensors
    square_averages: Tensors
    gradient_averages: Tensors
    momentums: Tensors
    # For each tensor the memory of its roots; empty if not on the CPU.
    roots: Tensors
    # The same memory in as few tensors as `GRAIN` allows; empty for large tensors.
    joined: Tensors
    # The bundle's memory of the same name.
    widened: torch.Tensor | None


class Selection(NamedTuple):
    """What a step processes, given the variables that have a gradient."""

    present: tuple[int, ...]
    devices: list[torch.device]
    # The indices, among the gradients present, of those that are split into pieces.
    split: list[int]
    blocks: list[Block]


class Layout(NamedTuple):
    """An optimizer's tensors in bundles, valid as long as their memory does not move."""

    # The variables in a flat list, their tensors, and the tensors' addresses.
    variables: list[keras.Variable]
    tensors: list[torch.Tensor]
    # Needed because `module.to(...)` gives the same tensors new memory.
    addresses: list[int]
    # The tensors by parameter, and the positions of all of them.
    parameters: list[Parameter]
    all_positions: tuple[int, ...]
    groups: tuple[int, ...]
    decayed: tuple[bool, ...]
    constraints: tuple[Any, ...]
    # The start addresses of the storages that a step writes to.
    memories: frozenset[int]
    # Whether a tensor was made under `torch.inference_mode` and is writable only there.
    for_inference: bool
    # The tensors that are cut into pieces, and their strides, which determine the pieces.
    cut: list[torch.Tensor]
    strides: list[tuple[int, ...]]
    # The settings with which constraints have been tried, by parameter.
    tried: dict[int, str]
    bundles: list[_Bundle]
    # The weights that have a moving average and their averages, grouped by dtype.
    averaged: list[tuple[list[torch.Tensor], list[torch.Tensor]]]
    selections: dict[tuple[int, ...], Selection]

    def is_valid_for(self, plan: _step.Plan) -> bool:
        """Whether the layout is still valid, and sorts the tensors as this plan needs."""
        if self.decayed != plan.decayed or self.groups != plan.members:
            return False
        tensors = list(map(stored, self.variables))
        return (
            all(map(operator.is_, tensors, self.tensors))
            and list(map(torch.Tensor.data_ptr, tensors)) == self.addresses
            and [t.stride() for t in self.cut] == self.strides
            and all(map(operator.is_, self.constraints, plan.constraints))
            and (torch.is_inference_mode_enabled() or not self.for_inference)
        )

    def unaliased(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Copy the gradients that share memory with tensors the step writes to."""
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

    def select(self, present: tuple[int, ...]) -> Selection:
        """Return the tensors that have a gradient.

        Raises: whatever a constraint raises that does not fit its weight.
        """
        if any(self.constraints):
            self.try_constraints(present)
        selection = self.selections.get(present)
        if selection is None:
            selection = _selection(self, present)
            if len(self.selections) == SELECTIONS_KEPT:
                # The set may differ at every step, so drop the oldest.
                del self.selections[next(iter(self.selections))]
            self.selections[present] = selection
        return selection

    def try_constraints(self, present: tuple[int, ...]) -> None:
        """Check that the constraints can be applied, before the step writes anything."""
        for i in present:
            constraint = self.constraints[i]
            if constraint is None:
                continue
            # Its settings may change later, and it may fail with the new ones.
            settings = repr(constraint.get_config())
            if self.tried.get(i) != settings:
                constraint(self.parameters[i].weight)
                self.tried[i] = settings


# Grouping the tensors of a large model takes as long as a step of its smaller ones.
_layouts: "weakref.WeakKeyDictionary[Roster, Layout]" = weakref.WeakKeyDictionary()


def layout_of(roster: Roster, plan: _step.Plan) -> Layout:
    """Return the optimizer's layout, cached as long as it is valid."""
    layout = _layouts.get(roster)
    if layout is None or not layout.is_valid_for(plan):
        # Drop the old one first: it may be the last reference to replaced memory.
        layout = None
        _layouts.pop(roster, None)
        check_writable(roster.variables)
        # A step outside inference mode must be able to write to what is made here.
        with torch.inference_mode(False), torch.no_grad():
            layout = _make_layout(roster.parameters, plan)
        _layouts[roster] = layout
    return layout


def _make_layout(owners: Sequence[ParameterVariables], plan: _step.Plan) -> Layout:
    variables = flat_without_none(*owners)
    parameters = [p.read(stored) for p in owners]
    tensors = flat_without_none(itertools.chain.from_iterable(parameters))
    cut = [t for t in tensors if t.numel() > PIECE]
    return Layout(
        variables,
        tensors,
        addresses=[t.data_ptr() for t in tensors],
        parameters=parameters,
        all_positions=tuple(range(len(parameters))),
        groups=plan.members,
        decayed=plan.decayed,
        constraints=plan.constraints,
        memories=frozenset(t.untyped_storage().data_ptr() for t in tensors if t.numel()),
        for_inference=any(t.is_inference() for t in tensors),
        cut=cut,
        strides=[t.stride() for t in cut],
        tried={},
        bundles=_bundles(parameters, plan),
        averaged=_averaged(parameters),
        selections={},
    )


def overlap_of(tensors: Sequence[torch.Tensor]) -> tuple[int, int] | None:
    """Return the indices of two tensors that share memory, if there are any."""
    ranges = sorted(
        (str(t.device), t.data_ptr(), t.data_ptr() + span_of(t) * t.element_size(), i)
        for i, t in enumerate(tensors)
        if t.numel()
    )
    for (device, _, end, i), (other, start, _, k) in itertools.pairwise(ranges):
        if device == other and start < end:
            return i, k
    return None


def span_of(tensor: torch.Tensor) -> int:
    """Return how many elements of memory the tensor reaches over, unless it is empty."""
    return 1 + sum((n - 1) * k for n, k in zip(tensor.shape, tensor.stride(), strict=True))


def _bundles(parameters: list[Parameter], plan: _step.Plan) -> list[_Bundle]:
    """Sort parameters into bundles of similar tensors (see `PIECE`, `BLOCK` and `GRAIN`)."""
    alike: dict[tuple[Any, ...], list[_Member]] = {}
    for index, (p, group, decays) in enumerate(
        zip(parameters, plan.members, plan.decayed, strict=True)
    ):
        # Variables that take their gradient as their value have no slots.
        if p.square_average is not None:
            small = p.weight.numel() <= min(GRAIN, PIECE)
            dtype = getattr(torch, _step.arithmetic_dtype(p))
            kind = _Kind(dtype, _rounding.is_narrow(p), group, decays)
            # Only some of a group may have buffers, for example if their momentum was 0 at build.
            has_buffer = p.momentum is not None
            common = (p.weight.device, p.weight.dtype, kind, has_buffer, small)
            alike.setdefault(common, []).extend(_members(index, p))
    bundles = []
    for (device, _, kind, _, small), members in alike.items():
        if device.type != "cpu":
            # Narrow slots are widened a bundle at a time.
            parts = _split_by_size(members, WIDENED) if kind.narrow else [members]
            bundles += [_Bundle(kind, part, [], None) for part in parts]
            continue
        parts = _split_by_size(members, BLOCK if small and not kind.narrow else PIECE)
        most = max(map(_elements, parts))
        scratch = torch.zeros(most, dtype=kind.dtype, device=device)
        wide = torch.zeros(3, most, dtype=kind.dtype, device=device) if kind.narrow else None
        for part in parts:
            rooted = _with_roots(part, scratch)
            bundles.append(_Bundle(kind, rooted, _chunks(rooted, scratch) if small else [], wide))
    return bundles


def _members(index: int, parameter: Parameter) -> list[_Member]:
    """Make one member of a parameter, or one per piece if it is large."""
    parameter = parameter._replace(accumulator=None, average=None)
    tensors, weight = flat_without_none(parameter), parameter.weight
    if weight.device.type != "cpu" or weight.numel() <= PIECE:
        return [_Member(index, 0, parameter, None)]
    if not all(t.is_contiguous() for t in tensors):
        return [_Member(index, 0, parameter, None)]
    absent = itertools.repeat(None)
    columns = [absent if t is None else pieces_of(t, PIECE) for t in parameter]
    pieces = itertools.starmap(Parameter, zip(*columns, strict=False))
    return [_Member(index, k, piece, None) for k, piece in enumerate(pieces)]


def _split_by_size(members: list[_Member], limit: int) -> list[list[_Member]]:
    """Split members, in order, into lists of at most `limit` elements or a single member."""
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


def _with_roots(members: list[_Member], scratch: torch.Tensor) -> list[_Member]:
    """Assign each member its part of the memory for roots."""
    weights = [member.parameter.weight for member in members]
    sizes = [weight.numel() for weight in weights]
    roots = scratch[: sum(sizes)].split(sizes)
    return [
        member._replace(root=root.view(weight.shape))
        for member, root, weight in zip(members, roots, weights, strict=True)
    ]


def _chunks(members: list[_Member], scratch: torch.Tensor) -> list[_Chunk]:
    """Group the members whose roots one operation may process at once."""
    chunks = _split_by_size(members, GRAIN)
    sizes = [_elements(chunk) for chunk in chunks]
    return list(map(_Chunk, chunks, scratch[: sum(sizes)].split(sizes)))


def _averaged(parameters: list[Parameter]) -> list[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Group weights and their moving averages by the averages' device and dtype."""
    alike: dict[tuple[torch.device, torch.dtype], list[Parameter]] = {}
    for p in parameters:
        if p.average is not None:
            alike.setdefault((p.average.device, p.average.dtype), []).append(p)
    return [([p.weight for p in ps], [p.average for p in ps]) for ps in alike.values()]


def _selection(layout: Layout, present: tuple[int, ...]) -> Selection:
    places = {index: place for place, index in enumerate(present)}
    all_present = len(present) == len(layout.parameters)
    split: dict[int, None] = {}
    blocks = []
    for bundle in layout.bundles:
        members = bundle.members
        if not all_present:
            members = [m for m in members if m.position in places]
        if members:
            split.update((places[m.position], None) for m in members if m.piece)
            blocks.append(_block(bundle, members, places))
    devices = [layout.parameters[index].weight.device for index in present]
    return Selection(present, devices, list(split), blocks)


def _block(bundle: _Bundle, members: list[_Member], places: dict[int, int]) -> Block:
    """Transpose the members of a bundle into lists of tensors."""
    parameters = [m.parameter for m in members]
    return Block(
        bundle.kind,
        positions=[m.position for m in members],
        sources=[(places[m.position], m.piece) for m in members],
        weights=[p.weight for p in parameters],
        square_averages=[p.square_average for p in parameters],
        gradient_averages=flat_without_none([p.gradient_average for p in parameters]),
        momentums=flat_without_none([p.momentum for p in parameters]),
        roots=flat_without_none([m.root for m in members]),
        joined=_joined(bundle.chunks, members, places),
        widened=bundle.widened,
    )


def _joined(chunks: list[_Chunk], members: list[_Member], places: dict[int, int]) -> Tensors:
    """Return the memory of the members' roots in few tensors, possibly with other roots too."""
    if sum(len(chunk.members) for chunk in chunks) == len(members):
        return [chunk.roots for chunk in chunks]
    joined: list[torch.Tensor] = []
    for chunk in chunks:
        present = [m for m in chunk.members if m.position in places]
        # One operation on the whole chunk is faster than one per member unless few are present.
        if 2 * _elements(present) >= chunk.roots.numel():
            joined.append(chunk.roots)
        else:
            joined += flat_without_none([m.root for m in present])
    return joined


def pieces_of(tensor: torch.Tensor, size: int) -> Tensors:
    """Return the tensor, or its flat pieces of `size` elements if it is larger."""
    return (tensor,) if tensor.numel() <= size else tensor.reshape(-1).split(size)
