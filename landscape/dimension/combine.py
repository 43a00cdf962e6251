"""Linear combinations of operators at several points, with their cost counted in full."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from landscape.operators import Counter, LinearOperator


def combination(parts: Sequence[tuple[float, LinearOperator]]) -> LinearOperator:
    """Return sum of c_i A_i for operators of one size.

    Unlike ``A + B``, whose parts share a pass over the data, each part here is at another point of parameter space, so
    a product of the combination counts as one product of every part.
    """
    first, counter = parts[0][1], Counter()

    def apply(block: Tensor) -> Tensor:
        counter.count += (len(parts) - 1) * block.shape[1]
        total = parts[0][0] * parts[0][1].apply(block)
        for scale, operator in parts[1:]:
            total = total + scale * operator.apply(block)
        return total

    return LinearOperator(apply, first.size, first.dtype, first.device, counter)
