"""How fast each way of teaching gets there: a table of a finished run of world-transfer.toml.

python benchmarks/transfer.py runs/world-transfer

Arms are named METHOD-STEPS, or METHOD-STEPS-of-LESSONS. Seconds are those that the training took in that run, beside
another one: compare them with each other only. Who is ahead at equal seconds is read off straight lines between the
points of each method.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from measure import say

ARM = re.compile(r"(?P<method>.+?)-(?P<steps>\d+)(?:-of-(?P<lessons>\d+))?")


@dataclass(frozen=True)
class Point:
    """One arm: how it was taught, how long that took, and its accuracy (means over seeds)."""

    method: str
    steps: int
    lessons: int | None
    seconds: float
    accuracy: dict[str, float]


def points(run: Path) -> list[Point]:
    """Return the trained arms of a run."""
    report = json.loads((run / "report.json").read_text())
    seconds, arms = (json.loads((run / name).read_text()) for name in ("timings.json", "arms.json"))
    found = []
    for arm in dict.fromkeys(cell["arm"] for cell in report["summary"]):
        match = ARM.fullmatch(arm)
        if match:
            took = [seconds[Path(spec["name"]).parent.name] for name, spec in arms.items() if name.split(",")[0] == arm]
            cells = [c for c in report["summary"] if (c["arm"], c["category"]) == (arm, "all")]
            lessons = int(match["lessons"]) if match["lessons"] else None
            accuracy = {cell["exam"]: cell["mean"] for cell in cells}
            found.append(Point(match["method"], int(match["steps"]), lessons, mean(took), accuracy))
    return found


def at(line: list[Point], exam: str, seconds: float) -> float | None:
    """Return a method's accuracy after so many seconds, on straight lines between its points; None beyond them."""
    for a, b in itertools.pairwise(line):
        if a.seconds <= seconds <= b.seconds:
            share = (seconds - a.seconds) / (b.seconds - a.seconds or 1.0)
            return a.accuracy[exam] + share * (b.accuracy[exam] - a.accuracy[exam])
    return None


def summary(found: list[Point]) -> dict[str, Any]:
    """Return the accuracies by method and steps, by lessons, and of every method at the seconds of SFT's points."""
    exams = list(found[0].accuracy)
    whole = [p for p in found if p.lessons is None]
    lines = {m: sorted((p for p in whole if p.method == m), key=lambda p: p.seconds) for m in {p.method for p in whole}}
    first = found[0].method
    return {
        "points": [vars(point) for point in found],
        "at_equal_seconds": [
            {
                "exam": exam,
                "seconds": point.seconds,
                **{method: at(line, exam, point.seconds) for method, line in lines.items()},
            }
            for exam in exams
            for point in lines[first]
        ],
    }


def table(found: list[Point]) -> str:
    """Return the points as a table in Markdown."""
    exams = list(found[0].accuracy)
    lines = [f"| method | steps | lessons | seconds | {' | '.join(exams)} |", "|---" * (4 + len(exams)) + "|"]
    for p in found:
        shares = " | ".join(f"{100 * p.accuracy[exam]:.1f} %" for exam in exams)
        lines.append(f"| {p.method} | {p.steps} | {p.lessons or 'all'} | {p.seconds:.0f} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    found = points(parser.parse_args().run)
    print(table(found))
    say(summary(found))


if __name__ == "__main__":
    main()
