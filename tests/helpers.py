"""What many tests need: comparisons that say where they fail, the contract of operators, checks of error bars."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from landscape import store
from landscape.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def keep_timings(table: xr.Dataset, name: str, asked: dict[str, Any]) -> Path:
    """Write the Dataset of a benchmark, with the provenance of every other result, where ``make bench`` keeps them."""
    table.attrs |= {**store.provenance(), "fingerprint": store.fingerprint({"benchmark": name, **asked})}
    table.attrs |= {"options": store.as_json(asked), "device": "cpu", "dtype": "float32", "world_size": 1}
    path = ROOT / "data" / "results" / f"bench_{name}.nc"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_netcdf(path, engine=store.ENGINE)
    return path


def as_array(values: Any) -> np.ndarray:
    """Return tensors, Datasets' variables, lists and numbers as a NumPy array."""
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)


def assert_close(actual: Any, expected: Any, rtol: float = 1e-10, atol: float = 0.0) -> None:
    """Compare entry by entry, |actual - expected| <= atol + rtol |expected|, and report the worst entry."""
    left, right = as_array(actual), as_array(expected)
    assert left.shape == right.shape, f"shape {left.shape}, expected {right.shape}"
    if left.size == 0:
        return
    allowed = atol + rtol * np.abs(right)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(left == right, 0.0, np.abs(left - right) / allowed)
    excess = np.where(np.isnan(left) & np.isnan(right), 0.0, np.where(np.isnan(excess), np.inf, excess))
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    assert excess[worst] <= 1, (
        f"{int(np.sum(excess > 1))} of {excess.size} entries differ; the worst, {tuple(map(int, worst))}, is "
        f"{left[worst]!r}, expected {right[worst]!r}: off by {excess[worst]:.3g} times the {allowed[worst]:.3g} allowed"
    )


def check_operator(operator: Any, dense: torch.Tensor, rtol: float = 1e-10) -> None:
    """Check the contract of an operator against its matrix (n, n).

    Equal to the matrix, linear, symmetric, block = columns, the same bits twice, arguments untouched, wrong shapes
    raise. Errors are relative to the norm of the matrix.
    """
    n = dense.shape[0]
    assert tuple(operator.shape) == (n, n)
    random = torch.Generator().manual_seed(0)
    block = torch.randn(n, 3, generator=random, dtype=torch.float64).to(operator.device, operator.dtype)
    kept = block.clone()
    size = rtol * float(torch.linalg.matrix_norm(dense.double(), 2)) * float(block.norm())
    product = operator @ block
    assert product.shape == block.shape
    assert product.dtype == operator.dtype
    assert torch.equal(block, kept), "the operator changed its argument"
    assert_close(product.double(), dense.double() @ block.double(), rtol=0, atol=size)
    assert torch.equal(product, operator @ block), "two products of the same block differ"
    columns = torch.stack([operator @ column for column in block.T], dim=1)
    assert_close(product, columns, rtol=0, atol=size)
    combined = operator @ (2 * block[:, 0] - 3 * block[:, 1])
    assert_close(combined, 2 * product[:, 0] - 3 * product[:, 1], rtol=0, atol=5 * size)
    left, right = product[:, 0] @ block[:, 1], block[:, 0] @ product[:, 1]
    assert_close(left, right, rtol=0, atol=size * float(block.norm()))
    for shape in [(n + 1,), (n + 1, 2), (n, 1, 1)]:
        with pytest.raises(InputError):
            operator @ torch.zeros(shape, dtype=operator.dtype, device=operator.device)


def check_estimate(samples: Any, truth: float, sigmas: float = 4.0) -> None:
    """Check that independent estimates (S,) are unbiased: their mean lies within ``sigmas`` errors of ``truth``."""
    values = as_array(samples).astype(float)
    assert values.ndim == 1
    assert len(values) >= 10, "too few samples to judge"
    error = values.std(ddof=1) / np.sqrt(len(values))
    off = abs(values.mean() - truth)
    assert off <= sigmas * error + 1e-12 * abs(truth), (
        f"the mean of {len(values)} samples is {values.mean():.6g} +- {error:.2g}, expected {truth:.6g}"
    )


def check_coverage(lower: Any, upper: Any, truth: float, between: tuple[float, float] = (0.90, 0.99)) -> None:
    """Check that nominal 95 % intervals (S,) hold the truth as often as they claim, neither less nor always."""
    inside = (as_array(lower) <= truth) & (truth <= as_array(upper))
    share = float(inside.mean())
    assert between[0] <= share <= between[1], f"{inside.sum()} of {inside.size} intervals hold the truth ({share:.1%})"


def data_directory(*names: str) -> Path:
    """Return the directory of the real data sets, or skip the test where one of ``names`` is not there."""
    root = Path(os.environ.get("LANDSCAPE_DATA", ROOT / "data" / "cache"))
    for name in names:
        if not (root / name).is_dir() or not any((root / name).iterdir()):
            pytest.skip(f"the data set {name} is not in {root}")
    return root
