"""The page of evidence agrees with the reports that it is made from, and they with the weights that ship."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from earwitness.config import RunConfig

HOUSE = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def evidence() -> Iterator[ModuleType]:
    sys.path.insert(0, str(HOUSE / "tools"))
    yield importlib.import_module("evidence")
    sys.path.remove(str(HOUSE / "tools"))


def test_the_page_is_what_the_kept_reports_say(evidence, tmp_path):
    kept = tmp_path / "evidence"
    shutil.copytree(evidence.KEPT, kept)
    for picture in kept.glob("*.svg"):
        picture.unlink()
    evidence.write_page(kept, tmp_path / "evidence.md")
    assert (tmp_path / "evidence.md").read_text() == evidence.PAGE.read_text()
    assert {p.name for p in kept.glob("*.svg")} == {p.name for p in evidence.KEPT.glob("*.svg")}
    for name in evidence.there(evidence.KEPT):
        assert f"evidence/{name}.svg" in evidence.PAGE.read_text()


def test_the_reports_are_of_the_weights_that_ship(evidence):
    names = evidence.there(evidence.KEPT)
    assert names
    for name in names:
        report = json.loads((evidence.KEPT / f"{name}.json").read_text())
        assert report["run"] == name
        assert report["weights_sha256"] == evidence.shipped_weights(name), f"{name}: run it again"
        assert report["config_sha256"] == RunConfig.load(evidence.CONFIGS / f"{name}.toml").measured(), name


def test_a_report_of_other_weights_is_refused(evidence):
    report = json.loads((evidence.KEPT / "world-ladder.json").read_text())
    with pytest.raises(ValueError, match="made with other weights"):
        evidence.keep("world-ladder", report | {"weights_sha256": "0" * 64})
    with pytest.raises(ValueError, match="with other settings"):
        evidence.keep("world-ladder", report | {"config_sha256": "0" * 64})


def test_every_experiment_of_the_world_is_on_the_list(evidence):
    shipped = {file.stem for file in evidence.CONFIGS.glob("world-*.toml")}
    elsewhere = {"world-transfer", "world-served"}  # told of where transfer and servers are
    assert set(evidence.EXPERIMENTS) == shipped - elsewhere
    assert all(evidence.about(name) for name in evidence.EXPERIMENTS)
