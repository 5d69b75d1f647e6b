"""What was asked of servers and what it cost: one row per attempt, and every answer under the key of its question.

A ledger is one SQLite file with one writer (a run, or a shard of it); others may read it at any time. A run's has a
write-ahead log, whose commits are not forced to the disk one by one (`synchronous=NORMAL`): what was acknowledged
outlives a kill of the process at any moment, and a power cut may take the last seconds, never the file's integrity. A
shard's may be read by other machines, which need a rollback journal and the file system's locks in its place. A ledger
holds no API key, no path of a file and no media: keys are digests, endpoints are a host and a port.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from earwitness.table import RunError, writing

KEYS = 1  # version of what keys are made from; another one asks everything anew
FORMAT = 1
APPLICATION = 0x65617277  # "earw": how SQLite files of this package are told from others
GATHER = 0.02  # seconds that a commit waits for company: nothing beside what a model takes to answer
LOOKUP = 500  # keys in one query
OTHERS = 100  # ledgers of others that are kept open

TABLES = """
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL, outcome TEXT NOT NULL,
    seconds REAL NOT NULL, prompt INTEGER, completion INTEGER, audio INTEGER, cached INTEGER,
    untold INTEGER NOT NULL, usd REAL);
CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, attempt INTEGER NOT NULL REFERENCES attempts (id));
"""


@dataclass(frozen=True)
class Usage:
    """Tokens as a server counts them, None where it does not say. `audio` and `cached` are parts of `prompt`."""

    prompt: int | None = None
    completion: int | None = None
    audio: int | None = None
    cached: int | None = None

    @property
    def told(self) -> bool:
        """Whether the server said what it counts."""
        return self.prompt is not None and self.completion is not None


UNTOLD = Usage()


@dataclass(frozen=True)
class Attempt:
    """One HTTP request and how it ended.

    `outcome` is "answered", or what went wrong. `untold` is the most tokens that it may have used, where the server may
    have worked and did not say; `usd` counts them, too, and is None without a known price.
    """

    model: str
    endpoint: str
    outcome: str
    seconds: float
    usage: Usage = UNTOLD
    untold: int = 0
    usd: float | None = None
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Spent:
    """What a ledger's attempts have cost so far: tokens (those untold at their most) and USD at the prices known."""

    tokens: int = 0
    usd: float = 0.0


def call_key(**parts: Any) -> str:
    """Return the key (40 hex digits) of one answer: a digest of all that it depends on, as JSON values by name."""
    whole = {"keys": KEYS} | {"parts": parts}
    text = json.dumps(whole, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class Ledger:
    """The ledger that this process writes, and those of others, which it only reads. Safe to use from many threads.

    Of the others at most `OTHERS` are read, first those in the same folder, then the latest. Those that are damaged or
    not ledgers are left out, too; `notes` says so. Of a shard, whose ledger is `shared` with other machines, none is
    read that has a write-ahead log in use. Raises RunError when its own file cannot be used.
    """

    def __init__(self, path: Path, others: Iterable[Path] = (), shared: bool = False) -> None:
        self.path = path
        self.notes: list[str] = []
        self._unwanted: Callable[[Mapping[str, Any]], bool] = lambda _: False
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._mine = _create(path, shared)
        self._writer_side = _create(path, shared)
        self._others: dict[Path, sqlite3.Connection] = {}
        for other in self._chosen(set(others) - {path}):
            if shared and _in_use(other):
                self._leave_out(other, RunError("a process of perhaps another machine has it open, or was killed"))
                continue
            try:
                self._others[other] = _open_to_read(other)
            except (sqlite3.Error, RunError) as error:
                self._leave_out(other, error)
        self._reading = threading.Lock()
        self._waiting: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._writer.start()

    def forget(self, unwanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Let some answers be as good as not there, for them to be asked anew: those of others are passed over.

        What they have cost stays.
        """
        self._unwanted = unwanted
        try:
            every = self._mine.execute("SELECT key, answer FROM answers")
            gone = [(key,) for key, text in every if (answer := _object(text)) is not None and unwanted(answer)]
            with self._mine:
                self._mine.executemany("DELETE FROM answers WHERE key = ?", gone)
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    def answered(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what is known of these keys: this ledger's answers, and for the rest those of others."""
        found: dict[str, dict[str, Any]] = {}
        with self._reading:
            try:
                _look_up(self._mine, keys, found)
            except sqlite3.Error as error:
                raise _unusable(self.path, error) from error
            for path, other in list(self._others.items()):
                theirs: dict[str, dict[str, Any]] = {}
                try:
                    _look_up(other, [key for key in keys if key not in found], theirs)
                except sqlite3.Error as error:
                    self._leave_out(path, error)
                    self._others.pop(path).close()
                found |= {key: answer for key, answer in theirs.items() if not self._unwanted(answer)}
        return found

    def record(self, attempt: Attempt, answers: Mapping[str, Mapping[str, Any]]) -> Future[None]:
        """Write an attempt and the answers that it brought; the future is done when they would outlive a kill.

        The first answer of a key stands. The future carries a RunError when the disk does not take it.
        """
        texts = {key: json.dumps(answer, separators=(",", ":"), allow_nan=False) for key, answer in answers.items()}
        entry = _Entry(attempt, texts)
        if self._closed:
            raise RunError(f"{self.path} is closed")
        self._waiting.put(entry)
        return entry.done

    def close(self) -> None:
        """Write what waits and close the files."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(None)
        self._writer.join()
        with self._reading:
            for connection in (self._writer_side, self._mine, *self._others.values()):
                connection.close()

    def _chosen(self, others: set[Path]) -> list[Path]:
        def rank(other: Path) -> tuple[bool, float, Path]:
            changed = other.stat().st_mtime if other.exists() else 0.0
            return other.parent != self.path.parent, -changed, other

        ranked = sorted(others, key=rank)
        if len(ranked) > OTHERS:
            self.notes.append(f"of {len(ranked)} other ledgers the {OTHERS} latest are read")
        return ranked[:OTHERS]

    def _leave_out(self, path: Path, error: Exception) -> None:
        self.notes.append(f"{path} is not read ({error}): what it may have answered is asked again")

    def _write(self) -> None:
        ended = False
        while not ended:
            batch = [self._waiting.get()]
            if batch[0] is not None:
                time.sleep(GATHER)
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._waiting.get_nowait())
            ended = None in batch
            entries = [entry for entry in batch if entry is not None]
            if entries:
                self._commit(entries)

    def _commit(self, entries: list[_Entry]) -> None:
        try:
            with self._writer_side:  # one transaction: all of it, or nothing
                for entry in entries:
                    _insert(self._writer_side, entry)
        except sqlite3.Error as error:
            for entry in entries:
                entry.done.set_exception(_unusable(self.path, error))
        else:
            for entry in entries:
                entry.done.set_result(None)


class _Entry:
    def __init__(self, attempt: Attempt, answers: dict[str, str]) -> None:
        self.attempt, self.answers = attempt, answers
        self.done: Future[None] = Future()


def spent(paths: Iterable[Path]) -> Spent:
    """Return what the attempts in some ledgers cost together. Raises RunError for one that does not read."""
    tokens, usd = 0, 0.0
    for prompt, completion, untold, price in read(
        paths, "SELECT sum(prompt), sum(completion), sum(untold), sum(usd) FROM attempts"
    ):
        tokens += (prompt or 0) + (completion or 0) + (untold or 0)
        usd += price or 0.0
    return Spent(tokens, usd)


def read(paths: Iterable[Path], query: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query over some ledgers, one after the other. Raises RunError for one that does not read."""
    for path in paths:
        try:
            with contextlib.closing(_open_to_read(path)) as connection:
                if not _is_empty(connection):
                    yield from connection.execute(query)
        except sqlite3.Error as error:
            raise _unusable(path, error) from error


def _insert(connection: sqlite3.Connection, entry: _Entry) -> None:
    a, u = entry.attempt, entry.attempt.usage
    tokens = (u.prompt, u.completion, u.audio, u.cached, a.untold)
    row = (a.time, a.model, a.endpoint, a.outcome, a.seconds, *tokens, a.usd)
    at = connection.execute(f"INSERT INTO attempts VALUES (NULL{', ?' * len(row)})", row).lastrowid
    for key, text in entry.answers.items():
        connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, text, at))


def _look_up(connection: sqlite3.Connection, keys: Sequence[str], found: dict[str, dict[str, Any]]) -> None:
    """Add to `found` what a ledger knows of the keys that are not in it yet."""
    wanted = [key for key in keys if key not in found]
    for first in range(0, len(wanted), LOOKUP):
        part = wanted[first : first + LOOKUP]
        marks = ", ".join("?" * len(part))
        for key, text in connection.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part):
            answer = _object(text)
            if answer is not None:
                found[key] = answer


def _object(text: Any) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _create(path: Path, shared: bool) -> sqlite3.Connection:
    """Open a ledger to write, and make it where there is none. Raises RunError for a file that is something else."""
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
        _refuse_others(connection, path)
        connection.execute(f"PRAGMA journal_mode={'DELETE' if shared else 'WAL'}")
        connection.execute("PRAGMA synchronous=NORMAL")
        if _is_empty(connection):
            marks = f"PRAGMA application_id={APPLICATION}; PRAGMA user_version={FORMAT}"
            connection.executescript(f"BEGIN IMMEDIATE; {marks}; {TABLES} COMMIT;")
    except (sqlite3.Error, RunError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, RunError):
            raise
        raise _unusable(path, error) from error
    return connection


def _open_to_read(path: Path, mode: str = "ro") -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=30, check_same_thread=False
    )
    try:
        _refuse_others(connection, path)
    except sqlite3.OperationalError:
        connection.close()
        if mode == "rw":
            raise
        return _open_to_read(path, "rw")  # what a killed shard left half-written is taken back first
    except BaseException:
        connection.close()
        raise
    return connection


def _in_use(path: Path) -> bool:
    log = path.with_name(f"{path.name}-wal")
    return log.is_file() and log.stat().st_size > 0


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether a file was only just created, by its writer or by nobody."""
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _refuse_others(connection: sqlite3.Connection, path: Path) -> None:
    if _is_empty(connection):
        return
    whose = connection.execute("PRAGMA application_id").fetchone()[0]
    form = connection.execute("PRAGMA user_version").fetchone()[0]
    if whose != APPLICATION:
        raise RunError(f"{path} is not a ledger of earwitness: move it out of the run's folder")
    if form != FORMAT:
        raise RunError(f"{path} is a ledger of format {form}, and this version reads format {FORMAT}")


def _unusable(path: Path, error: sqlite3.Error) -> RunError:
    return RunError(
        f"the ledger {path} cannot be used ({error}): free the disk or restore the file; moved away, it is begun anew, "
        "and what it held is asked and paid again"
    )
