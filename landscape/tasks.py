"""Run a list of tasks: in this process, on a few local ones, or on any Dask cluster by its address.

A task is a picklable function with its arguments; it writes its own result, so that nothing finished is lost. A worker
that dies loses only the task it was at, which is repeated elsewhere. A task that raises does not stop the others.
"""

import contextlib
import dataclasses
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from landscape.errors import InputError, MemoryLimitError, is_out_of_memory

CONNECT_SECONDS = 30
# The environment of a local worker. Dask's own would also have glibc give memory back at every chance, so that each
# product of a network starts with page faults: 1.4 million instead of 0.05 for a spectrum of LeNet-300-100, a quarter
# of its time.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class Task:
    """A function call with a name that the user recognises.

    Parameters
    ----------
    after
        Names of tasks, earlier in the list, that must have succeeded before; if one fails, this task is not run.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    after: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Parameters
    ----------
    value
        What the function returned; ``None`` if it failed.
    error
        One line that says why it failed; ``None`` if it did not.
    trace
        The traceback of the failure, where there is one.
    kind
        What sort of failure: ``input`` (an error of the user), ``memory``, or ``bug``.
    """

    name: str
    value: Any = None
    error: str | None = None
    trace: str | None = None
    kind: str | None = None


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """Where tasks run.

    Parameters
    ----------
    workers
        Local processes of one thread each; 0 and 1 mean this process.
    scheduler
        Address of a running Dask scheduler, for example ``tcp://host:8786``; its workers must be able to import
        landscape and see the same files. It takes the place of ``workers``.
    retries
        How often a task whose worker died is repeated (on a scheduler by address its own setting holds).
    """

    workers: int = dataclasses.field(
        default=1, metadata={"help": "local processes of one thread each; 1: this process", "metavar": "W"}
    )
    scheduler: str | None = dataclasses.field(
        default=None, metadata={"help": "address of a Dask scheduler that runs the tasks", "metavar": "ADDRESS"}
    )
    retries: int = 3


def run(
    tasks: Sequence[Task], options: TaskOptions | None = None, on_done: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Run the tasks and return their outcomes in the order of the tasks.

    Parameters
    ----------
    on_done
        Called in this process with each outcome as it arrives (for a progress bar or a log).

    Raises
    ------
    InputError
        If two tasks share a name, one comes before a task that it needs, there are fewer than 0 workers, or the
        scheduler cannot be reached.
    """
    options = options or TaskOptions()
    if len({task.name for task in tasks}) < len(tasks):
        raise InputError("two tasks have the same name, so that they would write the same result")
    earlier: set[str] = set()
    for task in tasks:
        if not earlier.issuperset(task.after):
            raise InputError(f"the task {task.name} needs {', '.join(task.after)} earlier in the list")
        earlier.add(task.name)
    if options.workers < 0:
        raise InputError(f"the number of workers must be at least 0, not {options.workers}")
    if not tasks:
        return []
    report = on_done or (lambda outcome: None)
    if options.scheduler is None and options.workers <= 1:
        return _run_here(tasks, report)
    at_once = options.workers if options.scheduler is None else len(tasks)  # a cluster may grow with its queue
    with _client(options) as client:
        return _run_on(client, tasks, report, at_once)


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise what went wrong first: an error of the user and lack of memory as such, a bug with its traceback.

    Raises
    ------
    InputError
        If the first failed task says in one line what is wrong.
    MemoryLimitError
        If it ran out of memory, or out of ``--memory``.
    RuntimeError
        If it failed by a bug.
    """
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed:
        return
    first = failed[0]
    if first.kind == "bug":
        raise RuntimeError(f"{first.name} failed:\n{first.trace}")
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    error = MemoryLimitError if first.kind == "memory" else InputError
    raise error(f"{first.name}: {first.error}{more}")


def _run_here(tasks: Sequence[Task], report: Callable[[Outcome], None]) -> list[Outcome]:
    """Run the tasks one after another in this process."""
    outcomes: dict[str, Outcome] = {}
    for task in tasks:
        outcomes[task.name] = _prevented(task, outcomes) or _call(task)
        report(outcomes[task.name])
    return list(outcomes.values())


def _prevented(task: Task, outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """Return the outcome of a task that cannot be run because one that it needs failed."""
    failed = [name for name in task.after if name in outcomes and outcomes[name].error is not None]
    return Outcome(task.name, error=f"not run, because {', '.join(failed)} failed") if failed else None


def _call(task: Task) -> Outcome:
    """Call the function, and turn an exception into an outcome (not every exception survives pickling)."""
    try:
        with _no_cluster_below():
            return Outcome(task.name, task.function(*task.arguments))
    except Exception as error:
        return Outcome(task.name, error=_one_line(error), trace=traceback.format_exc(), kind=_kind(error))


def _kind(error: Exception) -> str:
    if isinstance(error, InputError):
        return "input"
    return "memory" if is_out_of_memory(error) else "bug"


@contextlib.contextmanager
def _no_cluster_below() -> Iterator[None]:
    """Keep libraries from asking the cluster that runs this task for anything (xarray would want its lock to write)."""
    import dask

    with dask.config.set(scheduler="synchronous"):
        yield


def _one_line(error: BaseException) -> str:
    """Return the message of an error that explains itself, and the type and message of any other."""
    message = " ".join(str(error).split())
    return message if isinstance(error, InputError | MemoryLimitError) else f"{type(error).__name__}: {message}"


def _run_on(client: Any, tasks: Sequence[Task], report: Callable[[Outcome], None], at_once: int) -> list[Outcome]:
    """Run the tasks on a cluster, the first ones first.

    With as many tasks ``at_once`` as there are workers, outcomes are fetched as fast as they come, and released: Dask
    would repeat a finished task if the worker that holds its outcome died.
    """
    from distributed import as_completed

    outcomes: dict[str, Outcome] = {}
    waiting, stream = list(tasks), as_completed()
    running: dict[Any, str] = {}

    def finish(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        report(outcome)

    while waiting or running:
        for task in tuple(waiting):
            if prevented := _prevented(task, outcomes):
                waiting.remove(task)
                finish(prevented)
            elif len(running) < at_once and outcomes.keys() >= set(task.after):
                waiting.remove(task)
                future = client.submit(_call, task, priority=-len(outcomes) - len(running), pure=False)
                running[future] = task.name
                stream.add(future)
        if running:
            future = next(stream)
            name = running.pop(future)
            failure = future.exception() if future.status != "finished" else None
            finish(future.result() if failure is None else Outcome(name, error=_why_lost(failure)))
            future.release()
    return [outcomes[task.name] for task in tasks]


def _why_lost(failure: BaseException) -> str:
    """Explain why a task has no outcome though its function catches every exception."""
    if type(failure).__name__ == "KilledWorker":
        return "each worker that tried it died (out of memory, or killed from outside)"
    return _one_line(failure)


@contextlib.contextmanager
def _client(options: TaskOptions) -> Iterator[Any]:
    """Connect to the cluster by address, or start local processes and stop them at the end."""
    import dask
    from distributed import Client, LocalCluster

    if options.scheduler is not None:
        try:
            client = Client(options.scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise InputError(f"there is no Dask scheduler at {options.scheduler} ({_one_line(error)})") from error
        with client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": options.retries,
        "distributed.nanny.pre-spawn-environ": ONE_THREAD,
    }
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=options.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # any free port: the default one may be in use by another study
            memory_limit=0,  # a task bounds its own memory; Dask would kill it in the middle
            silence_logs=logging.CRITICAL,
        )
        with _closed_at_the_end(cluster), _closed_at_the_end(Client(cluster)) as client:
            yield client


@contextlib.contextmanager
def _closed_at_the_end(service: Any) -> Iterator[Any]:
    """Close a cluster or a client, and leave one that takes too long on a busy machine to end with this process."""
    try:
        yield service
    finally:
        with contextlib.suppress(TimeoutError):
            service.close()
