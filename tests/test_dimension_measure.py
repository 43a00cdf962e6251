"""The whole measurement: known radii, coverage of a run, resuming, the command, and what it refuses."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import assert_close

import landscape
from landscape import checkpoints, cli, schemas
from landscape.checkpoints import Checkpoint
from landscape.dimension import DimensionOptions, Effort, Training, Trajectory, measure, testbed
from landscape.dimension.__main__ import main
from landscape.errors import InputError, MemoryLimitError
from landscape.journal import Journal
from landscape.problem import Problem

CUBIC = testbed.TwoModeCubic(mu=0.3, stiff=5.0, c=1.0)


def on_cubic(**options: Any) -> xr.Dataset:
    chosen = DimensionOptions(**{"fast": 1, "smallest": 1, "nodes": 0, "num_probes": 0, "depth": 2, **options})
    found = measure(testbed.problem(CUBIC), chosen, Effort())
    schemas.check(found, "dimension")
    return found


def test_adversarial_sampling_finds_the_certified_radii() -> None:
    found = on_cubic(radius=(0.5, 3.0), region="adversarial", ascent_steps=30, radius_tolerance=1e-4)
    bound = {rule: float(found["radius_upper"].sel(rule=rule)) for rule in found["rule"].values}
    assert bound["gap_2l"] == pytest.approx(CUBIC.gap_radius(2.0), rel=1e-3)
    assert bound["gap_4l"] == pytest.approx(CUBIC.gap_radius(4.0), rel=1e-3)
    assert bound["cone_gap"] == pytest.approx(CUBIC.cone_radius(), rel=1e-3)
    assert bound["gap_2l_osc"] == pytest.approx(np.sqrt(3) * 4.7 / 8 * 4 / np.sqrt(12), rel=0.2)
    assert found["dimension"].sel(rule="gap_2l").values.tolist()[0] == 1.0
    assert found["status"].sel(rule="gap_2l").values.tolist() == ["found", "none"]
    assert found["status"].sel(rule="cone_gap").values.tolist() == ["found", "none"]
    assert_close(found["lipschitz"], [CUBIC.lipschitz(0.5), CUBIC.lipschitz(3.0)], rtol=1e-4)


def test_every_sampled_supremum_says_where_and_how_often() -> None:
    found = on_cubic(radius=(0.5, 1.0), samples=8)
    assert found.attrs["evidence"] == "sampled, not certified"
    assert found["region"].item() == "ball"
    kinds = found["sample_kind"].values.tolist()
    assert set(kinds) == {"isotropic", "eigenvector", "ray"}
    assert found["num_samples"].values.tolist() == [4 + 3, 8 + 3]
    assert (found["lipschitz"] <= np.array([CUBIC.lipschitz(0.5), CUBIC.lipschitz(1.0)]) + 1e-9).all()
    assert found["kink_slope"] == pytest.approx(1.0, abs=1e-6)
    assert np.isnan(found["kink_plateau"])


def test_coverage_follows_the_run() -> None:
    problem = testbed.problem(CUBIC)
    path = testbed.flow(problem, torch.tensor([0.6, -1.3], dtype=torch.float64), np.linspace(0, 6, 31))
    trajectory = Trajectory(path, np.arange(0, 310, 10))
    options = DimensionOptions(
        fast=1, smallest=1, nodes=2, num_probes=40, depth=2, lr=0.05, twin_steps=40, region="adversarial", time=15.0
    )
    found = measure(problem, options, Effort(), Training(trajectory))
    distance = path.norm(dim=1).numpy()
    assert_close(found["distance"], distance)
    gap = found.sel(rule="gap_2l")
    assert float(gap["radius_upper"]) == pytest.approx(CUBIC.gap_radius(2.0), rel=0.06)
    assert_close(gap["coverage"], float(gap["radius_upper"]) / distance)
    entry = int(gap["entry_step"])
    assert 0 < entry < 300
    inside = found["step"].values >= entry
    assert (gap["coverage"].values[inside] >= 1).all()
    assert gap["coverage"].values[~inside][-1] < 1
    assert float(found["steady_slope"][0]) < 1
    assert float(found["aim_defect"].min()) < 0.3
    assert np.isfinite(found["twin_entry"])
    assert [round(float(found[f"n_{name}"])) for name in ("frozen", "active", "slaved")] == [0, 1, 1]
    share = 2 * float(found["excess_loss"]) / distance[0] ** 2
    expected, error = 0.3 / (0.3 + share) + 5 / (5 + share), float(found["training_dimension_se"])
    assert 0 < error < 0.2
    assert float(found["training_dimension"]) == pytest.approx(expected, abs=4 * error)
    assert set(found["rule"].values) >= {"cone_gap", "cone_gap_segment", "gap_2l", "largest_gap"}


def test_a_region_that_the_run_leaves_says_nothing_of_what_is_outside() -> None:
    path = testbed.flow(testbed.problem(CUBIC), torch.tensor([0.6, -1.3]).double(), np.linspace(0, 6, 7))
    options = DimensionOptions(fast=1, smallest=1, nodes=0, num_probes=0, depth=2, radius=(0.5,), region="ball")
    found = measure(testbed.problem(CUBIC), options, Effort(), Training(Trajectory(path, np.arange(7))))
    gap = found.sel(rule="gap_2l")
    assert float(gap["radius_upper"]) == np.inf  # no violation within 0.5
    outside = found["distance"].values > 0.5
    assert outside.any()
    assert np.isnan(gap["coverage"].values[outside]).all()
    assert int(gap["entry_step"]) == np.flatnonzero(outside)[-1] + 1


def test_samples_at_a_radius_lie_within_it_in_single_precision_too() -> None:
    problem = Problem.from_function(CUBIC, torch.zeros(2))
    options = DimensionOptions(
        fast=1, smallest=1, nodes=0, num_probes=0, depth=2, radius=(0.3, 2.9), region="adversarial", samples=8
    )
    found = measure(problem, options, Effort(seed=1))
    assert int(found["num_samples"][-1]) == found.sizes["sample"]
    assert found["status"].sel(rule="cone_gap").values.tolist() == ["found", "none"]


def test_the_scale_of_the_loss_changes_no_answer() -> None:
    words = []
    for scale in (1.0, 7.0):
        system = testbed.TwoModeCubic(0.3 * scale, 5.0 * scale, scale)
        options = DimensionOptions(fast=1, smallest=1, radius=(0.5, 1.5, 3.0), depth=2, num_probes=2, nodes=2)
        words.append(measure(testbed.problem(system), options, Effort()))
    assert words[0]["status"].values.tolist() == words[1]["status"].values.tolist()
    plateau = words[0]["rule"].values != "slq_plateau"  # this one has a step of 0.1 in units of curvature
    for name in ("dimension", "gap_ratio", "radius_upper"):
        left, right = (found[name].values[plateau] for found in words)
        assert_close(left, right, rtol=1e-6)


def build(**_: Any) -> torch.nn.Module:
    """Return the network without its training; the command imports it from here."""
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)).double()


def network(seed: int = 0) -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Return a trained network, its data, and the states of its training."""
    random = torch.Generator().manual_seed(seed)
    x, y = torch.randn(30, 4, generator=random).double(), torch.randint(0, 3, (30,), generator=random)
    model, states = build(), []
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=random, dtype=torch.float64) / 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for step in range(30):
        if step % 6 == 0:
            states.append({name: p.detach().clone() for name, p in model.named_parameters()})
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, (x, y), states


def test_a_network_in_memory_is_measured_and_left_alone() -> None:
    model, data, states = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = landscape.measure_dimension(
        model, "cross_entropy", data, trajectory=states, fast=5, smallest=2, samples=4, points=3, depth=8, num_probes=2
    )
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert found["coverage"].dims == ("rule", "step")
    assert int(found["num_params"]) == 27
    filled = found["dimension_upper"] + found["gap_index"]
    assert (filled.values[np.isfinite(filled.values)] == 27).all()  # N + (n - N)
    with pytest.raises(InputError, match="unknown option 'fat'"):
        landscape.measure_dimension(model, "cross_entropy", data, fat=3)


def test_a_rotation_of_the_coordinates_changes_no_answer() -> None:
    options = DimensionOptions(
        fast=1, smallest=1, radius=(0.2,), region="adversarial", depth=2, samples=6, nodes=2, num_probes=2
    )
    answers = []
    for angle in (0.0, 0.9):
        turned = testbed.DoubleWell(stiff=8.0, angle=angle)
        found = measure(testbed.problem(turned, 1.0 * turned.slow_direction()), options, Effort())
        answers.append(found["status"].values.tolist())
        assert found["dimension"].sel(rule="cone_gap").item() == 1
    assert answers[0] == answers[1]


def test_a_preconditioner_changes_the_metric() -> None:
    system = testbed.Quadratic(np.array([1.0, 4.0, 9.0]))
    options = DimensionOptions(
        dynamics="precond", fast=2, smallest=1, radius=(0.5,), depth=3, num_probes=0, samples=3, points=2, nodes=2
    )
    diagonal = torch.tensor([1.0, 40.0, 900.0], dtype=torch.float64)
    found = measure(testbed.problem(system), options, Effort(), Training(diagonal=diagonal))
    assert_close(np.sort(found["eigenvalue"].values), [0.01, 0.1, 1.0], rtol=1e-9)


@pytest.mark.parametrize("dynamics", ["gd", "heavy_ball"])
def test_maps_answer_without_the_rules_of_flows(dynamics: str) -> None:
    momentum = 0.5 if dynamics == "heavy_ball" else None
    found = on_cubic(radius=(0.05,), dynamics=dynamics, lr=0.02, momentum=momentum)
    assert set(found["rule"].values) == {"gap_2l", "gap_4l", "largest_gap", "largest_log_gap"}
    assert int(found["num_modes"]) == (4 if dynamics == "heavy_ball" else 2)
    assert found["dimension"].sel(rule="gap_2l").item() == 1
    with pytest.raises(InputError, match="flows only"):
        on_cubic(radius=(0.05,), dynamics=dynamics, lr=0.02, momentum=momentum, rule=("cone_gap",))


class StoppedError(Exception):
    pass


# The stages, by the function that does the work: points of the cone, its bisection along a ray, and that of a rule.
@pytest.mark.parametrize(
    ("name", "stop"), [("cone_sampling.margins", 3), ("cone_sampling.margins", 8), ("rays.extremes", 9)]
)
def test_an_interrupted_measurement_goes_on_where_it_was(
    name: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, states = network()
    problem = Problem.from_model(model, "cross_entropy", data)
    path = torch.stack([problem.flatten(state) for state in states])
    training = Training(Trajectory(path, np.arange(len(states))))
    options = DimensionOptions(fast=3, smallest=2, samples=2, points=4, depth=4, nodes=0, num_probes=0)
    monkeypatch.setattr("landscape.journal.SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr("landscape.journal.WRITING_SHARE", 1e9)
    module, function = name.split(".")
    place = importlib.import_module(f"landscape.dimension.{module}")
    calls, limit, real = [0], [10**6], getattr(place, function)

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == limit[0]:
            raise StoppedError
        return real(*arguments)

    monkeypatch.setattr(place, function, counted)
    whole = measure(problem, options, Effort(), training)
    needed, calls[0], limit[0] = calls[0], 0, stop
    with pytest.raises(StoppedError):
        measure(problem, options, Effort(journal=Journal(tmp_path / "state", "x")), training)
    calls[0], limit[0] = 0, 10**6
    again = measure(problem, options, Effort(journal=Journal(tmp_path / "state", "x", resume=True)), training)
    xr.testing.assert_identical(whole.drop_attrs(), again.drop_attrs())
    assert calls[0] == needed - (stop - 1), "what was done is not done again"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the checkpoints of a small training, and its data."""
    folder = tmp_path_factory.mktemp("run")
    model, (x, y), states = network()
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy())
    for number, state in enumerate([*states, dict(model.state_dict())]):
        name = "minimum.pt" if number == len(states) else f"epoch_{number:03d}.pt"
        checkpoints.save(folder / name, Checkpoint(state, step=6 * number))
    return folder


def arguments(run: Path, *more: str) -> list[str]:
    return [
        *(str(run / "minimum.pt"), "--model", "test_dimension_measure:build", "--data", str(run / "data.npz")),
        *("--normalize", "none", "--dtype", "float64", "--fast", "4", "--smallest", "2", "--samples", "4"),
        *("--points", "3", "--depth", "6", "--num-probes", "2", "--threads", "1", "--quiet", *more),
    ]


def test_the_command_measures_writes_and_knows_what_it_has(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = arguments(run, "--trajectory", str(run), "--out", str(tmp_path / "d.nc"))
    assert main(asked) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "d.nc"), str(tmp_path / "d.png")]
    found = landscape.open_result(tmp_path / "d.nc")
    assert found["step"].values.tolist() == [0, 6, 12, 18, 24]
    assert found.attrs["quantity"] == "dimension"
    stamp = (tmp_path / "d.nc").stat().st_mtime_ns
    assert main(asked) == 0
    assert (tmp_path / "d.nc").stat().st_mtime_ns == stamp
    assert cli.exit_code(main, [*asked, "--fast", "5"]) == 2
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "give --trajectory or --radius"),
        (("--radius", "0"), "--radius must be positive"),
        (("--radius", "1", "--region", "trajectory"), "give --trajectory"),
        (("--radius", "1", "--lr", "0.1"), "no effect"),
        (("--radius", "1", "--momentum", "0.9"), "no effect"),
        (("--radius", "1", "--dynamics", "gd"), "needs a learning rate"),
        (("--radius", "1", "--dynamics", "precond"), "--preconditioner"),
        (("--radius", "1", "--fast", "0"), "--fast must be at least 1"),
        (("--radius", "1", "--num-probes", "0", "--rule", "slq_plateau"), "slq_plateau needs"),
        (("--trajectory", "nowhere/*.pt"), "has 0 checkpoints"),
        (("--radius", "1", "--rule", "gap_4l"), "cannot honour --points, which needs --rule cone_gap"),
        (("--radius", "1", "--splitting", "average", "--rule", "gap_4l"), "needs --rule cone_gap"),
        (("--radius", "1", "--ascent-steps", "2"), "cannot honour --ascent-steps, which needs --region adversarial"),
        (("--radius", "1", "--num-probes", "0", "--time", "3"), "cannot honour --time"),
        (("--radius", "1", "--fast", "1000"), "--fast 1000 leaves no slow direction"),
        (("--radius", "1", "--smallest", "1000"), "--smallest 1000 overlaps"),
        (("--radius", "1", "--figure", "a.foo"), "a figure is a file"),
        (("--radius", "1", "--seed", "-1"), "--seed must be at least 0"),
    ],
)
def test_the_command_refuses_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    asked = arguments(run, "--out", str(tmp_path / "d.nc"), *more)
    assert cli.exit_code(main, asked) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_does_not_belong_to_the_training_is_refused(run: Path, tmp_path: Path) -> None:
    from landscape.dimension import trajectory

    model, data, states = network()
    problem = Problem.from_model(model, "cross_entropy", data)
    wrong = tmp_path / "wrong"
    checkpoints.save(wrong / "a.pt", Checkpoint({**states[0], "0.weight": torch.zeros(3, 5)}))
    checkpoints.save(wrong / "b.pt", Checkpoint({**states[0], "0.bias": torch.full((3,), torch.nan)}))
    with pytest.raises(InputError, match=r"0\.weight has the shape"):
        trajectory.read([wrong / "a.pt"], problem)
    with pytest.raises(InputError, match="NaN"):
        trajectory.read([wrong / "b.pt"], problem)
    mask = {"0.weight": torch.arange(12).view(3, 4) > 2}
    pruned = Problem.from_model(model, "cross_entropy", data, mask)
    checkpoints.save(wrong / "c.pt", Checkpoint(states[0], mask=mask))
    with pytest.raises(InputError, match="another level"):
        trajectory.read([wrong / "c.pt"], pruned)
    path = torch.stack([problem.theta, problem.theta])
    with pytest.raises(InputError, match="never leaves"):
        measure(problem, DimensionOptions(fast=2), Effort(), Training(Trajectory(path, np.arange(2))))
    with pytest.raises(MemoryLimitError, match="fast directions"):
        measure(problem, DimensionOptions(radius=(1.0,)), Effort(memory=100))
    np.savez(wrong / "d.npz", **{name: -np.ones(p.shape) for name, p in states[0].items()})
    with pytest.raises(InputError, match="positive and finite"):
        trajectory.preconditioner(wrong / "d.npz", problem)


def test_learning_rate_and_time_come_from_own_checkpoints() -> None:
    from landscape.dimension.trajectory import training_of

    text = '{"optimizer": "sgd", "lr": 0.1, "momentum": 0.5, "schedule": "constant", "warmup": 0}'
    assert training_of(Checkpoint({}, options=text, step=100)) == {"lr": 0.1, "momentum": 0.5, "time": 20.0}
    assert training_of(Checkpoint({}, options=text.replace("constant", "cosine"), step=100))["time"] is None
    assert training_of(Checkpoint({}, options=text.replace("sgd", "adam"), step=100)) == {}
    assert training_of(Checkpoint({})) == {}


@pytest.mark.gpu
def test_the_measurement_agrees_on_the_gpu() -> None:
    model, data, states = network()
    options: dict[str, Any] = {"fast": 4, "smallest": 2, "samples": 4, "points": 3, "depth": 8, "num_probes": 2}
    found = [
        landscape.measure_dimension(
            model, "cross_entropy", data, trajectory=states, device=device, region="adversarial", **options
        )
        for device in ("cpu", "cuda")
    ]
    for name in ("eigenvalue", "lipschitz", "cone_gap", "segment_gap", "aim_defect"):
        assert_close(found[1][name], found[0][name], rtol=1e-6, atol=1e-8)
