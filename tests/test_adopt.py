"""Other people's checkpoints: a manifest, a directory of open_lth, files of torch.nn.utils.prune."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from landscape import results, store
from landscape.checkpoints import ProblemOptions
from landscape.cli import exit_code
from landscape.connectivity import PathOptions
from landscape.errors import InputError
from landscape.runs import Cell
from landscape.spectrum import SpectrumOptions
from landscape.study import AlignmentOptions, Effort, MeasureOptions, Selection, measure
from landscape.study.__main__ import main
from landscape.study.adopt import adopt
from landscape.study.points import point_of
from landscape.tasks import TaskOptions

WHAT = ProblemOptions(model="mlp", model_arg=("widths=4",), data="digits", normalize="standard")
OPTIONS = MeasureOptions(
    ProblemOptions(num_examples=50, dtype="float64", device="cpu"),
    SpectrumOptions(largest=3, smallest=0, num_probes=0),
    PathOptions(num_positions=3, num_refinements=0, num_bootstrap=0),
    AlignmentOptions(num_aligned=2),
)
HERE = Effort(TaskOptions())


class Net(nn.Module):
    """A network with the parameter names that open_lth gives its LeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_layers = nn.ModuleList([nn.Linear(64, 5), nn.Linear(5, 4)])
        self.fc = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in self.fc_layers:
            x = torch.relu(layer(x))
        return self.fc(x)


def mlp(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {"flatten": nn.Flatten(), "fc1": nn.Linear(64, 4), "activation1": nn.Tanh(), "output": nn.Linear(4, 10)}
        model = nn.Sequential()
        for name, part in parts.items():
            model.add_module(name, part)
    return model


def write_files(folder: Path) -> Path:
    """Write a dense network, its pruned successor with a mask beside it, and a manifest of both."""
    folder.mkdir()
    torch.save(mlp(0).state_dict(), folder / "start.pt")
    torch.save(mlp(1).state_dict(), folder / "dense.pt")
    torch.save({"state_dict": mlp(2).state_dict()}, folder / "sparse.pth")
    keep = np.zeros((4, 64), dtype=np.int64)
    keep[:, ::3] = 1
    np.savez(folder / "mask.npz", **{"fc1.weight": keep})
    lines = ["path,mask,level,point", "start.pt,,0,rewind", "dense.pt,,0,minimum", "sparse.pth,mask.npz,1,"]
    (folder / "files.csv").write_text("\n".join(lines))
    return folder / "files.csv"


def test_a_manifest_becomes_a_run_that_is_measured(tmp_path: Path) -> None:
    manifest = write_files(tmp_path / "theirs")
    before = {file.name: store.file_sha256(file) for file in manifest.parent.iterdir()}
    run = adopt(manifest, tmp_path / "run", WHAT)
    assert run.cells() == [Cell(0, "imp", 0), Cell(0, "imp", 1)]
    selection = Selection(
        quantities=("curves", "connectivity", "spectrum", "renewal"), points=("minimum", "projected", "restricted")
    )
    measure(run, selection, OPTIONS, HERE)
    study = results.open_study(run.root).squeeze(["method", "replicate"], drop=True)
    assert results.quantities(run.root) == ["spectrum", "connectivity", "renewal"]
    assert study["measured_spectrum"].squeeze().sel(level=1).all()
    assert set(study["pair"].values) >= {"rewind -> minimum", "previous -> minimum", "projected -> minimum"}
    pruned = point_of(run, Cell(0, "imp", 1), "minimum", OPTIONS.problem).problem
    assert pruned.num_params == 4 * 22 + 4 + 50
    weights = torch.load(manifest.parent / "dense.pt", weights_only=True)["fc1.weight"].double()
    moved = point_of(run, Cell(0, "imp", 1), "projected", OPTIONS.problem).problem.tensors()["fc1.weight"]
    torch.testing.assert_close(moved[:, ::3], weights[:, ::3])
    assert before == {file.name: store.file_sha256(file) for file in manifest.parent.iterdir()}


def test_methods_with_a_start_of_their_own_bring_it(tmp_path: Path) -> None:
    manifest = write_files(tmp_path / "theirs")
    torch.save(mlp(5).state_dict(), manifest.parent / "fresh.pt")
    torch.save(mlp(6).state_dict(), manifest.parent / "trained.pt")
    lines = ["path,mask,method,level,point", "dense.pt,,imp,0,minimum", "sparse.pth,mask.npz,imp,1,minimum"]
    lines += ["fresh.pt,mask.npz,random_init,1,rewind", "trained.pt,mask.npz,random_init,1,minimum"]
    manifest.write_text("\n".join(lines))
    run = adopt(manifest, tmp_path / "run", WHAT)
    start = point_of(run, Cell(0, "random_init", 1), "rewind", OPTIONS.problem).problem.tensors()["fc1.weight"]
    torch.testing.assert_close(start[:, ::3], mlp(5).state_dict()["fc1.weight"].double()[:, ::3])


def test_adopting_again_changes_nothing_and_changed_files_are_noticed(tmp_path: Path) -> None:
    manifest = write_files(tmp_path / "theirs")
    first = adopt(manifest, tmp_path / "run", WHAT)
    assert adopt(manifest, tmp_path / "run", WHAT).fingerprint == first.fingerprint
    torch.save(mlp(5).state_dict(), manifest.parent / "dense.pt")
    with pytest.raises(InputError, match="another description"):
        adopt(manifest, tmp_path / "run", WHAT)


def test_files_of_pruned_modules_bring_their_masks(tmp_path: Path) -> None:
    model = mlp(0)
    prune.l1_unstructured(model.fc1, "weight", amount=100)
    torch.save(model.state_dict(), tmp_path / "pruned.pt")
    (tmp_path / "files.csv").write_text("path,level,method\npruned.pt,3,magnitude")
    run = adopt(tmp_path / "files.csv", tmp_path / "run", WHAT)
    found = point_of(run, Cell(0, "magnitude", 3), "minimum", OPTIONS.problem).problem
    assert found.num_params == found.num_params_total - 100
    measure(run, Selection(quantities=("spectrum",)), OPTIONS, HERE)
    assert results.open_study(run.root)["method"].values.tolist() == ["magnitude"]


def lottery(folder: Path) -> Path:
    """Write the directory that open_lth leaves: levels 0 and 1 of one replicate, a mask and two models each."""
    network = Net()
    shapes = {name: p.shape for name, p in network.named_parameters() if p.ndim == 2}
    for level in (0, 1):
        place = folder / "lottery_0123abcd" / "replicate_1" / f"level_{level}" / "main"
        place.mkdir(parents=True)
        mask = {n: torch.ones(shape, dtype=torch.int32) for n, shape in shapes.items()}
        if level:
            mask["fc_layers.0.weight"][:, ::2] = 0
        torch.save(mask, place / "mask.pth")
        for name in ("model_ep0_it0.pth", "model_ep2_it0.pth"):
            torch.save({n: t + 0.1 * level for n, t in network.state_dict().items()}, place / name)
    return folder / "lottery_0123abcd"


def test_a_directory_of_open_lth(tmp_path: Path) -> None:
    networks = ProblemOptions(model="test_adopt:Net", data="digits", normalize="standard")
    run = adopt(lottery(tmp_path), tmp_path / "run", networks)
    assert run.cells() == [Cell(1, "imp", 0), Cell(1, "imp", 1)]
    assert run.rewind(1).resolve().name == "model_ep0_it0.pth"
    assert run.minimum(Cell(1, "imp", 1)).resolve().name == "model_ep2_it0.pth"
    with pytest.raises(InputError, match="--model"):  # code that a file names is not run
        point_of(run, Cell(1, "imp", 1), "minimum", OPTIONS.problem)
    trusted = replace(OPTIONS.problem, model="test_adopt:Net")
    found = point_of(run, Cell(1, "imp", 1), "minimum", trusted).problem
    assert found.num_params == found.num_params_total - 5 * 32
    assert point_of(run, Cell(1, "imp", 1), "projected", trusted).problem.num_params == found.num_params


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,level\na.pt,0", "needs the columns path and level"),
        ("path,level\n", "has no rows"),
        ("path,level\ndense.pt,x", "row 2: level must be a whole number"),
        ("path,level,point\ndense.pt,0,projected", "must be minimum, rewind, or epoch"),
        ("path,level,point\ndense.pt,1,rewind", "only random_init, "),
        ("path,level,method\ndense.pt,1,../up", "letters, digits and _"),
        ("path,level\nnowhere.pt,0", "no checkpoint"),
        ("path,level\ndense.pt,0\nstart.pt,0", "two files are the minimum"),
        ("path,level,mask\ndense.pt,0,other.npz", "other.npz: the mask of fc1.weight has the shape"),
    ],
)
def test_wrong_manifests_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    manifest = write_files(tmp_path / "theirs")
    np.savez(manifest.parent / "other.npz", **{"fc1.weight": np.ones((2, 2))})
    manifest.write_text(text)
    arguments = ["adopt", str(manifest), "--model", "mlp", "--data", "digits", "--out", str(tmp_path / "run")]
    assert exit_code(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_files(tmp_path / "theirs")
    out = tmp_path / "run"
    arguments = ["adopt", str(manifest), "--out", str(out)]
    assert exit_code(main, arguments) == 2
    assert "--model and the --data" in capsys.readouterr().err
    assert exit_code(main, [*arguments, "--model", "mlp", "--model-arg", "widths=4", "--data", "digits"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert exit_code(main, ["adopt", str(tmp_path), "--model", "mlp", "--data", "digits", "--out", str(out)]) == 2
    assert "no lottery_* directory" in capsys.readouterr().err
