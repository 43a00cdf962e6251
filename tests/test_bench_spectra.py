"""How long a top-100 spectrum and a density take, beside the peers: ``make bench``.

Whole measurements of the peers take many minutes, so what is timed is their parts: one product of each (as in
``test_bench_products``), the number of products that their search needs (counted on our operator, which is the same
matrix), and the search around the products with an operator that costs nothing. Their totals are products x number +
search, and are labelled ``extrapolated`` in the table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
import xarray as xr
from helpers import ROOT, keep_timings
from test_bench_products import PEERS, SUBJECTS, THREADS, Subject, installed, settings, timed

from landscape import archives, checkpoints, lanczos, operators, stochastic
from landscape.curvature import ProductOptions
from landscape.operators import LinearOperator
from landscape.problem import Problem

PAIRS, TOLERANCE = 100, 1e-4
DEPTH, NUM_PROBES, STEPS = 100, 10, 6
EXAMPLES = {
    "lenet_300_100": int(os.environ.get("BENCH_LENET", "10000")),
    "resnet20": int(os.environ.get("BENCH_RESNET", "256")),
}
# PyHessian finds one eigenvalue after the other; so many are timed.
TIMED_PAIRS = 2


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def best_product(name: str, subject: Subject, model: Callable[[str], torch.nn.Module], data: Any) -> float:
    """Return the seconds of one product of a peer in its best batch size and memory format."""
    found = []
    for size, layout in settings(subject):
        network = model(layout)
        v = torch.randn(sum(p.numel() for p in network.parameters()), generator=torch.Generator().manual_seed(2))
        task = PEERS[name](network, list(zip(*(t.split(size) for t in data), strict=True)), v)
        task()
        found.append(min(timed(task), timed(task)))
    return min(found)


def trained(examples: int) -> Problem:
    """Return LeNet-300-100 after two epochs on MNIST, as a problem on some of its training examples."""
    from landscape.training import TrainOptions, train

    options = TrainOptions(model="lenet_300_100", data="mnist", epochs=2, lr=0.1)
    path = ROOT / "data" / "results" / "bench_lenet.pt"
    if not path.exists():
        train(options, path)
    return checkpoints.load(path, checkpoints.ProblemOptions(num_examples=examples))


def counted(operator: LinearOperator) -> tuple[int, float]:
    """Return the products and the seconds beside them that ``eigsh`` takes for the largest pairs."""
    inside, before = [0.0], operator.num_products
    plain = operator.to_scipy()

    def multiply(v: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        product = plain.matvec(v)
        inside[0] += time.perf_counter() - start
        return product

    wrapped = scipy.sparse.linalg.LinearOperator(plain.shape, matvec=multiply, dtype=np.float32)
    start = time.perf_counter()
    scipy.sparse.linalg.eigsh(wrapped, k=PAIRS, which="LA", tol=TOLERANCE)
    return operator.num_products - before, time.perf_counter() - start - inside[0]


def eigenthings_search(n: int, steps: int) -> float:
    """Return the seconds of hessian-eigenthings' Lanczos beside its products."""
    from hessian_eigenthings import LambdaOperator
    from hessian_eigenthings import lanczos as search

    scale = torch.linspace(-1, 1, n)
    start = time.perf_counter()
    search(LambdaOperator(lambda v: scale * v, n), k=PAIRS, max_iter=steps, which="LA", reorthogonalize=True)
    return time.perf_counter() - start


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore")  # of the peers
def test_largest_eigenpairs() -> None:
    if not (archives.data_root() / "mnist").is_dir():
        pytest.skip("MNIST is not there; run make data")
    problem, peers = trained(EXAMPLES["lenet_300_100"]), installed()
    start = time.perf_counter()
    operator = operators.hessian(problem, ProductOptions(planned_products=500))
    options = lanczos.EigenOptions(largest=PAIRS, smallest=0, tolerance=TOLERANCE)
    pairs = lanczos.eigenpairs(operator, options)
    rows: dict[str, tuple[float, float]] = {"landscape": (time.perf_counter() - start, pairs.num_products)}
    plain = lanczos.EigenOptions(PAIRS, 0, TOLERANCE, max_basis=3000, verification=0, max_products=5000)
    unrestarted = lanczos.eigenpairs(operator, plain).num_products - PAIRS
    subject = next(s for s in SUBJECTS if s.name == "lenet_300_100")
    data = tuple(torch.cat(parts) for parts in zip(*problem.batches, strict=True))
    product = {name: best_product(name, subject, subject.model, data) for name in peers}
    if "curvlinops" in peers:
        number, search = counted(operator)
        rows["curvlinops + eigsh (extrapolated)"] = (number * product["curvlinops"] + search, number)
    if "hessian_eigenthings" in peers:
        search = eigenthings_search(problem.num_params, unrestarted)
        seconds = unrestarted * product["hessian_eigenthings"] + search
        rows["hessian-eigenthings (extrapolated)"] = (seconds, unrestarted)
    if "pyhessian" in peers:
        import pyhessian as package

        measured = package.hessian(subject.model("contiguous"), torch.nn.CrossEntropyLoss(), data=data, cuda=False)
        start = time.perf_counter()
        measured.eigenvalues(top_n=TIMED_PAIRS)
        seconds = (time.perf_counter() - start) * PAIRS / TIMED_PAIRS
        rows[f"pyhessian (extrapolated from {TIMED_PAIRS} pairs)"] = (seconds, np.nan)
    worst = float((pairs.residual / pairs.eigenvalue.abs().max()).max())
    facts = {
        "products of unrestarted Lanczos": unrestarted,
        "products / (1.1 unrestarted + k)": pairs.num_products / (1.1 * unrestarted + PAIRS),
        "largest residual / lambda_1": worst,
        "converged pairs": int(pairs.converged.sum()),
    }
    tell("top100_lenet", rows, facts, peers)


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore")  # of the peers
def test_density() -> None:
    subject, peers = next(s for s in SUBJECTS if s.name == "resnet20"), installed()
    number = EXAMPLES["resnet20"]
    data = tuple(torch.cat(parts) for parts in zip(*subject.batches(64, "contiguous"), strict=True))
    data = tuple(part[:number] for part in data)
    problem = Problem.from_model(subject.model("contiguous"), "cross_entropy", data)
    start = time.perf_counter()
    options = ProductOptions(planned_products=DEPTH * NUM_PROBES, block=NUM_PROBES, memory=3 * 2**30)
    operator = operators.hessian(problem, options)
    build = time.perf_counter() - start
    stochastic.quadrature(operator, stochastic.ProbeOptions(num_probes=NUM_PROBES, depth=1))  # warm
    start = time.perf_counter()
    stochastic.quadrature(operator, stochastic.ProbeOptions(num_probes=NUM_PROBES, depth=STEPS))
    each = (time.perf_counter() - start) / (STEPS * NUM_PROBES)
    total = DEPTH * NUM_PROBES
    rows = {"landscape (extrapolated from 6 steps)": (build + total * each, float(total))}
    for name in peers:
        rows[f"{name} (products alone, extrapolated)"] = (
            total * best_product(name, subject, subject.model, data),
            total,
        )
    tell("density_resnet20", rows, {"seconds to build": build, "seconds a product": each, "examples": number}, peers)


def tell(name: str, rows: dict[str, tuple[float, float]], facts: dict[str, float], peers: dict[str, str]) -> None:
    """Print the table and write the Dataset."""
    seconds, products = np.array(list(rows.values())).T
    table = xr.Dataset(
        {
            "seconds": ("method", seconds),
            "num_products": ("method", products),
            "ratio": ("method", seconds / seconds[0]),
        },
        {"method": list(rows)},
        {**facts, "threads": THREADS, "torch": str(torch.__version__)}
        | {f"version, {peer}": version for peer, version in peers.items()},
    )
    print(f"\n{name}, {THREADS} threads")
    for row in table["method"].values:
        one = table.sel({"method": row})
        print(f"{row:45}{float(one['seconds']):10.1f} s{float(one['num_products']):8.0f}{float(one['ratio']):8.2f}")
    for key, value in table.attrs.items():
        print(f"{key}: {value}")
    print(keep_timings(table, name, {"examples": EXAMPLES, "threads": THREADS}))
