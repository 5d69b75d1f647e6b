"""Files that after a crash are there whole, as they were or as they were to be, and never half."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class RunError(Exception):
    """A run that cannot go on: the message says what, where and how to mend it."""


class DamagedTable(RunError):  # noqa: N818 - named for what it is
    """A table's file does not read as this program wrote it."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a RunError that names the path and says how to go on."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise RunError(
            f"{path} could not be written: {error.strerror or error}. All earlier rows are safe: "
            f"{'make room on the disk' if full else 'mend this'}, and the same command continues"
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that after a crash either the old or the new one is there, whole. Raises RunError."""
    with writing(path):
        _write_bytes(path, data)


def _write_bytes(path: Path, data: bytes) -> None:
    with _draft(path, data) as draft:
        draft.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    # Not named by the process: on machines that share a folder, two may have the same number.
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically, keys sorted, with a newline at the end."""
    write_bytes(path, _json(value))


def write_once(path: Path, value: Any) -> bool:
    """Write a JSON value like `write_json` where no file is yet, and return whether it was written.

    Of several processes that try at the same time, on one machine or on several, one writes.
    """
    with writing(path), _draft(path, _json(value)) as draft:
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return False
    return True


def _json(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None without a file. Raises DamagedTable when it holds anything else."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedTable(
            f"{path} is not JSON ({error}): restore it, or delete it to have its stage look again"
        ) from None
    if not isinstance(value, dict):
        raise DamagedTable(f"{path} holds no JSON object: delete it to have its stage look again")
    return value


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the files."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
