"""The shards of a run on a Ray cluster of this machine: whole runs, dead workers, a dead driver, other folders."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

import worlds
from earwitness.cli import main
from earwitness.run import Run

pytest.importorskip("ray")

SMALL = {"questions": {"limit": 70}, "sample": {"traces": 1, "max_tokens": 48}, "train": {"parallel": 2}, "exams": {"limit": 8}}
ARMS = {"base": [], "label": worlds.ARMS["label"]}


@pytest.fixture(autouse=True)
def _on_this_machine(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def ray_config(shards=3, **sections):
    return worlds.world_config(**{**SMALL, "arms": ARMS, **sections}, pool="ray", shards=shards)


def started(parent: int) -> list[int]:
    """Every living process that a process has started, and those have."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rsplit(")", 1)[1].split()
            if fields[0] != "Z":
                parents[int(entry.parent.name)] = int(fields[1])
    found, new = [], [parent]
    while new:
        new = [pid for pid, its in parents.items() if its in new]
        found += new
    return found


def alive(pids: list[int]) -> list[int]:
    living = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                living.append(pid)
    return living


def ends(pids: list[int], seconds: float = 30.0) -> bool:
    """Whether processes end by themselves; those that do not are killed."""
    deadline = time.monotonic() + seconds
    while left := alive(pids):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.1)
    return True


def wait_for(condition, process, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found


def at_work(run: Path) -> dict[str, int]:
    """The shards that hold their lock, with their processes."""
    words = {file.name: file.read_text() for file in run.glob("lock.*-of-*")}
    pids = {name: int(found[1]) for name, text in words.items() if (found := re.match(r"process (\d+) on", text))}
    return {name: pid for name, pid in pids.items() if alive([pid])}


def test_a_run_on_ray_ends_as_one_process_does_and_leaves_nothing_running(tmp_path):
    config = worlds.save(ray_config(), tmp_path / "ray.toml")
    process = worlds.start("run", config, "--root", tmp_path / "ray")
    try:
        seen = wait_for(lambda: len(at_work(tmp_path / "ray" / "small")) and started(process.pid), process)
        _, said = process.communicate(timeout=300)
    finally:
        worlds.kill_group(process)
    assert process.returncode == 0, said
    assert "shards: 3/3" in said and "Ray on this machine has" in said
    assert "sample: 70/70" in said  # taken over
    assert ends(seen), "Ray was left running"
    alone = worlds.call("run", config, "--root", tmp_path / "alone", "pool=local", "shards=0")
    assert alone.returncode == 0, alone.stderr
    assert worlds.made(tmp_path / "ray" / "small") == worlds.made(tmp_path / "alone" / "small")
    tables = [p.parent for p in (tmp_path / "ray" / "small").glob("sample-*/rows.*-of-3.jsonl")]
    assert len(tables) == 3 and not (tmp_path / "ray" / "small" / "shards.json").exists()
    assert Run.read(tmp_path / "ray", "small").timings["sample"] > 0
