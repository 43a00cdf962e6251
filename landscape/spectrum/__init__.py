"""Curvature spectra: eigenpairs from both ends, density, gaps and moments, with an error bar on every number.

``measure_spectrum`` measures an in-memory model; ``python -m landscape.spectrum ckpt.pt`` a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr

from landscape import identity
from landscape.keywords import Keywords
from landscape.problem import Problem, ProblemSettings
from landscape.spectrum.engines import Effort
from landscape.spectrum.measure import measure
from landscape.spectrum.options import SpectrumOptions

__all__ = ["Effort", "SpectrumOptions", "measure", "measure_spectrum"]


def measure_spectrum(
    model: torch.nn.Module, loss: Any, data: Any, mask: Mapping[str, torch.Tensor] | None = None, **options: Any
) -> xr.Dataset:
    r"""Measure the spectrum of the curvature :math:`\nabla^2 L` of a model's mean loss on its active coordinates.

    Parameters
    ----------
    model
        Any module; it stays as it is. Its weights are measured in eval mode.
    loss
        ``cross_entropy``, ``mse``, ``bce``, a ``torch.nn`` loss, or ``loss(outputs, batch) -> (sum, count)``.
    data
        A pair of tensors (x, y), or an iterable of batches (pairs, or mappings with the target under ``labels``).
    mask
        Parameter name -> 0/1 tensor; pruned weights are held at zero and are no coordinates.
    options
        Fields of ``SpectrumOptions`` (``curvature``, ``largest``, ``smallest``, ``num_probes``, ``depth``,
        ``tolerance``, ``num_vectors``, ``engine``, ``per_layer``, ``deflate``, ``cross_fit``) and of
        ``ProblemSettings`` (``params``, ``subspace``, ``weight_decay``, ``batchnorm``, ``dtype``, ``device``,
        ``batch_size``); ``seed``; ``memory`` in GiB; ``quiet=False`` for progress bars.

    Returns
    -------
    Dataset with ``eigenvalue``, ``eigenvalue_se``, ``residual``, ``converged``, ``gap``, ``gap_se`` over ``eigen``
    (1, 2, ... from the top, ..., -2, -1 to the bottom), ``ritz_value`` and ``ritz_weight`` over (``probe``, ``node``),
    ``trace`` and other moments each with ``_se``, and the facts of the point (``loss``, ``gradient_norm``, ...).
    Curvature is in nat / parameter^2 of the *mean* loss.

    Raises
    ------
    InputError
        In one line, what is wrong with the input and what to do.

    Notes
    -----
    Cost: about 4 to 10 products for each eigenpair and ``num_probes * depth`` for the density; one product costs one to
    three gradients. Error: ``residual`` bounds the distance to a true eigenvalue; ``eigenvalue_se`` is the standard
    error over the examples; ``_se`` of moments is over the random probes.

    Examples
    --------
    >>> x, y = torch.eye(2).repeat(8, 1), torch.zeros(16, 1)
    >>> spectrum = measure_spectrum(torch.nn.Linear(2, 1, bias=False), "mse", (x, y), largest=2, smallest=0)
    >>> spectrum["eigenvalue"].values.round(4).tolist()
    [0.5, 0.5]
    """
    given = Keywords(options, "measure_spectrum")
    settings, chosen, effort = given.take(ProblemSettings), given.take(SpectrumOptions), given.effort(Effort)
    given.finish()
    problem = Problem.from_model(model, loss, data, mask, settings)
    result = measure(problem, chosen, effort)
    asked = {"spectrum": chosen, "seed": effort.seed, "memory": effort.memory}
    return identity.labelled(result, problem, "spectrum", asked)
