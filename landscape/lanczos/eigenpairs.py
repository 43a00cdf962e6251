"""Eigenpairs from both ends of the spectrum, with residuals from fresh products and a check against missed copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError, MemoryLimitError
from landscape.lanczos.basis import loss_of_orthogonality, norms
from landscape.lanczos.space import Ritz, Space
from landscape.operators import LinearOperator

State = dict[str, Any]

# The estimate of a residual must beat the tolerance by this factor, as the fresh residual carries rounding too.
SAFETY = 0.9
# The Ritz pairs are looked at whenever the space has grown by one part in so many.
SPACING = 24
# Vectors of work space for each vector multiplied: it, its product, the remainder in float64.
WORK = 6
# After a breakdown, so many random vectors at most go on at once.
RANDOM_BLOCK = 8


@dataclass(frozen=True)
class EigenOptions:
    """Which eigenpairs, how well, and with how much memory.

    Attributes
    ----------
    largest, smallest
        Pairs from the top and from the bottom (algebraically); both ends come from the same Krylov space.
    tolerance
        A pair has converged if |A v - lambda v| / |v| <= tolerance * max |lambda|.
    seed
        Names the random vectors.
    block
        Vectors multiplied at a time. Blocks need more products in all, so they pay only where a product of a block is
        much cheaper than its columns one by one.
    max_basis
        Most vectors of the Krylov space; when it is full, it is restarted with half of them. None:
        4 (largest + smallest) + 200, which seldom restarts.
    memory
        Bytes that the Krylov space and the work on it may take; lowers ``max_basis`` where it must. None for no limit.
    max_products
        Most products; pairs that have not converged by then are returned as they are. None: 20 k + 1000 for k pairs.
    verification
        Products of one check against missed copies; 0 leaves it out.
    product_block
        Vectors multiplied at a time when the residuals are computed.
    """

    largest: int = 20
    smallest: int = 5
    tolerance: float = 1e-4
    seed: int = 0
    block: int = 1
    max_basis: int | None = None
    memory: int | None = None
    max_products: int | None = None
    verification: int = 12
    product_block: int = 8

    @property
    def num_pairs(self) -> int:
        """Pairs from both ends."""
        return self.largest + self.smallest


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Eigenpairs, the largest first, then the smallest from the bottom up.

    Attributes
    ----------
    eigenvalue
        Rayleigh quotients of fresh products, ``(k,)``, float64 on the CPU.
    eigenvector
        Unit vectors ``(n, k)``, in the operator's dtype on its device; the largest component is positive.
    residual
        |A v - lambda v| / |v| of fresh products, ``(k,)``.
    converged
        Whether the residual is at most tolerance * max |lambda|, ``(k,)``; the maximum is over all Ritz values seen, so
        that one end alone is judged on the scale of the whole spectrum.
    label
        1, 2, ... from the top, then -1, -2, ... from the bottom, ``(k,)``.
    num_products
        Products spent, by earlier processes of a resumed run too.
    loss_of_orthogonality
        Largest entry of |V'V - I|.
    """

    eigenvalue: Tensor
    eigenvector: Tensor
    residual: Tensor
    converged: Tensor
    label: Tensor
    num_products: int
    loss_of_orthogonality: float


def eigenpairs(
    operator: LinearOperator,
    options: EigenOptions = EigenOptions(),
    state: State | None = None,
    save_state: Callable[[Callable[[], State], bool], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Eigenpairs:
    r"""Return the largest and the smallest eigenpairs by thick-restart Lanczos.

    Parameters
    ----------
    operator
        The operator A.
    state
        A state that ``save_state`` got from an earlier run with the same operator and options; the result then has the
        same bits as an uninterrupted run.
    save_state
        Called often with a function that makes the present state, a dict of tensors and plain values, and with whether
        it is the last one; it decides whether to call and write it.
    progress
        Called with the number of products done since its last call.

    Raises
    ------
    InputError
        If more pairs are asked for than there are, or a product is not finite.
    MemoryLimitError
        If ``max_basis`` is too small for the pairs asked for.

    Notes
    -----
    Cost: that of Lanczos without restart while the basis fits, plus q = ``verification`` products, plus k products for
    the residuals. With m vectors in the basis, Gram-Schmidt reads 2 m n numbers a step.

    Missed copies: a Krylov space holds one vector of each eigenspace. When all pairs have converged, a random vector
    orthogonal to everything found starts a chain of q products beside them; if it changes what was found, the search
    goes on, and is checked again. Let x be the distance of a missed eigenvalue to the last pair asked for, over its
    distance to the other end of the spectrum. It is overlooked with a probability of at most
    1.65 sqrt(n) exp(-(2 q - 1) sqrt(x)) (Kuczynski and Wozniakowski 1992, theorem 4.2, doi 10.1137/0613066). Thus
    q = 12 finds copies well outside the bulk, while copies of the last pairs asked for may be overlooked.

    Error: an eigenvalue of A lies within ``residual`` of each value returned.

    Examples
    --------
    >>> import torch
    >>> from landscape.operators import from_matrix
    >>> A = from_matrix(torch.diag(torch.tensor([5.0, 2.0, 2.0, 0.0, -1.0], dtype=torch.float64)))
    >>> eigenpairs(A, EigenOptions(largest=3, smallest=1)).eigenvalue.round(decimals=6).tolist()
    [5.0, 2.0, 2.0, -1.0]
    """
    search = _Search(operator, options)
    if state is not None:
        search.load(state)
    reported = search.num_products
    while not search.finished:
        search.work()
        if save_state is not None:
            save_state(search.state, search.finished)
        if progress is not None:
            progress(search.num_products - reported)
            reported = search.num_products
    return search.result()


class _Search:
    """First grows the space until the wanted pairs have converged and were verified, then multiplies them anew."""

    def __init__(self, operator: LinearOperator, options: EigenOptions) -> None:
        n, k = operator.size, options.num_pairs
        _check(options, n)
        capacity = _capacity(options, n, operator.dtype.itemsize)
        self.operator, self.options = operator, options
        self.space = Space(operator, capacity, options.seed)
        self.limit = (20 * k + 1000 if options.max_products is None else options.max_products) - k
        self.found: np.ndarray | None = None  # the wanted values when they had converged, while they are verified
        self.growing = True
        self.scale = 0.0  # estimate of max |lambda| over the whole spectrum
        self.fresh = torch.zeros(0, 2, dtype=torch.float64)  # Rayleigh quotient and residual of each vector

    @property
    def num_products(self) -> int:
        return self.space.products + len(self.fresh)

    @property
    def finished(self) -> bool:
        return not self.growing and len(self.fresh) == self.options.num_pairs

    def work(self) -> None:
        """Do a stretch of work, at whose end the state can be saved."""
        if not self.growing:
            self._multiply_anew()
        elif self.space.basis.rows == 0:
            self._grow(self.space.add_random(self.options.block), self.options.num_pairs + 8)
        else:
            self._extend()

    def _extend(self) -> None:
        """Look at the Ritz pairs, and stop, verify, or grow on."""
        ritz, space = self.space.ritz(), self.space
        wanted = self._wanted(ritz)
        missing = self.options.num_pairs - len(ritz.value)
        open_ = wanted[ritz.residual[wanted] > SAFETY * self.options.tolerance * ritz.scale]
        if missing <= 0 and (self._verified(ritz, wanted, len(open_)) or space.products >= self.limit):
            self._stop(ritz, wanted)
        elif missing <= 0 and len(open_) == 0:
            self._make_room(ritz, self.options.verification + 1)
            self._grow(space.add_random(1), self.options.verification)
        else:
            steps = max(4, len(ritz.value) // SPACING) if missing <= 0 else missing + 4
            self._make_room(ritz, self.options.block)
            self._grow(self._next(ritz, open_, missing), steps)

    def _wanted(self, ritz: Ritz) -> np.ndarray:
        """Return the numbers of the wanted Ritz pairs: from the top down, then from the bottom up."""
        count = len(ritz.value)
        if count < self.options.num_pairs:
            return np.arange(count)
        return np.r_[count - 1 - np.arange(self.options.largest), np.arange(self.options.smallest)]

    def _verified(self, ritz: Ritz, wanted: np.ndarray, num_open: int) -> bool:
        """Return whether all is done; where all has converged for the first time, remember what was found."""
        values = ritz.value[wanted]
        before, self.found = self.found, values if num_open == 0 else None
        if num_open:
            return False
        whole = len(ritz.value) == self.operator.size or self.options.verification == 0
        return whole or (
            before is not None and bool(np.abs(values - before).max() <= self.options.tolerance * ritz.scale)
        )

    def _next(self, ritz: Ritz, open_: np.ndarray, missing: int) -> list[int]:
        """Return the pending rows that the unconverged pairs need most, or random ones where nothing is pending."""
        pending = self.space.pending
        if not pending:
            return self.space.add_random(max(self.options.block, min(missing, RANDOM_BLOCK)))
        need = np.linalg.norm(ritz.coupling[:, open_], axis=1)
        return [pending[row] for row in np.argsort(-need, kind="stable")[: self.options.block]]

    def _grow(self, rows: list[int], products: int) -> None:
        left = max(1, min(products, self.limit - self.space.products))
        self.space.advance(rows, -(-left // self.options.block), self.options.block)

    def _make_room(self, ritz: Ritz, room: int) -> None:
        """Restart where the basis is full: keep the wanted pairs, and as many of their neighbours as are worth it."""
        space, options = self.space, self.options
        if space.room >= room or space.basis.capacity == self.operator.size:
            return
        free = space.basis.capacity - options.num_pairs - len(space.pending)
        spare = min(free // 2, free - max(room, options.block * 4))
        if spare < 0:
            raise MemoryLimitError(
                f"a basis of {space.basis.capacity} vectors is too small for these eigenpairs; allow more memory"
            )
        top = options.largest + spare * options.largest // options.num_pairs
        bottom = options.num_pairs + spare - top
        count = len(ritz.value)
        space.restart(ritz, np.unique(np.r_[np.arange(min(bottom, count)), np.arange(max(count - top, 0), count)]))

    def _stop(self, ritz: Ritz, wanted: np.ndarray) -> None:
        """Keep the wanted vectors only."""
        weights = np.zeros((len(wanted), self.space.basis.rows))
        weights[:, np.array(self.space.done, dtype=bool)] = ritz.vector[:, wanted].T
        self.space.basis.combine(torch.from_numpy(weights))
        self.growing, self.scale = False, ritz.scale

    def _multiply_anew(self) -> None:
        """Compute Rayleigh quotients and residuals of the next vectors by fresh products."""
        first = len(self.fresh)
        rows = range(first, min(first + self.options.product_block, self.options.num_pairs))
        block = self.space.basis.gather(rows)
        product = (self.operator @ block.T).T
        measured = []
        for vector, image in ((v.double(), w.double()) for v, w in zip(block, product, strict=True)):
            square = vector @ vector
            value = vector @ image / square
            measured.append(torch.stack([value, torch.linalg.vector_norm(image - value * vector) / square.sqrt()]))
        rates = torch.stack(measured).cpu()
        if not bool(torch.isfinite(rates).all()):
            raise InputError("a product with a converged vector is not finite; use --dtype float64")
        self.fresh = torch.cat([self.fresh, rates])

    def result(self) -> Eigenpairs:
        """Sort by the fresh values, fix the signs, and judge convergence."""
        options, basis = self.options, self.space.basis
        value, residual = self.fresh.unbind(1)
        order = torch.cat(
            [
                torch.argsort(-value[: options.largest], stable=True),
                options.largest + torch.argsort(value[options.largest :], stable=True),
            ]
        )
        vector = basis.release(order.tolist())
        for row in vector:
            row *= torch.sign(row[row.abs().argmax()]) / norms(row[None])[0]
        bound = options.tolerance * max(self.scale, float(value.abs().max()))
        return Eigenpairs(
            value[order],
            vector.T,
            residual[order],
            residual[order] <= bound,
            torch.cat([torch.arange(1, options.largest + 1), -torch.arange(1, options.smallest + 1)]),
            self.num_products,
            loss_of_orthogonality(vector),
        )

    def state(self) -> State:
        """Return the state at this moment."""
        found = None if self.found is None else torch.from_numpy(self.found.copy())
        return {
            "space": self.space.state(),
            "found": found,
            "growing": self.growing,
            "scale": self.scale,
            "fresh": self.fresh,
        }

    def load(self, state: State) -> None:
        """Go on from a state."""
        self.space.load(state["space"])
        self.found = None if state["found"] is None else state["found"].numpy().copy()
        self.growing, self.scale, self.fresh = state["growing"], state["scale"], state["fresh"]


def least_vectors(options: EigenOptions, n: int) -> int:
    """Return the number of vectors of length n that a search needs at least: its basis, and the work on it."""
    room = options.verification + max(4 * options.block, RANDOM_BLOCK) + 2
    return min(n, options.num_pairs + room) + WORK * options.block


def most_vectors(options: EigenOptions, n: int) -> int:
    """Return the number of vectors of length n that a search uses at most."""
    rows = 4 * options.num_pairs + 200 if options.max_basis is None else options.max_basis
    return min(n, rows) + WORK * options.block


def _capacity(options: EigenOptions, n: int, itemsize: int) -> int:
    """Return the rows that the Krylov space may have."""
    work = WORK * options.block
    least, most = least_vectors(options, n) - work, most_vectors(options, n) - work
    if options.memory is not None:
        most = min(most, options.memory // (n * itemsize) - work)
    if most < least:
        gib = n * itemsize / 2**30
        raise MemoryLimitError(
            f"{options.num_pairs} eigenpairs need a basis of at least {least} vectors "
            f"({gib * (least + work):.3g} GiB), "
            f"but {most} ({gib * (most + work):.3g} GiB) are allowed; allow more memory or ask for fewer pairs"
        )
    return most


def _check(options: EigenOptions, n: int) -> None:
    if (
        min(options.largest, options.smallest, options.verification) < 0
        or min(options.block, options.product_block) < 1
    ):
        raise InputError("largest, smallest and verification must not be negative, block and product_block at least 1")
    if options.num_pairs == 0:
        raise InputError("no eigenpairs were asked for")
    for end, count in (("largest", options.largest), ("smallest", options.smallest)):
        if count > n:
            raise InputError(f"{count} {end} eigenvalues were asked for, but there are only {n}")
    if options.num_pairs > n:
        raise InputError(
            f"{options.largest} largest and {options.smallest} smallest eigenvalues overlap, as there are {n}; "
            "ask for fewer"
        )
    if not 0 < options.tolerance < 1:
        raise InputError(f"the tolerance must lie between 0 and 1, but is {options.tolerance}")
    if options.max_products is not None and options.max_products < 2 * options.num_pairs:
        raise InputError(f"{options.num_pairs} eigenpairs need at least {2 * options.num_pairs} products")
