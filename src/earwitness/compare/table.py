"""A comparison as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earwitness.report.wording import p_value, percent, points, shown, text_table

HEAD = ["", "n", "a", "b", "b - a", "95 %", "only a", "only b", "p", "test", "detectable"]


def table(made: Mapping[str, Any]) -> str:
    """Return every pair's exams, the whole of each before its categories."""
    parts = []
    for entry in made["exams"]:
        rows = [_row("all", entry), *(_row(name, cell) for name, cell in entry["by"].items())]
        lines = [
            f"{shown(entry['exam'])}, version {shown(entry['version'])}, {shown(entry['mode'])}",
            f"  a: {shown(entry['a'])}",
            f"  b: {shown(entry['b'])}",
            "",
            *(f"  {line}" for line in text_table(HEAD, rows)),
            "",
            f"  p adjusted for {len(made['exams'])} comparison{'s' * (len(made['exams']) > 1)} (Holm): "
            f"{p_value(entry['holm'])}",
        ]
        if entry["seeds"] > 1:
            same = "the same sign on each" if entry["same_sign"] else "not the same sign on each"
            lines.append(f"  over {entry['seeds']} training seeds, {same}; the trained models are taken as they are")
        if entry["clips"] < entry["n"]:
            lines.append(f"  {entry['n']} questions about {entry['clips']} clips: less can be detected than is said")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _row(name: str, cell: Mapping[str, Any]) -> list[str]:
    return [
        shown(name),
        str(cell["n"]),
        percent(cell["accuracy_a"]),
        percent(cell["accuracy_b"]),
        points(cell["difference"]),
        f"{100 * cell['low']:+.1f} to {100 * cell['high']:+.1f}",
        str(cell["a_only"]),
        str(cell["b_only"]),
        p_value(cell["p"]),
        cell["test"],
        "-" if cell["detectable"] is None else f"{100 * cell['detectable']:.1f}",
    ]
