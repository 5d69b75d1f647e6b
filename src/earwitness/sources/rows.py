"""Rows of a table as its authors wrote them: JSON, JSON lines, CSV, TSV, Parquet, or a Hugging Face data set."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earwitness.sources.problems import RowError, SourceError, shown

Row = dict[str, Any]
HUB = "hf:"
_TABLES = ".jsonl, .json, .csv, .tsv and .parquet"
_BLOCK = 256  # rows of a Parquet file that are in memory at once


@dataclass(frozen=True)
class Table:
    """Rows with columns. `name` begins the names of clips, media lie relative to `folder` (None: nowhere).

    `texts`: every value is text, as in a CSV file, where a number and its text are the same.
    """

    name: str
    origin: str
    folder: Path | None
    columns: tuple[str, ...]
    rows: Iterable[Row]
    texts: bool = False


def open_table(place: str) -> Table:
    """Open a file by its ending, or `hf:NAME`, `hf:NAME:SPLIT`, `hf:NAME:CONFIGURATION:SPLIT`. Raises SourceError."""
    return _hub(place.removeprefix(HUB)) if place.startswith(HUB) else _file(Path(place).expanduser())


def read_rows(path: Path) -> list[Row]:
    """Return all rows of a file in memory; whatever it is called, nothing is fetched. Raises SourceError."""
    return list(_file(path).rows)


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, which have the keys of the first, as Parquet. Raises SourceError where pyarrow is not installed."""
    _require("pyarrow", f"{path} is Parquet")
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def _file(path: Path) -> Table:
    readers = {".jsonl": _json, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise SourceError(f"{path} is no table that can be read: name a file in {_TABLES}, or hf:NAME for a data set")
    try:
        table = readers[path.suffix](path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}); check the path") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    if not table.columns:
        raise SourceError(f"{path} holds no rows")
    return table


def listed(value: Any, name: str) -> list[Any]:
    """Return a list that may be written as text (`["a", "b"]`), as files that went through a table have it.

    Raises RowError.
    """
    if isinstance(value, str):
        for reader in (json.loads, ast.literal_eval):
            try:
                value = reader(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if not isinstance(value, list | tuple):
        raise RowError(f"{name} is {shown(value)}, not a list")
    return list(value)


def _json(path: Path) -> Table:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = list(enumerate(_parsed(text, str(path)), 1))
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) > 1 and lines[0][1].strip() == "{":
            raise SourceError(f"{path} is one JSON object; write a list of rows, or one row a line")
        rows = [(number, _parsed(line, f"{path}:{number}")) for number, line in lines]
    for number, row in rows:
        if not isinstance(row, dict):
            raise SourceError(f"{path}:{number}: {shown(row)} is not an object; write a row as {{...}}")
    columns = dict.fromkeys(key for _, row in rows for key in row)
    return Table(path.stem, str(path), path.parent, tuple(columns), [row for _, row in rows])


def _parsed(text: str, origin: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)  # NaN is how pandas writes that nothing is there
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{origin} is not valid JSON ({error}); fetch or write it again") from None


def _csv(path: Path) -> Table:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True, delimiter="\t" if path.suffix == ".tsv" else ",")
        try:
            rows: list[Row] = list(reader)
        except csv.Error as error:
            raise SourceError(f"{path}:{reader.line_num}: not valid CSV ({error})") from None
    columns = tuple(reader.fieldnames or ())
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise SourceError(f"{path}: two columns are called {twice!r}; rename one")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise SourceError(
                f"{path}: row {number} has not as many columns as the first line; quote what holds commas"
            )
    return Table(path.stem, str(path), path.parent, columns if rows else (), rows, texts=True)


def _parquet(path: Path) -> Table:
    _require("pyarrow", f"{path} is Parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{path} is no Parquet file ({str(error).splitlines()[0]})") from None

    def rows() -> Iterator[Row]:
        try:
            for batch in file.iter_batches(_BLOCK):
                yield from map(_told, batch.to_pylist())
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise SourceError(f"{path} is damaged ({str(error).splitlines()[0]}); fetch it again") from None

    columns = tuple(file.schema_arrow.names) if file.metadata.num_rows else ()
    return Table(path.stem, str(path), path.parent, columns, rows())


def _hub(place: str) -> Table:
    """Open a data set of the hub, or a folder that `datasets` can load. No code of a data set is ever run."""
    _require("datasets", f"{HUB}{place} is a Hugging Face data set")
    import datasets

    name, configuration, split = _hub_parts(place)
    folder = Path(name).expanduser()
    local = folder.is_dir()
    saved = local and any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))
    try:
        loaded = (
            datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(name, configuration, split=split)
        )
    except Exception as error:  # each of its loaders raises its own
        cause = error.__cause__ or error  # what it wraps is what is wrong
        told = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise SourceError(f"{HUB}{place} cannot be loaded ({type(cause).__name__}: {told})") from None
    if isinstance(loaded, datasets.DatasetDict):
        chosen = next(iter(loaded)) if split is None and len(loaded) == 1 else split
        if chosen not in loaded:
            raise SourceError(f"{HUB}{name} has the splits {', '.join(map(str, loaded))}: name one, {HUB}NAME:SPLIT")
        loaded = loaded[chosen]
    for column, feature in loaded.features.items():
        if isinstance(feature, datasets.Audio | datasets.Video | datasets.Image):
            loaded = loaded.cast_column(column, type(feature)(decode=False))
    called = "-".join(part for part in (folder.name, configuration, split) if part)
    columns = tuple(loaded.column_names) if len(loaded) else ()
    return Table(called, HUB + place, folder if local else None, columns, map(_told, loaded))


def _hub_parts(place: str) -> tuple[str, str | None, str | None]:
    name, *rest = place.split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise SourceError(f"{HUB}{place}: write {HUB}NAME, {HUB}NAME:SPLIT or {HUB}NAME:CONFIGURATION:SPLIT")
    return name, rest[0] if len(rest) == 2 else None, rest[-1] if rest else None


def _require(module: str, what: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise SourceError(f"{what}, which needs {module}: `pip install 'earwitness[data]'`, or save it as JSON lines")


def _told(row: Row) -> Row:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
