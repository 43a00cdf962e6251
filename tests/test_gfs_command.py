"""The command that selects from checkpoints: files, training directories and runs."""

import numpy as np
import pytest
import torch

from landscape import checkpoints, cli, results, runs, schemas, store
from landscape.pruning import gfs_command
from landscape.pruning.__main__ import main
from landscape.pruning.gfs import SelectOptions, select
from landscape.pruning.gfs_networks import loss_of, neurons_of
from landscape.study import __main__ as study
from landscape.training import TrainOptions, train
from landscape.training.files import Branch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training directory of two epochs with 60 digits."""
    folder = tmp_path_factory.mktemp("training") / "two_layer"
    options = TrainOptions(
        model="two_layer", model_arg=("width=16",), data="digits", num_examples=60, epochs=2, batch_size=30, lr=0.5
    )
    train(options, folder, Branch(replicate=3))
    return folder


def gfs(*argv):
    return cli.exit_code(main, ["gfs", *map(str, argv), "--threads", "1"])


def test_command_selects_from_every_checkpoint_of_a_training(trained, tmp_path, capsys):
    out = tmp_path / "selected.nc"
    arguments = ("--checkpoints", trained, "--sizes", "2,4,8", "--loss", "mse", "--num-examples", 50, "--out", out)
    assert gfs(*arguments) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[-1] == str(out)
    assert len(printed) == 5
    result = store.open_result(out)
    schemas.check(result, "gfs")
    assert list(result["step"].values) == [0, 2, 4]
    assert (int(result["replicate"][0]), int(result["num_examples"][0]), int(result["num_neurons"][0])) == (3, 50, 16)

    checkpoint = checkpoints.read(trained / "minimum.pt")
    options = checkpoints.ProblemOptions(num_examples=50)
    data = checkpoints.open_data(checkpoint, options)
    model = checkpoints.model_of(checkpoint, options, data)
    neurons = neurons_of(model, data.x)
    target = torch.nn.functional.one_hot(data.y, 10).float()
    path = select(neurons.products(target), SelectOptions(8))
    np.testing.assert_allclose(result["loss"].isel(cell=0, step=-1), path.loss[[1, 3, 7]], rtol=1e-5)
    loss = loss_of("mse", data.y, 10, neurons.hidden)
    assert float(result["dense_loss"][0, -1]) == pytest.approx(loss.value(model(data.x).detach()), rel=1e-5)

    assert gfs(*arguments) == 0
    assert "holds this result already" in capsys.readouterr().err
    assert gfs(*arguments[:-2], "--out", out, "--no-replacement") == 2
    assert "choose another --out" in capsys.readouterr().err


def test_own_loss_is_the_default_and_one_file_is_enough(trained, tmp_path):
    out = tmp_path / "one.nc"
    assert (
        gfs("--checkpoints", trained / "minimum.pt", "--sizes", "2,4", "--num-examples", 30, "--out", out, "--quiet")
        == 0
    )
    result = store.open_result(out)
    assert result.attrs["loss"] == "cross_entropy"
    assert result.sizes["step"] == 1
    assert float(result["smoothness"][0]) == 0.5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--sizes", "8,4"], "rising"),
        (["--sizes", "2,64", "--no-replacement", "--loss", "mse"], "without replacement"),
        (["--width", "17"], "does not fit"),
        (["--weighting", "line_search"], "--loss mse only"),
        (["--loss", "bce"], "one output"),
        (["--rivals", "refit"], "under --loss mse"),
        (["--model", "lenet_300_100"], "lenet_300_100"),
        (["--subnetworks", "nowhere", "--keep", "0"], "--keep must lie between 1 and the largest size, 4, not 0"),
        (["--subnetworks", "nowhere", "--keep", "5"], "--keep must lie"),
        (["--keep", "1"], "--keep belongs to --subnetworks"),
        (["--memory", "0"], "--memory must be a positive number"),
        (["--memory", "nan"], "--memory must be a positive number"),
    ],
)
def test_bad_options_are_one_line(trained, tmp_path, capsys, extra, message):
    argv = ["--checkpoints", trained / "minimum.pt", "--sizes", "2,4", "--num-examples", 30, "--out", tmp_path / "x.nc"]
    assert gfs(*argv, *extra) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_memory_limit_and_missing_checkpoints(trained, tmp_path, capsys):
    argv = ["--checkpoints", trained / "minimum.pt", "--out", tmp_path / "x.nc"]
    assert gfs(*argv, "--memory", "1e-9") == 4
    assert "GiB" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert gfs("--checkpoints", tmp_path / "empty") == 2
    assert "no checkpoints" in capsys.readouterr().err


def test_runs_give_one_cell_a_replicate(trained, tmp_path):
    root = tmp_path / "run"
    text = '{"format": "landscape-run-1", "fingerprint": "%s", "description": {"kind": "imp"}}'
    root.mkdir()
    (root / "run.json").write_text(text % store.fingerprint({"kind": "imp"}))
    for replicate in (0, 1):
        folder = root / f"replicate_{replicate}" / "imp" / "level_00"
        folder.mkdir(parents=True)
        for file in trained.glob("*.pt"):
            (folder / file.name).write_bytes(file.read_bytes())
    found = gfs_command.find_checkpoints(root)
    assert [len(files) for files in found] == [4, 4]
    out = tmp_path / "run.nc"
    assert (
        gfs("--checkpoints", root, "--sizes", "2", "--loss", "mse", "--num-examples", 20, "--out", out, "--quiet") == 0
    )
    assert store.open_result(out).sizes["cell"] == 2


def test_subnetworks_are_a_run_that_a_study_can_measure(trained, tmp_path, capsys):
    root, out = tmp_path / "subnetworks", tmp_path / "selected.nc"
    argv = ("--checkpoints", trained, "--sizes", "2,6", "--loss", "mse", "--num-examples", 50, "--out", out)
    assert gfs(*argv, "--subnetworks", root, "--keep", 6) == 0
    assert capsys.readouterr().out.strip().splitlines()[-2:] == [str(out), str(root)]
    cells = runs.read(root).cells()
    assert [(cell.method, cell.level) for cell in cells] == [
        (m, i) for m in ("gfs", "random_neurons") for i in range(3)
    ]
    result = store.open_result(out)
    options = checkpoints.ProblemOptions(num_examples=50, loss="mse")
    for cell in cells:
        problem = checkpoints.load(runs.read(root).minimum(cell), options)
        at = result.isel(cell=0, step=cell.level).sel(size=6)
        assert problem.num_params == int(at["num_distinct"]) * (64 + 10)
        if cell.method == "gfs":
            assert problem.loss() == pytest.approx(float(at["loss"]), rel=1e-5)
    measure = ["measure", root, "--quantities", "spectrum", "volume", "--points", "minimum", "--levels", 2]
    cheap = ["--num-examples", 20, "--largest", 2, "--smallest", 0, "--num-probes", 2, "--depth", 4]
    words = [*measure, *cheap, "--estimators", "star", "--directions", 20, "--threads", 1, "--quiet"]
    assert cli.exit_code(study.main, list(map(str, words))) == 0
    table = results.open_study(root)
    assert table["method"].values.tolist() == ["gfs", "random_neurons"]
    assert table["level"].values.tolist() == [2]
    for quantity in ("spectrum", "volume"):
        assert table[f"measured_{quantity}"].any("curvature").all()
    assert gfs(*argv, "--keep", 6) == 2
    assert "belongs to --subnetworks" in capsys.readouterr().err
