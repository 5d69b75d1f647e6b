"""Commands about exams and what leaves a run: score, export."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

from earwitness.cli.common import Commands, command
from earwitness.records import Pool
from earwitness.terminal import clean

FORMS = ("mmau", "mmar", "mmsu", "airbench", "mmau-pro")


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    sub = command(commands, "score", score, "Score a file of predictions on a public benchmark; no model is needed.")
    sub.add_argument("exam", metavar="EXAM", help="mmau-mini, mmar, mmsu, avqa-val, music-avqa, ... (docs/exams.md)")
    sub.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="a .json, .jsonl, .csv or .parquet file")
    sub.add_argument("--data", type=Path, help="the benchmark's annotation file, where the predictions do not carry it")
    sub.add_argument("--field", help="the column that holds the predictions (default: found by its name)")
    sub.add_argument("--partial", action="store_true", help="score a file that does not answer all, and mark it so")
    sub.add_argument("--json", action="store_true", help="one JSON object on the last line")
    sub = command(commands, "export", export, "Write a run's replies or lessons as files that other tools read.")
    sub.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    form = sub.add_mutually_exclusive_group(required=True)
    form.add_argument("--format", choices=[*FORMS, "lmms-eval"], help="replies to a benchmark, for its official script")
    form.add_argument("--to", choices=["messages", "sharegpt", "parquet"], help="lessons, for other trainers")
    sub.add_argument("--pool", default="verified", choices=get_args(Pool), help="which lessons (default: verified)")
    sub.add_argument("--out", type=Path, help="the folder to write (default: export in the run's folder)")
    sub.add_argument("--partial", action="store_true", help="write replies to a part of a benchmark's questions, too")


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


def export(arguments: argparse.Namespace) -> int:
    """`earwitness export`."""
    a = arguments
    out = a.out or a.run / "export"
    if a.to is not None:
        from earwitness.export.lessons import export_lessons

        written = export_lessons(a.run, a.to, out, a.pool)
    elif a.format == "lmms-eval":
        from earwitness.export.lmms_eval import export_tasks

        written = export_tasks(a.run, out)
    else:
        from earwitness.export.replies import export_replies

        written = export_replies(a.run, a.format, out, a.partial)
    for path in written:
        print(f"wrote {clean(str(path))}")
    return 0
