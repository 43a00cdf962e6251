"""``--memory`` bounds what a measurement takes; what does not fit is said before the work."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, assert_close
from torch import nn

from landscape import models, parallel
from landscape.errors import MemoryLimitError
from landscape.examples import example_curvature
from landscape.problem import Problem, ProblemSettings
from landscape.spectrum import SpectrumOptions
from landscape.spectrum.memory import OVERHEAD, divide, fitting
from landscape.spectrum.options import plan

GIB = 2**30
# The peak of a measurement minus that after the imports, as the operating system counts it.
PROGRAM = """
import json, resource, sys
from landscape import cli
from landscape.spectrum.__main__ import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = cli.exit_code(main, sys.argv[1:])
print(json.dumps([code, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]))
"""


def lenet_files(folder: Path, examples: int) -> list[str]:
    """Write a network of 266,610 weights and data for it, and return the arguments that name them."""
    model = models.build("lenet_300_100", input_shape=(1, 28, 28), num_outputs=10)
    torch.save(model.state_dict(), folder / "weights.pt")
    source = np.random.default_rng(0)
    x = source.normal(size=(examples, 1, 28, 28)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=source.integers(0, 10, examples))
    return [str(folder / "weights.pt"), "--model", "lenet_300_100", "--data", str(folder / "data.npz"), "--quiet",
            "--threads", "1", "--examples", "first"]  # fmt: skip


def run_measured(*arguments: str) -> tuple[int, float]:
    """Return the exit code of the command in a process of its own, and the bytes it took after its imports."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.stdout, done.stderr
    code, taken = json.loads(done.stdout.splitlines()[-1])
    return code, taken


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted in other units elsewhere")
def test_the_peak_stays_below_the_limit(tmp_path: Path) -> None:
    # All probes at once would take 0.56 GB of vectors; within the limit they run in groups.
    files = lenet_files(tmp_path, 150)
    sizes = ["--largest", "2", "--smallest", "0", "--num-probes", "8", "--depth", "60"]
    code, taken = run_measured(*files, *sizes, "--memory", "0.4", "--batch-size", "50", "--tolerance", "0.1")
    assert code == 0
    assert taken <= 0.4 * GIB


def small(examples: int = 40) -> Problem:
    source = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 50), nn.Tanh(), nn.Linear(50, 3)).double().eval()
    x = torch.randn(examples, 6, generator=source, dtype=torch.float64)
    y = torch.randint(0, 3, (examples,), generator=source)
    return Problem.from_model(model, "cross_entropy", (x, y), settings=ProblemSettings(batch_size=16))


def test_shares_add_up_and_hold_the_least() -> None:
    problem = small()
    options = SpectrumOptions(largest=4, smallest=1, num_probes=3, depth=20)
    sizes = plan(options, problem.num_params)
    with pytest.raises(MemoryLimitError, match="at least") as caught:
        divide(problem, options, sizes, OVERHEAD)
    needed = caught.value.needed
    with pytest.raises(MemoryLimitError):
        divide(problem, options, sizes, needed - 100)
    least = divide(problem, options, sizes, needed)
    assert 0 < least.products + least.vectors <= needed - OVERHEAD
    # What vectors cannot use is left to the products.
    # Cross-fitting and layers hold the eigenvectors of all the data while they search.
    pairs_alone = replace(sizes, num_probes=0)
    with pytest.raises(MemoryLimitError) as caught:
        divide(problem, options, pairs_alone, OVERHEAD)
    enough = caught.value.needed
    divide(problem, options, pairs_alone, enough)
    for more in (replace(options, cross_fit=True), replace(options, per_layer=True)):
        with pytest.raises(MemoryLimitError):
            divide(problem, more, pairs_alone, enough)
    ample, more = (divide(problem, options, sizes, memory * GIB) for memory in (1, 2))
    assert more.products - ample.products == pytest.approx(0.8 * GIB, abs=2)
    assert more.vectors - ample.vectors == pytest.approx(0.2 * GIB, abs=2)  # for passes over the data
    wide = plan(replace(options, num_probes=50_000), problem.num_params)
    shares = divide(problem, options, wide, GIB)
    assert shares.vectors == pytest.approx(1.5 * shares.products, rel=1e-6)


def test_all_ranks_divide_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small()
    options = SpectrumOptions(largest=4, num_probes=0)
    sizes = plan(options, problem.num_params)
    memory = OVERHEAD + 4 * 10**5
    alone = divide(problem, options, sizes, memory)
    monkeypatch.setattr(parallel, "gather", lambda value: [value, value + 10_000])  # another rank holds more data
    assert divide(problem, options, sizes, memory).vectors == alone.vectors - 6_000


def test_passes_are_cut_to_fit_and_their_values_stay() -> None:
    problem = small()
    V = torch.randn(problem.num_params, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    terms, counts = example_curvature(problem, V)
    cut = fitting(problem, lambda part: example_curvature(part, V), 40_000)
    assert len(cut.batches) > len(problem.batches)
    assert_close(example_curvature(cut, V)[0], terms, rtol=1e-12, atol=1e-14)
    assert torch.equal(example_curvature(cut, V)[1], counts)
    assert_close(cut.gradient(), problem.gradient(), rtol=1e-12, atol=1e-15)
    assert fitting(problem, Problem.gradient_sum, GIB) is problem
    with pytest.raises(MemoryLimitError, match="pass over 1 examples"):
        fitting(problem, Problem.gradient_sum, 100)
    assert fitting(replace(problem, batches=()), Problem.gradient_sum, 100).batches == ()  # a rank without data
