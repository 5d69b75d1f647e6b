"""A score as text for people."""

from __future__ import annotations

from earwitness.exams.exam import Exam
from earwitness.score import Score

_RULES_SHOWN = 8


def table(score: Score, exam: Exam | None = None) -> str:
    """Return a score as lines: the numbers of the whole exam, then those of its tasks."""
    n = score["n"]
    lines = [f"{score['exam']}, version {score['version']}, {n} questions; shares in %"]
    if score["missing"]:
        lines.append(f"INCOMPLETE: {score['missing']} questions have no prediction; this is no score of the exam")
    if score["size"] > n:
        lines.append(f"A PART: the exam has {score['size']} questions; this is no score of the whole exam")
    if score["duplicates"]:
        lines.append(f"{score['duplicates']} rows repeat another word for word, and count once")
    lines += ["", f"  {'':28}{'n':>7}{'official raw':>14}{'official':>10}{'strict':>8}{'95 %':>14}{'unparsed':>10}"]
    lines.append(_line("all", score))
    lines += [_line(task, cell) for task, cell in score["by"].items()]
    rules = [f"{rule} {count}" for rule, count in list(score["rules"].items())[:_RULES_SHOWN]]
    lines += ["", f"  truncated {_share(score['truncated'] / n)}; read by: {', '.join(rules)}"]
    lines += [f"  {name.replace('_', ' ')}: {_share(value)}" for name, value in score.get("measures", {}).items()]
    if exam is not None and exam.why and None in (score["official"], score["official_raw"]):
        lines.append(f"  no official number here: {exam.why}")
    return "\n".join(lines)


def _line(name: str, cell: Score) -> str:
    interval = f"{100 * cell['low']:.1f}-{100 * cell['high']:.1f}"
    return (
        f"  {name[:27]:28}{cell['n']:>7}{_share(cell['official_raw']):>14}{_share(cell['official']):>10}"
        f"{_share(cell['strict']):>8}{interval:>14}{_share(cell['unparsed'] / cell['n']):>10}"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
