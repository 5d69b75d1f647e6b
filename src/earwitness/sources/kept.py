"""Bytes kept on disk between runs: named by what they were made from, bounded in size, the least used thrown out first.

Many processes may share a folder. What is damaged or half there is as good as not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import warnings
from pathlib import Path

LIMIT = 20 * 10**9
_SEAL = 32  # bytes of the digest that an entry begins with
_ROOM = 0.9  # of the limit: what is left after throwing out, so that not every new entry throws one out
_LOOK = 0.05  # of the limit: after how many bytes of our own we look again at what others have written


def cache_folder() -> Path:
    """Return the user's folder for clips: below EARWITNESS_CACHE, XDG_CACHE_HOME/earwitness or ~/.cache/earwitness."""
    named = os.environ.get("EARWITNESS_CACHE")
    if named:
        return Path(named) / "clips"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earwitness" / "clips"


class Kept:
    """A folder of entries of at most `limit` bytes in all, give or take what others write at this moment."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._known: int | None = None  # bytes that lie there, as far as we know
        self._since = 0  # bytes that we have written since we looked

    def get(self, name: str) -> bytes | None:
        """Return an entry's bytes, None where there is none or what is there is not what was written."""
        file = self._file(name)
        try:
            data = file.read_bytes()
        except OSError:
            return None
        if _seal(data[_SEAL:]) != data[:_SEAL]:
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # used just now
        return data[_SEAL:]

    def put(self, name: str, data: bytes) -> None:
        """Keep an entry, whole or not at all. Where nothing can be written a warning says so, once."""
        file = self._file(name)
        fresh = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(_seal(data) + data)
            fresh.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            warnings.warn(
                f"decoded clips cannot be kept in {self.folder} ({error.strerror}), so each is decoded again; "
                "EARWITNESS_CACHE names another folder",
                stacklevel=2,
            )
            return
        self._count(len(data) + _SEAL)

    def _file(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _count(self, written: int) -> None:
        self._since += written
        known = self._known
        if known is None or known + self._since > self.limit or self._since > _LOOK * self.limit:
            self._known, self._since = self._make_room(), 0

    def _make_room(self) -> int:
        """Throw out what was used longest ago until there is room, and return how many bytes are left."""
        entries: list[tuple[float, int, Path]] = []
        for file in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process may have thrown it out
                status = file.stat()
                entries.append((status.st_mtime, status.st_size, file))
        total = sum(size for _, size, _ in entries)
        if total <= self.limit:
            return total
        for _, size, file in sorted(entries):
            if total <= _ROOM * self.limit:
                break
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            total -= size
        return total


def _seal(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_SEAL).digest()
