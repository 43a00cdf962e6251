"""What a curvature product costs in gradients on a device: ``make gpu`` (``BENCH_DEVICE``, ``BENCH_EXAMPLES``)."""

import os
import time
from collections.abc import Callable

import pytest
import torch

from landscape import models, operators
from landscape.problem import Problem, ProblemSettings

DEVICE = torch.device(os.environ.get("BENCH_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
EXAMPLES = int(os.environ.get("BENCH_EXAMPLES", "50000"))
NETWORKS = {"lenet_300_100": (1, 28, 28), "resnet20": (3, 32, 32)}
REPEATS = 3


def seconds(call: Callable[[], object]) -> float:
    """Return the time of the fastest of a few calls, the device waited for."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])  # the first call traces


@pytest.mark.bench
@pytest.mark.parametrize("name", list(NETWORKS))
def test_product_cost_in_gradients(name: str) -> None:
    shape = NETWORKS[name]
    stream = torch.Generator().manual_seed(0)
    x, y = torch.randn(EXAMPLES, *shape, generator=stream), torch.randint(0, 10, (EXAMPLES,), generator=stream)
    model = models.build(name, 0, input_shape=shape, num_outputs=10).eval()
    batch = min(1000, EXAMPLES)
    problem = Problem.from_model(
        model, "cross_entropy", (x, y), settings=ProblemSettings(device=DEVICE, batch_size=batch)
    )
    v = torch.randn(problem.num_params, generator=stream).to(DEVICE)
    hessian = operators.hessian(problem)
    gradient, product = seconds(problem.gradient), seconds(lambda: hessian @ v)
    what = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    print(f"\n{name}, {EXAMPLES:,} examples, {what}: gradient {gradient:.4f} s, product {product:.4f} s,", end=" ")
    print(f"{product / gradient:.2f} gradients a product")
    assert torch.isfinite(hessian @ v).all()
