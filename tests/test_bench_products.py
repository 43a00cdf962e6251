"""How long one product with the Hessian takes, in gradients and forward passes, beside the peers: ``make bench``.

Shared machines are noisy, so everything is timed in turn, round after round, and a ratio is the median over the rounds
of the ratios within a round. The gradient, which is the unit, is ``torch.autograd.grad`` at its own best batch size and
memory format; each peer stands with its own best. Peers that are not installed are left out.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import keep_timings
from torch import Tensor, nn
from torch.nn import functional

from landscape import models, operators
from landscape.curvature import ProductOptions
from landscape.problem import Problem

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
# Where other programs share the cores, the processor time of one thread is steadier than the time on the wall.
CLOCK = {"wall": time.perf_counter, "cpu": time.process_time}[os.environ.get("BENCH_CLOCK", "wall")]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Subject:
    """A network with data, the batch sizes to choose from, and what the project wants to reach, in gradients."""

    name: str
    shape: tuple[int, ...]
    num_examples: int
    sizes: tuple[int, ...]
    formats: tuple[str, ...]
    reach: dict[str, float]

    def model(self, layout: str) -> nn.Module:
        model = models.build(self.name, input_shape=self.shape, num_outputs=10).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():  # statistics as after training: not those with which BatchNorm does nothing
            for name, buffer in model.named_buffers():
                if "running" in name:
                    buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        return model.to(memory_format=FORMATS[layout])

    def batches(self, size: int, layout: str) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.num_examples, *self.shape, generator=generator)
        y = torch.randint(0, 10, (self.num_examples,), generator=generator)
        if x.ndim == 4:
            x = x.contiguous(memory_format=FORMATS[layout])
        return list(zip(x.split(size), y.split(size), strict=True))


SUBJECTS = [
    Subject(
        *("resnet20", (3, 32, 32), 512, (64, 256), ("contiguous", "channels_last")),
        {"retained in gradients": 2.1, "recomputed in forwards": 10.5, "best peer / retained": 2.5},
    ),
    Subject(
        *("lenet_300_100", (1, 28, 28), 10_000, (1000, 2500, 10_000), ("contiguous",)),
        {"retained in gradients": 1.2, "best peer / retained": 1.8},
    ),
]


Task = Callable[[], object]


def forward(subject: Subject, size: int, layout: str) -> Task:
    model, batches = subject.model(layout), subject.batches(size, layout)

    def run() -> None:
        with torch.no_grad():
            for x, y in batches:
                functional.cross_entropy(model(x), y, reduction="sum")

    return run


def gradient(subject: Subject, size: int, layout: str) -> Task:
    model, batches = subject.model(layout), subject.batches(size, layout)

    def run() -> None:
        for x, y in batches:
            torch.autograd.grad(functional.cross_entropy(model(x), y, reduction="sum"), list(model.parameters()))

    return run


def ours(subject: Subject, strategy: str, block: int) -> tuple[Task, operators.LinearOperator]:
    data = subject.batches(subject.num_examples, "contiguous")[0]
    problem = Problem.from_model(subject.model("contiguous"), "cross_entropy", data)
    operator = operators.hessian(problem, ProductOptions(strategy=strategy, block=block, memory=8 * 2**30))
    V = torch.randn(problem.num_params, block, generator=torch.Generator().manual_seed(2))
    return lambda: operator @ V, operator


def curvlinops(model: nn.Module, batches: list[tuple[Tensor, Tensor]], v: Tensor) -> Task:
    from curvlinops import HessianLinearOperator

    parameters = list(model.parameters())
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False)
    return lambda: operator @ v


def hessian_eigenthings(model: nn.Module, batches: list[tuple[Tensor, Tensor]], v: Tensor) -> Task:
    from hessian_eigenthings import HessianOperator, supervised_loss

    operator = HessianOperator(model, batches, supervised_loss(nn.CrossEntropyLoss()))
    return lambda: operator.matvec(v)


def pyhessian(model: nn.Module, batches: list[tuple[Tensor, Tensor]], v: Tensor) -> Task:
    import pyhessian as package

    for p in model.parameters():  # it looks at gradients that its products overwrite
        p.grad = torch.zeros_like(p)
    measured = package.hessian(model, nn.CrossEntropyLoss(), dataloader=batches, cuda=False)
    parts = v.split([p.numel() for p in model.parameters()])
    shaped = [part.view_as(p) for part, p in zip(parts, model.parameters(), strict=True)]
    return lambda: measured.dataloader_hv_product(shaped)


PEERS = {"curvlinops": curvlinops, "hessian_eigenthings": hessian_eigenthings, "pyhessian": pyhessian}
PACKAGES = {
    "curvlinops": "curvlinops-for-pytorch",
    "hessian_eigenthings": "hessian-eigenthings",
    "pyhessian": "PyHessian",
}


def installed() -> dict[str, str]:
    """Return the versions of the peers that are there."""
    found = {}
    for name, package in PACKAGES.items():
        try:
            importlib.import_module(name)
            found[name] = importlib.metadata.version(package)
        except ImportError:
            print(f"{package} is not installed: left out")
    return found


def settings(subject: Subject) -> list[tuple[int, str]]:
    return [(size, layout) for layout in subject.formats for size in subject.sizes]


def tasks(subject: Subject, peers: dict[str, str]) -> tuple[dict[str, list[Task]], dict[str, int], dict[str, float]]:
    """Return what to time (several settings of one thing compete), the vectors of each, and facts for the record."""
    competing: dict[str, list[Task]] = {
        "forward": [forward(subject, *setting) for setting in settings(subject)],
        "gradient": [gradient(subject, *setting) for setting in settings(subject)],
    }
    vectors, facts = {"recomputed, block of 8": 8}, {}
    for name, strategy, block in (
        ("retained", "retained", 1),
        ("recomputed", "recomputed", 1),
        ("recomputed, block of 8", "recomputed", 8),
        ("double backward", "double_backward", 1),
    ):
        start = time.perf_counter()
        task, operator = ours(subject, strategy, block)
        competing[name] = [task]
        facts[f"seconds to build, {name}"] = time.perf_counter() - start
        facts[f"MB an example, {name}"] = operator.peak_bytes / subject.num_examples / 1e6
    for peer in peers:
        competing[peer] = []
        for size, layout in settings(subject):
            model = subject.model(layout)
            v = torch.randn(sum(p.numel() for p in model.parameters()), generator=torch.Generator().manual_seed(2))
            competing[peer].append(PEERS[peer](model, subject.batches(size, layout), v))
    return competing, vectors, facts


def timed(task: Task) -> float:
    start = CLOCK()
    task()
    return CLOCK() - start


def measure(subject: Subject, peers: dict[str, str]) -> tuple[xr.Dataset, dict[str, float]]:
    """Return seconds by round and thing, each in the setting that was fastest in a first round."""
    competing, vectors, facts = tasks(subject, peers)
    fastest = {}
    for name, settings_of in competing.items():
        for task in settings_of:
            task()
        fastest[name] = min(settings_of, key=lambda task: min(timed(task), timed(task)))
    seconds = [[timed(task) / vectors.get(name, 1) for name, task in fastest.items()] for _ in range(ROUNDS)]
    table = xr.Dataset({"seconds": (("round", "method"), np.array(seconds))}, {"method": list(fastest)})
    for unit in ("forward", "gradient", "retained"):
        ratio = table["seconds"].values / table["seconds"].sel({"method": unit}).values[:, None]
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75), axis=0)
        table[f"in_{unit}"], table[f"in_{unit}_iqr"] = ("method", middle), ("method", high - low)
    return table, facts


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_products(subject: Subject) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        peers = installed()
        table, facts = measure(subject, peers)
    finally:
        torch.set_num_threads(before)
    table.attrs = {
        "subject": subject.name,
        "num_examples": subject.num_examples,
        "threads": THREADS,
        "clock": CLOCK.__name__,
        "torch": str(torch.__version__),
        "processor": platform.processor() or platform.machine(),
        **{f"version, {name}": version for name, version in peers.items()},
        **facts,
        **{f"reach, {name}": value for name, value in subject.reach.items()},
    }
    asked = {"num_examples": subject.num_examples, "threads": THREADS, "rounds": ROUNDS}
    path = keep_timings(table, f"products_{subject.name}", asked)
    print(f"\n{subject.name}, {subject.num_examples} examples, {THREADS} threads, {CLOCK.__name__}")
    print(f"{'one vector':26}{'seconds':>9}{'forwards':>10}{'gradients':>11}{'  +- (iqr)':10}{'/ retained':>11}")
    for name in table["method"].values:
        row = table.sel({"method": name})
        print(
            f"{name:26}{float(row['seconds'].median()):9.3f}{float(row['in_forward']):10.2f}"
            f"{float(row['in_gradient']):11.2f}{float(row['in_gradient_iqr']):10.2f}{float(row['in_retained']):11.2f}"
        )
    for name, value in table.attrs.items():
        print(f"{name}: {value}")
    print(path)
