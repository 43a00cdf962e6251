r"""Error bars of eigenvalues over the data: what another sample of examples would have given.

For a simple eigenvalue of the mean Hessian, first-order perturbation theory with the vector held fixed gives
:math:`\delta\lambda = v^\top \delta H\, v`, so the standard error of :math:`\lambda` is that of a mean of the
per-example curvatures :math:`v^\top H_n v`, and the error of a gap that of their paired differences. This holds where
the gap is wide against its error; in a spiked model its coverage falls to zero inside the bulk, so eigenvalues whose
neighbouring gaps are below four ``gap_se`` are flagged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landscape import parallel


@dataclass(frozen=True)
class DataError:
    """Standard errors over the examples.

    Attributes
    ----------
    eigenvalue_se, gap_se
        ``(k,)``; ``gap_se[i]`` belongs to lambda_i - lambda_{i+1}, NaN for the last.
    """

    eigenvalue_se: Tensor
    gap_se: Tensor


def data_error(terms: Tensor, counts: Tensor) -> DataError:
    r"""Return the standard errors of Rayleigh quotients that are ratios of sums over examples.

    Parameters
    ----------
    terms
        Per-example sums ``v_k' (H_n-sum) v_k`` of this rank, ``(N, k)``.
    counts
        Per-example counts c_n of this rank, ``(N,)``; ones for a plain mean.

    Notes
    -----
    With :math:`\lambda = \sum q_n / \sum c_n`, the linearised ratio gives
    :math:`\mathrm{se}^2 = \frac{N}{N-1} \sum_n (q_n - \lambda c_n)^2 / (\sum c_n)^2` (Cochran 1977, section 2.11);
    for unit counts this is the standard deviation over :math:`\sqrt N`.
    """
    terms, counts = terms.double(), counts.double()
    number = float(parallel.sum_ranks(torch.tensor([float(len(counts))], dtype=torch.float64)))
    total = parallel.sum_ranks(counts.sum().reshape(1))
    value = parallel.sum_ranks(terms.sum(0)) / total
    deviation = terms - counts[:, None] * value
    differences = deviation[:, :-1] - deviation[:, 1:]
    scale = (number / max(number - 1, 1)) ** 0.5 / total

    def standard_error(errors: Tensor) -> Tensor:
        return parallel.sum_ranks(errors.square().sum(0)).sqrt() * scale

    if number < 2:
        return DataError(torch.full_like(value, torch.nan), torch.full_like(value, torch.nan))
    gaps = torch.cat([standard_error(differences), value.new_full((1,), torch.nan)])
    return DataError(standard_error(deviation), gaps)
