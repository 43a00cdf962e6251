"""The tasks of ``pruning imc``: the conditions of a replicate, and one pruned network. Each finds itself done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from landscape import loading, results, runs, store
from landscape.dimension import answers, direct
from landscape.dimension.answers import POINTWISE
from landscape.dimension.rules import LIPSCHITZ_RULES, GapResult, gap_ratio
from landscape.journal import Journal, State
from landscape.pruning import criteria, imc_masks, imc_steps, record, rivals
from landscape.pruning import settings as shared
from landscape.pruning.criteria import Mask
from landscape.pruning.imc_masks import Subject
from landscape.pruning.imc_options import Choice
from landscape.pruning.imc_steps import Measured
from landscape.pruning.imp import train_cell
from landscape.pruning.rivals import UserScore
from landscape.pruning.settings import Settings, Start
from landscape.runs import Cell, Run
from landscape.training.loop import Subspace


@dataclass(frozen=True)
class Job:
    """One pruned network.

    Parameters
    ----------
    source
        A choice of IMC, a score of the user's, or the name of a rival.
    kept
        Fraction of weights kept; None for what the choice's own rule says.
    start
        ``rewind`` or ``base_point``.
    parent
        Where this is the layer-wise shuffle of a mask: the job whose mask it is.
    """

    cell: Cell
    source: Choice | UserScore | str
    kept: float | None
    start: str
    parent: Job | None = None


def train_dense(root: Path, replicate: int, settings: Settings) -> str:
    """Train the dense network of a replicate and store its facts, or find it finished. This is a task."""
    torch.set_num_threads(settings.recipe.threads)
    run, cell = runs.read(root), Cell(replicate, "imp", 0)
    if settings.trainer is None:
        words = train_cell(root, cell, settings.recipe)
    else:
        words = shared.describe(shared.train(run, settings, cell, None, None))
    end = shared.dense(run, settings, replicate)
    data = shared.load_data(settings.recipe.training)[0]
    record.write(run, cell, model=shared.network(settings, end.state_dict, data))
    return words


# ---- conditions ------------------------------------------------------------------------------------------------------


def conditions(root: Path, replicate: int, settings: Settings, choices: Mapping[str, Choice]) -> str:
    """Measure steps 1 to 4 and store the conditions of every choice; return the rules' answers as text."""
    torch.set_num_threads(settings.recipe.threads)
    run = runs.read(root)
    files = {name: _file(run, settings, replicate, name, choice) for name, choice in choices.items()}
    if not all(file.exists() for file in files.values()):
        measured = imc_steps.measure(run, settings, replicate, any(c.rule == POINTWISE for c in choices.values()))
        for name, choice in choices.items():
            if files[name].exists():
                continue
            # the cone gap is a cost of the rule that asks for it, and of no other
            own = measured if choice.rule == POINTWISE else replace(measured, cone=None)
            table = tabulate(own, settings, choice)
            asked = _asked(run, settings, replicate, name, choice)
            table = table.assign_coords(method=np.array(name), replicate=np.array(replicate))
            table.attrs = {"fingerprint": store.fingerprint(asked), "options": store.as_json(asked)}
            table.attrs |= {"seconds": measured.seconds, "evidence": "sampled, not certified; reconstructed"}
            store.write(table, files[name], "imc")
    found = {name: store.open_result(file) for name, file in files.items()}
    return "; ".join(f"{name}: {in_words(table)}" for name, table in found.items())


def _asked(run: Run, settings: Settings, replicate: int, name: str, choice: Choice) -> dict[str, Any]:
    asked = {"quantity": "imc", "run": run.fingerprint, "replicate": replicate, "method": name}
    return {**asked, "base": settings.base, "choice": choice, "threads": settings.recipe.threads}


def _file(run: Run, settings: Settings, replicate: int, name: str, choice: Choice) -> Path:
    fingerprint = store.fingerprint(_asked(run, settings, replicate, name, choice))
    return results.folder(run.root, "imc") / f"{fingerprint}.nc"


def in_words(table: xr.Dataset) -> str:
    """Return the answer of a rule at eps in words."""
    first = table.isel(shell=0)
    status = str(first["status"].values)
    share = float(table["own_kept"])
    found = f"keeps {share:.6g} of the weights" if np.isfinite(share) else "none"
    found += f" ({status})" if status not in ("found", "none") else ""
    return f"{found} within {float(first['rho']):.3g}, coverage {float(table['coverage']):.3g}"


def tabulate(measured: Measured, settings: Settings, choice: Choice) -> xr.Dataset:
    """Return the variables of ``schemas.IMC``: what was measured and the answers of a choice's rule over the radii."""
    evidence, base = measured.evidence(choice.retain), settings.base
    problem, point = measured.point.problem, measured.point
    rho = np.array(imc_steps.radii(point, base))
    found = [imc_steps.decide(choice.rule, evidence, float(radius)) for radius in rho]
    largest, oscillation, _ = measured.samples.constants(rho)
    shells: dict[str, Any] = {"rho": rho, "lipschitz": largest, "lipschitz_osc": oscillation}
    shells["status"] = np.array([one.status for one in found], dtype=object)
    for name, get in (("dimension", "dimension"), ("num_retained", "num_retained"), ("gap_width", "gap")):
        shells[name] = np.array([np.nan if (v := getattr(one, get)) is None else float(v) for one in found])
    if choice.rule in LIPSCHITZ_RULES:
        pairs = [
            gap_ratio(evidence.known, low, choice.rule, osc) for low, osc in zip(largest, oscillation, strict=True)
        ]
        shells["gap_ratio_lo"], shells["gap_ratio_hi"] = np.array(pairs).T
        shells["gap_ratio"] = np.array(pairs).mean(axis=1)
    if measured.cone is not None and choice.rule == POINTWISE:
        inside = [measured.cone.within(float(radius)) for radius in rho]
        shells["cone_gap"] = np.array([float(np.minimum(*both).max()) for both in inside])
    bounded = choice.rule in (*LIPSCHITZ_RULES, POINTWISE)
    bound = answers.first_failure(choice.rule, evidence) if bounded else np.nan
    travel = point.travel(base.p)
    full = shared.everything(settings, point.state)
    own = imc_masks.num_kept(choice, found[0], full, problem.num_params)
    scalars = {
        "gap_rule": choice.rule,
        "retain": choice.retain,
        "mask_rule": choice.mask_rule,
        "base_point": base.base_point,
        "p": base.p,
        "travel": travel,
        "radius_upper": bound,
        "coverage": bound / travel if travel > 0 else np.nan,
        "num_fast": float(num_fast_of(found[0], measured)),
        "own_kept": np.nan if own is None else own / criteria.num_kept(full),
    }
    table = xr.Dataset({name: ("shell", values) for name, values in shells.items()}, {"shell": np.arange(len(rho))})
    return table.assign(scalars | _facts(measured)).merge(_spectrum(measured))


def _facts(measured: Measured) -> dict[str, Any]:
    """Return what is known of W*."""
    point, problem = measured.point, measured.point.problem
    step = direct.stationarity(problem, measured.base)["newton_displacement"].values
    known = step[np.isfinite(step)]
    facts = {
        "base_step": point.step,
        "loss": problem.loss(),
        "gradient_norm": float(problem.gradient().double().norm()),
        "start_gradient_norm": float(problem.gradient(point.start).double().norm()),
        "num_params": problem.num_params,
        "num_params_total": problem.num_params_total,
        "num_examples": problem.num_examples,
        "num_products": measured.num_products,
        "kept": 1.0,
    }
    if len(known):
        facts["newton_displacement"] = float(known[-1])
    if (accuracy := problem.accuracy()) is not None:
        facts["accuracy"] = accuracy
    return facts


def _spectrum(measured: Measured) -> xr.Dataset:
    base = measured.base
    top = base.vectors.double().cpu()
    spread = np.full(len(base.label), np.nan)
    spread[base.label > 0] = (1 / top.pow(4).sum(0)).numpy()
    num_fast = num_fast_of(None, measured)
    small = imc_masks.leverage(top).sort(descending=True).values[:num_fast]
    columns = {"eigenvalue": base.eigenvalue, "residual": base.residual, "converged": base.converged}
    found = xr.Dataset({n: ("eigen", v) for n, v in columns.items()}, {"eigen": base.label})
    return found.assign(participation=("eigen", spread), concentration=float(small.sum() / num_fast))


def num_fast_of(found: GapResult | None, measured: Measured) -> int:
    """Return the fast directions of the splitting behind a mask: those of the answer, else all that were computed."""
    size, computed = measured.point.problem.num_params, measured.base.vectors.shape[1]
    if found is None or found.dimension_upper is None:
        return computed
    return size - found.dimension_upper


# ---- one pruned network ----------------------------------------------------------------------------------------------


def prune_cell(root: Path, settings: Settings, job: Job) -> str:
    """Make the mask of a cell, train it, store its facts, and return its last losses as text. This is the task."""
    torch.set_num_threads(settings.recipe.threads)
    run = runs.read(root)
    full = shared.everything(settings, shared.dense(run, settings, job.cell.replicate).state_dict)
    kept = None if job.kept is None else count_of(job.kept, full, settings)
    if job.parent is not None and not run.minimum(job.parent.cell).exists():
        return "none: there is no mask to be shuffled"
    made = _made(run, settings, job, full, kept)
    if made is None:
        return "none: the rule has no answer, so that nothing is pruned"
    start = Start(made["start"], made["first_step"]) if job.start == "base_point" else None
    start = start or shared.rewind(run, settings, job.cell.replicate)
    subspace = Subspace(made["vectors"], made["complement"]) if "vectors" in made else None
    trained = shared.train(run, settings, job.cell, made.get("mask"), start, subspace)
    data = shared.load_data(settings.recipe.training)[0]
    record.write(run, job.cell, made["facts"], shared.network(settings, trained.checkpoint.state_dict, data))
    return shared.describe(trained)


def count_of(kept: float, full: Mask, settings: Settings) -> int:
    """Return the number of weights that a fraction keeps: at a level of the run exactly as many as imp keeps there."""
    size, fraction = criteria.num_kept(full), settings.recipe.pruning.fraction
    level = round(np.log(kept) / np.log(1 - fraction))
    if abs(kept / (1 - fraction) ** level - 1) < 1e-4 and settings.recipe.pruning.scope == "global":
        return criteria.counts(size, fraction, level)[-1]
    return max(1, round(kept * size))


def _made(run: Run, settings: Settings, job: Job, full: Mask, kept: int | None) -> State | None:
    """Return mask (or subspace), weights that it was made at and facts of a job, kept in its folder; None without."""
    journal = _journal(run, settings, job, kept)
    if (found := journal.load("mask")) is not None:
        return found
    started = time.perf_counter()
    if job.parent is not None:
        found = _shuffled(run, settings, job, full, kept)
    elif isinstance(job.source, Choice):
        found = _by_imc(run, settings, job, full, kept)
    else:
        assert kept is not None
        replicate = job.cell.replicate
        if isinstance(job.source, UserScore):
            pruned = rivals.prune_by(run, settings, replicate, job.source, kept)
        else:
            pruned = rivals.prune(run, settings, replicate, job.source, kept)
        facts = {
            "mask_gradients": pruned.num_gradients,
            "mask_products": pruned.num_products,
            "mask_steps": pruned.steps,
        }
        found = {"mask": pruned.mask, "facts": facts, "start": dict(pruned.made_at.state)}
        found["first_step"] = pruned.made_at.first_step
    if found is None:
        return None
    seconds = found["facts"].pop("mask_seconds", 0.0) + time.perf_counter() - started
    found["facts"] |= {"mask_seconds": seconds, "forced": kept is not None}
    if job.start == "rewind":
        found["start"] = {}
    journal.save("mask", found)
    return found


def _journal(run: Run, settings: Settings, job: Job, kept: int | None) -> Journal:
    """Return where the mask of a job is kept; one that was made with other options is not taken for it."""
    asked: dict[str, Any] = {"run": run.fingerprint, "cell": str(job.cell), "source": job.source, "kept": kept}
    if not isinstance(job.source, str):
        asked["base"] = settings.base
    elif job.source in rivals.FROM_CURVATURE_SAMPLE:
        asked["curvature_examples"] = settings.base.curvature_examples
    remedy = "give the options that its mask was made with, or choose another --out"
    if isinstance(job.source, UserScore):
        function = job.source.function
        asked["code"] = loading.source_sha256(loading.import_object(function, "score"))
        remedy = f"its mask was made with others, or by another version of {function}: choose another --out"
    return Journal(run.folder(job.cell), store.fingerprint(asked), resume=True, remedy=remedy)


def _shuffled(run: Run, settings: Settings, job: Job, full: Mask, kept: int | None) -> State | None:
    """Return the layer-wise shuffle of the parent's mask, to be trained from where the parent is."""
    assert job.parent is not None
    parent = _made(run, settings, job.parent, full, kept)
    if parent is None:
        return None
    mask = imc_masks.shuffled(parent["mask"], full, settings.recipe.training.seed, str(job.parent.cell))
    return {"mask": mask, "facts": {}, "start": parent["start"], "first_step": parent["first_step"]}


def _by_imc(run: Run, settings: Settings, job: Job, full: Mask, kept: int | None) -> State | None:
    """Return the fifth step: mask or subspace of a choice of IMC; None where its own rule has no answer."""
    choice = job.source
    assert isinstance(choice, Choice)
    measured = imc_steps.measure(run, settings, job.cell.replicate, choice.rule == POINTWISE)
    point = measured.point
    decided = imc_steps.decide(choice.rule, measured.evidence(choice.retain), settings.base.eps)
    number = kept if kept is not None else imc_masks.num_kept(choice, decided, full, point.problem.num_params)
    if number is None:
        return None
    num_fast = num_fast_of(decided, measured)
    facts: dict[str, Any] = {"mask_products": measured.num_products, "mask_steps": point.step}
    facts["mask_seconds"] = measured.seconds
    if (retained := imc_masks.retained(decided, choice, point.problem.num_params)) is not None:
        facts["num_retained"] = retained
    found: State = {"start": dict(point.state), "first_step": _first_step(settings, point.step)}
    if choice.mask_rule == "none":
        imc_masks.retained_leverage(measured.base.vectors, num_fast, choice.retain)  # for its check
        found |= {"vectors": measured.base.vectors[:, :num_fast].cpu(), "complement": choice.retain == "slow"}
        return {**found, "facts": facts | {"mask_gradients": 0}}
    subject = Subject(
        point.problem, measured.base.vectors, full, settings.recipe.training.loss, settings.recipe.training.seed
    )
    ranked = imc_masks.scores_of(choice, subject, num_fast)
    mask = imc_masks.mask_of(choice, ranked.values, full, number)
    facts["mask_gradients"] = ranked.num_gradients
    facts["mask_products"] += ranked.num_products
    if num_fast <= measured.base.vectors.shape[1]:
        aligned = imc_masks.alignment(subject, mask, num_fast, choice.retain)
        facts |= {"share": aligned.share, "lift": aligned.lift}
    compared = imc_masks.masked_loss(point.problem, mask, full, subject.seed)
    facts |= {"masked_loss": compared.loss, "masked_loss_random": compared.random}
    facts |= {"masked_p_value": compared.p_value}
    return {**found, "mask": mask, "scores": ranked.values, "facts": facts}


def _first_step(settings: Settings, step: int) -> int:
    """Return the steps that count as done where training goes on from the base point."""
    return step if settings.base.base_point == "k_steps" else 0
