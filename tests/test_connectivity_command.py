from pathlib import Path

import numpy as np
import pytest
import torch

from landscape import checkpoints, models, store
from landscape.checkpoints import Checkpoint
from landscape.cli import exit_code
from landscape.connectivity.__main__ import main

QUICK = [
    "--num-examples",
    "60",
    "--num-positions",
    "4",
    "--num-refinements",
    "1",
    "--num-bootstrap",
    "5",
    "--threads",
    "1",
]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for seed in (0, 1):
        model = models.build("mlp", seed, input_shape=(1, 8, 8), num_outputs=10, widths=(6,))
        known = {"model": "mlp", "model_args": {"widths": (6,)}, "data": "digits", "loss": "cross_entropy"}
        paths.append(str(checkpoints.save(tmp_path / f"net{seed}.pt", Checkpoint(model.state_dict(), **known))))
    return paths


def test_command_writes_beside_the_first_and_is_done_the_second_time(files, capsys):
    assert exit_code(main, [*files, *QUICK]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[-1] == str(Path(files[0]).with_name("net0.connectivity.nc"))
    assert "net0 -> net1" in first[1]
    result = store.open_result(first[-1])
    assert result["split"].values.tolist() == ["train", "test"]
    stamp = Path(first[-1]).stat().st_mtime_ns
    assert exit_code(main, [*files, *QUICK, "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == [first[-1]]
    assert Path(first[-1]).stat().st_mtime_ns == stamp
    assert exit_code(main, [*files, *QUICK, "--seed", "1"]) == 2
    assert "other options" in capsys.readouterr().err
    assert exit_code(main, [*files, *QUICK, "--seed", "1", "--force", "--no-test"]) == 0


def test_masked_weights_are_compared_at_zero(files, tmp_path, capsys):
    model = models.build("mlp", 0, input_shape=(1, 8, 8), num_outputs=10, widths=(6,))
    mask = {"fc1.weight": torch.rand(6, 64, generator=torch.Generator().manual_seed(0)) > 0.5}
    known = {"model": "mlp", "model_args": {"widths": (6,)}, "data": "digits"}
    pruned = checkpoints.save(tmp_path / "pruned.pt", Checkpoint(model.state_dict(), mask, **known))
    assert exit_code(main, [files[0], str(pruned), *QUICK, "--quiet"]) == 0
    result = store.open_result(capsys.readouterr().out.strip())
    removed = model.state_dict()["fc1.weight"][~mask["fc1.weight"]].double().norm()
    np.testing.assert_allclose(result["distance"], float(removed), rtol=1e-6)
    np.testing.assert_allclose(result["shared_distance"], 0.0)


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--subspace", "m.npz"], "leave out --subspace"), (["--weight-decay", "0.1"], "leave out --weight-decay")],
)
def test_options_that_mean_nothing_are_refused(files, capsys, extra, message):
    assert exit_code(main, [*files, *QUICK, *extra]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_other_data_and_another_mask_in_the_same_files_are_another_comparison(files, tmp_path, capsys):
    data, mask = tmp_path / "data.npz", tmp_path / "mask.npz"
    random = np.random.default_rng(0)

    def save(x_test: np.ndarray, keep: np.ndarray, x: np.ndarray) -> None:
        np.savez(data, x=x, y=np.arange(80) % 10, x_test=x_test, y_test=np.arange(20) % 10)
        np.savez(mask, **{"fc1.weight": keep})

    first = {"x_test": random.normal(size=(20, 64)), "keep": np.ones((6, 64)), "x": random.normal(size=(80, 64))}
    words = [*files, *QUICK, "--data", str(data), "--mask", str(mask), "--quiet"]
    save(**first)
    assert exit_code(main, words) == 0
    assert exit_code(main, words) == 0
    for name, other in (("x", -first["x"]), ("x_test", -first["x_test"]), ("keep", np.eye(6, 64))):
        save(**{**first, name: other})
        capsys.readouterr()
        assert exit_code(main, words) == 2, name
        assert "other options" in capsys.readouterr().err


def test_accuracy_at_chance_level_is_told(files, capsys):
    assert exit_code(main, [*files, *QUICK]) == 0
    told = capsys.readouterr().err
    assert "net0: loss" in told
    assert "net0: warning: accuracy" in told


def test_no_threads_are_refused(files, capsys):
    assert exit_code(main, [*files, *QUICK, "--threads", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path(files[0]).with_name("net0.connectivity.nc").exists()


def test_one_checkpoint_is_not_enough(files, capsys):
    assert exit_code(main, [files[0], *QUICK]) == 2
    assert "at least two points" in capsys.readouterr().err
