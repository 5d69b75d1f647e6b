"""Any table as questions, by a map of its columns: each row is held to the rules of a line of `questions.jsonl`."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from earwitness.config import Columns
from earwitness.records import Question
from earwitness.sources.media import Files, is_there, stem
from earwitness.sources.problems import Problems, RowError, SourceError, folded, shown, unfit
from earwitness.sources.questions import clip_of, media_in, question_of, require_new
from earwitness.sources.rows import Row, Table, listed

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ENDING = re.compile(r"\.[a-z0-9]{2,4}")


@dataclass
class Found:
    """What a source gave: questions whose clip is here, clips that are not, and rows that cannot be asked."""

    questions: list[Question] = field(default_factory=list)
    missing: dict[str, None] = field(default_factory=dict)
    left_out: Problems | None = None


@dataclass(frozen=True)
class Reading:
    """How a table is read. `mend` may change a row's keys (ours) before it is held to the rules.

    `places` and `unpack` are those of the configuration. `ids` begins the ids of questions and `clips` those of clips
    (None: the table's name). `lenient`: a row that breaks a rule is left out and told, not refused with its table.
    """

    columns: Columns
    places: Sequence[str] = ()
    unpack: str = ""
    ids: str = ""
    clips: str | None = None
    mend: Callable[[dict[str, Any]], dict[str, Any]] = lambda asked: asked
    lenient: bool = False


def read_table(table: Table, how: Reading, keep: Callable[[Question], bool] = lambda _: True, limit: int = 0) -> Found:
    """Return the first `limit` (0: all) questions of a table that `keep` lets pass. Rows behind them are not read.

    Raises one SourceError that lists the first ten problems by row, or says that no clip is here.
    """
    reader = _Reader(table, how)
    problems, found, rows = Problems(table.origin), Found(), dict[str, int]()
    for number, row in enumerate(table.rows, 1):
        try:
            media, question = reader.question(row, number)
            require_new(question.id, number, rows, "row")
            place = reader.place(media, row) if keep(question) else None
        except RowError as error:
            problems.add(number, str(error))
            continue
        if isinstance(place, str):
            found.missing[place] = None
        elif place is not None:
            clip = question.clip.model_copy(update={"media": str(place.absolute())})
            found.questions.append(question.model_copy(update={"clip": clip}))
        if limit and len(found.questions) == limit:
            break
    if not how.lenient or not rows:
        problems.raise_any()
    if not found.questions and found.missing:
        first = next(iter(found.missing))
        raise SourceError(
            f"none of the {len(found.missing)} clips of {table.origin} is here, such as {first}; set questions.media "
            "to their folders, or to patterns of file names such as clips/{media}*.mp4"
        )
    found.left_out = problems if len(problems) else None
    return found


class _Reader:
    """Makes rows of one table questions, and finds their clips."""

    def __init__(self, table: Table, how: Reading) -> None:
        self._table, self._how = table, how
        self._columns = _resolved(how, table)
        self._files = Files(how.places, {*table.columns, "media"})
        self._clips = f"{table.name if how.clips is None else how.clips}/"

    def question(self, row: Row, number: int) -> tuple[_Media, Question]:
        """Return a row's media and its question, whose clip has no file yet. Raises RowError."""
        asked = self._how.mend(_asked(self._columns, row, number, self._table))
        media = _media(asked.get("media"), self._table, bool(self._how.places))
        asked |= {"id": self._how.ids + asked["id"], "media": media.name or None}
        name = self._clips + (media.name if self._how.clips is None else stem(media.name))
        return media, question_of(asked, lambda: clip_of(asked, name, Path(media.name)))

    def place(self, media: _Media, row: Row) -> Path | str:
        """Return where a clip is, or its name with why it is not there. Raises SourceError."""
        if media.data is not None:
            if not self._how.unpack:
                raise SourceError(
                    f"{self._table.origin}: media lies within the table itself, and must be a file; name a folder in "
                    "questions.unpack, where it is written out once"
                )
            return _written(media.data, Path(self._how.unpack).expanduser() / media.name)
        if self._how.places:
            told = {key: _plain(value) for key, value in row.items()}
            return self._files.find(media.name, told | {"media": stem(media.name)})
        file = (self._table.folder or Path()) / media.name
        return file if self._table.folder is not None and is_there(file) else media.name


def _resolved(how: Reading, table: Table) -> dict[str, str | tuple[str, ...]]:
    """Return which columns hold what, by our keys; a tag's key is `tags.NAME`."""
    named = {key: value for key, value in how.columns if key != "tags" and value is not None}
    named |= {f"tags.{name}": column for name, column in how.columns.tags.items()}
    for key, value in named.items():
        for column in (value,) if isinstance(value, str) else value:
            if column not in table.columns:
                near = difflib.get_close_matches(column, table.columns, n=1)
                raise SourceError(
                    f"{table.origin} has no column {column!r} for {key}"
                    + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(table.columns)}")
                    + (" Read it as table:PATH or hf:NAME, with a map in [questions.columns]" if how.lenient else "")
                )
    same = {key: key for key in Columns.model_fields if key != "tags" and key in table.columns}
    return same | named


@dataclass(frozen=True)
class _Media:
    """What a row calls its media, and the file itself where it lies in the table."""

    name: str
    data: bytes | None = None


def _media(value: Any, table: Table, searched: bool) -> _Media:
    if isinstance(value, dict) and ("bytes" in value or "path" in value):  # as Hugging Face's tables hold files
        if value.get("bytes") is not None:
            value, hint = value["bytes"], str(value.get("path") or "")
        else:
            value, hint = _within(value.get("path"), table.folder), ""
    else:
        hint = ""
    if isinstance(value, bytes):
        ending = Path(hint).suffix.lower()
        return _Media(hashlib.sha256(value).hexdigest()[:32] + (ending if _ENDING.fullmatch(ending) else ""), value)
    if value is None or value == "":
        return _Media("")
    if not searched and table.folder is not None:
        return _Media(media_in(value, table.folder))
    if not isinstance(value, str):
        raise RowError(f"media is {shown(value)}, not a file's name")
    if reason := unfit(value, "media"):
        raise RowError(reason)
    parts = [part for part in PurePosixPath(value.replace("\\", "/")).parts if part != "/"]
    if not parts or ".." in parts or "://" in value:
        raise RowError(f"media {shown(value)} is no file's name; give the name of a file, with or without folders")
    return _Media("/".join(parts))


def _within(path: Any, folder: Path | None) -> Any:
    """Return a path relative to a folder, where it is in it."""
    if isinstance(path, str) and folder is not None and Path(path).is_relative_to(folder.absolute()):
        return Path(path).relative_to(folder.absolute()).as_posix()
    return path


def _written(data: bytes, path: Path) -> Path:
    """Write a clip, unless it is there: its name tells its content."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(data)
        draft.replace(path)
    return path


# --- fields -----------------------------------------------------------------------------------------------------------


def _asked(columns: dict[str, str | tuple[str, ...]], row: Row, number: int, table: Table) -> dict[str, Any]:
    """Return what a row holds, by our keys and as a line of questions would have it. Raises RowError."""
    found = {key: _value(row, column) for key, column in columns.items()}
    asked = {key: value for key, value in found.items() if not key.startswith("tags.")}
    tags = {key.removeprefix("tags."): _plain(value) for key, value in found.items() if key.startswith("tags.")}
    asked["tags"] = {name: text for name, text in tags.items() if text}
    name = re.sub(r"\s", "_", f"{table.name}-{number}")
    asked["id"] = name if asked.get("id") is None else _text(asked["id"])
    for key in ("start", "end"):
        asked[key] = _seconds(asked.get(key))
    for key in ("question", "think", "description"):
        asked[key] = asked.get(key)
    given = asked.get("choices")
    choices = None if given is None else _choices(given)
    asked["choices"] = choices
    asked["answer"] = _answer(asked.get("answer"), choices, _numbers(given), table.texts)
    return asked


def _value(row: Row, column: str | tuple[str, ...]) -> Any:
    """Return a column's value, or a list of several columns'; what is empty is None, and no part of the list."""
    if isinstance(column, tuple):
        return [value for value in (_value(row, one) for one in column) if value is not None]
    value = row.get(column)
    return None if isinstance(value, str) and not value.strip() else value


def _text(value: Any) -> Any:
    """Return a number as text; whole ones that a table made fractions (12.0) are whole again."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _plain(value: Any) -> str:
    """Return a value as a tag or a file's name holds it: empty where it is neither text nor number nor a list."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_plain, value)))
    text = str(value).lower() if isinstance(value, bool) else _text(value)
    return text.strip() if isinstance(text, str) else ""


def _seconds(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _choices(value: Any) -> list[Any] | None:
    return [_text(choice) for choice in listed(value, "choices")] or None


def _numbers(given: Any) -> bool:
    """Whether choices are numbers, so that a number can be one of them or the index of one."""
    choices = [] if given is None else listed(given, "choices")
    return any(isinstance(choice, int | float) for choice in choices)


def _answer(value: Any, choices: list[Any] | None, numbers: bool, texts: bool) -> Any:
    """Return the answer as the text of a choice: it is one, or its index, or its letter. Raises RowError if two fit.

    What names no choice is returned as it is, for the rules to refuse.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if choices is None or isinstance(value, bool) or not isinstance(value, int | str):
        return _text(value)
    said = str(value).strip()
    meant: dict[str, str] = {}
    if isinstance(value, str) or numbers:
        meant |= {c: "the text of one choice" for c in choices if isinstance(c, str) and folded(c) == folded(said)}
    if isinstance(value, int) or (texts and said.isdecimal() and said.isascii()):
        meant |= _at(int(said) if len(said) < 10 else -1, choices, "the index")
    if isinstance(value, str) and len(said) == 1:
        meant |= _at(_LETTERS.find(said.upper()), choices, "the letter")
    if len({folded(choice) for choice in meant}) > 1:
        raise RowError(
            f"answer {shown(value)} can be {' and '.join(f'{how} {shown(c)}' for c, how in meant.items())}; write the "
            "text of the choice"
        )
    return next(iter(meant), value)


def _at(index: int, choices: list[Any], how: str) -> dict[str, str]:
    there = 0 <= index < len(choices) and isinstance(choices[index], str)
    return {choices[index]: f"{how} of"} if there else {}
