r"""A growing Krylov space with the exact projection of the operator on it.

For orthonormal rows V of which some were multiplied ("done") and the others not yet ("pending"),

.. math:: A V_{done}^\top = V^\top G, \qquad G = V A V_{done}^\top,

because every remainder of a product becomes a pending row. The Ritz pairs of the done rows are the eigenpairs of
``G[done, done]``, and the residual of the pair with coordinates s is exactly ``|G[pending, done] s|``. Plain Lanczos,
blocks, thick restarts (Wu and Simon 2000, doi 10.1137/S0895479898334605) and random continuations after a breakdown are
all the same step: multiply some pending rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import seeds
from landscape.errors import InputError
from landscape.lanczos.basis import SLAB, Basis, norms
from landscape.operators import LinearOperator

# A remainder is rounding noise if it is so many units of rounding of |A|.
BREAKDOWN = 32.0
# Breakdown is looked for after so many steps at most. Each look makes the host wait for the device, which costs nothing
# on the CPU; steps past a breakdown are undone.
LONGEST_LAG = {"cpu": 1, "cuda": 32}


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs of the multiplied rows.

    Attributes
    ----------
    value
        Ritz values, ascending, ``(m,)``.
    vector
        Coordinates on the multiplied rows, ``(m, m)``.
    coupling
        What a product has on each pending row, ``(f, m)``.
    """

    value: np.ndarray
    vector: np.ndarray
    coupling: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """Norms |A y - theta y|, ``(m,)``, as the projection implies them."""
        return np.linalg.norm(self.coupling, axis=0)

    @property
    def scale(self) -> float:
        """Largest |Ritz value|, the estimate of |A|."""
        return float(np.abs(self.value).max(initial=0.0))


class Space:
    """The rows, their projection, and the step that multiplies some of them.

    Parameters
    ----------
    operator
        The operator A.
    capacity
        Most rows, multiplied and pending together.
    seed
        Names the random rows.
    slab
        Rows allocated at a time.
    """

    def __init__(self, operator: LinearOperator, capacity: int, seed: int, slab: int = SLAB) -> None:
        device, dtype = operator.device, operator.dtype
        self.operator, self.seed = operator, seed
        self.basis = Basis(operator.size, min(capacity, operator.size), dtype, device, slab)
        shape = self.basis.capacity
        self.projection = torch.zeros(shape, shape, dtype=torch.float64, device=device)
        self.remainder = torch.ones(shape, dtype=torch.float64, device=device)
        self.scale = torch.zeros((), dtype=torch.float64, device=device)
        self.done: list[bool] = []
        self.reach: list[int] = []
        self.products = self.draws = self.settled = 0
        self.lag = 1
        self.vanished = 0.0  # norm of the last remainder that counted as noise

    @property
    def pending(self) -> list[int]:
        """Rows that were not multiplied yet."""
        return [row for row, done in enumerate(self.done) if not done]

    @property
    def room(self) -> int:
        """Rows that still fit; a space that spans all of R^n needs none."""
        return self.basis.capacity - self.basis.rows

    def add(self, block: Tensor) -> list[int]:
        """Orthonormalise given rows ``(b, n)`` one by one, append them as pending, and return their numbers."""
        for row in block:
            vector = row.to(self.basis.device, self.basis.dtype)[None]
            vector = vector / norms(vector)[:, None].to(vector.dtype)
            for _ in range(3):  # beside an almost full space little is left of a vector: more passes than two
                self.basis.remove(vector)
                vector /= norms(vector)[:, None]
            self._append(vector, self.basis.rows)
        self.settled = self.basis.rows
        return list(range(self.basis.rows - len(block), self.basis.rows))

    def add_random(self, count: int) -> list[int]:
        """Append random pending rows, drawn on the CPU so that all devices agree."""
        rows = []
        for _ in range(min(count, self.room)):
            random = seeds.generator(self.seed, "start", self.draws)
            self.draws += 1
            rows += self.add(torch.randn(1, self.basis.size, generator=random, dtype=torch.float64))
        return rows

    def step(self, rows: list[int]) -> list[int]:
        """Multiply pending rows, and return the rows that their remainders became (as yet unsettled for one row).

        Notes
        -----
        Cost: ``len(rows)`` products. The first pass of Gram-Schmidt covers the rows that the recurrence reaches (all
        other coefficients vanish but for rounding), the second covers all rows.
        """
        block = (self.operator @ self.basis.gather(rows).T).T.contiguous()
        self.products += len(rows)
        self.scale = torch.maximum(self.scale, norms(block).max())
        start = min([self.reach[row] for row in rows] + self.pending)
        first = self.basis.remove(block, start)
        # A list as index would be copied to the device, which makes the host wait.
        columns = rows if len(rows) > 1 else slice(rows[0], rows[0] + 1)
        self.projection[: self.basis.rows, columns] = first + self.basis.remove(block)
        for row in rows:
            self.done[row] = True
        if self.basis.rows == self.basis.size:
            return []
        return self._append_one(block, rows[0]) if len(rows) == 1 else self._append_block(block, rows)

    def _append_one(self, block: Tensor, parent: int) -> list[int]:
        norm = norms(block)[0]
        row = self.basis.rows
        self.projection[row, parent] = norm
        self.remainder[row] = norm
        # No branch on the norm, as that would make the host wait; a vanishing remainder is found by settle().
        self._append(block.div_(torch.where(norm > 0, norm, torch.ones_like(norm))), parent)
        return [row]

    def _append_block(self, block: Tensor, rows: list[int]) -> list[int]:
        """Append the numerically independent directions of the remainders."""
        outer, inner = torch.linalg.qr(block.T)
        self._check_finite(inner)
        left, singular, right = torch.linalg.svd(inner.double())
        keep = singular > self._threshold()
        keep[self.room :] = False
        chosen = (outer @ left[:, keep].to(outer.dtype)).T.contiguous()
        # Directions that almost vanished carry rounding noise of the others along: one more pass for the unit vectors.
        self.basis.remove(chosen)
        chosen /= norms(chosen)[:, None]
        first = self.basis.rows
        self.projection[first : first + len(chosen), rows] = (singular[:, None] * right)[keep]
        for vector in chosen:
            self._append(vector[None], min(rows))
        self.settled = self.basis.rows
        return list(range(first, self.basis.rows))

    def _append(self, block: Tensor, reach: int) -> None:
        self.basis.append(block)
        self.done.append(False)
        self.reach.append(reach)

    def _threshold(self) -> Tensor:
        return BREAKDOWN * torch.finfo(self.basis.dtype).eps * self.scale

    def _check_finite(self, values: Tensor) -> None:
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                f"a product of the operator is not finite (one of the first {self.products}): the loss or its "
                "derivatives overflow here; check the weights and the data, or use --dtype float64"
            )

    def settle(self) -> bool:
        """Look for a remainder that vanished since the last look, and forget the rows from there on.

        Returns
        -------
        Whether there was one.
        """
        low, high = self.settled, self.basis.rows
        sizes = torch.cat([self.remainder[low:high], self.scale[None]]).cpu()
        self._check_finite(sizes)
        vanished = (sizes[:-1] <= self._threshold().cpu()).nonzero()
        if len(vanished) == 0:
            self.settled = high
            self.lag = min(2 * self.lag, LONGEST_LAG.get(self.basis.device.type, 1))
            return False
        row = low + int(vanished[0])
        self.vanished = float(sizes[vanished[0]])
        self.basis.truncate(row)
        del self.done[row:], self.reach[row:]
        self.projection[row:] = 0.0
        self.projection[:, row:] = 0.0
        self.remainder[row:] = 1.0
        self.settled, self.lag = row, 1
        return True

    def advance(self, rows: list[int], steps: int, width: int) -> None:
        """Multiply pending rows, then what follows from them, ``steps`` times or until nothing new follows."""
        unseen = 0
        for _ in range(steps):
            if not rows or (self.basis.capacity < self.basis.size and self.room < len(rows)):
                break
            rows = self.step(rows)[:width]
            unseen += 1
            if unseen >= self.lag or len(rows) != 1:
                unseen = 0
                if self.settle():
                    return
        self.settle()

    def ritz(self) -> Ritz:
        """Solve the projected problem, in float64 on the host; the space must be settled."""
        rows = self.basis.rows
        matrix = self.projection[:rows, :rows].cpu().numpy()
        done = np.array(self.done, dtype=bool)
        inner = matrix[np.ix_(done, done)]
        value, vector = np.linalg.eigh((inner + inner.T) / 2)
        return Ritz(value, vector, matrix[np.ix_(~done, done)] @ vector)

    def restart(self, ritz: Ritz, keep: np.ndarray) -> None:
        """Keep the Ritz vectors numbered ``keep (p,)`` and the pending rows: the same decomposition, fewer rows."""
        done, pending = np.array(self.done, dtype=bool), self.pending
        weights = np.zeros((len(keep) + len(pending), len(done)))
        weights[: len(keep), done] = ritz.vector[:, keep].T
        weights[np.arange(len(keep), len(weights)), pending] = 1.0
        self.basis.combine(torch.from_numpy(weights))
        self.projection.zero_()
        small = np.concatenate([np.diag(ritz.value[keep]), ritz.coupling[:, keep]])
        self.projection[: len(weights), : len(keep)] = torch.from_numpy(small).to(self.projection.device)
        self.done = [True] * len(keep) + [False] * len(pending)
        self.reach = [0] * len(weights)
        self.remainder.fill_(1.0)
        self.settled = self.basis.rows

    def state(self) -> dict[str, Any]:
        """Return all that a resumed process needs, as tensors and plain values; the space must be settled."""
        rows = self.basis.rows
        return {
            "slabs": [part for _, part in self.basis.parts()],
            "projection": self.projection[:rows, :rows].clone(),
            "scale": self.scale,
            "done": list(self.done),
            "reach": list(self.reach),
            "products": self.products,
            "draws": self.draws,
            "lag": self.lag,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a state, and its rows out of it."""
        slabs = state["slabs"]
        if any(part.shape[1] != self.basis.size or part.dtype != self.basis.dtype for part in slabs):
            raise InputError("the saved state belongs to another operator; start again without it")
        while slabs:  # what is taken over is let go, so that the rows are not in memory twice
            self.basis.append(slabs.pop(0))
        rows = self.basis.rows
        self.projection[:rows, :rows] = state["projection"].to(self.projection.device)
        self.scale = state["scale"].to(self.projection.device)
        self.done, self.reach = list(state["done"]), list(state["reach"])
        self.products, self.draws, self.lag = state["products"], state["draws"], state["lag"]
        self.settled = rows
