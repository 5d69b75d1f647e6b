"""One stage's rows on disk: what is there, what is owed, and how an interrupted stage goes on.

A table's folder holds one row per question (`rows.jsonl`) and, written last, `done.json`. Rows hold no times and no
host names, so that an interrupted and resumed stage leaves the same bytes as an undisturbed one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, Protocol

from earwitness.disk import (
    DamagedTable,
    RunError,
    read_object,
    sync_folder,
    write_bytes,
    write_json,
    write_once,
    writing,
)
from earwitness.records import Question, Record, Row
from earwitness.terminal import Progress

__all__ = [
    "BLOCK",
    "EARLIER",
    "DamagedTable",
    "Failed",
    "Made",
    "Make",
    "Noted",
    "Over",
    "RunError",
    "StaleRow",
    "Table",
    "read_object",
    "sync_folder",
    "write_bytes",
    "write_json",
    "write_once",
    "writing",
]

BLOCK = 32
"""Questions per block: a block is made, written and repeated as a whole."""

EARLIER = "failed in "
"""How the error of a row begins whose question failed in an earlier stage."""


class StaleRow(RunError):  # noqa: N818 - named for what it is
    """Rows were made from other inputs than those there now: those of the questions `ids`."""

    def __init__(self, message: str, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ids = list(ids)


@dataclass(frozen=True)
class Failed:
    """What a stage's function returns for one question in place of its records: why there are none."""

    why: str


@dataclass(frozen=True)
class Noted:
    """What a stage's function returns for one question whose row is to say something beside its records."""

    records: Sequence[Record]
    note: str


Made = Sequence[Record] | Noted | Failed
_Key = tuple[str, str]  # a row's id and what it was made from
Make = Callable[[list[Question]], Sequence[Made]]


class Over(Protocol):
    """Applies a function to items and yields the results in order: `map`, or `Workers.map`."""

    def __call__(self, function: Make, items: list[list[Question]], /) -> Iterable[Sequence[Made]]:
        """Return the results, in the order of the items."""


class Table:
    """The rows of one stage under one set of settings. Get one from `Run.table`.

    `part` is the suffix of a shard's own files. Rows in the files of other parts are taken over, not made again: one by
    one where their `done.json`, which is published last and in one piece, vouches for them; of a part that was not
    finished, blocks that are there whole.
    """

    def __init__(self, folder: Path, stage: str, part: str = "", writable: bool = True) -> None:
        self.folder, self.stage = folder, stage
        self.path, self._done = folder / f"rows{part}.jsonl", folder / f"done{part}.json"
        self._rows: dict[str, Row] = {}
        if writable:
            self._open()
        elif self.path.exists():
            self._rows, _ = _load(self.path)
        self._finished: dict[_Key, Row] = {}
        self._unfinished: dict[_Key, Row] = {}
        cut = part[part.find("-of-") :] if part else None  # shards of one cut make other blocks, perhaps at this moment
        for path in sorted(folder.glob("rows*.jsonl")):
            if path != self.path and not (cut and path.stem.endswith(cut)):
                self._look_at(path)

    def _open(self) -> None:
        with writing(self.path), self.path.open("ab") as file:
            self._rows, size = _load(self.path)
            if size < file.tell():
                file.truncate(size)  # a torn last line
            os.fsync(file.fileno())
            sync_folder(self.folder)
            done = read_object(self._done)
            if done and done.get("rows", 0) > len(self._rows):
                self._done.unlink()  # rows were lost since: no longer a promise that each block is whole

    def _look_at(self, path: Path) -> None:
        rows, _ = _load(path)
        done = read_object(path.with_name(path.name.replace("rows", "done", 1)).with_suffix(".json")) or {}
        vouched = done.get("rows", 0) if done.get("rows", 0) <= len(rows) else 0
        for number, row in enumerate(rows.values()):
            found, key = self._finished if number < vouched else self._unfinished, (row.id, row.source)
            if row.error is None or key not in found:
                found[key] = row

    def fill(
        self,
        questions: Sequence[Question],
        sources: Mapping[str, str],
        make: Make,
        *,
        block: int = BLOCK,
        among: Sequence[Question] | None = None,
        over: Over = map,
        progress: Callable[[Progress], None] | None = None,
        redo: Literal["stale", "failed"] | None = None,
    ) -> dict[str, Row]:
        """Make what is owed of these questions, and return their rows by id, in the questions' order.

        Blocks are fixed by position in `among` (which has all the questions, and perhaps others), or in `questions`;
        each is appended in one write, in order, and a block that a crash left in parts is repeated whole. `sources`
        has, by question id, the digest of all that its row is made from.
        `make` gets the owed questions of one block and returns records, or Failed, for each; what it raises travels.
        Raises StaleRow when a row was made from something else (`redo="stale"` makes such rows again, `"failed"`
        those with an error), RunError when the disk does not take a block.
        """
        blocks = self._blocks(questions, block, questions if among is None else among)
        if redo is not None:
            again = self._stale(questions, sources) if redo == "stale" else self._failed(questions)
            self._drop(again)
        self._drop(self._loose(blocks))
        self._refuse(questions, self._stale(questions, sources))
        rest = ([q for q in part if q.id not in self._rows] for part in blocks)
        owed = [part for part in rest if part]
        if redo != "stale":
            self._refuse(questions, self._stale_elsewhere(owed, sources))
        taken = [self._taken(part, sources, redo) for part in owed]
        self._make(owed, taken, sources, make, over, progress)
        self._finish()
        return {q.id: self._rows[q.id] for q in questions}

    def read(self, ids: Iterable[str], sources: Mapping[str, str] | None = None) -> dict[str, Row]:
        """Return the rows of these questions, by id. Raises RunError naming the stage when one is missing.

        With `sources`, raises StaleRow like `fill`.
        """
        wanted = list(ids)
        every = self._every()
        missing = [i for i in wanted if i not in every]
        if missing:
            raise RunError(
                f"stage {self.stage} has no row for {missing[0]!r} ({len(missing)} of {len(wanted)} questions are "
                f"missing in {self.folder}): run the stage first"
            )
        if sources is not None:
            self._refuse(wanted, [i for i in wanted if every[i].source != sources[i]])
        return {i: every[i] for i in wanted}

    def rows(self) -> list[Row]:
        """Return every row that there is, those of other parts first."""
        return list(self._every().values())

    def _every(self) -> dict[str, Row]:
        elsewhere = [*self._unfinished.values(), *self._finished.values()]
        return {row.id: row for row in elsewhere} | self._rows

    def _blocks(self, questions: Sequence[Question], block: int, among: Sequence[Question]) -> list[list[Question]]:
        seen: set[str] = set()
        for question in questions:
            if question.id in seen:
                raise RunError(f"stage {self.stage}: two questions have the id {question.id!r}; ids must be unique")
            seen.add(question.id)
        place = {question.id: number // block for number, question in enumerate(among)}
        return [list(part) for _, part in groupby(questions, lambda q: place[q.id])]

    def _stale(self, questions: Sequence[Question], sources: Mapping[str, str]) -> list[str]:
        return [q.id for q in questions if q.id in self._rows and self._rows[q.id].source != sources[q.id]]

    def _stale_elsewhere(self, owed: list[list[Question]], sources: Mapping[str, str]) -> list[str]:
        """Rows of other parts that would have been taken over, had nothing changed since."""
        elsewhere = self._finished.keys() | self._unfinished.keys()
        known = {row_id for row_id, _ in elsewhere}
        return [q.id for part in owed for q in part if q.id in known and (q.id, sources[q.id]) not in elsewhere]

    def _taken(
        self, part: list[Question], sources: Mapping[str, str], redo: Literal["stale", "failed"] | None
    ) -> dict[str, Row]:
        """Return the rows of a block's owed questions that other parts have made, by id."""
        keys = [(q.id, sources[q.id]) for q in part]
        good = {key: row for key in keys if (row := self._finished.get(key)) and (redo != "failed" or not row.error)}
        rest = {key: row for key in keys if key not in good and (row := self._unfinished.get(key))}
        whole = len(good) + len(rest) == len(part) and (redo != "failed" or not any(row.error for row in rest.values()))
        return {row.id: row for row in (good | rest if whole else good).values()}

    def _failed(self, questions: Sequence[Question]) -> list[str]:
        return [q.id for q in questions if q.id in self._rows and self._rows[q.id].error is not None]

    def _refuse(self, asked: Sequence[Any], stale: list[str]) -> None:
        if stale:
            raise StaleRow(
                f"stage {self.stage}: row {stale[0]!r} in {self.folder} was made from other inputs than those there "
                f"now ({len(stale)} such rows of {len(asked)}); put the inputs back, or make these rows again with "
                "--redo stale",
                stale,
            )

    def _covered(self) -> set[str]:
        done = read_object(self._done)
        return set(islice(self._rows, done.get("rows", 0))) if done else set()

    def _loose(self, blocks: list[list[Question]]) -> list[str]:
        """Rows of blocks that a crash left in parts: not all there, and not vouched for by done.json."""
        covered = self._covered()
        parts = [part for part in blocks if any(q.id not in self._rows for q in part)]
        return [q.id for part in parts for q in part if q.id in self._rows and q.id not in covered]

    def _drop(self, ids: list[str]) -> None:
        if not ids:
            return
        gone, covered = set(ids), self._covered()
        with writing(self.path):
            if covered & gone:  # promise less before there is less: a crash in between must not leave a false promise
                self._write_done([self._rows[i] for i in covered - gone])
            lines = self.path.read_bytes().split(b"\n")[:-1]
            keep = [line + b"\n" for line, i in zip(lines, self._rows, strict=True) if i not in gone]
            if gone.isdisjoint(islice(self._rows, len(keep))):
                os.truncate(self.path, sum(map(len, keep)))
            else:
                write_bytes(self.path, b"".join(keep))
        self._rows = {i: row for i, row in self._rows.items() if i not in gone}

    def _make(
        self,
        owed: list[list[Question]],
        taken: list[dict[str, Row]],
        sources: Mapping[str, str],
        make: Make,
        over: Over,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        start, done, failed, total = time.monotonic(), 0, 0, sum(map(len, owed))
        report = progress or (lambda _: None)
        report(Progress(self.stage, 0, total, 0, 0.0))
        rests = [[q for q in part if q.id not in there] for part, there in zip(owed, taken, strict=True)]
        results = iter(over(make, [rest for rest in rests if rest]))
        try:
            for part, there, rest in zip(owed, taken, rests, strict=True):
                made = self._lines(rest, next(results, ()), sources) if rest else {}
                lines = [made.get(q.id) or _written(there[q.id]) for q in part]
                rows = [_parse(line, self.stage) for line in lines]
                self._append(b"".join(lines))
                self._rows.update((row.id, row) for row in rows)
                done, failed = done + len(rows), failed + sum(row.error is not None for row in rows)
                report(Progress(self.stage, done, total, failed, time.monotonic() - start))
        finally:
            getattr(results, "close", lambda: None)()  # a worker pool's iterator cancels what is under way

    def _lines(self, part: list[Question], made: Sequence[Made], sources: Mapping[str, str]) -> dict[str, bytes]:
        if len(made) != len(part):
            raise RunError(f"stage {self.stage} made {len(made)} results for a block of {len(part)} questions")
        lines = {}
        for question, result in zip(part, made, strict=True):
            row: dict[str, Any] = {"id": question.id, "from": sources[question.id], "out": []}
            if isinstance(result, Failed):
                row["error"] = result.why
            else:
                if isinstance(result, Noted):
                    row["note"], result = result.note, result.records
                row["out"] = [record.model_dump(mode="json") for record in result]
            try:
                lines[question.id] = _line(row)
            except ValueError as error:
                raise RunError(f"stage {self.stage}, question {question.id!r}: not a JSON value: {error}") from None
        return lines

    def _append(self, data: bytes) -> None:
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                rest = memoryview(data)
                while rest:  # one write; a second one only where the disk took a part
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(start)
                raise

    def _finish(self) -> None:
        with writing(self.path):
            self._write_done(self._rows.values())

    def _write_done(self, rows: Iterable[Row]) -> None:
        errors = [row.error is not None for row in rows]
        facts = {"rows": len(errors), "failed": sum(errors)}
        if read_object(self._done) != facts:
            write_json(self._done, facts)


def _line(row: dict[str, Any]) -> bytes:
    # A lone surrogate (an undecodable file name in an error) is written as its JSON escape.
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def _written(row: Row) -> bytes:
    return _line({k: v for k, v in row.model_dump(by_alias=True).items() if v is not None})


def _load(path: Path) -> tuple[dict[str, Row], int]:
    """Return a file's rows by id, in its order, and the bytes of its whole lines (a torn last one is left out)."""
    rows: dict[str, Row] = {}
    size = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            row = _parse(line, f"{path}, line {number}")
            if row.id in rows:
                raise DamagedTable(f"{path}, line {number}: a second row for {row.id!r}; delete one of the two lines")
            rows[row.id] = row
            size += len(line)
    return rows, size


def _parse(line: bytes, place: str) -> Row:
    # Without validation by pydantic: a table of 200,000 rows is to open in seconds.
    try:
        value = json.loads(line)
        row_id, source, out = value.pop("id"), value.pop("from"), value.pop("out")
        error, note = value.pop("error", None), value.pop("note", None)
        whole = isinstance(row_id, str) and isinstance(source, str) and isinstance(out, list) and not value
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise DamagedTable(f"{place}: not a row: {line[:80]!r}; delete this line, and its question is made again")
    return Row.model_construct(id=row_id, source=source, out=out, error=error, note=note)
