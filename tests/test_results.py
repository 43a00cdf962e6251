"""All results of a run as one Dataset: labels, index, what is missing, which of several."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landscape import cli, preconditions, results, runs, schemas, store
from landscape.errors import InputError
from landscape.study.__main__ import main


def write(root: Path, quantity: str = "spectrum", size: int = 3, value: float = 1.0, **labels: object) -> Path:
    """Write one small result with labels; ``num_examples`` among them becomes a variable."""
    data: dict[str, object] = {}
    if quantity == "spectrum":
        data = {
            "eigenvalue": ("eigen", value * np.arange(size, 0.0, -1)),
            "converged": ("eigen", np.ones(size, dtype=bool)),
            "num_examples": np.array(labels.pop("num_examples", 100)),
            "loss": np.array(0.5),
        }
        labels = {"point": "minimum", "control": "raw", "curvature": "hessian", **labels}
    elif quantity == "renewal":
        data = {"fraction_below": ("at", np.array([0.0, value]))}
    fingerprint = store.fingerprint({"quantity": quantity, "size": size, "value": value, **labels, **_plain(data)})
    coords = {"eigen": np.arange(1, size + 1)} if quantity == "spectrum" else {"at": ["projected", "minimum"]}
    scalars = {name: np.array(v) for name, v in {"method": "imp", "level": 0, "replicate": 0, **labels}.items()}
    dataset = xr.Dataset(data, {**coords, **scalars}, {"fingerprint": fingerprint, "options": "{}", "seconds": 2.0})
    return store.write(dataset, results.folder(root, quantity) / f"{fingerprint}.nc", quantity)


def _plain(data: dict[str, object]) -> dict[str, object]:
    return {"num_examples": int(np.asarray(data["num_examples"]))} if "num_examples" in data else {}


def test_labels_become_dims_and_what_is_missing_is_nan(tmp_path: Path) -> None:
    write(tmp_path, level=0)
    write(tmp_path, level=1, value=2.0)
    write(tmp_path, level=1, value=3.0, point="projected", size=2)
    study = results.open_study(tmp_path)
    assert set(study["eigenvalue"].dims) == {"method", "level", "replicate", "point", "control", "curvature", "eigen"}
    one = study["eigenvalue"].sel({"method": "imp", "replicate": 0, "control": "raw", "curvature": "hessian"})
    np.testing.assert_array_equal(one.sel(level=1, point="minimum"), [6, 4, 2])
    np.testing.assert_array_equal(one.sel(level=1, point="projected"), [6, 3, np.nan])
    assert np.isnan(one.sel(level=0, point="projected")).all()
    measured = study["measured_spectrum"].squeeze()
    assert measured.dtype == bool
    assert measured.sel(level=0).to_series().to_dict() == {"minimum": True, "projected": False}
    assert float(study["converged"].sel(point="projected", level=1).sum()) == 2


def test_quantities_are_joined_and_keep_their_own_dims(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "renewal", level=1, value=0.25)
    study = results.open_study(tmp_path)
    assert set(study["fraction_below"].dims) == {"method", "level", "replicate", "at"}
    assert float(study["fraction_below"].sel(level=1, at="minimum").squeeze()) == 0.25
    assert results.quantities(tmp_path) == ["spectrum", "renewal"]
    alone = results.open_study(tmp_path, "renewal")
    assert set(alone.data_vars) == {"fraction_below", "renewal_seconds", "measured_renewal"}
    assert float(alone["renewal_seconds"].squeeze()) == 2.0


def test_of_several_results_the_one_on_most_examples_is_taken_unless_chosen(tmp_path: Path) -> None:
    write(tmp_path, value=1.0, num_examples=50)
    write(tmp_path, value=2.0, num_examples=400)
    write(tmp_path, value=3.0, num_examples=200)
    largest = results.open_study(tmp_path)["eigenvalue"].squeeze()
    np.testing.assert_array_equal(largest, [6, 4, 2])
    chosen = results.open_study(tmp_path, num_examples=50)["eigenvalue"].squeeze()
    np.testing.assert_array_equal(chosen, [3, 2, 1])
    with pytest.raises(InputError, match="no result of spectrum"):
        results.open_study(tmp_path, num_examples=51)
    with pytest.raises(InputError, match="no scalar 'magic'"):
        results.open_study(tmp_path, magic=1)


def test_of_two_results_on_equal_examples_the_one_with_more_eigenvalues_is_taken(tmp_path: Path) -> None:
    for size in (2, 5, 3):
        write(tmp_path, size=size)
    np.testing.assert_array_equal(results.open_study(tmp_path)["eigenvalue"].squeeze(), [5, 4, 3, 2, 1])


def test_a_study_never_mixes_numbers_of_examples(tmp_path: Path) -> None:
    for level in range(3):
        write(tmp_path, level=level, value=1.0, num_examples=100)
    write(tmp_path, level=1, value=5.0, num_examples=800)  # more examples, but of one level only
    study = results.open_study(tmp_path)
    np.testing.assert_array_equal(study["num_examples"].values.ravel(), [100, 100, 100])
    assert json.loads(study.attrs["left_out"]) == {"spectrum": {"hessian": {"800": 1}}}
    for level in (0, 2):
        write(tmp_path, level=level, value=5.0, num_examples=800)
    study = results.open_study(tmp_path)
    np.testing.assert_array_equal(study["num_examples"].values.ravel(), [800, 800, 800])
    assert json.loads(study.attrs["left_out"]) == {"spectrum": {"hessian": {"100": 3}}}


def test_index_follows_files_that_come_go_and_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path, level=0)
    write(tmp_path, level=1)
    assert results.index(tmp_path, "spectrum").sizes["result"] == 2
    read: list[str] = []
    original = store.open_result
    monkeypatch.setattr(store, "open_result", lambda path: (read.append(Path(path).name), original(path))[1])
    assert results.index(tmp_path, "spectrum").sizes["result"] == 2
    assert read == []
    third = write(tmp_path, level=2)
    assert results.index(tmp_path, "spectrum").sizes["result"] == 3
    assert third.name in read
    assert first.name not in read
    first.unlink()
    assert sorted(results.index(tmp_path, "spectrum")["level"].values.tolist()) == [1, 2]
    (results.folder(tmp_path, "spectrum") / results.INDEX).write_bytes(b"damaged")
    assert results.index(tmp_path, "spectrum").sizes["result"] == 2


def test_large_arrays_stay_in_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "LARGEST", 2)
    write(tmp_path, size=3)
    study = results.open_study(tmp_path)
    assert "eigenvalue" not in study
    assert float(study["loss"].squeeze()) == 0.5


def test_empty_runs_and_damaged_results_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        results.open_study(tmp_path)
    file = write(tmp_path)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="truncated"):
        results.open_study(tmp_path)


def compacted(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> xr.Dataset:
    """A run of two quantities as ``study compact`` writes it."""
    run = runs.create(tmp_path / "run", {"kind": "imp"})
    for level in (0, 1):
        write(run.root, level=level, value=1.0 + level)
    write(run.root, level=1, point="projected", size=2)
    write(run.root, "renewal", level=1, value=0.25)
    assert cli.exit_code(main, ["compact", str(run.root), "--out", str(tmp_path / "small.nc"), *more]) == cli.DONE
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "small.nc")
    return results.open_study(tmp_path / "small.nc")


def test_a_compact_study_is_the_study_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = compacted(tmp_path, capsys)
    whole = results.open_study(tmp_path / "run")
    assert set(small.data_vars) == set(whole.data_vars) - {"flow"}
    for name, values in small.data_vars.items():
        xr.testing.assert_equal(values, whole[name])
    assert "--out" in small.attrs["command"]
    assert json.loads(small.attrs["measured"])["spectrum"][0]["num_results"] == 3
    with pytest.raises(InputError, match="no study of several results"):
        results.open_study(tmp_path / "small.nc", num_examples=100)
    with pytest.raises(InputError, match="holds no result of volume"):
        results.open_study(tmp_path / "small.nc", "volume")


def test_one_quantity_of_a_compact_study_has_its_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compacted(tmp_path, capsys)
    for quantity in ("renewal", "spectrum"):
        part, whole = (results.open_study(tmp_path / name, quantity) for name in ("small.nc", "run"))
        assert set(part.data_vars) == set(whole.data_vars) - {"flow"}
        for name in part.data_vars:
            xr.testing.assert_equal(part[name], whole[name])


def test_a_compact_study_keeps_what_is_asked_for_and_drops_labels_without_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "flow" not in compacted(tmp_path, capsys, "--quantities", "spectrum")
    study = results.open_study(tmp_path / "run", "spectrum")
    study["eigenvalue"].loc[{"eigen": 3}] = np.nan
    small = results.compact(study.drop_vars(["converged"]))
    assert small["eigen"].values.tolist() == [1, 2]
    study["path_loss"] = ("place", np.ones(5))
    assert "path_loss" not in results.compact(study)
    assert "path_loss" in results.compact(study, keep=("path_loss",))


def test_a_compact_study_holds_so_many_eigenvalues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = compacted(tmp_path, capsys, "--quantities", "spectrum")
    (tmp_path / "small.nc").rename(tmp_path / "whole.nc")
    words = ["compact", str(tmp_path / "run"), "--quantities", "spectrum", "--eigenvalues"]
    assert cli.exit_code(main, [*words, "2", "--out", str(tmp_path / "two.nc")]) == cli.DONE
    two = results.open_study(tmp_path / "two.nc")
    assert two["eigen"].values.tolist() == [1, 2]
    xr.testing.assert_equal(two["eigenvalue"], whole["eigenvalue"].sel(eigen=[1, 2]))
    assert two.attrs["fingerprint"] != whole.attrs["fingerprint"]
    assert cli.exit_code(main, [*words, "0", "--out", str(tmp_path / "none.nc")]) == cli.BAD_INPUT
    assert "it must be at least 1" in capsys.readouterr().err


def test_a_variable_to_keep_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.create(tmp_path / "run", {"kind": "imp"})
    write(run.root)
    words = ["compact", str(run.root), "--out", str(tmp_path / "small.nc"), "--keep"]
    assert cli.exit_code(main, [*words, "loss", "bogus"]) == cli.BAD_INPUT
    assert capsys.readouterr().err == "error: --keep bogus: the study has no such variable\n"
    assert not (tmp_path / "small.nc").exists()


def test_tables_replace_their_own_kind_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.create(tmp_path / "run", {"kind": "imp"})
    spectrum, checkpoint, out = write(run.root), tmp_path / "ckpt.pt", tmp_path / "table.nc"
    checkpoint.write_bytes(b"weights")
    judge = [str(run.root), "--theory", "imp", "--quiet", "--out"]
    for taken in (checkpoint, spectrum):
        before = taken.read_bytes()
        assert cli.exit_code(preconditions.main, [*judge, str(taken)]) == cli.BAD_INPUT
        told = capsys.readouterr()
        assert "choose another --out" in told.err
        assert told.out == ""
        assert taken.read_bytes() == before
    assert cli.exit_code(preconditions.main, [*judge, str(out)]) == cli.DONE
    assert cli.exit_code(preconditions.main, [*judge, str(out)]) == cli.DONE
    assert store.open_result(out).attrs["quantity"] == "preconditions"


@pytest.mark.parametrize("quantity", ["connectivity", "dimension"])
def test_words_of_two_quantities_are_checked_by_the_one_that_they_belong_to(quantity: str) -> None:
    dim = {"connectivity": "pair", "dimension": "step"}[quantity]
    values = xr.Dataset({"distance": ((dim, "level"), np.ones((2, 1)))}, {"level": [0]})
    schemas.check(values, "study")
    with pytest.raises(ValueError, match="has dims"):
        schemas.check(values.transpose(), "study")


def test_verdicts_of_a_compact_study_are_those_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compacted(tmp_path, capsys)
    judged = [preconditions.evaluate_preconditions(tmp_path / name, "imp") for name in ("run", "small.nc")]
    xr.testing.assert_equal(*judged)
    with pytest.raises(InputError, match="directory of a run"):
        preconditions.evaluate_preconditions(tmp_path / "small.nc", "gfs")


@pytest.mark.bench
def test_opening_a_study_of_a_thousand_results(tmp_path: Path) -> None:
    for level in range(20):
        for replicate in range(50):
            write(tmp_path, level=level, replicate=replicate, size=100)
    started = time.perf_counter()
    results.open_study(tmp_path)
    built = time.perf_counter() - started
    started = time.perf_counter()
    study = results.open_study(tmp_path)
    opened = time.perf_counter() - started
    print(f"1,000 results: index built in {built:.1f} s, opened in {opened:.2f} s")
    assert study.sizes["replicate"] == 50
    assert opened < 2


def test_conditions_of_several_results_are_those_of_each(tmp_path: Path) -> None:
    files = []
    for number, device in enumerate(("cpu", "cpu", "NVIDIA")):
        result = xr.Dataset({"loss": 0.5 + number, "num_examples": 5})
        result.attrs = {"fingerprint": f"a{number}", "options": "{}", "threads": 1, "device": device, "seconds": 2.0}
        result.attrs["checkpoint_sha256"] = f"{number // 2:064d}"
        files.append(store.write(result, tmp_path / f"{number}.nc", "convergence"))
    alike, different = results.conditions(files[:2]), results.conditions(files)
    assert alike == {"checkpoint_sha256": "0" * 64, "device": "cpu", "threads": 1, "seconds": 4.0}
    assert different["device"] == "NVIDIA,cpu"
    assert len(different["checkpoint_sha256"]) == 64
    assert different["checkpoint_sha256"] != alike["checkpoint_sha256"]
    assert different["seconds"] == 6.0
