"""A study from its file to its report: planned, killed, resumed, out of time; and the page itself."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import xarray as xr
from helpers import ROOT

from landscape import results, store
from landscape.cli import BAD_INPUT, DONE, exit_code
from landscape.study.__main__ import main

TEXT = """
title = "Tiny <study> & more"
description = "Two levels on 100 digits."
[training]
model = "mlp"
model_arg = ["widths=4"]
data = "digits"
num_examples = 100
epochs = 2
batch_size = 50
lr = 0.3
device = "cpu"
[pruning]
fraction = 0.4
[extent]
levels = 2
replicates = 1
methods = ["fine_tune"]
[problem]
num_examples = 60
dtype = "float64"
device = "cpu"
[spectrum]
largest = 12
smallest = 2
num_probes = 2
depth = 5
[path]
num_positions = 4
num_refinements = 1
num_bootstrap = 5
[[measure]]
quantities = ["spectrum"]
points = ["minimum", "projected", "restricted"]
[[measure]]
quantities = ["curves", "connectivity"]
"""
VOID = {"meta", "img", "br", "link", "hr"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def done(file: Path) -> Path:
    out = file.parent / "done"
    assert main(["run", str(file), "--out", str(out), "--quiet"]) == DONE
    return out


def variables(root: Path) -> dict[str, xr.Dataset]:
    files = [f for f in sorted((root / "results").rglob("*.nc")) if f.name != results.INDEX]
    return {str(file.relative_to(root)): store.open_result(file).drop_attrs() for file in files}


def check_same(first: Path, second: Path) -> None:
    left, right = variables(first), variables(second)
    assert left.keys() == right.keys()
    for name, dataset in left.items():
        xr.testing.assert_identical(dataset, right[name])


def test_everything_is_trained_measured_judged_and_drawn(done: Path) -> None:
    study = results.open_study(done)
    assert study.sizes["level"] == 3
    assert bool(study["eigenvalue"].sel(point="restricted").notnull().any())
    assert (done / "report.html").is_file()
    assert {path.name for path in (done / "figures").iterdir()} >= {"F1_spectra.pdf", "F1_spectra.png"}
    assert (done / "results" / "preconditions_imp.nc").is_file()
    assert (done / "study.toml").read_text() == TEXT


def test_again_there_is_nothing_to_do(done: Path, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.pt")}
    assert main(["run", str(file), "--out", str(done)]) == DONE
    captured = capfd.readouterr()
    assert "\n0 steps to do" in captured.err
    assert captured.out.splitlines()[-1] == str(done / "report.html")
    assert before == {path: path.stat().st_mtime_ns for path in done.rglob("*.pt")}


def test_out_of_time_it_says_what_is_missing_and_still_reports(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = file.parent / "late"
    assert main(["run", str(file), "--out", str(out), "--budget", "0"]) == DONE
    captured = capfd.readouterr()
    assert "the budget of 0 h does not reach" in captured.err
    assert re.search(r"missing for lack of time: \d+ steps", captured.out)
    assert "missing: late/replicate_0/imp/level_00 training" in captured.out
    assert "missing for lack of time" in (out / "report.html").read_text()
    assert not list(out.rglob("minimum.pt"))


@pytest.mark.distributed
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_with_the_same_results(done: Path, file: Path, times: int) -> None:
    out = file.parent / f"killed_{times}"
    command = [
        sys.executable,
        "-m",
        "landscape.study",
        "run",
        str(file),
        "--out",
        str(out),
        "--quiet",
        "--workers",
        "2",
    ]
    moments = random.Random(times)
    for _ in range(times):
        process = subprocess.Popen([*command, "--quiet"], cwd=ROOT)
        time.sleep(moments.uniform(4.0, 12.0))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    check_same(out, done)


def test_report_alone_makes_the_same_page(done: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = done / "report.html"
    before = page.read_text()
    page.unlink()
    assert main(["report", str(done)]) == DONE
    assert capfd.readouterr().out.splitlines()[-1] == str(page)
    assert page.read_text() == before


@pytest.mark.parametrize("arguments", [["run", "nothing.toml"], ["report", "nowhere"]])
def test_what_is_not_there_is_one_line(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(main, arguments) == BAD_INPUT
    assert len(capfd.readouterr().err.splitlines()) == 1


class Checker(HTMLParser):
    """Tags must nest; nothing may be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in values)
        if tag == "img":
            self.images += 1
            assert values["alt"]
            assert str(values["src"]).startswith("data:image/png;base64,iVBORw0KGgo")
        else:
            assert "src" not in values
        assert "href" not in values
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing(done: Path) -> None:
    text = (done / "report.html").read_text()
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    assert checker.images >= 1
    assert text.startswith("<!DOCTYPE html>")
    assert "<title>Tiny &lt;study&gt; &amp; more</title>" in text
    assert "http" not in text.replace("https://", "http://").split("<pre>")[0]
    assert "minimum_flatter_than_projected" in text
    assert "git_commit" in text
    assert len(text) < 3_000_000
