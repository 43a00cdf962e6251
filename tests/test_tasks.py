"""Tasks: order, failures that stay with their task, workers that die."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from landscape import tasks
from landscape.errors import InputError, MemoryLimitError
from landscape.tasks import Task, TaskOptions


def square(number: int) -> int:
    time.sleep(0.05 * (number == 0))  # the first task ends last
    if number == 2:
        raise InputError("two is not allowed")
    if number == 3:
        raise KeyError("three")
    return number * number


def die_once(directory: str) -> str:
    mark = Path(directory) / "tried"
    if not mark.exists():
        mark.touch()
        time.sleep(1)  # by now the outcome of the task before it has been fetched
        os._exit(1)
    return "second try"


def die_always() -> None:
    os._exit(1)


def count_call(directory: str, name: str) -> None:
    with open(Path(directory) / name, "a") as file:
        file.write("called\n")
    time.sleep(0.02)


def append(file: str, word: str) -> None:
    if word == "bad":
        raise InputError("bad word")
    with open(file, "a") as stream:
        stream.write(f"{word} ")


def chain(file: Path) -> list[Task]:
    words = ["a", "b", "bad", "d"]
    tied = [Task(w, append, (str(file), w), tuple(words[i - 1 : i] if i else ())) for i, w in enumerate(words)]
    return [*tied, Task("free", append, (str(file), "e"), ("a",))]


def squares(count: int) -> list[Task]:
    return [Task(f"square {i}", square, (i,)) for i in range(count)]


def check_squares(outcomes: list[tasks.Outcome]) -> None:
    assert [outcome.name for outcome in outcomes] == [f"square {i}" for i in range(5)]
    assert [outcome.value for outcome in outcomes] == [0, 1, None, None, 16]
    assert outcomes[2].error == "two is not allowed"
    assert outcomes[3].error == "KeyError: 'three'"
    assert "in square" in (outcomes[3].trace or "")


@pytest.mark.parametrize("workers", [0, 1])
def test_serial_order_and_failures(workers: int) -> None:
    seen: list[str] = []
    outcomes = tasks.run(squares(5), TaskOptions(workers), lambda outcome: seen.append(outcome.name))
    check_squares(outcomes)
    assert seen == [outcome.name for outcome in outcomes]


@pytest.mark.distributed
def test_local_processes_order_failures_and_a_dying_worker(tmp_path: Path) -> None:
    work = [
        *squares(5),
        *(Task(f"count {i}", count_call, (str(tmp_path), f"file{i}")) for i in range(20)),
        Task("die once", die_once, (str(tmp_path),)),
        *(Task(f"count {i}", count_call, (str(tmp_path), f"file{i}")) for i in range(20, 40)),
    ]
    seen: list[str] = []
    outcomes = tasks.run(work, TaskOptions(workers=2), lambda outcome: seen.append(outcome.name))
    check_squares(outcomes[:5])
    assert outcomes[25].value == "second try"
    calls = {file.name: file.read_text().count("called") for file in tmp_path.glob("file*")}
    assert calls == {f"file{i}": 1 for i in range(40)}
    assert sorted(seen) == sorted(task.name for task in work)


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_wait_for_those_they_need(tmp_path: Path, workers: int) -> None:
    outcomes = tasks.run(chain(tmp_path / "log"), TaskOptions(workers))
    assert [outcome.error for outcome in outcomes] == [None, None, "bad word", "not run, because bad failed", None]
    assert (tmp_path / "log").read_text().replace("e ", "") == "a b "
    with pytest.raises(InputError, match="earlier in the list"):
        tasks.run(chain(tmp_path / "log")[1:])


@pytest.mark.distributed
def test_a_task_that_always_kills_its_worker_fails_alone() -> None:
    work = [Task("dies", die_always), Task("square 4", square, (4,))]
    outcomes = tasks.run(work, TaskOptions(workers=2, retries=1))
    assert outcomes[0].error is not None
    assert "died" in outcomes[0].error
    assert outcomes[1].value == 16


@pytest.mark.distributed
def test_scheduler_by_address() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        check_squares(tasks.run(squares(5), TaskOptions(scheduler=cluster.scheduler_address)))


def lacks_memory() -> None:
    raise MemoryLimitError("needs 3 GiB, 2 GiB are given")


def cannot_allocate() -> None:
    raise MemoryError("Unable to allocate 7 GiB")


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_raised_as_what_it_was(workers: int) -> None:
    def failed(function: Callable[..., object], *arguments: object) -> list[tasks.Outcome]:
        return tasks.run([Task("one", function, arguments)], TaskOptions(workers))

    with pytest.raises(MemoryLimitError, match=r"^one: needs 3 GiB, 2 GiB are given$"):
        tasks.raise_failures(failed(lacks_memory))
    with pytest.raises(MemoryLimitError, match="one: MemoryError: Unable to allocate 7 GiB"):
        tasks.raise_failures(failed(cannot_allocate))
    with pytest.raises(InputError, match=r"^one: two is not allowed$"):
        tasks.raise_failures(failed(square, 2))
    with pytest.raises(RuntimeError, match="in square"):
        tasks.raise_failures(failed(square, 3))


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="same name"):
        tasks.run([Task("a", square, (1,)), Task("a", square, (1,))])
    with pytest.raises(InputError, match="at least 0"):
        tasks.run(squares(1), TaskOptions(workers=-1))
    monkeypatch.setattr(tasks, "CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match="no Dask scheduler at tcp"):
        tasks.run(squares(1), TaskOptions(scheduler="tcp://127.0.0.1:9"))
    assert tasks.run([]) == []
