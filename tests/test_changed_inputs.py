"""Inputs that change under a run are named and never mixed in; a full disk stops a run and costs nothing."""

from __future__ import annotations

import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

import worlds
from earwitness.cli import main
from earwitness.models.places import place_of
from test_folder_runs import folder_config

SMALL = {
    "questions": {"limit": 4},
    "exams": {"limit": 4},
    "sample": {"traces": 1, "max_tokens": 48},
    "verify": {"calibrate": 0.0},
    "sft": {"steps": 2, "batch": 2, "checkpoint_every": 1},
    "arms": {"base": [], "label": worlds.ARMS["label"]},
}


def run(config, root: Path, *arguments: str) -> int:
    return main(["run", str(worlds.save(config, root / "small.toml")), "--root", str(root), *arguments])


@contextmanager
def files_of_at_most(size: int):
    """Let no file of this process grow beyond `size` bytes, which a program meets as it does a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_replaced_clip_is_named_and_asked_again_on_request(tmp_path, capsys):
    assert main(["world", "sample", str(tmp_path / "clips"), "--count", "4"]) == 0
    config = folder_config(tmp_path / "clips", arms=SMALL["arms"], sample=SMALL["sample"] | {"frames": 4})
    assert run(config, tmp_path) == 0
    before = worlds.made(tmp_path / "small")
    first, second = sorted((tmp_path / "clips" / "clips").glob("*.mp4"))[:2]
    kept = first.read_bytes()
    shutil.copy(second, first)
    capsys.readouterr()
    assert run(config, tmp_path) == 2
    said = capsys.readouterr().err
    assert f"Changed: the question '{first.stem}' or its clip {first}" in said and "--redo stale" in said
    assert worlds.made(tmp_path / "small") == before
    assert run(config, tmp_path, "--redo", "stale") == 0
    after = worlds.made(tmp_path / "small")
    (sampled,) = [name for name in after if name.startswith("sample-")]
    old, new = ([json.loads(line) for line in some[sampled].splitlines()] for some in (before, after))
    assert sorted(r["id"] for r in new) == sorted(r["id"] for r in old)
    assert [r for r in new if r["id"] != first.stem] == [r for r in old if r["id"] != first.stem]
    first.write_bytes(kept)
    assert run(config, tmp_path, "--redo", "stale") == 0
    for name, data in worlds.made(tmp_path / "small").items():
        if name in before and name.endswith("rows.jsonl"):
            assert sorted(data.splitlines()) == sorted(before[name].splitlines())
        elif name in before:
            assert data == before[name]


@pytest.mark.parametrize("role, stage", [("teacher", "sample"), ("checker", "verify"), ("student", "answer")])
def test_another_model_behind_the_same_path_is_named(role, stage, tmp_path, capsys):
    shutil.copytree(place_of(worlds.world_config().model(role)), tmp_path / role)
    models = {role: {"kind": "local", "name": str(tmp_path / role)}}
    config = worlds.world_config(**SMALL, models=models)
    assert run(config, tmp_path) == 0
    weights = tmp_path / role / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 1  # the lowest bit of one weight
    weights.write_bytes(data)
    capsys.readouterr()
    assert run(config, tmp_path) == 2
    said = capsys.readouterr().err
    assert f"stage {stage}: row 'world/" in said and "--redo stale" in said
    assert f"Changed: the {role}'s files ({tmp_path / role})" in said
    assert run(config, tmp_path, "--redo", "stale") == 0
    assert run(config, tmp_path) == 0


def test_a_root_that_is_no_folder_is_told(tmp_path, capsys):
    (tmp_path / "runs").touch()
    place = worlds.save(worlds.world_config(**SMALL), tmp_path / "small.toml")
    assert main(["run", str(place), "--root", str(tmp_path / "runs")]) == 2
    assert f"earwitness: {tmp_path / 'runs' / 'small'} could not be written" in capsys.readouterr().err


def test_a_full_disk_is_told_and_the_same_command_goes_on(tmp_path, capsys):
    config = worlds.world_config(**SMALL | {"sample": {"traces": 2, "max_tokens": 48}, "questions": {"limit": 8}})
    assert run(config, tmp_path / "roomy") == 0
    roomy = tmp_path / "roomy" / "small"
    sampled = next(roomy.glob("sample-*/rows.jsonl")).stat().st_size
    weights = next(roomy.glob("checkpoints/*/final/model.safetensors")).stat().st_size
    place = worlds.save(config, tmp_path / "full" / "small.toml")
    for size, named in [
        (0, "small/lock"),
        (1000, "small/config.toml"),
        (sampled - 1, "rows.jsonl"),
        (weights - 1, "checkpoints/sft-"),
    ]:
        with files_of_at_most(size):
            assert main(["run", str(place), "--root", str(tmp_path / "full")]) == 2, size
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("earwitness: ") and named in said and "make room on" in said.lower()
    finished = worlds.finished(tmp_path / "full" / "small")
    assert len(finished) >= 4
    assert run(config, tmp_path / "full") == 0
    assert worlds.made(tmp_path / "full" / "small") == worlds.made(roomy)
    assert finished.items() <= worlds.finished(tmp_path / "full" / "small").items()


def test_a_disk_that_takes_the_weights_and_not_the_optimizer_is_full_too(tmp_path, capsys):
    config = worlds.world_config(**SMALL)
    place = worlds.save(config, tmp_path / "small.toml")
    weights = (Path(place_of(config.model("student"))) / "model.safetensors").stat().st_size * 2  # trained in 32 bits
    with files_of_at_most(weights + 100_000):
        assert main(["run", str(place), "--root", str(tmp_path)]) == 2
    assert "make room on" in capsys.readouterr().err.lower()
    assert main(["run", str(place), "--root", str(tmp_path)]) == 0
