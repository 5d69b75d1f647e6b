"""Commands about differences: compare, detectable."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from earwitness.cli.common import Commands, command
from earwitness.config import ConfigError
from earwitness.terminal import clean


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    sub = command(commands, "compare", compare, "Say whether systems differ on the same questions; no model is needed.")
    sub.add_argument(
        "systems",
        nargs="+",
        metavar="SYSTEM",
        help="RUN, RUN/ARM, or a file of predictions; the first is what others are compared with",
    )
    sub.add_argument("--on", default="", metavar="EXAMS", help="only these exams; for files of predictions the one")
    sub.add_argument("--data", type=Path, help="the benchmark's annotation file, where predictions do not carry it")
    sub.add_argument("--field", help="the column that holds the predictions (default: found by its name)")
    sub.add_argument("--json", action="store_true", help="one JSON object on the last line")
    sub = command(commands, "detectable", detectable, "Say how big a difference must be for N questions to show it.")
    sub.add_argument("questions", type=int, metavar="N", help="questions, each about a clip of its own")
    sub.add_argument(
        "--discordance", type=float, default=0.2, help="the share that only one of the two has right (default: 0.2)"
    )


def compare(arguments: argparse.Namespace) -> int:
    """`earwitness compare`."""
    from earwitness.compare import compare as compare_systems
    from earwitness.compare.table import table

    a = arguments
    exams = [name.strip() for name in a.on.split(",") if name.strip()]
    made = compare_systems(a.systems, exams, a.data, a.field, lambda told: print(clean(told), file=sys.stderr))
    print(json.dumps(made, ensure_ascii=False) if a.json else table(made))
    return 0


def detectable(arguments: argparse.Namespace) -> int:
    """`earwitness detectable`."""
    from earwitness.statistics.differences import detectable_difference

    n, share = arguments.questions, arguments.discordance
    if n < 1 or not 0 < share <= 1:
        raise ConfigError("detectable takes a number of questions above 0, and a share above 0 and at most 1")
    found = 100 * detectable_difference(n, share)
    print(
        f"{n} questions of which one system alone has {share:.0%} right: a true difference of {found:.1f} points is "
        "found (p < 0.05) four times in five"
    )
    return 0
