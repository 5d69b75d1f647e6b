"""What the fields of an exam's row must be. How its file is read is the same for exams and data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from earwitness.sources.problems import RowError, folded, shown
from earwitness.sources.rows import Row, listed, read_rows

__all__ = ["Row", "RowError", "choices", "gold", "identity", "listed", "plain", "read_rows", "tags", "text"]


def text(row: Row, *keys: str) -> str:
    """Return the text of the first of these keys that a row has, stripped. Raises RowError where it is none."""
    key = next((k for k in keys if row.get(k) is not None), None)
    if key is None:
        raise RowError(f"{' or '.join(map(repr, keys))} is missing; it has {', '.join(map(str, row)) or 'nothing'}")
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"{key} is {shown(value)}, not text")
    if not str(value).strip():
        raise RowError(f"{key} is empty")
    return plain(value)


def plain(value: str | float) -> str:
    """Return a value as text; whole numbers that a table made fractions (12.0) are whole again."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def identity(row: Row, *keys: str) -> str | None:
    """Return the first of these keys that can be an id, as text, or None."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
            return plain(value)
    return None


def tags(row: Row, **keys: str) -> dict[str, str]:
    """Return tags (name=key) from a row; a list, which some rows hold by mistake, is its entries with commas."""
    found: dict[str, str] = {}
    for tag, key in keys.items():
        value = row.get(key)
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if value is not None and str(value).strip():
            found[tag] = str(value).strip()
    return found


def choices(row: Row, key: str = "choices") -> tuple[str, ...] | None:
    """Return a row's choices, stripped, in their order and with their repetitions; None where there are none."""
    if row.get(key) in (None, "", [], ()):
        return None
    found = listed(row[key], key)
    if not all(isinstance(c, str | int | float) and not isinstance(c, bool) for c in found):
        raise RowError(f"{key} holds {shown(next(c for c in found if not isinstance(c, str)))}, which is not text")
    if len(found) == 1:
        raise RowError(f"{key} has one entry: there is nothing to choose")
    return tuple(map(plain, found)) or None


def gold(value: Any, options: Sequence[str] | None) -> str | None:
    """Return the text of the right answer: given as text, or as the index of a choice. None where it is withheld.

    A text that differs from a choice by case or white space alone is that choice; what is no choice stays as it is,
    and no reply can be right.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(f"the answer is {shown(value)}; it must be a text or the index of a choice")
    if isinstance(value, int):
        if options is None or not 0 <= value < len(options):
            raise RowError(f"the answer is index {value} of {len(options or ())} choices")
        return options[value]
    exact = value.strip()
    meant = {folded(option): option for option in reversed(options or ())}
    return exact if exact in (options or ()) else meant.get(folded(exact), exact)
