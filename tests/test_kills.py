"""A run that is killed at any moment and started again leaves the bytes of an undisturbed one, and no work twice."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

import worlds

# Two blocks of questions, so that a table can be found half made. Each kill waits for a sign that its stage has begun.
CONFIG = worlds.world_config(questions={"limit": 34}, exams={"limit": 34}, answer={"max_tokens": 12})
SIGNS = {
    "a data stage": "sample-*/rows.jsonl",
    "sft": "checkpoints/sft-*/checkpoint-1",
    "grpo": "checkpoints/grpo-*/log.jsonl",
    "the exam": "answer-*/rows.jsonl",
}


def run_and_kill(command: list[str | Path], run: Path, sign: str, delay: float) -> bool:
    """Start a driver and kill it alone, `delay` seconds after the sign. Returns whether it was still at work."""
    process = worlds.start(*command)
    before = set(run.glob(sign))
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and not set(run.glob(sign)) - before:
            assert time.monotonic() < deadline, "the stage never began"
            time.sleep(0.01)
        with contextlib.suppress(Exception):
            process.wait(delay)
        at_work = process.poll() is None
        worlds.kill_driver(process)
        return at_work
    finally:
        assert worlds.group_ends(process.pid), "what the driver started outlived it"


def drill(config: Path, root: Path, signs: list[str], seed: int) -> list[bool]:
    """Kill a run at each sign and then let it end; assert after each kill that nothing finished was touched."""
    dice, run, killed = random.Random(seed), root / CONFIG.name, []
    command: list[str | Path] = ["run", config, "--root", root]
    finished: dict[str, int] = {}
    tables: dict[Path, bytes] = {}
    for number, sign in enumerate([*signs, ""]):
        if sign:
            workers = f"train.parallel={1 + (number % 3 == 1)}"
            killed.append(run_and_kill([*command, workers], run, sign, dice.uniform(0, 0.6)))
        else:
            done = worlds.call(*command)
            assert done.returncode == 0, done.stderr
        after = worlds.finished(run)
        assert {name: after[name] for name in finished} == finished
        assert all(path.read_bytes().startswith(before) for path, before in tables.items())
        finished, tables = after, {p: p.read_bytes() for p in run.glob("*/rows.jsonl")}
    return killed


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return worlds.save(CONFIG, tmp_path_factory.mktemp("config") / "small.toml")


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """A function that waits for an undisturbed run, under way since it was asked for, and returns what it made."""
    root = tmp_path_factory.mktemp("undisturbed")
    process = worlds.start("run", config, "--root", root)

    def made():
        if process.poll() is None:
            process.communicate(timeout=300)
        assert process.returncode == 0
        return worlds.made(root / CONFIG.name)

    yield made
    worlds.kill_group(process)


def test_killed_in_every_kind_of_stage_a_run_ends_as_if_undisturbed(config, undisturbed, tmp_path):
    killed = drill(config, tmp_path, list(SIGNS.values()), seed=1)
    assert sum(killed) >= 3  # else the drill drills nothing
    assert worlds.made(tmp_path / CONFIG.name) == undisturbed()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_killed_again_and_again_a_run_ends_as_if_undisturbed(config, undisturbed, tmp_path, seed):
    dice = random.Random(seed)
    places = ["verify-*", "checkpoints/sft-*/log.jsonl", "checkpoints/*/final.partial", "calibrate-*", "report.json"]
    signs = dice.choices([*SIGNS.values(), *places], k=8)
    assert any(drill(config, tmp_path, signs, seed))
    assert worlds.made(tmp_path / CONFIG.name) == undisturbed()
