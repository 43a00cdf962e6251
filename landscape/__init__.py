"""What the loss landscape of a trained network looks like, measured so that every number can be trusted.

Measure
    ``measure_spectrum(model, loss, data, mask=None, **options)``: Hessian eigenvalues, density, trace (``spectrum``).
    ``measure_connectivity(models, loss, data, masks=None, **options)``: distances, barriers, disagreement.
    ``measure_dimension(model, loss, data, mask=None, **options)``: conditions of a slow manifold (``dimension``).
    ``measure_volume(model, loss, data, mask=None, **options)``: basin volume by every estimator (``volume``).

Read
    ``open_result(path)``: one result as a labelled :class:`xarray.Dataset` (``store``).
    ``open_study(run)``: all results of a run, over method, level, replicate, point, control (``results``).
    Both draw themselves: ``result.landscape.figure()``, ``result.landscape.plot_density()`` (``accessor``).

Judge
    ``evaluate_preconditions(run, theory)``: what a theory claims, judged on stored results (``preconditions``).

Every measurement is a command too: ``python -m landscape.spectrum ckpt.pt``. The names here are imported when they are
first used, so that reading a result needs no torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "evaluate_preconditions": "landscape.preconditions",
    "measure_connectivity": "landscape.connectivity",
    "measure_dimension": "landscape.dimension",
    "measure_spectrum": "landscape.spectrum",
    "measure_volume": "landscape.volume",
    "open_result": "landscape.store",
    "open_study": "landscape.results",
}

__all__ = ["__version__", *_HOMES]


# Their Datasets have the plots of ``landscape.accessor``: ``result.landscape.plot_density()``.
_PLOTTED = ("open_result", "open_study")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _PLOTTED:
        importlib.import_module("landscape.accessor")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
