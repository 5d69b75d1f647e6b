"""Commands about exams: score."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from earwitness.cli.common import Commands, command
from earwitness.terminal import clean


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    sub = command(commands, "score", score, "Score a file of predictions on a public benchmark; no model is needed.")
    sub.add_argument("exam", metavar="EXAM", help="mmau-mini, mmar, mmsu, avqa-val, music-avqa, ... (docs/exams.md)")
    sub.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="a .json, .jsonl, .csv or .parquet file")
    sub.add_argument("--data", type=Path, help="the benchmark's annotation file, where the predictions do not carry it")
    sub.add_argument("--field", help="the column that holds the predictions (default: found by its name)")
    sub.add_argument("--partial", action="store_true", help="score a file that does not answer all, and mark it so")
    sub.add_argument("--json", action="store_true", help="one JSON object on the last line")


def score(arguments: argparse.Namespace) -> int:
    """`earwitness score`."""
    from earwitness.exams import EXAMS
    from earwitness.score import score_file
    from earwitness.score.table import table

    a = arguments
    found = score_file(
        a.exam, a.predictions, a.data, a.field, a.partial, lambda told: print(clean(told), file=sys.stderr)
    )
    if a.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(clean(table(found, EXAMS.get(a.exam))))
    return 0
