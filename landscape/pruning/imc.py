"""``python -m landscape.pruning imc``: IMC pruning, reconstructed, and its rivals under one trainer, as a run.

Run directory and dense networks are those of ``pruning imp``: give both commands the same training options and the same
``--out``, and their cells stand side by side. Every mask of exact count is trained from the rewind point (or from the
weights it was made at), with the data order of its level.

==========================================  ============================================================================
``RUN/replicate_R/imc/BASE_POINT/``         the steps before the mask: ``base.pt`` (eigenpairs), ``remainder.pt``,
                                            ``cone.pt``; shared by all presets of a base point
``RUN/replicate_R/METHOD/level_LL/``        ``mask.pt`` (mask, scores, cost), then the checkpoints of the training
``RUN/results/imc``, ``RUN/results/pruning``  conditions of every choice; facts of every pruned network
==========================================  ============================================================================

A method is called as its preset; ``_forced`` is appended where the kept fraction was given and only its order of the
weights competes, ``_shuffled`` for the layer-wise shuffle of its mask, ``_continued`` where a rival is trained from the
weights its mask was made at. A rule without an answer is reported as ``none``, which is an outcome and no error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from landscape import cli, loading, runs, tasks
from landscape.cli import option
from landscape.errors import InputError
from landscape.pruning import imc_tasks, imp, preflight, rivals
from landscape.pruning import settings as shared
from landscape.pruning.imc_options import BaseOptions, Choice, ChoiceOptions, choices_of
from landscape.pruning.imc_tasks import Job
from landscape.pruning.imp import OutputOptions
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.pruning.rivals import UserScore
from landscape.pruning.settings import Settings
from landscape.runs import Cell, Run
from landscape.tasks import Outcome, Task, TaskOptions
from landscape.training import TrainOptions

DESCRIPTION = "IMC pruning (reconstructed) and its rivals, with the conditions beside every mask."
EXAMPLE = (
    "python -m landscape.pruning imc --model lenet_300_100 --data mnist --kept 0.8^4 0.8^10 --rivals snip obd "
    "--shuffles --out data/runs/lenet"
)
OWN_LEVEL = 1


def parse_kept(text: str) -> float:
    """Return a kept fraction, a number or a power such as ``0.8^4``.

    Raises
    ------
    InputError
        If it does not lie in (0, 1].
    """
    base, power, exponent = text.partition("^")
    try:
        kept = float(base) ** int(exponent) if power else float(base)
    except ValueError:
        raise InputError(f"--kept {text}: this is no fraction; write for example 0.41 or 0.8^4") from None
    if not 0 < kept <= 1:
        raise InputError(f"--kept {text}: a kept fraction lies in (0, 1]")
    return kept


def fractions(texts: Sequence[str]) -> tuple[float, ...]:
    """Return the kept fractions of words that may be separated by commas or spaces."""
    return tuple(parse_kept(part) for text in texts for part in text.split(",") if part)


@dataclass(frozen=True)
class Extent:
    """Extent."""

    kept: tuple[str, ...] = option(
        (), help="kept fractions, such as 0.8^4 or 0.41 (default: what each rule chooses)", metavar="F"
    )
    rivals: tuple[str, ...] = option(
        (), help=f"rivals at these fractions: {', '.join(rivals.RIVALS)}, or all", metavar="NAME"
    )
    shuffles: bool = option(False, help="add the layer-wise shuffle of every mask")
    replicates: int = option(3, help="repeats with other initialisation and data order", metavar="R")


@dataclass(frozen=True)
class OwnOptions:
    """Code of yours."""

    trainer: str | None = option(
        None, help="trains in place of ours: (model, start, mask, seed) -> state dicts", metavar="MODULE:CALLABLE"
    )


@dataclass(frozen=True)
class Arguments:
    """All options."""

    extent: Extent
    choice: ChoiceOptions
    base: BaseOptions
    own: OwnOptions
    pruning: PruneOptions
    training: TrainOptions
    output: OutputOptions


@dataclass(frozen=True)
class Wanted:
    """Which networks are pruned; how far it goes is no part of what decides a tensor.

    Parameters
    ----------
    choices
        Method name -> choice of IMC.
    kept
        Kept fractions; empty for what each choice's own rule says.
    start
        Where rivals and scores start: ``rewind`` or ``base_point``.
    """

    choices: Mapping[str, Choice] = field(default_factory=dict)
    kept: tuple[float, ...] = ()
    rivals: tuple[str, ...] = ()
    scores: tuple[UserScore, ...] = ()
    shuffles: bool = False
    replicates: int = 1
    start: str = "rewind"


def main(argv: Sequence[str]) -> int:
    """Prune and train what is missing of a run, and print the conditions."""
    parser = cli.Parser("pruning imc", DESCRIPTION, EXAMPLE, goes_on=True)
    a, _ = cli.parse_arguments(parser, Arguments, argv)
    wanted = Wanted(
        choices=choices_of(a.choice, a.base),
        kept=fractions(a.extent.kept),
        rivals=tuple(rivals.chosen(a.extent.rivals)),
        shuffles=a.extent.shuffles,
        replicates=a.extent.replicates,
        start=a.choice.start or "rewind",
    )
    settings = Settings(Recipe(a.training, a.pruning, a.output.threads), a.base, a.own.trainer)
    cli.apply_threads(a.output.threads)
    done = run(a.output.out, settings, wanted, TaskOptions(a.output.workers, a.output.scheduler), a.output.quiet)
    cli.show(done.text, a.output.quiet)
    cli.show_paths(a.output.out)
    return cli.DONE


@dataclass(frozen=True)
class Done:
    """A run and what became of each of its tasks, in words."""

    run: Run
    outcomes: Mapping[str, str]

    @property
    def text(self) -> str:
        """The outcomes, one a line."""
        return "\n".join(f"{name:48s} {value}" for name, value in self.outcomes.items())


def run(root: Path, settings: Settings, wanted: Wanted, where: TaskOptions | None = None, quiet: bool = True) -> Done:
    """Measure, prune and train all that is missing; the same call finishes what a killed one has left.

    Raises
    ------
    InputError
        If the directory holds a run of another description, an option cannot be honoured, or a task failed; the others
        are finished first.
    """
    check(settings, wanted)
    cells = runs.create(root, describe(settings))
    work = plan(root, settings, wanted)
    outcomes: dict[str, str] = {}
    bar: tqdm[Any]
    with cli.progress(len(work), "tasks", quiet) as bar:

        def report(outcome: Outcome) -> None:
            bar.update()
            outcomes[outcome.name] = str(outcome.error or outcome.value)
            cli.log(f"{outcome.name}: {outcomes[outcome.name]}", quiet)

        found = tasks.run(work, where, report)
    tasks.raise_failures(found)
    return Done(cells, outcomes)


def check(settings: Settings, wanted: Wanted) -> None:
    """Refuse what cannot be honoured, before anything starts.

    Raises
    ------
    InputError
        With the option and what to do.
    """
    preflight.check_pruning(settings.recipe.pruning)
    if wanted.replicates < 1:
        raise InputError(f"--replicates must be at least 1, not {wanted.replicates}")
    if (wanted.rivals or wanted.scores) and not wanted.kept:
        raise InputError("rivals have no kept fraction of their own; give --kept, for example --kept 0.8^4 0.8^10")
    for kept in wanted.kept:
        if not 0 < kept <= 1:
            raise InputError(f"a kept fraction lies in (0, 1], not {kept}")
    levels = [level_of(kept, settings.recipe.pruning) for kept in wanted.kept]
    if 0 in levels:
        fraction, given = settings.recipe.pruning.fraction, wanted.kept[levels.index(0)]
        raise InputError(
            f"--kept {given:g} belongs to level 0, which is the dense network: at --fraction {fraction:g} the first "
            f"levels keep {1 - fraction:.3g} and {(1 - fraction) ** 2:.3g}; give one of these, or a run of its own "
            "with a smaller --fraction"
        )
    if len(set(levels)) < len(levels):
        raise InputError(
            f"two of the kept fractions {wanted.kept} belong to the same level; they need runs of their own"
        )
    for name, choice in wanted.choices.items():
        if wanted.kept and choice.mask_rule in ("none", "qdeim"):
            raise InputError(f"{name}: --mask-rule {choice.mask_rule} has no order of all weights; leave --kept out")
        if choice.mask_rule == "none" and wanted.shuffles:
            raise InputError("--mask-rule none has no mask to be shuffled; leave --shuffles out")
    if settings.trainer is not None:
        loading.import_object(settings.trainer, "trainer")
    imp.check(settings.recipe)
    if wanted.choices or wanted.scores:
        check_base_point(settings)


def check_base_point(settings: Settings) -> None:
    """Refuse a base point that the dense training does not pass, or of which a user's trainer keeps no state."""
    base, training = settings.base, settings.recipe.training
    if base.base_point != "k_steps":
        return
    last, each = preflight.num_steps(training, imp.load_data(training)[0]), shared.steps_per_epoch(settings)
    if base.k > last:
        raise InputError(f"--k {base.k}: the dense training has {last} steps; give a smaller --k or more --epochs")
    if settings.trainer is not None and base.k % each:
        raise InputError(
            f"--k {base.k}: your --trainer hands over whole epochs of {each} steps, and a base point between them "
            f"would be of another training; give a multiple of {each}, or --base-point init or converged"
        )


def describe(settings: Settings) -> dict[str, Any]:
    """Return the description of the run: that of imp's command, so that both can share it."""
    described = imp.describe(settings.recipe)
    return described if settings.trainer is None else {**described, "trainer": settings.trainer}


def level_of(kept: float, pruning: PruneOptions) -> int:
    """Return the level whose fraction under the run's pruning is nearest to a kept fraction (in log)."""
    return round(math.log(kept) / math.log(1 - pruning.fraction))


def plan(root: Path, settings: Settings, wanted: Wanted) -> list[Task]:
    """Return the tasks: the dense network and the conditions of every replicate, then the cells."""
    work = []
    for r in range(wanted.replicates):
        work.append(Task(f"dense {r}", imc_tasks.train_dense, (root, r, settings)))
        before: tuple[str, ...] = (f"dense {r}",)
        if wanted.choices:
            name = f"conditions {settings.base.name} {r}"
            work.append(Task(name, imc_tasks.conditions, (root, r, settings, dict(wanted.choices)), before))
            before = (*before, name)
        for job in jobs(settings, wanted, r):
            after = before if job.parent is None else (*before, str(job.parent.cell))
            work.append(Task(str(job.cell), imc_tasks.prune_cell, (root, settings, job), after))
    return work


def jobs(settings: Settings, wanted: Wanted, replicate: int) -> list[Job]:
    """Return the networks of a replicate that are pruned and trained, value by value."""
    found: list[Job] = []
    values: tuple[float | None, ...] = wanted.kept or (None,)
    for kept in values:
        level = OWN_LEVEL if kept is None else level_of(kept, settings.recipe.pruning)
        sources: list[tuple[str, Choice | UserScore | str, str]] = [
            (name if kept is None else f"{name}_forced", choice, choice.start)
            for name, choice in wanted.choices.items()
        ]
        if kept is not None:
            sources += [(s.method, s, wanted.start) for s in wanted.scores]
            sources += [(name, name, wanted.start) for name in wanted.rivals]
        for name, source, start in sources:
            suffix = "_continued" if start == "base_point" and not isinstance(source, Choice) else ""
            job = Job(Cell(replicate, name + suffix, level), source, kept, start)
            found.append(job)
            if wanted.shuffles and not str(source).startswith("random"):
                found.append(Job(Cell(replicate, f"{name}{suffix}_shuffled", level), source, kept, start, job))
    return found
