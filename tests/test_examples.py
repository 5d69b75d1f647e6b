"""The examples run as they stand, only smaller."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALLER = [
    "questions.limit=8",
    "exams.limit=8",
    "sft.steps=2",
    "sft.batch=2",
    "grpo.steps=1",
    "grpo.batch=2",
    "grpo.group=2",
    "grpo.filter_samples=0",
    "train.parallel=1",
    'arms={base=[], label=[{stage="sft", lessons="labels"}, {stage="grpo", prompts="labels"}]}',
]


def test_a_run_from_python(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "run_world.py"), "my runs", *SMALLER],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "base → label" in done.stdout and "world/train/0\n" in done.stdout
    assert (tmp_path / "my runs" / "example" / "report.md").is_file()


def test_an_exam_of_ones_own():
    done = subprocess.run([sys.executable, str(EXAMPLES / "own_exam.py")], capture_output=True, text=True, check=True)
    whole, north, south = (
        line.split() for line in done.stdout.splitlines() if line.startswith(("  all", "  north", "  s"))
    )
    assert whole[:5] == ["all", "2", "0.00", "50.00", "50.00"]  # the raw text is not the choice; read, it is
    assert (north[4], south[4]) == ("100.00", "0.00")
