"""How the report names and writes things: harmless names, percentages, tables in markdown and plain text."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from earwitness.terminal import clean

Arm = tuple[str, str]  # arm and mode
LONGEST_NAME = 60
DIGITS = 6


def shown(name: str) -> str:
    """Return a name on one line without control characters, at most 60 characters: names come from users' files."""
    flat = " ".join(clean(str(name)).split())
    return flat if len(flat) <= LONGEST_NAME else flat[: LONGEST_NAME - 1] + "\u2026"


def escaped(name: str) -> str:
    """Return a name that markdown shows as it is: no markup, link, table cell or HTML can come of it."""
    text = shown(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$!#]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return re.sub(r"(?i)(https?|ftp|www)(?=:|\.)|@", lambda match: f"{match[0][:-1]}&#{ord(match[0][-1])};", text)


def is_control(name: str, controls: Collection[str] = ()) -> bool:
    """Return whether an arm or pool was told what others are not: it is listed, or says `gold` in its own name."""
    return name in controls or "gold" in re.split(r"[^a-z]+", name.casefold())


def arms_of(cells: Sequence[Mapping[str, Any]]) -> list[Arm]:
    """Return the (arm, mode) pairs in order of appearance."""
    return list(dict.fromkeys((cell["arm"], cell["mode"]) for cell in cells))


def arm_names(summary: Sequence[Mapping[str, Any]], controls: Collection[str] = ()) -> dict[Arm, str]:
    """Return what each arm is called: controls are marked, and the mode is said where an arm answered in several."""
    arms = arms_of(summary)
    names = {}
    for arm, mode in arms:
        several = sum(other == arm for other, _ in arms) > 1
        extra = [mode] * several + ["control"] * is_control(arm, controls)
        names[arm, mode] = shown(arm) + (f" ({', '.join(extra)})" if extra else "")
    return names


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as `41.2 %`, or a dash where it is not known."""
    return "\u2013" if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def p_value(p: float) -> str:
    """Return p as a person writes it."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; the first column is left-aligned, the others right. Cells must be escaped."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of an aligned table for a terminal."""
    table = [list(head), *[list(row) for row in rows]]
    widths = [max(_width(line[i]) for line in table) for i in range(len(head))]
    return [
        "  ".join(_padded(c, w, i > 0) for i, (c, w) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in table
    ]


def _width(text: str) -> int:
    """Return how many columns a terminal needs: wide East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    gap = " " * (width - _width(text))
    return gap + text if right else text + gap


def stable(value: Any) -> Any:
    """Return the value with floats at six significant digits, so that equal runs write equal reports."""
    if isinstance(value, Mapping):
        return {key: stable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [stable(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"the report holds {value}; shares that are not known are None")
        return float(f"{value:.{DIGITS}g}")
    return value
