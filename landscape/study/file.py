"""Study files: TOML that says what is trained and what is measured, checked before anything runs.

    title = "..."                    what the report is called
    description = "..."              what it is for
    threads = 1                      of every training and measurement
    [training]                       fields of TrainOptions: model, data, epochs, lr, ...
    [pruning]                        fields of PruneOptions: fraction, scope, ...
    [extent]                         levels, replicates, methods, method_levels
    [problem] [spectrum] ...         options of measurements, by the groups of MeasureOptions
    [[measure]]                      quantities, points, controls, levels, ... (fields of Selection), in order of
                                     priority; groups of options inside it hold for it alone
    [[imc]]                          networks pruned once: options of python -m landscape.pruning imc (optional)
    [arms.NAME.training] ...         a run each, with what differs (optional)

A preset is such a file in ``landscape/studies``, chosen by its name.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, Union

from landscape.cli.checks import check_least
from landscape.errors import InputError
from landscape.pruning.imp import Extent
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.study.plan import Selection
from landscape.study.pruned import Pruned, of_table
from landscape.study.pruned import keys as pruned_keys
from landscape.study.requests import DECIDED, MeasureOptions
from landscape.training import TrainOptions

Options = TypeVar("Options")
Table = Mapping[str, Any]

PRESETS = Path(__file__).parents[1] / "studies"
TEXTS = ("title", "description")
TRAINED = ("training", "pruning", "extent")
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


@dataclass(frozen=True)
class Measurement:
    """One ``[[measure]]``: what, where, and with which options."""

    selection: Selection
    options: MeasureOptions


@dataclass(frozen=True)
class Arm:
    """One run of a study; the name is empty where it is the only one."""

    name: str
    recipe: Recipe
    extent: Extent
    measurements: tuple[Measurement, ...]
    pruned: tuple[Pruned, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study file that was read.

    Parameters
    ----------
    name
        Of the preset or the file.
    text
        The file, as it is.
    """

    name: str
    title: str
    description: str
    text: str
    arms: tuple[Arm, ...]

    def root(self, out: Path, arm: Arm) -> Path:
        """Return the directory of an arm's run: the study's own, or one beside it."""
        return out.with_name(f"{out.name}_{arm.name}") if arm.name else out


def presets() -> list[str]:
    """Return the names of the studies that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read(source: str | Path, device: str | None = None) -> Study:
    """Read a study file, or a preset by its name.

    Parameters
    ----------
    device
        Where everything is trained and measured, in place of what the file says.

    Raises
    ------
    InputError
        If there is no such file, it is no TOML, or something in it is unknown or of the wrong type; the message names
        the place and the nearest word that would be understood.
    """
    path = PRESETS / f"{source}.toml" if str(source) in presets() else Path(source)
    if not path.is_file():
        raise InputError(f"there is no study file {source}, and the presets are {', '.join(presets())}")
    try:
        text = path.read_text()
        content = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no study file ({error})") from error
    try:
        study = parse(content, path.stem, text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return study if device is None else replace(study, arms=tuple(_moved(arm, device) for arm in study.arms))


def _moved(arm: Arm, device: str) -> Arm:
    """Return an arm on another device."""

    def placed(one: Measurement) -> Measurement:
        return replace(one, options=replace(one.options, problem=replace(one.options.problem, device=device)))

    recipe = replace(arm.recipe, training=replace(arm.recipe.training, device=device))
    return replace(arm, recipe=recipe, measurements=tuple(map(placed, arm.measurements)))


def parse(content: Table, name: str, text: str = "") -> Study:
    """Return the study that a parsed file describes."""
    groups = option_groups()
    _check_keys(content, (*TEXTS, "threads", *TRAINED, *groups, "measure", "imc", "arms"), "")
    for key in TEXTS:
        _typed(content.get(key, ""), str, key)
    arms = content.get("arms", {})
    if not isinstance(arms, dict) or not all(isinstance(arm, dict) for arm in arms.values()):
        raise InputError("arms must be tables: [arms.NAME.training]")
    for label, arm in arms.items():
        _check_keys(arm, TRAINED, f"arms.{label}")
    blocks = content.get("measure", [])
    if not isinstance(blocks, list) or not blocks:
        raise InputError("nothing is to be measured; add [[measure]] with quantities = [...]")
    made = [_arm(content, label, arm, list(arms)) for label, arm in arms.items()] or [_arm(content, "", {}, [])]
    return Study(name, content.get("title", name), content.get("description", ""), text, tuple(made))


def _arm(content: Table, label: str, own: Table, labels: list[str]) -> Arm:
    """Return one arm: the common tables with what it changes."""
    merged = {key: {**_table(content, key), **_table(own, key)} for key in TRAINED}
    for key in ("model", "data"):
        if key not in merged["training"]:
            raise InputError(f"[training] must say which {key}")
    threads = _typed(content.get("threads", 1), int, "threads")
    check_least("threads", threads)
    training = build(TrainOptions, merged["training"], "training")
    pruning, extent = build(PruneOptions, merged["pruning"], "pruning"), build(Extent, merged["extent"], "extent")
    common = {group: _table(content, group) for group in option_groups()}
    measurements = []
    for number, block in enumerate(content["measure"], start=1):
        wanted = block.get("arms", labels) if isinstance(block, dict) else []
        if unknown := [name for name in wanted if name not in labels]:
            raise InputError(f"measure {number}: there is no arm {unknown[0]!r}{_nearest(unknown[0], labels)}")
        if not labels or label in wanted:
            measurements.append(_measurement(block, common, f"measure {number}", threads))
    pruned = tuple(_pruned(block, number, extent) for number, block in enumerate(content.get("imc", []), start=1))
    return Arm(label, Recipe(training, pruning, threads), extent, tuple(measurements), pruned)


def _pruned(block: Any, number: int, extent: Extent) -> Pruned:
    """Return one ``[[imc]]``; its replicates are those of the study unless it says otherwise."""
    if not isinstance(block, dict):
        raise InputError(f"imc {number}: write [[imc]] and below it preset, kept, rivals, ...")
    _check_keys(block, pruned_keys(), f"imc {number}")
    return of_table(block, build, f"imc {number}", extent.replicates)


def _measurement(block: Any, common: Mapping[str, Table], where: str, threads: int) -> Measurement:
    """Return one ``[[measure]]`` with the common options under its own."""
    if not isinstance(block, dict):
        raise InputError(f"{where}: write [[measure]] and below it quantities = [...]")
    chosen = [field.name for field in fields(Selection)]
    groups = option_groups()
    _check_keys(block, (*chosen, "arms", *groups), where)
    if "quantities" not in block:
        raise InputError(f"{where}: quantities = [...] is missing")
    selection = build(Selection, {key: block[key] for key in chosen if key in block}, where)
    options: dict[str, Any] = {}
    for group, cls in groups.items():
        table = {**common[group], **_table(block, group)}
        refused = [key for key in DECIDED.get(group, ()) if key in table]
        if refused:
            raise InputError(f"{group}: a study chooses {refused[0]} itself, for every point; leave it out")
        options[group] = build(cls, table, f"{where}, {group}" if group in block else group)
    return Measurement(selection, MeasureOptions(**options, threads=threads))


def option_groups() -> dict[str, type]:
    """Return the groups of options that a measurement can have, by name: the dataclasses in ``MeasureOptions``."""
    hints = typing.get_type_hints(MeasureOptions)
    return {field.name: hints[field.name] for field in fields(MeasureOptions) if is_dataclass(hints[field.name])}


def _table(content: Table, key: str) -> dict[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise InputError(f"{key} must be a table: [{key}]")
    return table


def build(cls: type[Options], table: Table, where: str) -> Options:
    """Return an options dataclass with the values of a table, each checked against its type.

    Raises
    ------
    InputError
        On a key that is no option, a value of the wrong type, or one that is not among the choices.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in fields(typing.cast(Any, cls)) if "help" in field.metadata}
    _check_keys(table, known, where)
    values = {}
    for key, value in table.items():
        place = f"{where}.{key}"
        values[key] = _typed(value, hints[key], place)
        check_least(key, values[key])
        choices = known[key].metadata.get("choices")
        given = values[key] if isinstance(values[key], tuple) else (values[key],)
        if choices and (wrong := [v for v in given if v not in choices]):
            raise InputError(f"{place}: unknown {wrong[0]!r}; use {', '.join(map(str, choices))}")
    return cls(**values)


def _typed(value: Any, kind: Any, place: str) -> Any:
    """Return a value of TOML as the type of its option."""
    arguments = [a for a in typing.get_args(kind) if a is not types.NoneType]
    if typing.get_origin(kind) in (Union, types.UnionType):
        return _typed(value, arguments[0], place)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{place} must be a list, not {value!r}")
        return tuple(_typed(item, arguments[0], place) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind:
        raise InputError(f"{place} must be {WORDS.get(kind, kind.__name__)}, not {value!r}")
    return value


def _check_keys(table: Table, known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            place = f"{where}: " if where else ""
            raise InputError(f"{place}unknown key {key!r}{_nearest(key, names)}")


def _nearest(word: str, known: list[str]) -> str:
    """Return the nearest known word as the end of a message."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"; did you mean {close[0]!r}?" if close else ""
