"""Rows of a file as their authors wrote them: JSON, JSON lines, CSV or Parquet; and what a row's fields must be."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from earwitness.sources.problems import SourceError, shown

Row = dict[str, Any]


class RowError(Exception):
    """What is wrong with one row; whoever reads the file adds which."""


def read_rows(path: Path | str) -> list[Row]:
    """Return a file's rows by its ending: .json (a list), .jsonl, .csv or .parquet. Raises SourceError."""
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            rows = _parquet(path)
        elif path.suffix == ".csv":
            rows = _csv(path)
        else:
            rows = _json(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}); check the path") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    if not rows:
        raise SourceError(f"{path} holds no rows")
    return rows


def _parquet(path: Path) -> list[Row]:
    _need_pyarrow(path)
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{path} is no Parquet file ({str(error).splitlines()[0]})") from None
    return [{key: _no_nan(value) for key, value in row.items()} for row in rows]


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, which have the keys of the first, as Parquet. Raises SourceError where pyarrow is not installed."""
    _need_pyarrow(path)
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def _need_pyarrow(path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise SourceError(f"{path} is Parquet, which needs pyarrow: `pip install 'earwitness[data]'`, or use JSON")


def _no_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _csv(path: Path) -> list[Row]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            rows: list[Row] = list(reader)
        except csv.Error as error:
            raise SourceError(f"{path}:{reader.line_num}: not valid CSV ({error})") from None
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise SourceError(
                f"{path}: row {number} has not as many columns as the first line; quote what holds commas"
            )
    return rows


def _json(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        value = _parsed(text, str(path))
        rows = [(number, row) for number, row in enumerate(value, 1)]
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) > 1 and lines[0][1].strip() == "{":
            raise SourceError(f"{path} is one JSON object; write a list of rows, or one row a line")
        rows = [(number, _parsed(line, f"{path}:{number}")) for number, line in lines]
    for number, row in rows:
        if not isinstance(row, dict):
            raise SourceError(f"{path}: row {number} is {shown(row)}, not an object")
    return [row for _, row in rows]


def _parsed(text: str, origin: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)  # NaN is how pandas writes that nothing is there
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{origin} is not valid JSON ({error}); fetch or write it again") from None


# --- fields -----------------------------------------------------------------------------------------------------------


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


def listed(value: Any, name: str) -> list[Any]:
    """Return a list that may be written as text (`["a", "b"]`), as files that went through a table have it."""
    if isinstance(value, str):
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if not isinstance(value, list | tuple):
        raise RowError(f"{name} is {shown(value)}, not a list")
    return list(value)


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
    folded = {" ".join(c.split()).casefold(): c for c in reversed(options or ())}
    exact = value.strip()
    return exact if exact in (options or ()) else folded.get(" ".join(value.split()).casefold(), exact)
