"""The whole measurement, from a model or a checkpoint to the Dataset, against dense float64 truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import landscape
from landscape import checkpoints, cli, gaps, schemas, spectrum
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.spectrum.__main__ import main
from landscape.spectrum.options import SpectrumOptions, plan
from landscape.spectrum.uncertainty import data_error
from landscape.training import TrainOptions, train


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(seed: int = 0) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(draws(*p.shape, seed=seed + 10 * i + 1))
    return model.eval()


X, Y = draws(50, 4), torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(1))
MASK = {"0.weight": draws(5, 4, seed=7) > 0}


def dense_hessian(model: nn.Module, mask: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """The Hessian by ``torch.func`` of everything, its pruned rows and columns cut out."""
    names = [name for name, _ in model.named_parameters()]
    values = [p.detach().clone() for p in model.parameters()]
    keep = torch.cat(
        [
            (mask or {}).get(n, torch.ones_like(v, dtype=torch.bool)).flatten()
            for n, v in zip(names, values, strict=True)
        ]
    )
    flat = torch.cat([v.flatten() for v in values]) * keep

    def loss(theta: torch.Tensor) -> torch.Tensor:
        parts = theta.split([v.numel() for v in values])
        named = {n: part.view(v.shape) for n, part, v in zip(names, parts, values, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, named, X), Y)

    return torch.func.hessian(loss)(flat)[keep][:, keep]


@pytest.mark.parametrize("mask", [None, MASK], ids=["dense", "pruned"])
@pytest.mark.parametrize("engine", ["krylov", "dense", "pyhessian"])
def test_every_engine_finds_the_exact_eigenvalues(engine: str, mask: dict[str, torch.Tensor] | None) -> None:
    truth = torch.linalg.eigvalsh(dense_hessian(small(), mask)).flip(0).numpy()
    result = landscape.measure_spectrum(
        small(), "cross_entropy", (X, Y), mask, engine=engine, largest=3, tolerance=1e-6, batch_size=17
    )
    top = result["eigenvalue"].sel(eigen=[1, 2, 3]).values
    if engine == "pyhessian":  # it stops when successive estimates agree, which bounds nothing
        np.testing.assert_allclose(top, truth[:3], atol=1e-3 * truth[0])
    else:
        bound = result["residual"].sel(eigen=[1, 2, 3]).values + 1e-12
        assert (np.abs(top - truth[:3]) <= bound).all()
        assert bool(result["converged"].all())


def test_exact_moments_and_their_estimates_agree_within_their_errors() -> None:
    H = dense_hessian(small())
    exact = landscape.measure_spectrum(small(), "cross_entropy", (X, Y), engine="dense")
    assert float(exact["trace"]) == pytest.approx(float(H.trace()), rel=1e-10)
    assert float(exact["frobenius_norm"]) == pytest.approx(float(H.norm()), rel=1e-10)
    sampled = landscape.measure_spectrum(small(), "cross_entropy", (X, Y), num_probes=40)
    for name in ("trace", "frobenius_norm", "participation_ratio"):
        assert abs(float(sampled[name] - exact[name])) <= 5 * float(sampled[f"{name}_se"])
    np.testing.assert_allclose(sampled["ritz_weight"].sum("node"), 1.0, atol=1e-10)


def test_the_dataset_follows_its_schema_and_says_what_was_asked() -> None:
    result = landscape.measure_spectrum(small(), "cross_entropy", (X, Y), num_vectors=2, per_layer=True, cross_fit=True)
    schemas.check(result, "spectrum")
    assert result["eigenvalue"].attrs["units"] == "nat / parameter^2"
    assert json.loads(result.attrs["options"])["spectrum"]["num_vectors"] == 2
    for name in (
        "fingerprint",
        "data_sha256",
        "checkpoint_sha256",
        "dtype",
        "device",
        "world_size",
        "threads",
        "batchnorm",
    ):
        assert name in result.attrs
    assert int(result["num_params"]) == 43
    assert int(result["rank_bound"]) == 43
    assert sorted(result["layer"].values.tolist()) == ["0", "2"]
    vector = result["eigenvector"].sel(eigen=1).values
    H = dense_hessian(small()).numpy()
    assert np.linalg.norm(H @ vector - float(result["eigenvalue"].sel(eigen=1)) * vector) < 1e-3 * np.linalg.norm(H, 2)


def test_layers_are_diagonal_blocks() -> None:
    H = dense_hessian(small())
    result = landscape.measure_spectrum(small(), "cross_entropy", (X, Y), per_layer=True, num_probes=64, tolerance=1e-8)
    for layer, rows in (("0", slice(0, 25)), ("2", slice(25, 43))):
        row = result.sel(layer=layer)
        block = H[rows, rows]
        assert float(row["layer_eigenvalue"]) == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]), rel=1e-6)
        assert abs(float(row["layer_trace"]) - float(block.trace())) <= 5 * float(row["layer_trace_se"])


def test_ends_share_the_labels_and_gaps_belong_to_their_upper_eigenvalue() -> None:
    result = landscape.measure_spectrum(small(), "cross_entropy", (X, Y), largest=4, smallest=3, tolerance=1e-8)
    values = torch.linalg.eigvalsh(dense_hessian(small())).flip(0).numpy()
    np.testing.assert_allclose(result["eigenvalue"].sel(eigen=[1, 2, 3, 4]), values[:4], atol=1e-9)
    np.testing.assert_allclose(result["eigenvalue"].sel(eigen=[-1, -2, -3]), values[-1:-4:-1], atol=1e-9)
    np.testing.assert_allclose(result["gap"].sel(eigen=[1, 2, 3]), -np.diff(values[:4]), atol=1e-9)
    np.testing.assert_allclose(
        result["gap"].sel(eigen=[-2, -3]), [values[-2] - values[-1], values[-3] - values[-2]], atol=1e-9
    )


def test_data_error_covers_separated_eigenvalues_and_is_flagged_in_the_bulk() -> None:
    """Spiked linear regression: population eigenvalues are known, the sample covariance is the Hessian."""
    truth = np.array([9.0, 4.0, 1.0, 1.0])
    inside, safe = np.zeros((200, 4), bool), np.zeros((200, 4), bool)
    for seed in range(200):
        x = np.random.default_rng(seed).standard_normal((400, 4)) * np.sqrt(truth)
        value, vector = np.linalg.eigh(x.T @ x / 400)
        value, vector = value[::-1], vector[:, ::-1]
        error = data_error(torch.from_numpy((x @ vector) ** 2), torch.ones(400))
        se, gap_se = error.eigenvalue_se.numpy(), error.gap_se.numpy()
        inside[seed] = np.abs(value - truth) <= 1.96 * se
        columns = {"gap": ("eigen", np.append(-np.diff(value), np.nan)), "gap_se": ("eigen", gap_se), "num_params": 4}
        safe[seed] = gaps.are_safe(xr.Dataset(columns, {"eigen": [1, 2, 3, 4]}))
    coverage = inside.mean(0)
    assert (coverage[:2] >= 0.90).all()
    assert (coverage[:2] <= 0.99).all()
    assert safe[:, 0].mean() > 0.99  # separated by more than four standard errors
    assert not safe[:, 2:].any(axis=1).mean() > 0.2  # the double eigenvalue 1 has no gap


def test_errors_of_weighted_means_are_those_of_a_ratio() -> None:
    counts, terms = torch.tensor([1.0, 5.0, 2.0, 8.0]), torch.tensor([[2.0], [10.0], [4.0], [16.0]])
    assert float(data_error(terms, counts).eigenvalue_se) == pytest.approx(0.0, abs=1e-12)  # all ratios equal 2


def test_cross_fitting_shows_the_upward_bias_of_sample_eigenvalues() -> None:
    x, y = draws(60, 30), torch.zeros(60, 1, dtype=torch.float64)
    model = nn.Linear(30, 1, bias=False).double()
    result = landscape.measure_spectrum(model, "mse", (x, y), largest=1, smallest=0, num_probes=0, cross_fit=True)
    assert float(result["eigenvalue"][0]) > 1.8  # Marchenko-Pastur edge (1 + sqrt(1/2))^2 = 2.9, population 1
    assert abs(float(result["eigenvalue_cross_fitted"][0]) - 1.0) < 0.5


def test_defaults_shrink_with_the_problem_and_overlap_is_refused() -> None:
    assert plan(SpectrumOptions(), 10).largest == 10
    assert plan(SpectrumOptions(), 22).smallest == 2
    with pytest.raises(InputError, match="overlap"):
        plan(SpectrumOptions(largest=6, smallest=5), 10)
    with pytest.raises(InputError, match="more eigenpairs than there are"):
        plan(SpectrumOptions(largest=11), 10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_probes": 8, "depth": 40},
        {"largest": 5, "smallest": 0, "num_probes": 2, "depth": 30},
        {"cross_fit": True, "per_layer": True},
        {"engine": "dense"},
    ],
)
def test_the_plan_is_an_upper_bound_within_30_percent(options: dict[str, Any], trained_digits: Problem) -> None:
    chosen = SpectrumOptions(**options)
    sizes = plan(chosen, trained_digits.num_params)
    result = spectrum.measure(trained_digits, chosen, spectrum.Effort())
    planned = sizes.products(trained_digits.num_params, chosen, 3)
    assert int(result["num_products"]) <= planned <= 1.3 * int(result["num_products"])


@pytest.fixture(scope="module")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A small network after a few epochs on digits."""
    options = TrainOptions(model="mlp", model_arg=("widths=20,10",), data="digits", epochs=8, lr=0.1)
    path = tmp_path_factory.mktemp("digits") / "ckpt.pt"
    train(options, path)
    return checkpoints.load(path, checkpoints.ProblemOptions(num_examples=300))


@pytest.mark.parametrize(
    ("engine", "option"),
    [("pyhessian", {"smallest": 2}), ("pyhessian", {"per_layer": True}), ("pyhessian", {"num_probes": 3}),
     ("dense", {"depth": 10}), ("dense", {"cross_fit": True}), ("pyhessian", {"curvature": "ggn"}),
     ("pyhessian", {"largest": 0})],
)  # fmt: skip
def test_engines_refuse_what_they_cannot_honour(engine: str, option: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"cannot honour|PyHessian knows only|needs --largest"):
        plan(SpectrumOptions(engine=engine, **option), 43)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network on files of its own, saved in the project's format."""
    folder = tmp_path_factory.mktemp("spectrum")
    np.savez(folder / "data.npz", x=X.float().numpy(), y=Y.numpy())
    torch.save(small().float().state_dict(), folder / "weights.pt")
    (folder / "factory.py").write_text(
        "from torch import nn\n\n"
        "def make(**_):\n    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))\n"
    )
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    return [str(folder / "weights.pt"), "--model", f"{folder / 'factory.py'}:make", "--data", str(folder / "data.npz"),
            "--largest", "3", "--smallest", "2", "--num-probes", "4", "--depth", "10", *more]  # fmt: skip


def test_the_command_writes_a_file_that_plain_xarray_opens(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint)
    monkeypatch.syspath_prepend(str(checkpoint))
    out = tmp_path / "s.nc"
    argv = ["weights.pt", "--model", "factory:make", "--data", "data.npz", "--largest", "3", "--smallest", "2",
            "--num-probes", "4", "--depth", "10", "--out", str(out)]  # fmt: skip
    assert cli.exit_code(main, argv) == cli.DONE
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-2:] == [str(out), str(out.with_suffix(".png"))]
    assert "loss" in printed.err
    assert "products" in printed.err
    with xr.open_dataset(out, engine="h5netcdf") as stored:
        assert stored["eigen"].values.tolist() == [1, 2, 3, -2, -1] or stored["eigen"].values.tolist() == [
            1,
            2,
            3,
            -1,
            -2,
        ]
        assert stored["eigenvalue"].attrs["units"] == "nat / parameter^2"
    before = out.read_bytes()
    assert cli.exit_code(main, [*argv, "--quiet"]) == cli.DONE  # the same again: nothing is computed
    assert capsys.readouterr().out.splitlines() == [str(out), str(out.with_suffix(".png"))]
    assert out.read_bytes() == before
    assert cli.exit_code(main, [*argv, "--seed", "1"]) == cli.BAD_INPUT  # a different one is not overwritten
    assert capsys.readouterr().err.count("\n") >= 1
    assert out.read_bytes() == before
    assert cli.exit_code(main, [*argv, "--seed", "1", "--force", "--quiet"]) == cli.DONE


def test_what_did_not_converge_is_written_and_flagged(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkpoint)
    monkeypatch.syspath_prepend(str(checkpoint))
    argv = [
        "weights.pt",
        "--model",
        "factory:make",
        "--data",
        "data.npz",
        "--tolerance",
        "1e-15",
        "--out",
        str(tmp_path / "s.nc"),
    ]
    assert cli.exit_code(main, argv) == cli.NOT_CONVERGED
    with xr.open_dataset(tmp_path / "s.nc", engine="h5netcdf") as stored:
        assert not stored["converged"].values.all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--largest", "100"], "more eigenpairs than there are"),
        (["--largest", "40", "--smallest", "9"], "overlap"),
        (["--engine", "pyhessian", "--smallest", "2"], "cannot honour"),
        (["--out", "/proc/nowhere/s.nc"], "cannot write"),
        (["--tolerance", "7"], "tolerance"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    monkeypatch.chdir(checkpoint)
    monkeypatch.syspath_prepend(str(checkpoint))
    argv = ["weights.pt", "--model", "factory:make", "--data", "data.npz", "--num-probes", "0", "--quiet", *more]
    assert cli.exit_code(main, argv) == cli.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_checkpoint_of_the_project_needs_no_other_argument(tmp_path: Path) -> None:
    assert checkpoints.read is not None  # the trainer's own files: tests/test_training.py makes them; here end to end
    from landscape.training.__main__ import main as train

    ckpt = tmp_path / "ckpt.pt"
    argv = [
        "--model",
        "mlp",
        "--model-arg",
        "widths=8",
        "--data",
        "digits",
        "--epochs",
        "1",
        "--out",
        str(ckpt),
        "--quiet",
    ]
    assert cli.exit_code(train, argv) == cli.DONE
    assert (
        cli.exit_code(
            main, [str(ckpt), "--largest", "2", "--smallest", "1", "--num-probes", "2", "--depth", "5", "--quiet"]
        )
        == cli.DONE
    )
    assert (tmp_path / "ckpt.spectrum.nc").is_file()
    assert (tmp_path / "ckpt.spectrum.png").is_file()
