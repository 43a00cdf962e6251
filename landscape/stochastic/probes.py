"""Random probes and their Lanczos quadrature, in lock-step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scipy.linalg
import torch
from torch import Tensor

from landscape import seeds
from landscape.errors import InputError, MemoryLimitError
from landscape.lanczos import Eigenpairs
from landscape.lanczos.basis import Basis, norms
from landscape.lanczos.space import BREAKDOWN, LONGEST_LAG
from landscape.operators import LinearOperator

State = dict[str, Any]

# Vectors of work space for each probe: the vector, its product, the remainder, and temporaries.
WORK_VECTORS = 6


@dataclass(frozen=True)
class ProbeOptions:
    """How many random vectors, how deep, and with how much memory.

    Attributes
    ----------
    num_probes
        Random vectors P.
    depth
        Krylov steps m of each; exact up to degree 2 m - 1.
    seed
        Names the random vectors, together with their number and ``key``.
    key
        Tells independent measurements with one seed apart, for instance layers.
    memory
        Bytes that the Krylov bases may take: probes run in groups that fit. None runs all together.
    """

    num_probes: int = 10
    depth: int = 80
    seed: int = 0
    key: tuple[int | str, ...] = ()
    memory: int | None = None


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Nodes and weights of each probe; the weights of a probe sum to 1.

    Attributes
    ----------
    ritz_value, ritz_weight
        ``(P, k + m)``, float64 on the CPU: first k deflated eigenvalues with the exact weight 1 / n each, then the m
        nodes of the complement. After a breakdown the value is NaN and the weight 0.
    size
        Dimension n of the operator.
    num_exact
        The number k of deflated eigenvalues.
    eps
        Unit of rounding of the products.
    num_products
        Products spent, by earlier processes of a resumed run too.
    """

    ritz_value: Tensor
    ritz_weight: Tensor
    size: int
    num_exact: int
    eps: float
    num_products: int

    @property
    def is_exact(self) -> bool:
        """Whether all eigenvalues are known, so that nothing is estimated."""
        return self.num_exact == self.size


def quadrature(
    operator: LinearOperator,
    options: ProbeOptions = ProbeOptions(),
    deflate: Eigenpairs | None = None,
    state: State | None = None,
    save_state: Callable[[Callable[[], State], bool], None] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Quadrature:
    """Run all probes in lock-step, one block product a step, each with its own two-pass Gram-Schmidt.

    Parameters
    ----------
    operator
        The operator A.
    deflate
        Eigenpairs to take out of the probes: the converged ones enter exactly, the probes see the complement only.
        The products are the same, the variance is that of the complement.
    state, save_state, progress
        As for ``lanczos.eigenpairs``.

    Raises
    ------
    InputError
        If a product is not finite.
    MemoryLimitError
        If the basis of one probe does not fit.

    Notes
    -----
    Cost: P m products and about 6 P m^2 n operations; (m + 6) n numbers of memory for each probe of a group.

    Error: that of the probes is in the estimates' standard errors; that of the quadrature (of functions that no
    polynomial of degree 2 m - 1 follows) is not. Deflation by vectors with residuals r errs by r^2 over the gap.

    Examples
    --------
    >>> import torch
    >>> from landscape.operators import identity
    >>> A = 3.0 * identity(50, torch.float64, torch.device("cpu"))
    >>> quadrature(A, ProbeOptions(num_probes=1, depth=2)).ritz_weight.round(decimals=6).tolist()
    [[1.0, 0.0]]
    """
    if options.num_probes < 1 or options.depth < 1:
        raise InputError("a quadrature needs at least one probe and depth 1")
    chosen = torch.zeros(0, dtype=torch.bool) if deflate is None else deflate.converged
    known = torch.zeros(0, dtype=torch.float64) if deflate is None else deflate.eigenvalue[chosen]
    rows = None
    if deflate is not None and len(known):
        rows = deflate.eigenvector.T if bool(chosen.all()) else deflate.eigenvector.T[chosen.to(operator.device)]
    chains = _Chains(operator, options, rows)
    if state is not None:
        chains.load(state)
    while not chains.finished:
        done = chains.num_products
        chains.work()
        if save_state is not None:
            save_state(chains.state, chains.finished)
        if progress is not None:
            progress(chains.num_products - done)
    value, weight = _nodes(chains.alpha, chains.beta, chains.length)
    shape, share = (len(value), -1), len(known) / operator.size
    value = torch.cat([known.expand(*shape), value], 1)
    weight = torch.cat([torch.full_like(known, 1 / operator.size).expand(*shape), (1 - share) * weight], 1)
    eps = torch.finfo(operator.dtype).eps
    return Quadrature(value, weight, operator.size, len(known), eps, chains.num_products)


class _Chains:
    """Lanczos processes of one group of probes after another."""

    def __init__(self, operator: LinearOperator, options: ProbeOptions, deflated: Tensor | None) -> None:
        n = operator.size
        self.operator, self.options = operator, options
        self.deflated: Basis | None = None
        if deflated is not None:
            self.deflated = Basis(n, len(deflated), operator.dtype, operator.device, slab=len(deflated))
            self.deflated.slabs, self.deflated.rows = [deflated.contiguous()], len(deflated)
        self.depth = min(options.depth, n - (0 if deflated is None else len(deflated)))
        vectors = math.inf if options.memory is None else options.memory // (n * operator.dtype.itemsize)
        self.width = int(min(options.num_probes, vectors // (self.depth + WORK_VECTORS)))
        if self.width < 1 and self.depth:
            gib = n * operator.dtype.itemsize / 2**30
            raise MemoryLimitError(
                f"a probe of depth {self.depth} needs {gib * (self.depth + WORK_VECTORS):.3g} GiB, "
                f"but {gib * vectors:.3g} GiB are allowed; allow more memory or lower the depth"
            )
        shape = (options.num_probes, self.depth)
        self.alpha = torch.zeros(shape, dtype=torch.float64)
        self.beta = torch.zeros(shape, dtype=torch.float64)
        self.length = torch.zeros(options.num_probes, dtype=torch.int64)
        self.first = 0 if self.depth else options.num_probes
        self.num_products = 0
        self.bases: list[Basis] = []

    @property
    def finished(self) -> bool:
        return self.first >= self.options.num_probes

    def work(self) -> None:
        """Do a few steps of the present group; the host waits for the device at their end."""
        if not self.bases:
            self._start()
        device = self.operator.device
        for _ in range(LONGEST_LAG.get(device.type, 1)):
            self._step()
            if self.step == self.depth:
                break
        if not bool(torch.isfinite(self.group_beta[:, : self.step]).all()):
            raise InputError(
                "a product of the operator with a random vector is not finite: the loss or its derivatives overflow "
                "here; check the weights and the data, or use --dtype float64"
            )
        if self.step == self.depth or not bool(self.alive.any()):
            self._finish()

    def _start(self) -> None:
        n, device, dtype = self.operator.size, self.operator.device, self.operator.dtype
        last = min(self.first + self.width, self.options.num_probes)
        for probe in range(self.first, last):
            random = seeds.generator(self.options.seed, "probe", *self.options.key, probe)
            vector = torch.randn(1, n, generator=random, dtype=torch.float64).to(device, dtype)
            if self.deflated is not None:
                for _ in range(2):
                    self.deflated.remove(vector)
            basis = Basis(n, self.depth, dtype, device, slab=self.depth)
            basis.append(vector / norms(vector)[:, None].to(dtype))
            self.bases.append(basis)
        count = len(self.bases)
        self.step = 0
        self.group_alpha = torch.zeros(count, self.depth, dtype=torch.float64, device=device)
        self.group_beta = torch.zeros_like(self.group_alpha)
        self.group_length = torch.zeros(count, dtype=torch.int64, device=device)
        self.alive = torch.ones(count, dtype=torch.bool, device=device)
        self.scale = torch.zeros(count, dtype=torch.float64, device=device)

    def _step(self) -> None:
        """Multiply the last vector of each probe; a probe that broke down goes on with zeros, so nothing branches."""
        vectors = torch.cat([basis.gather([basis.rows - 1]) for basis in self.bases])
        block = (self.operator @ vectors.T).T.contiguous()
        self.num_products += len(block)
        self.scale = torch.maximum(self.scale, norms(block))
        self.group_length += self.alive
        for start in (max(self.step - 1, 0), 0):  # first the recurrence, then everything
            if self.deflated is not None:
                self.deflated.remove(block)
            for row, basis in enumerate(self.bases):
                self.group_alpha[row, self.step] += basis.remove(block[row : row + 1], start)[-1, 0]
        size = norms(block)
        self.group_beta[:, self.step] = size
        self.alive = self.alive & ~(size <= BREAKDOWN * torch.finfo(block.dtype).eps * self.scale)
        self.step += 1
        if self.step < self.depth:
            block /= torch.where(self.alive, size, torch.inf)[:, None].to(block.dtype)
            for row, basis in enumerate(self.bases):
                basis.append(block[row : row + 1])

    def _finish(self) -> None:
        rows = slice(self.first, self.first + len(self.bases))
        self.alpha[rows], self.beta[rows] = self.group_alpha.cpu(), self.group_beta.cpu()
        self.length[rows] = self.group_length.cpu()
        self.first += len(self.bases)
        self.bases = []

    def state(self) -> State:
        """Return the state at this moment."""
        names = ["alpha", "beta", "length", "first", "num_products"]
        if self.bases:
            names += ["step", "group_alpha", "group_beta", "group_length", "alive", "scale"]
        found = {name: getattr(self, name) for name in names}
        copied = {name: part.clone() if isinstance(part, Tensor) else part for name, part in found.items()}
        return {**copied, "bases": [part for basis in self.bases for _, part in basis.parts()]}

    def load(self, state: State) -> None:
        """Take over a state, and its rows out of it."""
        if state["alpha"].shape != self.alpha.shape or any(b.shape[1] != self.operator.size for b in state["bases"]):
            raise InputError("the saved state belongs to another measurement; start again without it")
        for name, part in state.items():
            grouped = isinstance(part, Tensor) and name not in ("alpha", "beta", "length")
            setattr(self, name, part.to(self.operator.device) if grouped else part)
        self.alpha, self.beta, self.length = self.alpha.clone(), self.beta.clone(), self.length.clone()
        self.bases = []
        bases = state["bases"]
        while bases:  # what is taken over is let go, so that the rows are not in memory twice
            basis = Basis(self.operator.size, self.depth, self.operator.dtype, self.operator.device, slab=self.depth)
            basis.append(bases.pop(0))
            self.bases.append(basis)


def _nodes(alpha: Tensor, beta: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Gauss nodes and weights of each probe, ``(P, m)`` (Golub and Welsch 1969)."""
    value, weight = torch.full_like(alpha, torch.nan), torch.zeros_like(alpha)
    for row, count in enumerate(length.tolist()):
        if count:
            diagonal, beside = alpha[row, :count].numpy(), beta[row, : count - 1].numpy()
            nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside)
            value[row, :count], weight[row, :count] = torch.from_numpy(nodes), torch.from_numpy(vectors[0] ** 2)
    return value, weight


def exact_quadrature(values: Tensor) -> Quadrature:
    """Return all eigenvalues ``(n,)`` in the form of a quadrature: one probe, no error."""
    values = values.double().cpu()
    n = len(values)
    weight = torch.full((1, n), 1 / n, dtype=torch.float64)
    return Quadrature(values[None], weight, n, n, torch.finfo(torch.float64).eps, n)
