"""What a newcomer types first: it answers fast, without loading what it does not need, and says what to do next."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import worlds
from earwitness import __version__
from earwitness.cli import main

HEAVY = {"torch", "transformers", "peft", "matplotlib", "av"}
SAYS_WHAT_IT_LOADED = """
import sys
from earwitness.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
print("loaded", *sorted({name.split(".")[0] for name in sys.modules}))
sys.exit(code)
"""


def light(*arguments, folder) -> tuple[int, str, set[str]]:
    """Run a command in a process of its own and return its exit code, what it said, and what it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", SAYS_WHAT_IT_LOADED, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    said, _, loaded = done.stdout.rpartition("loaded")
    return done.returncode, said + done.stderr, set(loaded.split())


@pytest.fixture
def run(tmp_path):
    """A run's folder as it is before its first row."""
    folder = tmp_path / "runs" / "small"
    worlds.save(worlds.world_config(), folder / "config.toml")
    (folder / "sample-0123456789ab").mkdir()
    (folder / "sample-0123456789ab" / "rows.jsonl").touch()
    return folder


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--help"], 0, "earwitness demo"),
        (["--version"], 0, f"earwitness {__version__}"),
        (["run", "--help"], 0, "--rehearse"),
        (["check", "world.toml"], 0, "what this run would do"),
        (["check", "sightsound.toml"], 2, "no AVQA annotations at data/avqa/train_qa.json"),
        (["show", "runs/small"], 0, "0 rows, 0 failed, under way"),
        (["show", "runs/small", "world/train/1"], 2, "has no rows yet"),
        (["run", "nothing.toml"], 2, "no configuration at nothing.toml"),
        (["run", "world.toml", "sft.stepz=3"], 2, "did you mean 'steps'?"),
        (["run", "world.toml", "--until", "lunch"], 2, "there is no stage 'lunch'"),
        (["run", "world.toml", "--shard", "x"], 2, "write I/S"),
        (["detectable", "1000"], 0, "4.0 points"),
        (["compare", "a", "b"], 2, "a is neither a file of predictions, nor a run's folder"),
        (["exam", "nothing", "--on", "world"], 2, "nothing is neither world:NAME"),
        (["exam", "world:student", "--on", "mmau-mimi"], 2, "did you mean 'mmau-mini'?"),
        (["dance"], 2, "invalid choice: 'dance'"),
        (["run", "world.toml", "--fast"], 2, "unrecognized arguments: --fast"),
    ],
)
def test_a_light_command_loads_no_library_that_computes(arguments, code, words, run):
    ended, said, loaded = light(*arguments, folder=run.parents[1])
    assert words in said and ended == code, said
    assert "Traceback" not in said
    if not {"--until", "--shard"} & set(arguments):  # these are read by what drives a run
        assert not HEAVY & loaded


def test_the_quick_demonstration_shows_a_claim_and_its_verdict(tmp_path, capsys):
    assert main(["demo", "--quick", "--root", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    claims = next(line for line in said.splitlines() if line.strip().startswith("the checker"))
    verdict = next(line for line in said.splitlines() if line.strip().startswith("the verdict"))
    truth = next(line for line in said.splitlines() if line.strip().startswith("what sounded"))
    unheard = [c.split(":")[0].split()[-1] for c in claims.split(",") if "NOT HEARD" in c]
    assert unheard and all(name in verdict and name not in truth for name in unheard)
    assert "nothing trained" in said
    assert not (tmp_path / "runs").exists()
