"""pyproject.toml, constraints.txt and environment.yml say the same."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import yaml
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import landscape

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text())
FIELD = {"torch", "pyhessian", "scipy", "numpy", "xarray", "matplotlib", "jupyter"}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("==") for line in lines)


def pip_section() -> list[str]:
    (section,) = [entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict)]
    return [str(line) for line in section]


def test_constraints_pin_exact_versions_and_nothing_local() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name), name
        assert re.fullmatch(r"[0-9][0-9A-Za-z.]*", version), f"{name}=={version} is local to a machine"
    assert pins()["torch"] == "2.13.0"


def test_every_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned[name], prereleases=True), (
            f"{requirement}, pinned to {pinned[name]}"
        )


def test_the_pins_can_be_installed_on_the_oldest_python() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    for name, version in pins().items():
        try:
            metadata = distribution(name).metadata
        except PackageNotFoundError:
            continue  # the peers of `make bench`, for example
        asked = SpecifierSet(metadata.get("Requires-Python", ""))
        assert metadata["Version"].split("+")[0] != version or oldest in asked, (
            f"{name}=={version} wants Python {asked}"
        )


def test_environment_is_thin_and_installs_the_package_with_the_constraints() -> None:
    top = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
    assert [re.split("[<>=]", entry)[0] for entry in top] == ["python", "pip"]
    assert SpecifierSet(top[0].removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    section = pip_section()
    assert "-c constraints.txt" in section
    assert "-e .[notebooks,dev]" in section
    assert ENVIRONMENT["name"] == PROJECT["name"] == "landscape"


def test_environment_names_the_packages_of_the_field_and_only_dependencies() -> None:
    named = {Requirement(line).name for line in pip_section() if not line.startswith("-")}
    assert named == FIELD
    assert named <= {requirement.name for requirement in requirements()}


def test_citation_and_changelog_know_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == landscape.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert f"\n## {landscape.__version__}" in (ROOT / "CHANGELOG.md").read_text()
