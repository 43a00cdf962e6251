"""``python -m landscape.pruning score``: prune by a criterion of yours, in a run beside imp, IMC and their rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from landscape import cli, loading
from landscape.cli import option
from landscape.errors import InputError
from landscape.pruning import imc, rivals
from landscape.pruning.imc import Extent, OwnOptions, Wanted
from landscape.pruning.imc_options import STARTS, BaseOptions
from landscape.pruning.imp import OutputOptions
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.pruning.rivals import UserScore
from landscape.pruning.settings import Settings
from landscape.tasks import TaskOptions
from landscape.training import TrainOptions

DESCRIPTION = "Prune by your own score: a function from landscape.problem.Problem to one number a weight."
EXAMPLE = (
    "python -m landscape.pruning score --score mymodule:my_score --model lenet_300_100 --data mnist --kept 0.8^4 "
    "--out data/runs/lenet"
)


@dataclass(frozen=True)
class ScoreOptions:
    """Your score."""

    score: str = option(
        help="function Problem -> tensor (n,) or dict of tensors; the smallest go", metavar="MODULE:CALLABLE"
    )
    iterative: bool = option(False, help="score anew in each of 100 rounds, under the mask of the round before")
    start: str = option("rewind", help="weights from which the pruned network is trained", choices=STARTS)


@dataclass(frozen=True)
class Arguments:
    """All options."""

    score: ScoreOptions
    extent: Extent
    own: OwnOptions
    pruning: PruneOptions
    training: TrainOptions
    output: OutputOptions
    base: BaseOptions = field(default_factory=BaseOptions)


def main(argv: Sequence[str]) -> int:
    """Prune by the score and by the rivals that were asked for, and train."""
    parser = cli.Parser("pruning score", DESCRIPTION, EXAMPLE)
    a, _ = cli.parse_arguments(parser, Arguments, argv)
    if not loading.is_code(a.score.score):
        raise InputError(f"--score {a.score.score}: name a function as MODULE:CALLABLE")
    loading.import_object(a.score.score, "score")
    wanted = Wanted(
        kept=imc.fractions(a.extent.kept),
        rivals=tuple(rivals.chosen(a.extent.rivals)),
        scores=(UserScore(a.score.score, a.score.iterative),),
        shuffles=a.extent.shuffles,
        replicates=a.extent.replicates,
        start=a.score.start,
    )
    settings = Settings(Recipe(a.training, a.pruning, a.output.threads), a.base, a.own.trainer)
    cli.apply_threads(a.output.threads)
    done = imc.run(a.output.out, settings, wanted, TaskOptions(a.output.workers, a.output.scheduler), a.output.quiet)
    cli.show(done.text, a.output.quiet)
    cli.show_paths(a.output.out)
    return cli.DONE
