"""``python -m landscape.volume``: files, exit codes, one-line errors, repetition."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from landscape import cli, figures
from landscape.errors import InputError
from landscape.volume.__main__ import main
from landscape.volume.options import VolumeOptions, check_given

FEW = ["--num-examples", "60", "--directions", "6", "--rank", "4", "--dense", "0", "--trace-depth", "4",
       "--device", "cpu"]  # fmt: skip
QUICK = [*FEW, "--pilot", "2", "--shrinkage", "1e-3",
         "--section-size", "2,3", "--fraction", "0.5", "--noise-pairs", "2", "--ascent-steps", "1", "--rho", "0.1",
         "--relax-steps", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from landscape.training.__main__ import main as train

    path = tmp_path_factory.mktemp("volume") / "ckpt.pt"
    argv = ["--model", "mlp", "--model-arg", "widths=4", "--data", "digits", "--epochs", "1", "--num-examples", "200",
            "--device", "cpu", "--out", str(path), "--quiet"]  # fmt: skip
    assert cli.exit_code(train, argv) == cli.DONE
    return path


def test_the_command_writes_a_result_and_a_figure(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ckpt.with_name("ckpt.volume.nc")
    assert cli.exit_code(main, [str(ckpt), *QUICK]) == cli.DONE
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-2:] == [str(out), str(out.with_suffix(".png"))]
    assert "lower bound" in printed.out
    assert "loss" in printed.err
    assert "products" in printed.err
    with xr.open_dataset(out, engine="h5netcdf") as stored:
        assert stored["log_volume"].attrs["units"] == "nat"
        assert stored.attrs["quantity"] == "volume"
        assert len(figures.volume_figure(stored.load()).axes) == 6
    before = out.read_bytes()
    assert cli.exit_code(main, [str(ckpt), *QUICK, "--quiet"]) == cli.DONE
    assert out.read_bytes() == before
    assert cli.exit_code(main, [str(ckpt), *QUICK, "--quiet", "--seed", "1"]) == cli.BAD_INPUT
    assert out.read_bytes() == before


def test_other_neighbourhoods_and_estimators(ckpt: Path, tmp_path: Path) -> None:
    for name, more in {"function": [], "loss_relative": ["--curvature", "hessian"]}.items():
        out = tmp_path / f"{name}.nc"
        argv = [str(ckpt), *FEW, "--neighbourhood", name, "--estimators", "star,occam", "--out", str(out), "--quiet"]
        assert cli.exit_code(main, [*argv, *more]) == cli.DONE
        with xr.open_dataset(out, engine="h5netcdf") as stored:
            assert stored["sampler"].values.tolist() == ["identity", "filter"]
            assert stored.attrs["curvature"] == ("jtj" if name == "function" else "hessian")


@pytest.mark.parametrize(
    ("name", "reader"),
    [("directions", "star"), ("degree", "preconditioned"), ("rho", "sharpness"), ("sampler", "llc")],
)
def test_an_estimator_refuses_what_it_does_not_read(name: str, reader: str) -> None:
    with pytest.raises(InputError, match=f"--estimators section cannot honour --{name}.*{reader}"):
        check_given(VolumeOptions(estimators=("section",)), {name, "estimators", "rank", "cutoff"})
    read = VolumeOptions(estimators=(reader,), preconditioners=("polynomial",))
    check_given(read, {name, "estimators"})


def test_chains_that_have_not_converged_are_flagged(tmp_path: Path) -> None:
    """Exit code 3, with the result written."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    x = torch.randn(50, 2)
    with torch.no_grad():
        y = model(x)
    (tmp_path / "factory_of_volume.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Linear(2, 1)\n"
    )
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    argv = [str(path), "--model", f"{tmp_path / 'factory_of_volume.py'}:make", "--data", str(tmp_path / "data.npz"),
            "--loss", "mse", "--estimators", "llc", "--draws", "8", "--warmup", "0", "--quiet"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        argv[2] = "factory_of_volume:make"
        assert cli.exit_code(main, argv) == cli.NOT_CONVERGED
    assert (tmp_path / "weights.volume.nc").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--estimators", "volume"], "unknown name volume"),
        (["--neighbourhood", "loss_absolute", "--cutoff", "1e-9"], "not in the basin"),
        (["--cutoff", "-1"], "cutoff must be positive"),
        (["--directions", "1"], "--directions must be at least 2"),
        (["--shrinkage", "a"], "no list of numbers"),
        (["--figure", "x.txt"], "a figure is a file"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--estimators", "star"], "--estimators star cannot honour --shrinkage"),
        (["--sampler", "sgld"], "cannot honour --sampler, which needs --estimators llc"),
        (["--degree", "3"], "cannot honour --degree, which needs --preconditioners polynomial"),
        (["--out", "/proc/nowhere/v.nc"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    ckpt: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = [] if "--out" in more else ["--out", str(tmp_path / "v.nc")]
    try:
        code = cli.exit_code(main, [str(ckpt), *QUICK, "--quiet", *out, *more])
    except SystemExit as error:  # how argparse leaves
        code = int(error.code or 0)
    assert code == cli.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
