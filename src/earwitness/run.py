"""A run on disk: one folder, one driver at a time, and a folder in it for everything that a stage has made.

`ROOT/NAME/STAGE-<hash of its settings>/` holds a data stage's table, `ROOT/NAME/checkpoints/STAGE-<hash>/` what a
training stage leaves. Each holds its settings in words (`settings.json`) and, written last, `done.json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self
from weakref import WeakValueDictionary

from earwitness.config import digest
from earwitness.table import (
    BLOCK,
    DamagedTable,
    Failed,
    Made,
    RunError,
    StaleRow,
    Table,
    read_object,
    write_bytes,
    write_json,
    write_once,
    writing,
)

__all__ = [
    "ARMS",
    "BLOCK",
    "DamagedTable",
    "Digests",
    "Failed",
    "Made",
    "Run",
    "RunError",
    "RunLocked",
    "StaleRow",
    "Table",
    "examinee_key",
    "examinees",
    "read_object",
    "row_source",
    "write_json",
]


ARMS = "arms.json"  # in a run's folder: which model stands behind each arm
CUT = "shards.json"  # in a run's folder: how its questions are cut into shards, until a driver takes over their rows
DRIVER = "lock.driver"


def examinees(path: Path) -> dict[str, str]:
    """Return the arms of a run's folder by the checkpoint (or the model) that answers for them."""
    names: dict[str, str] = {}
    for arm, spec in (read_object(path / ARMS) or {}).items():
        place = Path(spec["adapter"] or spec["name"])
        key = place.parent.name if place.name == "final" else place.name
        names[key] = f"{names[key]}, {arm}" if key in names else arm
    return names


def examinee_key(settings: dict[str, Any]) -> str:
    """Return which checkpoint or model a table of answers is of, by the table's settings."""
    examinee = settings["examinee"]
    return Path(examinee["name"]).name if isinstance(examinee, dict) else str(examinee)


class RunLocked(RunError):  # noqa: N818 - named for what it is
    """Another process drives this run."""


def row_source(*parts: Any) -> str:
    """Return the digest (32 hex digits) of all that a row is made from: any JSON values, in this order."""
    return digest(parts, 32)


class Digests:
    """The sha256 of files, remembered by path, size and time of last change, so that each is read once.

    A file changed within the last second is not remembered: a second change in the same tick of the clock would
    leave size and time as they were.
    """

    def __init__(self, path: Path | None, writable: bool = True) -> None:
        self._path, self._writable = path, writable
        self._known: dict[str, list[Any]] = self._saved()
        self._new: dict[str, list[Any]] = {}
        self._last_save = time.monotonic()

    def of(self, path: Path | str) -> str:
        """Return the sha256 of a file's content, 64 hex digits. Raises RunError when it cannot be read."""
        try:
            real = Path(path).resolve(strict=True)
            with real.open("rb") as file:
                facts = os.fstat(file.fileno())
                known = self._known.get(str(real))
                if known and known[:2] == [facts.st_size, facts.st_mtime_ns]:
                    return str(known[2])
                value = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from error
        if time.time_ns() - facts.st_mtime_ns > 10**9:
            self._known[str(real)] = self._new[str(real)] = [facts.st_size, facts.st_mtime_ns, value]
            if time.monotonic() - self._last_save > 10:
                self.save()
        return value

    def of_folder(self, path: Path | str, patterns: Sequence[str]) -> str:
        """Return one digest (64 hex digits) of the names and contents of the files that match the glob patterns.

        Raises RunError when none does: such a digest would be equal for all folders.
        """
        folder = Path(path)
        files = sorted({f for pattern in patterns for f in folder.glob(pattern) if f.is_file()})
        if not files:
            raise RunError(f"{folder} holds no file named like {' or '.join(patterns)}")
        return digest([[f.relative_to(folder).as_posix(), self.of(f)] for f in files], 64)

    def save(self) -> None:
        """Write what was learnt since the last time beside what others have written."""
        if self._path is not None and self._writable and self._new:
            write_json(self._path, self._saved() | self._new)
            self._new = {}
        self._last_save = time.monotonic()

    def _saved(self) -> dict[str, list[Any]]:
        try:
            return (read_object(self._path) or {}) if self._path else {}
        except DamagedTable:
            return {}  # only a cache: what is lost is read again


class Run:
    """One run's folder. `Run.open` drives it (use it in a `with` block), `Run.read` looks at it without the lock."""

    def __init__(self, root: Path | str, name: str, part: str = "", writable: bool = True) -> None:
        if Path(name).name != name:
            raise RunError(f"run name {name!r}: a name is one folder under --root, without slashes")
        self.root, self.name, self.path = Path(root), name, Path(root) / name
        self.shard: tuple[int, int] | None = None
        self.part, self._writable = part, writable
        self._locks: list[IO[str]] = []
        self._tables: WeakValueDictionary[Path, Table] = WeakValueDictionary()
        if writable:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        self.digests = Digests(self.path / "digests.json", writable)

    @classmethod
    def open(cls, root: Path | str, name: str, shard: tuple[int, int] | None = None, patience: float = 0.0) -> Self:
        """Make the run's folder if need be and take its lock; `shard` (i, of) counts from 1.

        Shards of one run work side by side, each on its own files (they end in `part`); a driver without a shard works
        alone, and takes over the rows that shards have made. Whoever is about to end, as the shards of a driver that
        was killed, is waited for up to `patience` seconds. Raises RunLocked naming the driver that holds the lock.
        """
        if shard and not 1 <= shard[0] <= shard[1]:
            raise RunError(f"shard {shard[0]}/{shard[1]}: write i/S with i from 1 to S")
        run = cls(root, name, f".{shard[0]}-of-{shard[1]}" if shard else "")
        run.shard = shard
        try:
            if shard:
                run._lock("lock", fcntl.LOCK_SH)
                run._lock(f"lock{run.part}", fcntl.LOCK_EX, patience)
            else:
                run._lock(DRIVER, fcntl.LOCK_EX)
                run._lock("lock", fcntl.LOCK_EX, patience)
                run._forget_cut()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, root: Path | str, name: str) -> Self:
        """Look at a run that may be under way. Raises RunError naming the runs that exist when there is none."""
        run = cls(root, name, writable=False)
        if not run.path.is_dir():
            there = sorted(p.name for p in run.root.glob("*/") if p.is_dir())
            raise RunError(f"no run {name!r} under {run.root}; there: {', '.join(there) or 'none'}")
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Save what is cached and give the lock back."""
        try:
            if self._locks:
                self.digests.save()
        finally:
            while self._locks:
                self._locks.pop().close()

    def lend(self, shards: int, questions: str) -> str:
        """Let shards work on the run beside its driver, until `take_back`; `questions` is their digest.

        Returns the words by which they know that the folder they see is this one: `lender` reads them there.
        """
        self._locks.pop().close()
        self._lock("lock", fcntl.LOCK_SH)
        self.agree(shards, questions)
        return self.lender(self.root, self.name)

    def take_back(self, patience: float) -> None:
        """Work alone again, once the last shard has ended. Raises RunLocked naming one that does not."""
        self._locks.pop().close()
        self._lock("lock", fcntl.LOCK_EX, patience)
        self._forget_cut()

    @staticmethod
    def lender(root: Path | str, name: str) -> str:
        """Return the words of the driver that drives a run, or did; empty where this machine sees no such run."""
        path = Path(root) / name / DRIVER
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def agree(self, shards: int, questions: str) -> None:
        """Agree with the other shards, those that have ended included, on how the questions are cut.

        Rows that a shard has made rest on rows that it has made before, so no two may make the same. Raises RunError
        where the run is cut otherwise.
        """
        cut = {"shards": shards, "block": BLOCK, "questions": questions}
        path = self.path / CUT
        if write_once(path, cut) or (there := read_object(path) or {}) == cut:
            return
        difference = f"not {shards}" if there.get("shards") != shards else "of another list of questions"
        raise RunError(
            f"run {self.name} is cut into {there.get('shards')} shards ({path}), {difference}: go on with those, or "
            "let `earwitness run` without --shard take over what they have made; then it may be cut anew"
        )

    def _forget_cut(self) -> None:
        with writing(self.path):
            (self.path / CUT).unlink(missing_ok=True)

    def _lock(self, name: str, kind: int, patience: float = 0.0) -> None:
        path = self.path / name
        deadline = time.monotonic() + patience
        file = path.open("a+", encoding="utf-8")
        try:
            while not (locked := _flock(file, kind)) and time.monotonic() < deadline:
                time.sleep(0.2)
        except OSError as error:
            file.close()
            raise RunError(
                f"{path} cannot be locked ({error.strerror}): choose a --root on a disk that can, such as a local one"
            ) from error
        if not locked:
            file.close()
            raise RunLocked(
                f"run {self.name} is being driven by {self._driver(path)}; wait for it, stop it, "
                "or choose another --root"
            )
        self._locks.append(file)
        if kind == fcntl.LOCK_EX:
            driver = f"process {os.getpid()} on host {socket.gethostname()} since {time.strftime('%F %T %z')}"
            with writing(path):
                file.truncate(0)
                os.write(file.fileno(), driver.encode())  # nothing stays in a buffer that a full disk would not take
                os.fsync(file.fileno())  # shards on other machines read it

    def _driver(self, refused: Path) -> str:
        """Who stands in the way: the words in the refused lock file, or in that of a shard under way."""
        for path in [refused, *sorted(self.path.glob("lock.*-of-*"))]:
            with path.open("a+", encoding="utf-8") as file:
                if not _flock(file, fcntl.LOCK_SH):
                    part = f" (shard {path.name.removeprefix('lock.')})" if "-of-" in path.name else ""
                    file.seek(0)
                    return (file.read() or "another process") + part
        return "another process"

    def share(self, items: Sequence[Any], block: int = BLOCK) -> list[Any]:
        """Return this shard's part of the items, in whole blocks: all of them without a shard."""
        if self.shard is None:
            return list(items)
        number, count = self.shard
        return [item for i, item in enumerate(items) if i // block % count == number - 1]

    def table(self, stage: str, identity: dict[str, Any]) -> Table:
        """Return the table of a data stage under these settings. Raises DamagedTable when its file does not read."""
        folder = self.path / f"{stage}-{digest(identity)}"
        table = self._tables.get(folder)
        if table is None:
            self._describe(folder, identity)
            table = self._tables[folder] = Table(folder, stage, self.part, self._writable)
        return table

    def folder(self, stage: str, identity: dict[str, Any]) -> Path:
        """Return the folder of a training stage; `identity` is its settings and the content that it reads."""
        folder = self.path / "checkpoints" / f"{stage}-{digest(identity)}"
        self._describe(folder, identity)
        return folder

    def _describe(self, folder: Path, identity: dict[str, Any]) -> None:
        if self._writable and not (folder / "settings.json").exists():
            write_json(folder / "settings.json", identity)

    @staticmethod
    def finished(folder: Path) -> dict[str, Any] | None:
        """Return what a finished stage wrote at its end, None for one that is not finished."""
        return read_object(folder / "done.json")

    @staticmethod
    def finish(folder: Path, facts: dict[str, Any]) -> None:
        """Say that everything in the folder is there and whole. Nothing may be written to it afterwards."""
        write_json(folder / "done.json", facts)

    def save_config(self, text: str) -> None:
        """Keep the resolved configuration beside what it made."""
        write_bytes(self.path / "config.toml", text.encode())

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to the stage's entry in `timings.json`, over all sittings of the run."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add_seconds(stage, time.monotonic() - start)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to a stage's entry in `timings.json`."""
        path = self.path / f"timings{self.part}.json"
        table = read_object(path) or {}
        write_json(path, table | {stage: round(table.get(stage, 0.0) + seconds, 3)})

    @property
    def timings(self) -> dict[str, float]:
        """Seconds per stage, summed over sittings and shards."""
        total: dict[str, float] = {}
        for path in sorted(self.path.glob("timings*.json")):
            for stage, seconds in (read_object(path) or {}).items():
                total[stage] = total.get(stage, 0.0) + seconds
        return total


def _flock(file: IO[str], kind: int) -> bool:
    """Lock a file unless another process has, and return whether it is locked now."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
