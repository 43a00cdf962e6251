"""Orthonormal vectors as rows, in slabs, so that Gram-Schmidt is a few matrix products over contiguous memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# A basis grows by slabs of so many vectors: memory follows need, and nothing is ever copied to make room.
SLAB = 64
# On the CPU, inner products are summed over pieces of so many coordinates, and the pieces in float64: one running sum
# over 266,000 float32 terms loses four digits, and with them the orthogonality. (CUDA sums in a tree.)
PIECE = 4096
# Rotations work on so many coordinates at a time, so that they need no second basis.
CHUNK = 8192


class Basis:
    """Up to ``capacity`` rows of length ``size``.

    Parameters
    ----------
    size
        Length n of a vector.
    capacity
        Most rows it may hold.
    slab
        Rows allocated at a time; ``capacity`` itself gives one contiguous tensor.
    """

    def __init__(self, size: int, capacity: int, dtype: torch.dtype, device: torch.device, slab: int = SLAB) -> None:
        self.size, self.capacity, self.slab = size, capacity, slab
        self.dtype, self.device = dtype, device
        self.rows = 0
        self.slabs: list[Tensor] = []

    def parts(self, start: int = 0) -> list[tuple[int, Tensor]]:
        """Return the filled rows from ``start`` on as (number of the first row, tensor) pairs."""
        found = []
        for number in range(start // self.slab, -(-self.rows // self.slab)):
            first = number * self.slab
            low, high = max(start - first, 0), min(self.rows - first, self.slab)
            found.append((first + low, self.slabs[number][low:high]))
        return found

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Return copies of rows, ``(b, n)``."""
        return torch.stack([self.slabs[row // self.slab][row % self.slab] for row in rows])

    def release(self, order: Sequence[int]) -> Tensor:
        """Return the rows in a new order as one tensor ``(rows, n)``, giving back the slabs one by one on the way."""
        target = torch.empty(self.rows, self.size, dtype=self.dtype, device=self.device)
        place = {row: position for position, row in enumerate(order)}
        for first, part in reversed(self.parts()):
            for number, row in enumerate(part):
                target[place[first + number]] = row
            self.slabs.pop()
        self.rows = 0
        return target

    def append(self, block: Tensor) -> None:
        """Add the rows of ``block (b, n)``."""
        for row in block:
            if self.rows == len(self.slabs) * self.slab:
                height = min(self.slab, self.capacity - self.rows)
                self.slabs.append(torch.empty(height, self.size, dtype=self.dtype, device=self.device))
            self.slabs[self.rows // self.slab][self.rows % self.slab] = row
            self.rows += 1

    def truncate(self, rows: int) -> None:
        """Forget all rows from ``rows`` on, and free slabs that are now empty."""
        self.rows = rows
        del self.slabs[-(-rows // self.slab) :]

    def remove(self, block: Tensor, start: int = 0) -> Tensor:
        """Subtract from ``block (b, n)``, in place, its projection on the rows from ``start`` on.

        Returns
        -------
        The coefficients on all rows, ``(rows, b)`` in float64, zero before ``start``.

        Notes
        -----
        Cost: 4 (rows - start) n b operations; the rows are read twice.
        """
        total = torch.zeros(self.rows, len(block), dtype=torch.float64, device=self.device)
        parts = self.parts(start)
        width = PIECE if self.device.type == "cpu" else self.size
        for first, part in parts:
            for low in range(0, self.size, width):
                columns = slice(low, low + width)
                total[first : first + len(part)] += _project(part[:, columns], block[:, columns])
        coefficients = total.to(self.dtype)
        for first, part in parts:
            _subtract(block, part, coefficients[first : first + len(part)])
        return total

    def combine(self, weights: Tensor) -> None:
        """Replace the rows V by ``weights @ V`` for weights ``(p, rows)``, p <= rows, without a second basis."""
        weights = weights.to(self.device, self.dtype)
        count = len(weights)
        for low in range(0, self.size, CHUNK):
            columns = slice(low, low + CHUNK)
            mixed = weights @ torch.cat([part[:, columns] for _, part in self.parts()])
            for first, part in self.parts():
                if first < count:
                    part[: count - first, columns] = mixed[first : first + len(part)]
        self.truncate(count)


def norms(block: Tensor) -> Tensor:
    """Return the norms of the rows of ``block (b, n)`` in float64, summed in float64."""
    return torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)


def loss_of_orthogonality(rows: Tensor) -> float:
    """Return the largest entry of |V V' - I| for rows V ``(m, n)``, in float64."""
    gram = -torch.eye(len(rows), dtype=torch.float64, device=rows.device)
    for low in range(0, rows.shape[1], PIECE):
        piece = rows[:, low : low + PIECE].double()
        gram += piece @ piece.T
    return float(gram.abs().max())


def _project(part: Tensor, block: Tensor) -> Tensor:
    # A product with one vector is a gemv, which is limited by memory alone; a gemm with one column is slower.
    return torch.mv(part, block[0])[:, None] if len(block) == 1 else part @ block.T


def _subtract(block: Tensor, part: Tensor, coefficients: Tensor) -> None:
    if len(block) == 1:
        block[0].addmv_(part.T, coefficients[:, 0], alpha=-1)
    else:
        block.addmm_(coefficients.T, part, alpha=-1)
