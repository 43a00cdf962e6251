"""One rank is the identity; two gloo ranks sum, broadcast and share."""

import os
import socket
from pathlib import Path

import pytest
import torch

from landscape import parallel
from landscape.errors import InputError


def test_one_process_is_the_identity() -> None:
    values = torch.arange(3.0)
    assert parallel.world() == 1
    assert parallel.rank() == 0
    assert parallel.sum_ranks(values) is values
    assert torch.equal(values, torch.arange(3.0))
    assert parallel.broadcast(values, 0) is values
    assert parallel.shard("abc") == ["a", "b", "c"]


def test_without_torchrun_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    parallel.init_from_environment()
    assert not torch.distributed.is_initialized()


def test_a_rank_without_a_device_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "999")
    monkeypatch.setenv("LOCAL_RANK", "998")
    with pytest.raises(InputError, match="nproc-per-node"):
        parallel.init_from_environment("cuda")


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def work_of_one_rank(rank: int, port: int, directory: str) -> None:
    """Run as one of two ranks; what it found goes into a file (module level, so that spawn finds it)."""
    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    parallel.init_from_environment()
    thirds = torch.arange(1000, dtype=torch.float64) / 3 + rank
    found = {
        "world": parallel.world(),
        "rank": parallel.rank(),
        "sum": parallel.sum_ranks(thirds),
        "root": parallel.broadcast(torch.full((2,), float(rank)), 1),
        "share": parallel.shard(range(5)),
        "none": parallel.shard(range(1)),
    }
    torch.save(found, Path(directory) / f"{rank}.pt")


@pytest.mark.distributed
def test_two_ranks(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work_of_one_rank, (free_port(), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (first["world"], first["rank"], second["world"], second["rank"]) == (2, 0, 2, 1)
    assert torch.equal(first["sum"], second["sum"])
    expected = 2 * (torch.arange(1000, dtype=torch.float64) / 3) + 1
    assert torch.allclose(first["sum"], expected, rtol=1e-15)
    assert torch.equal(first["root"], torch.ones(2))
    assert torch.equal(second["root"], torch.ones(2))
    assert (first["share"], second["share"]) == ([0, 2, 4], [1, 3])
    assert (first["none"], second["none"]) == ([0], [])
