"""Basin volume, with a calibration against bodies of known volume behind every number.

``measure_volume`` measures an in-memory model; ``python -m landscape.volume ckpt.pt`` a checkpoint. The estimators are
functions of their own: ``section``, ``occam``, ``star``, ``preconditioned`` with ``sampling``, ``gaussian_mass``,
``prunable``, ``sharpness``, ``flatness`` and ``llc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr

from landscape import identity
from landscape.keywords import Keywords
from landscape.problem import Problem, ProblemSettings
from landscape.volume.compare import PairedDifference, paired_difference
from landscape.volume.llc import SamplerOptions
from landscape.volume.measure import measure
from landscape.volume.options import Effort, VolumeOptions

__all__ = [
    "Effort",
    "PairedDifference",
    "SamplerOptions",
    "VolumeOptions",
    "measure",
    "measure_volume",
    "paired_difference",
]


def measure_volume(
    model: torch.nn.Module, loss: Any, data: Any, mask: Mapping[str, torch.Tensor] | None = None, **options: Any
) -> xr.Dataset:
    """Measure the volume of the basin around a model's weights, on its active coordinates.

    Parameters
    ----------
    model
        Any module; it stays as it is. Its weights are measured in eval mode.
    loss
        ``cross_entropy``, ``mse``, ``bce``, a ``torch.nn`` loss, or ``loss(outputs, batch) -> (sum, count)``.
    data
        A pair of tensors (x, y), or an iterable of batches.
    mask
        Parameter name -> 0/1 tensor; pruned weights are held at zero and are no coordinates.
    options
        Fields of ``VolumeOptions`` (``estimators``, ``neighbourhood``, ``cutoff``, ``directions``,
        ``preconditioners``, ...), of its ``SamplerOptions`` and of ``ProblemSettings``; ``seed``; ``memory`` in GiB;
        ``quiet=False`` for progress.

    Returns
    -------
    Dataset with the variables of ``schemas.VOLUME``, in nats. ``log_volume (sampler)`` and
    ``log_probability (prior_factor)`` come with a verdict, ``calibrated`` or ``lower bound``, and an interval whose
    upper end is infinite for the latter. Compare points of other dimension by ``relative_noise_tolerance``,
    ``occam_factor``, ``code_length`` or ``prunable_fraction``, never by raw log volumes.

    Raises
    ------
    InputError
        In one line, what is wrong with the input and what to do.

    Notes
    -----
    Cost: the eigenpairs (4 to 10 products each), ``trace_probes * trace_depth`` products for traces,
    ``diagonal_probes`` for the diagonal, and 5 to 8 forward passes for each of ``directions`` times the samplers, and
    of ``pilot`` times the candidates.

    Examples
    --------
    >>> x, y = torch.eye(2).repeat(8, 1), torch.zeros(16, 1)
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> volume = measure_volume(model, "mse", (x, y), estimators=("preconditioned",), cutoff=0.25, directions=40)
    >>> round(float(volume["log_volume"][0]), 4), round(float(torch.tensor(torch.pi).log()), 4)
    (1.1447, 1.1447)
    """
    given = Keywords(options, "measure_volume")
    settings, sampler = given.take(ProblemSettings), given.take(SamplerOptions)
    chosen, effort = given.take(VolumeOptions, sampler=sampler), given.effort(Effort)
    given.finish()
    problem = Problem.from_model(model, loss, data, mask, settings)
    result = measure(problem, chosen, effort)
    asked = {"volume": chosen, "seed": effort.seed, "memory": effort.memory}
    return identity.labelled(result, problem, "volume", asked)
