"""IMC pruning as a run: kept counts, resumption, what is stored, bad input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape import checkpoints, results, runs
from landscape.cli import exit_code
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.pruning import criteria, imc, imc_tasks
from landscape.pruning.__main__ import main
from landscape.pruning.imc import Wanted
from landscape.pruning.imc_options import PRESETS, BaseOptions, ChoiceOptions, choices_of
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.pruning.rivals import RIVALS, UserScore
from landscape.pruning.settings import Settings, after_steps
from landscape.runs import Cell, Run
from landscape.training import TrainOptions

SIZE = 64 * 4 + 4 * 10
TRAINING = TrainOptions(
    model="mlp", data="digits", model_arg=("widths=4", "activation=gelu"), num_examples=100, epochs=2, batch_size=50,
    device="cpu",
)  # fmt: skip
BASE = BaseOptions(k=1, fast=3, smallest=1, depth=3, curvature_examples=60)
SETTINGS = Settings(Recipe(TRAINING, PruneOptions()), BASE)
WANTED = Wanted(choices={"theory": PRESETS["theory"]}, kept=(0.8**4, 0.3), rivals=RIVALS)
SHUFFLED = Wanted(choices={"theory": PRESETS["theory"]}, kept=(0.8**4,), rivals=("snip", "synflow"), shuffles=True)
FLAGS = [
    *(
        "imc",
        "--model",
        "mlp",
        "--model-arg",
        "widths=4",
        "activation=gelu",
        "--data",
        "digits",
        "--num-examples",
        "100",
    ),
    *("--epochs", "2", "--batch-size", "50", "--device", "cpu", "--k", "1", "--fast", "3", "--smallest", "1"),
    *("--depth", "3", "--curvature-examples", "60", "--replicates", "1", "--quiet"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("imc") / "run"
    imc.run(root, SETTINGS, WANTED)
    return imc.run(root, SETTINGS, SHUFFLED).run


def mask_of(run: Run, method: str, level: int) -> dict[str, Tensor]:
    mask = checkpoints.read(run.minimum(Cell(0, method, level))).mask
    assert mask is not None
    return mask


def tensors(root: Path) -> dict[str, Tensor]:
    """All tensors of all checkpoints below a directory."""
    found = {}
    for file in sorted(root.rglob("level_*/*.pt")):
        if file.name != "mask.pt":
            checkpoint = checkpoints.read(file)
            for kind, part in (("state", checkpoint.state_dict), ("mask", checkpoint.mask or {})):
                found |= {f"{file.relative_to(root)}:{kind}:{name}": t for name, t in part.items()}
    return found


def test_the_cone_gap_is_a_cost_of_its_own_rule(tmp_path: Path) -> None:
    """Three products of the splitting and three Krylov steps, at the base point and at points along two directions."""
    choices = {name: PRESETS[name] for name in ("imc_reconstructed", "theory")}
    imc.run(tmp_path / "run", SETTINGS, Wanted(choices))
    found = results.open_study(tmp_path / "run", "imc").isel(replicate=0)
    plain, cone = (float(found["num_products"].sel({"method": name})) for name in choices)
    num_points = 1 + 2 * found.sizes["shell"]
    assert cone - plain == num_points * (BASE.fast + BASE.depth)


@pytest.mark.parametrize("method", ["theory_forced", *RIVALS])
def test_counts_are_exact(run: Run, method: str) -> None:
    assert criteria.num_kept(mask_of(run, method, 4)) == criteria.counts(SIZE, 0.2, 4)[4]
    assert criteria.num_kept(mask_of(run, method, 5)) == round(0.3 * SIZE)


@pytest.mark.parametrize("method", ["snip", "theory_forced", "synflow"])
def test_shuffles_keep_the_counts_of_every_layer(run: Run, method: str) -> None:
    own, other = mask_of(run, method, 4), mask_of(run, f"{method}_shuffled", 4)
    assert {n: int(m.sum()) for n, m in own.items()} == {n: int(m.sum()) for n, m in other.items()}
    assert any(bool((own[n] != other[n]).any()) for n in own)


@pytest.mark.parametrize("method", ["one_shot", "snip", "obd", "grasp", "theory_forced"])
def test_masks_of_one_order_nest(run: Run, method: str) -> None:
    more, fewer = mask_of(run, method, 4), mask_of(run, method, 5)
    assert not any(bool((fewer[n] & ~more[n]).any()) for n in more)


def test_random_layerwise_keeps_the_same_share_of_every_layer(run: Run) -> None:
    for name, m in mask_of(run, "random_layerwise", 4).items():
        assert abs(int(m.sum()) - m.numel() * criteria.counts(SIZE, 0.2, 4)[4] / SIZE) < 1, name


def test_one_shot_is_that_of_imp(run: Run, tmp_path: Path) -> None:
    from landscape.pruning import imp

    other = imp.train_run(tmp_path, SETTINGS.recipe, imp.Extent(4, 1, ("one_shot",), (4,)))
    cell = Cell(0, "one_shot", 4)
    mine, theirs = (checkpoints.read(r.minimum(cell)) for r in (run, other))
    assert mine.fingerprint == theirs.fingerprint
    assert all(torch.equal(mine.state_dict[n], theirs.state_dict[n]) for n in mine.state_dict)


def test_all_start_from_the_rewind_point(run: Run) -> None:
    rewind = checkpoints.read(run.rewind(0)).state_dict
    for method in ("theory_forced", "snip", "obd", "snip_shuffled"):
        start = checkpoints.read(run.start(Cell(0, method, 4)))
        assert start.mask is not None
        for name, m in start.mask.items():
            assert torch.equal(start.state_dict[name], rewind[name] * m)


def test_facts_of_every_network_are_stored(run: Run) -> None:
    study = results.open_study(run.root, "pruning")
    methods = {cell.method for cell in run.cells()}
    assert set(study["method"].values.tolist()) == methods
    one = study.sel({"method": "snip", "level": 4, "replicate": 0})
    assert float(one["kept"]) == criteria.counts(SIZE, 0.2, 4)[4] / SIZE
    assert 0 < float(one["kept_effective"]) <= float(one["kept"])
    assert float(one["mask_gradients"]) == 1
    assert one["layer_num_kept"].values.sum() == criteria.counts(SIZE, 0.2, 4)[4]
    curves = checkpoints.read(run.minimum(Cell(0, "snip", 4)))
    assert curves.mask is not None
    imc_cell = study.sel({"method": "theory_forced", "level": 4, "replicate": 0})
    assert float(imc_cell["mask_products"]) > 100
    assert 0 < float(imc_cell["masked_p_value"]) <= 1


def test_conditions_are_stored(run: Run) -> None:
    found = results.open_study(run.root, "imc").sel({"method": "theory", "replicate": 0})
    assert found["rho"].values[0] == BASE.eps
    assert (np.diff(found["lipschitz"].values) >= 0).all()
    assert float(found["gradient_norm"]) > 0
    assert float(found["base_step"]) == 1


def test_a_second_call_does_nothing(run: Run) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.root.rglob("*.pt")}
    again = imc.run(run.root, SETTINGS, WANTED)
    assert {file: file.stat().st_mtime_ns for file in run.root.rglob("*.pt")} == before
    assert len(again.outcomes) == 2 + 2 * (1 + len(RIVALS))


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


def test_killed_anywhere_it_ends_with_the_same_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die before one of the atomic renames, again and again, and let the last call finish."""
    wanted = Wanted(choices={"theory": PRESETS["theory"]}, kept=(0.5,), rivals=("snip",))
    imc.run(tmp_path / "whole", SETTINGS, wanted)
    rename, left = Path.replace, [0]

    def dying(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    for left[0] in (4, 6, 5, 2, 3, 4):
        with pytest.raises(Killed):
            imc.run(tmp_path / "cut", SETTINGS, wanted)
    imc.run(tmp_path / "cut", SETTINGS, wanted)
    whole, cut = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_rule_without_an_answer_is_none(tmp_path: Path) -> None:
    settings = replace(SETTINGS, base=replace(BASE, eps=1e3))
    done = imc.run(tmp_path, settings, Wanted(choices={"imc_reconstructed": PRESETS["imc_reconstructed"]}))
    assert "none" in done.outcomes["conditions k_000001 0"]
    assert done.outcomes["replicate_0/imc_reconstructed/level_01"].startswith("none")
    assert [cell.method for cell in done.run.cells()] == ["imp"]


def test_training_in_the_subspace_itself(tmp_path: Path) -> None:
    wanted = Wanted(choices=choices_of(ChoiceOptions(rule="gap_4l", mask_rule="none", start="base_point"), BASE))
    settings = replace(SETTINGS, base=replace(BASE, eps=1e-6))
    run = imc.run(tmp_path, settings, wanted).run
    cell = Cell(0, next(iter(wanted.choices)), 1)
    vectors = torch.load(run.folder(cell) / "mask.pt", weights_only=True)["state"]["vectors"].double()
    ends = [checkpoints.read(path) for path in (run.start(cell), run.minimum(cell))]
    step = torch.cat([(ends[1].state_dict[n] - ends[0].state_dict[n]).reshape(-1) for n in ends[0].state_dict]).double()
    assert float(step.norm()) > 0.01
    assert float((vectors.T @ step).norm()) < 1e-5 * float(step.norm())  # the fast directions are left out


def keep_large(problem: Problem) -> Tensor:
    return problem.theta.abs()


def keep_small(problem: Problem) -> Tensor:
    return -problem.theta.abs()


def keep_by_name(problem: Problem) -> dict[str, Tensor]:
    return {name: p.abs() for name, p in problem.parameters.items()}


def of_another_size(problem: Problem) -> Tensor:
    return problem.theta[:-1]


def two_steps(
    model: nn.Module, start: dict[str, Tensor], mask: dict[str, Tensor], seed: int
) -> list[dict[str, Tensor]]:
    moved = {n: 0.9 * t for n, t in start.items()}
    return [moved, {n: 0.9 * t for n, t in moved.items()}]


def forgets_the_mask(model: nn.Module, start: dict[str, Tensor], mask: dict[str, Tensor], seed: int):
    return [{n: t + 1 for n, t in start.items()}]


@pytest.mark.parametrize(("function", "iterative"), [("keep_large", False), ("keep_by_name", True)])
def test_a_score_of_the_users(tmp_path: Path, function: str, iterative: bool) -> None:
    score = UserScore(f"{__name__}:{function}", iterative)
    settings = replace(SETTINGS, base=replace(BASE, base_point="init"))
    run = imc.run(tmp_path, settings, Wanted(kept=(0.8**4,), scores=(score,))).run
    mask = mask_of(run, score.method, 4)
    start = checkpoints.read(run.rewind(0)).state_dict
    expected = criteria.remove_smallest(
        criteria.magnitude(start, mask), criteria.dense(start, list(mask)), SIZE - criteria.num_kept(mask)
    )
    assert all(torch.equal(mask[n], expected[n]) for n in mask)


def test_an_edited_score_does_not_find_the_old_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Wanted(kept=(0.5,), scores=(UserScore(f"{__name__}:keep_large"),))
    settings = replace(SETTINGS, base=replace(BASE, base_point="init"))
    imc.run(tmp_path, settings, wanted)
    imc.run(tmp_path, settings, wanted)
    monkeypatch.setitem(globals(), "keep_large", keep_small)
    with pytest.raises(InputError, match=r"by another version of .*keep_large: choose another --out"):
        imc.run(tmp_path, settings, wanted)


def test_a_score_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wanted = Wanted(kept=(0.5,), scores=(UserScore(f"{__name__}:of_another_size"),))
    with pytest.raises(InputError, match="a score must be a tensor of"):
        imc.run(tmp_path, SETTINGS, wanted)


def test_a_trainer_of_the_users(tmp_path: Path) -> None:
    settings = replace(SETTINGS, trainer=f"{__name__}:two_steps")
    run = imc.run(tmp_path, settings, Wanted(kept=(0.8**4,), rivals=("snip",))).run
    cell = Cell(0, "snip", 4)
    start, end = (checkpoints.read(path).state_dict for path in (run.start(cell), run.minimum(cell)))
    assert all(torch.allclose(end[n], 0.81 * start[n]) for n in start)
    assert run.epochs(cell) == [1, 2]
    assert run.description["trainer"] == settings.trainer


def test_a_base_point_is_one_of_the_states_of_the_trainer(tmp_path: Path) -> None:
    """Its second epoch would begin at step 2; after 1 step there is only a state of our own trainer."""
    own = replace(SETTINGS, trainer=f"{__name__}:two_steps")
    wanted = Wanted(choices={"theory": PRESETS["theory"]}, kept=(0.5,))
    with pytest.raises(InputError, match=r"--k 1: your --trainer hands over whole epochs of 2 steps"):
        imc.run(tmp_path / "run", own, wanted)
    assert not (tmp_path / "run").exists()
    second = replace(own, base=replace(BASE, k=2))
    run = runs.create(tmp_path / "run", imc.describe(second))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        imc_tasks.train_dense(run.root, 0, second)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    start, point = checkpoints.read(run.start(Cell(0, "imp", 0))), after_steps(run, second, 0, 2)
    assert all(torch.equal(point.state_dict[n], (0.9 * t).to(t)) for n, t in start.state_dict.items())
    assert point.step == 2
    run.epoch(Cell(0, "imp", 0), 1).unlink()
    with pytest.raises(InputError, match="handed over no state after 2 steps"):
        after_steps(run, second, 0, 2)


def test_a_trainer_that_forgets_the_mask_is_found_out(tmp_path: Path) -> None:
    settings = replace(SETTINGS, trainer=f"{__name__}:forgets_the_mask")
    with pytest.raises(InputError, match=r"left pruned weights of fc1\.weight other than zero"):
        imc.run(tmp_path, settings, Wanted(kept=(0.5,), rivals=("snip",)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kept", "0"], "a kept fraction lies in (0, 1]"),
        (["--kept", "1.5"], "a kept fraction lies in (0, 1]"),
        (["--kept", "many"], "this is no fraction"),
        (["--kept", "0.5", "0.5001"], "belong to the same level"),
        (["--rivals", "snip"], "give --kept"),
        (["--rivals", "lucky", "--kept", "0.5"], "unknown rival 'lucky'"),
        (["--mask-rule", "none", "--kept", "0.5"], "leave --kept out"),
        (["--mask-rule", "none", "--shuffles"], "leave --shuffles out"),
        (["--eps", "0"], "--eps positive"),
        (["--k", "-1"], "--k must not be negative"),
        (["--lr", "1e30"], "NaN or infinite"),
        (["--rule", "slq_plateau", "--mask-rule", "leverage"], "raise --fast"),
        (["--trainer", "nowhere:f"], "cannot import the trainer"),
        (["--fraction", "1.5", "--kept", "0.5"], "--fraction must lie between 0 and 1, not 1.5"),
        (["--kept", "0.9"], "--kept 0.9 belongs to level 0, which is the dense network"),
        (["--k", "10"], "--k 10: the dense training has 4 steps"),
        (["--rewind-step", "999"], "--rewind-step 999: the training has 4 steps"),
        (["--prunable", "zzz*"], "no parameter matches --prunable 'zzz*'"),
    ],
)
def test_bad_input_says_what_to_do(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(main, [*FLAGS, *flags, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error:") == 1
    if "--lr" not in flags and "--rule" not in flags:  # what shows only in training leaves a run
        assert not (tmp_path / "run").exists()


def test_another_base_point_in_a_run_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(main, [*FLAGS, "--out", str(tmp_path)]) == 0
    assert exit_code(main, [*FLAGS, "--eps", "0.1", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "or choose another --out" in error
    assert "--resume" not in error


def test_a_failed_task_leaves_the_run_usable(tmp_path: Path) -> None:
    assert exit_code(main, [*FLAGS, "--rule", "slq_plateau", "--mask-rule", "leverage", "--out", str(tmp_path)]) == 2
    assert exit_code(main, [*FLAGS, "--kept", "0.5", "--out", str(tmp_path)]) == 0
    assert len(runs.read(tmp_path).cells()) == 2
