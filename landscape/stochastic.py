r"""Stochastic Lanczos quadrature: the whole spectrum as nodes and weights, one measure for each random probe.

For a unit vector v, Lanczos gives the Gaussian quadrature of the measure :math:`\sum_i (v^\top u_i)^2 \delta_{\lambda_i}`,
exact for polynomials of degree 2 m - 1 (Golub & Meurant 2010). Averaged over v uniform on the sphere it is the spectral
measure, so that :math:`\operatorname{tr} f(A) = n\, E \sum_j w_j f(\theta_j)` (Ubaru, Chen & Saad 2017, doi
10.1137/16M1104974). Probes are uniform on the sphere: weights then sum to 1 for each probe, and taking eigenvectors out
leaves the probes uniform on the sphere of what remains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from landscape import seeds
from landscape.errors import InputError, MemoryLimitError
from landscape.lanczos import Eigenpairs
from landscape.lanczos.basis import Basis
from landscape.lanczos.space import BREAKDOWN
from landscape.operators import LinearOperator

State = dict[str, Any]
# On CUDA the host looks for a breakdown only after so many steps, as each look makes it wait.
LOOK_EVERY = 16


@dataclass(frozen=True)
class ProbeOptions:
    """How many random vectors, and how deep.

    Attributes
    ----------
    num_probes, depth
        P random vectors, m Lanczos steps for each: P m products.
    seed
        Names the probes; probe i does not depend on their number.
    memory
        Bytes for the bases; it decides how many probes go in lock-step, which changes results by rounding only.
    """

    num_probes: int = 10
    depth: int = 80
    seed: int = 0
    memory: int = 4 << 30


@dataclass(frozen=True)
class Quadrature:
    """Discrete spectral measures, one for each probe.

    Attributes
    ----------
    ritz_value, ritz_weight
        ``(P, m)`` float64 on the CPU; each row of weights sums to 1. After a breakdown value NaN and weight 0.
    size
        Dimension n of the operator.
    num_products
        Products spent, by earlier processes of a resumed run too.
    """

    ritz_value: Tensor
    ritz_weight: Tensor
    size: int
    num_products: int


class Estimate(NamedTuple):
    """A value and its standard error over the probes."""

    value: float
    se: float


def quadrature(
    operator: LinearOperator,
    options: ProbeOptions = ProbeOptions(),  # noqa: B008 (frozen)
    deflate: Eigenpairs | None = None,
    state: State | None = None,
    save_state: Callable[[Callable[[], State]], None] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Quadrature:
    """Return the quadrature of the spectral measure.

    Parameters
    ----------
    deflate
        Converged eigenpairs that are taken out of the probes and enter as exact nodes of weight 1/n: the same products,
        less error. ``m`` then grows by their number.
    state, save_state, progress
        As in ``lanczos.eigenpairs``.

    Raises
    ------
    MemoryLimitError
        If the basis of one probe does not fit ``options.memory``.

    Notes
    -----
    Cost: ``num_probes * depth`` products; ``(depth + 1) n`` numbers of memory for each probe in lock-step. Error: that of
    the probes is estimated by their spread (the estimators below); that of the depth vanishes for polynomials of degree
    2 m - 1, and for f analytic around the spectrum it falls geometrically with m.
    """
    work = _Probing(operator, options, deflate)
    if state is not None:
        work.load(state)
    reported = work.num_products
    while not work.finished:
        work.step()
        if save_state is not None:
            save_state(work.state)
        if progress is not None:
            progress(work.num_products - reported)
            reported = work.num_products
    return work.result()


class _Probing:
    """Blocks of probes in lock-step, one product of a block at a time."""

    def __init__(self, operator: LinearOperator, options: ProbeOptions, deflate: Eigenpairs | None) -> None:
        if options.num_probes < 1 or options.depth < 1:
            raise InputError(f"a density needs at least one probe and one step, not {options.num_probes} x {options.depth}")
        self.operator, self.options = operator, options
        kept = None if deflate is None else deflate.converged
        self.exact = torch.zeros(0, dtype=torch.float64) if deflate is None else deflate.eigenvalue[kept]
        self.known = None if deflate is None else _basis_of(operator, deflate.eigenvector[:, kept.to(operator.device)].T)
        self.depth = min(options.depth, operator.size - len(self.exact))
        if self.depth < 1:
            raise InputError("all eigenpairs are deflated: nothing is left for the probes")
        each = (self.depth + 4) * operator.size * operator.dtype.itemsize
        self.width = min(options.num_probes, options.memory // each)
        if self.width < 1:
            raise MemoryLimitError(
                f"a probe of depth {self.depth} needs {each / 2**30:.3g} GiB, but {options.memory / 2**30:.3g} GiB are "
                "allowed; raise --memory or lower --depth"
            )
        self.rows: list[tuple[np.ndarray, np.ndarray]] = []  # nodes and weights of finished probes
        self.num_products = 0
        if not self.finished:
            self._start()

    @property
    def finished(self) -> bool:
        return len(self.rows) == self.options.num_probes

    def _start(self) -> None:
        """Draw the next block of probes, on the CPU so that all devices agree."""
        first = len(self.rows)
        count = min(self.width, self.options.num_probes - first)
        n, device, dtype = self.operator.size, self.operator.device, self.operator.dtype
        draws = [seeds.generator(self.options.seed, "probe", first + i) for i in range(count)]
        probes = torch.stack([torch.randn(n, generator=g, dtype=torch.float64) for g in draws]).to(device, dtype)
        if self.known is not None:
            self.known.remove(probes)
            self.known.remove(probes)
        self.bases = [Basis(n, self.depth, dtype, device, slab=self.depth) for _ in range(count)]
        self.alpha = torch.zeros(count, self.depth, dtype=torch.float64, device=device)
        self.beta = torch.zeros(count, self.depth, dtype=torch.float64, device=device)
        self.scale = torch.zeros(count, dtype=torch.float64, device=device)
        self.done = 0
        self.current = probes / torch.linalg.vector_norm(probes, dim=1, keepdim=True)

    def step(self) -> None:
        """Do one Lanczos step of every probe of the block; two passes of Gram-Schmidt against all their vectors."""
        for basis, row in zip(self.bases, self.current, strict=True):
            basis.append(row[None])
        block = (self.operator @ self.current.T).T.contiguous()
        self.num_products += len(block)
        self.scale = torch.maximum(self.scale, torch.linalg.vector_norm(block, dim=1).double())
        self.alpha[:, self.done] = (self.current.double() * block.double()).sum(1)
        for basis, row in zip(self.bases, block, strict=True):
            for _ in range(2):
                basis.remove(row[None])
        if self.known is not None:
            self.known.remove(block)
        norms = torch.linalg.vector_norm(block, dim=1)
        self.beta[:, self.done] = norms.double()
        self.current = block / torch.where(norms > 0, norms, torch.ones_like(norms))[:, None]
        self.done += 1
        look = self.operator.device.type != "cuda" or self.done % LOOK_EVERY == 0
        if self.done == self.depth or (look and bool((self._lengths() < self.done).all())):
            self._finish_block()

    def _lengths(self) -> Tensor:
        """Return how many steps of each probe came before its breakdown, the breaking step included."""
        bound = BREAKDOWN * torch.finfo(self.operator.dtype).eps * self.scale
        broken = self.beta[:, : self.done] <= bound[:, None]
        first = torch.where(broken.any(1), broken.double().argmax(1) + 1, self.done)
        return first.cpu()

    def _finish_block(self) -> None:
        lengths = self._lengths().tolist()
        alpha, beta = self.alpha.cpu().numpy(), self.beta.cpu().numpy()
        for probe, length in enumerate(lengths):
            if not np.isfinite(alpha[probe, :length]).all():
                raise InputError("a product of the operator is not finite; check weights and data, or use --dtype float64")
            nodes, vectors = eigh_tridiagonal(alpha[probe, :length], beta[probe, : length - 1])
            self.rows.append((nodes, vectors[0] ** 2))
        if not self.finished:
            self._start()

    def result(self) -> Quadrature:
        """Return nodes and weights, the deflated eigenvalues as exact nodes."""
        n, exact = self.operator.size, len(self.exact)
        shape = (self.options.num_probes, self.depth + exact)
        value, weight = np.full(shape, np.nan), np.zeros(shape)
        for probe, (nodes, weights) in enumerate(self.rows):
            value[probe, : len(nodes)] = nodes
            weight[probe, : len(nodes)] = weights / weights.sum() * (n - exact) / n
        value[:, self.depth :] = self.exact.cpu().numpy()
        weight[:, self.depth :] = 1 / n
        return Quadrature(torch.from_numpy(value), torch.from_numpy(weight), n, self.num_products)

    def state(self) -> State:
        """Return the state at this moment, as tensors and plain values."""
        finished = [(torch.from_numpy(nodes), torch.from_numpy(weights)) for nodes, weights in self.rows]
        running = {} if self.finished else {
            "bases": [basis.slabs[0][: basis.rows].clone() for basis in self.bases if basis.rows],
            "alpha": self.alpha, "beta": self.beta, "scale": self.scale, "current": self.current, "done": self.done,
        }  # fmt: skip
        return {"rows": finished, "products": self.num_products, **running}

    def load(self, state: State) -> None:
        """Take over a state."""
        self.rows = [(nodes.numpy(), weights.numpy()) for nodes, weights in state["rows"]]
        self.num_products = state["products"]
        if self.finished:
            return
        self._start()
        device = self.operator.device
        if state["current"].shape != self.current.shape:
            raise InputError("the saved state belongs to another measurement; start again without --resume")
        for basis, rows in zip(self.bases, state["bases"], strict=False):
            basis.append(rows.to(device))
        for name in ("alpha", "beta", "scale", "current"):
            setattr(self, name, state[name].to(device))
        self.done = state["done"]


def _basis_of(operator: LinearOperator, rows: Tensor) -> Basis:
    """Return an orthonormal basis of nearly orthonormal rows (eigenvectors, up to their residuals)."""
    basis = Basis(operator.size, max(len(rows), 1), operator.dtype, operator.device)
    basis.append(torch.linalg.qr(rows.T.to(operator.dtype)).Q.T.contiguous())
    return basis


def exact_quadrature(values: Tensor) -> Quadrature:
    """Return all eigenvalues ``(n,)`` as a quadrature of one exact probe."""
    weight = torch.full((1, len(values)), 1 / len(values), dtype=torch.float64)
    return Quadrature(values.double().cpu()[None], weight, len(values), 0)


def samples(measured: Quadrature, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the estimates of tr f(A), one for each probe, ``(P,)``."""
    weight = measured.ritz_weight.numpy()
    used = weight > 0
    value = np.where(used, measured.ritz_value.numpy(), 0.0)
    return np.asarray(measured.size * (np.where(used, function(value), 0.0) * weight).sum(1))


def function_trace(measured: Quadrature, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Return tr f(A) and its standard error over the probes (0 for the exact spectrum, NaN for a single probe)."""
    return _mean(samples(measured, function), measured)


def _mean(values: np.ndarray, measured: Quadrature) -> Estimate:
    if len(values) > 1:
        return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))
    return Estimate(float(values[0]), 0.0 if is_exact(measured) else float("nan"))


def is_exact(measured: Quadrature) -> bool:
    """Tell the whole spectrum from a sample of it."""
    return measured.num_products == 0 and measured.ritz_value.shape == (1, measured.size)


def trace(measured: Quadrature) -> Estimate:
    """Return tr A; exact in depth."""
    return function_trace(measured, lambda value: value)


def frobenius_norm(measured: Quadrature) -> Estimate:
    """Return |A|_F, the root of tr A^2 (exact in depth from 2 on); the error by the delta method."""
    square = function_trace(measured, np.square)
    root = max(square.value, 0.0) ** 0.5
    return Estimate(root, square.se / (2 * root) if root else 0.0)


def participation_ratio(measured: Quadrature) -> Estimate:
    """Return (tr A)^2 / tr A^2; value and error by the jackknife over the probes, which also removes first-order bias."""
    first, second = samples(measured, lambda value: value), samples(measured, np.square)
    number = len(first)
    if not second.sum() > 0:
        return Estimate(0.0, 0.0)
    whole = float(first.mean() ** 2 / second.mean())
    if number == 1:
        return Estimate(whole, 0.0 if is_exact(measured) else float("nan"))
    left = ((first.sum() - first) / (number - 1)) ** 2 / ((second.sum() - second) / (number - 1))
    value = number * whole - (number - 1) * left.mean()
    return Estimate(float(value), float(np.sqrt((number - 1) / number * ((left - left.mean()) ** 2).sum())))


def log_det(measured: Quadrature, scale: float) -> Estimate | None:
    """Return log det(1 + scale A) in nats, or None where a node shows that 1 + scale A is not positive definite."""
    weight, value = measured.ritz_weight.numpy(), measured.ritz_value.numpy()
    if (1 + scale * value[weight > 0] <= 0).any():
        return None
    return function_trace(measured, lambda nodes: np.log1p(scale * nodes))


def effective_dimension(measured: Quadrature, shift: float) -> Estimate:
    """Return sum of lambda / (lambda + shift) over the positive eigenvalues (MacKay 1992)."""
    return function_trace(measured, lambda value: np.maximum(value, 0) / (np.maximum(value, 0) + shift))


def zero_fraction(measured: Quadrature, tolerance: float) -> Estimate:
    """Return the fraction of eigenvalues within ``tolerance`` (curvature units) of zero."""
    count = function_trace(measured, lambda value: (np.abs(value) <= tolerance).astype(float))
    return Estimate(count.value / measured.size, count.se / measured.size)
