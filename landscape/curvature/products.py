"""Products with the curvature of the mean loss: which batches are traced, cut and kept, and how the sums are formed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil

import torch
from torch import Tensor

from landscape import parallel
from landscape.batches import Batch, batch_length
from landscape.curvature.eager import double_backward
from landscape.curvature.forward import NotTraceableError, memory_formats, trace_forward
from landscape.curvature.kinds import Tensors, check_kind, divisor
from landscape.curvature.layout import by_signature, cut, even, is_cuttable, joined, tensors_of
from landscape.curvature.linearize import Linearization
from landscape.curvature.options import ProductOptions
from landscape.errors import InputError, MemoryLimitError
from landscape.footprint import Footprint, footprint
from landscape.networks import second_order_kernels
from landscape.problem import Problem
from landscape.seeds import generator

GIB = 2**30

# Batches are cut so that the largest activation has at most this size. On a CPU it then stays in the cache.
ACTIVATION_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}

# Products x examples x parameters below which double backward is done before a trace is.
TRACING_PAYS = 2e8

# Each shape of batches takes a trace of seconds; batches of rarer shapes go by double backward.
MAX_SHAPES = 8


@dataclass
class _Group:
    """The batches of one shape, with their graphs and the residuals that are kept."""

    graphs: Linearization
    batches: list[Batch]
    kept: list[list[Tensor]] = field(default_factory=list)

    @property
    def residual_bytes(self) -> int:
        """Memory of the residuals of one batch."""
        return self.graphs.graphs.residual_bytes

    @property
    def work_bytes(self) -> int:
        """Memory in use while a batch is multiplied, its residuals included."""
        halves = self.graphs.graphs
        return max(halves.primal_bytes, self.residual_bytes + halves.tangent_bytes)


class Products:
    """The curvature of the mean loss times blocks of vectors ``(n, k)``.

    Attributes
    ----------
    method
        What was decided, in words.
    peak_bytes
        Estimate of the memory that the products take, model and data apart.

    Raises
    ------
    InputError
        If the strategy wants a trace and the model cannot be traced.
    MemoryLimitError
        If the vectors or a single example do not fit ``options.memory``; with ``retained``, if not everything does.
    """

    def __init__(self, problem: Problem, kind: str, options: ProductOptions) -> None:
        check_kind(kind)
        self.problem, self.kind, self.options = problem, kind, options
        self._groups: list[_Group] = []
        self._eager = list(problem.batches)
        self._vector_bytes = block_bytes(problem, options.block)
        if self._room <= 0:
            raise self._too_large(self._vector_bytes)
        reason = "as asked for" if options.strategy == "double_backward" else "tracing does not pay"
        with second_order_kernels(problem.model):
            for memory_format in memory_formats(problem) if self._is_worth_tracing() else ():
                try:
                    self._groups, self._eager = self._traced_groups(memory_format)
                    break
                except NotTraceableError as error:
                    reason = str(error)
            if not self._groups and options.strategy in ("retained", "recomputed") and self._eager:
                raise InputError(f"this model cannot be traced ({reason}); use the strategy double_backward")
            work = self._cut_eager()
            self.peak_bytes = self._keep(work)
        self.method = self._describe(reason)

    def __call__(self, block: Tensor) -> Tensor:
        """Return the curvature times a block ``(n, k)``."""
        directions = [self.problem.unflatten(v) for v in block.T.contiguous()]
        # Sums in float64 make float32 products independent of the batching, to rounding.
        total = torch.zeros(block.shape, dtype=torch.float64, device=block.device)
        with second_order_kernels(self.problem.model):
            for group in self._groups:
                for column, product in enumerate(_multiply(group, directions)):
                    total[:, column] += self.problem.flatten(product)
            for batch in self._eager:
                for column, product in enumerate(double_backward(self.problem, self.kind, batch, directions)):
                    total[:, column] += self.problem.flatten(product)
        mean = parallel.sum_ranks(total).div_(divisor(self.problem, self.kind))
        if self.problem.weight_decay:
            mean.add_(block, alpha=self.problem.weight_decay)
        return mean.to(block.dtype)

    # ---- planning ----------------------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        """Memory for graphs and residuals."""
        return self.options.memory - self._vector_bytes

    def _too_large(self, needed: int) -> MemoryLimitError:
        return MemoryLimitError(
            f"products need {needed / GIB:.3g} GiB of memory, but {self.options.memory / GIB:.3g} GiB are given; allow "
            "more, or multiply fewer vectors at once",
            needed,
        )

    def _is_worth_tracing(self) -> bool:
        if self.options.strategy != "auto":
            return self.options.strategy != "double_backward"
        examples = sum(batch_length(batch) for batch in self.problem.batches)
        elements = sum(p.numel() for p in self.problem.parameters.values())
        return self.options.planned_products * examples * elements >= TRACING_PAYS

    @torch.no_grad()
    def _traced_groups(self, memory_format: torch.memory_format) -> tuple[list[_Group], list[Batch]]:
        """Return the traced batches, cut where they are large, and those of rare shapes as they are."""
        groups: list[_Group] = []
        rare: list[Batch] = []
        for batches in sorted(by_signature(self.problem.batches).values(), key=len, reverse=True):
            if len(groups) < MAX_SHAPES:
                groups += self._fitting(batches, memory_format)
            else:
                rare += batches
        for group in groups:
            _check(group, self.problem, self.kind)
            group.graphs.prepare(group.batches)
        return groups, rare

    def _fitting(self, batches: list[Batch], memory_format: torch.memory_format) -> list[_Group]:
        """Trace batches of one shape, or pieces of them that suit the cache and fit the memory."""
        length = batch_length(batches[0])
        forward = trace_forward(self.problem, self.kind, batches[0], memory_format)
        limit = ACTIVATION_BYTES.get(self.problem.device.type, ACTIVATION_BYTES["cpu"])
        preferred = max(1, limit * length // max(1, forward.largest_bytes))
        cuttable = (preferred < length or len(batches) > 1) and is_cuttable(self.problem, batches[0])
        size = preferred if cuttable else length
        while True:
            whole = joined(batches) if cuttable and size > length else batches
            pieces = [piece for b in whole for piece in (cut(b, even(batch_length(b), size)) if cuttable else [b])]
            groups = []
            for shape in by_signature(pieces).values():
                if batch_length(shape[0]) != length:
                    forward = trace_forward(self.problem, self.kind, shape[0], memory_format)
                groups.append(_Group(Linearization(self.problem, self.kind, shape[0], forward), shape))
            needed = max(group.work_bytes for group in groups)
            if needed <= self._room:
                return groups
            cuttable = cuttable or is_cuttable(self.problem, batches[0])
            size = min(size, max(batch_length(piece) for piece in pieces))
            if not cuttable or size == 1:
                raise self._too_large(needed + self._vector_bytes)
            size = max(1, min(size - 1, self._room * size // needed))

    def _cut_eager(self) -> int:
        """Cut the batches of double backward so that their graphs fit the memory; return what the largest takes."""
        largest = 0
        pieces: list[Batch] = []
        for batch in self._eager:
            taken, length = _eager_footprint(self.problem, self.kind, batch), batch_length(batch)
            if taken.of(length) > self._room:
                length = taken.fits(self._room)
                if length < 1 or not is_cuttable(self.problem, batch):
                    raise self._too_large(self._vector_bytes + taken.of(max(length, 1)))
                pieces += cut(batch, length)
            else:
                pieces.append(batch)
            largest = max(largest, taken.of(length))
        self._eager = pieces
        return largest

    def _keep(self, eager_bytes: int) -> int:
        """Compute the residuals that are kept, and return the memory that the products take at most."""
        work = max([eager_bytes, *(group.work_bytes for group in self._groups)])
        every = sum(group.residual_bytes * len(group.batches) for group in self._groups)
        if self.options.strategy == "retained" and every + work > self._room:
            raise self._too_large(self._vector_bytes + every + work)
        kept = 0
        for group in self._groups if self.options.strategy != "recomputed" else ():
            for batch in group.batches:
                if kept + group.residual_bytes + work > self._room:
                    break
                group.kept.append(group.graphs.residuals(batch))
                kept += group.residual_bytes
        return self._vector_bytes + work + kept

    def _describe(self, reason: str) -> str:
        traced = sum(len(group.batches) for group in self._groups)
        kept = sum(len(group.kept) for group in self._groups)
        layout = (
            "channels-last, "
            if any(g.graphs.forward.memory_format == torch.channels_last for g in self._groups)
            else ""
        )
        parts = [f"traced, {layout}{kept} of {traced} pieces retained"] if traced else []
        if self._eager:
            parts.append(f"double backward ({reason if not traced else 'rare shapes'})")
        return "; ".join(parts)


def block_bytes(problem: Problem, block: int) -> int:
    """Return the bytes of the vectors of a block while it is multiplied: directions, sums, and one product at work."""
    full, size = sum(p.numel() for p in problem.parameters.values()), problem.theta.element_size()
    active = problem.num_params * (8 if problem.index is None else 8 + size)
    return block * (active + full * (8 + 2 * size)) + 3 * full * size


@torch.no_grad()
def _multiply(group: _Group, directions: Sequence[Tensors]) -> Iterator[Tensors]:
    """Yield the curvature of the loss sum over the batches of a group times each direction."""
    graphs = group.graphs
    pushed = [graphs.push(direction) for direction in directions]
    sums = [[torch.zeros_like(t, dtype=torch.float64) for t in graphs.phi] for _ in directions]
    for number, batch in enumerate(group.batches):
        residuals = group.kept[number] if number < len(group.kept) else graphs.residuals(batch)
        for (d_phi, _), total in zip(pushed, sums, strict=True):
            for part, product in zip(total, graphs.multiply(residuals, d_phi), strict=True):
                part += product
    for (_, bent), total in zip(pushed, sums, strict=True):
        yield graphs.pull([part.to(t.dtype) for part, t in zip(total, graphs.phi, strict=True)], bent)


def _check(group: _Group, problem: Problem, kind: str) -> None:
    """Compare a product of one batch with double backward, which knows nothing of graphs and their rewriting.

    Raises
    ------
    NotTraceableError
        If they differ beyond rounding: the model does something that a graph cannot know, or a rewriting is wrong.
    """
    batch, source = group.batches[0], generator(0, "check", kind)
    v = torch.randn(problem.num_params, generator=source, dtype=torch.float64).to(problem.theta)
    direction = problem.unflatten(v)
    try:
        group.graphs.prepare([batch])
        product = problem.flatten(next(_multiply(_Group(group.graphs, [batch]), [direction])))
    except RuntimeError as error:  # a kernel whose layout is not what tracing foresaw
        raise NotTraceableError(f"its graph does not run: {str(error).splitlines()[0][:100]}") from error
    expected = torch.zeros_like(product)
    # An eighth at a time, so that double backward takes no more memory than the graphs do.
    for piece in cut(batch, ceil(batch_length(batch) / 8)) if is_cuttable(problem, batch) else [batch]:
        with torch.enable_grad():
            expected += problem.flatten(double_backward(problem, kind, piece, [direction])[0])
    difference = float((product - expected).norm() / expected.norm()) if bool(expected.any()) else float(product.norm())
    if not difference <= torch.finfo(problem.dtype).eps ** 0.4:
        raise NotTraceableError(f"its graph differs from double backward by {difference:.1g} of the product")


def _eager_footprint(problem: Problem, kind: str, batch: Batch) -> Footprint:
    """Estimate the memory of double backward, found by multiplying zeros for a few examples."""
    zeros = {name: torch.zeros_like(p) for name, p in problem.parameters.items()}
    length = batch_length(batch)
    separable = all(t.ndim > 0 and len(t) == length for t in tensors_of(batch))

    def multiply(size: int) -> None:
        with torch.enable_grad():
            double_backward(problem, kind, cut(batch, size)[0] if size < length else batch, [zeros])

    return footprint(multiply, length) if separable else footprint(lambda _: multiply(length), 1)
