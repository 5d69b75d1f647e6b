"""A user's own questions: a JSONL file, or a folder of media with `questions.jsonl` in it.

One line is one question; it may carry reasoning of its own (`think`, also in CoTA's four parts) and what is heard
(`description`). Everything that is wrong is told at once; a media file that is missing is not an error here, but a
question that fails later, by name.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from earwitness.answers import read, same
from earwitness.cota import CotaError, in_parts, parse, think_of
from earwitness.records import Clip, Question
from earwitness.sources.problems import Problems, RowError, SourceError, folded, shown, unfit

__all__ = [
    "FILE",
    "MEDIA",
    "SourceError",
    "clip_in",
    "clip_of",
    "media_in",
    "question_of",
    "read_folder",
    "read_questions",
    "require_new",
]

FILE = "questions.jsonl"
_KEYS = ("id", "media", "question", "start", "end", "choices", "answer", "think", "description", "tags")
_REQUIRED = ("id", "media", "question")
_LONGEST_LINE = 1 << 20
_LONGEST_ID = 200
MEDIA = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".wav", ".flac", ".mp3", ".ogg", ".m4a"}


def read_folder(folder: Path | str) -> list[Question]:
    """Read `folder/questions.jsonl`. Raises SourceError with an example line if there is no such file."""
    folder = Path(folder)
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; name the folder that holds {FILE} and the media files")
    if not (folder / FILE).is_file():
        media = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in MEDIA)
        example = {
            "id": "kitchen-1",
            "media": media[0] if media else "kitchen.mp4",
            "question": "What is heard after the bell?",
            "choices": ["a dog", "a kettle"],
            "answer": "a kettle",
        }
        line = json.dumps(example, ensure_ascii=False)
        asker = "\nor let the teacher of your configuration write them: earwitness ask CONFIG" if media else ""
        raise SourceError(
            f"{folder} has no {FILE}; write {folder / FILE} with one line per question, such as\n{line}{asker}"
        )
    return read_questions(folder / FILE)


def read_questions(path: Path | str) -> list[Question]:
    """Read a JSONL file of questions, media paths relative to its folder.

    Raises one SourceError that lists the first ten problems with file and line.
    """
    path = Path(path)
    problems = Problems(str(path))
    questions: list[Question] = []
    lines: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    question = _question(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, path.parent)
                    if question is not None:
                        require_new(question.id, number, lines)
                        questions.append(question)
                except RowError as error:
                    problems.add(number, str(error))
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); check the path") from None
    problems.raise_any()
    if not questions:
        raise SourceError(f"{path} holds no question; write one JSON object per line")
    return questions


def clip_in(folder: Path, media: str, start: float = 0.0, end: float | None = None) -> Clip:
    """Return a span of a folder's file as a line of questions would name it. Raises SourceError where none may."""
    try:
        return _clip({"media": media, "start": start, "end": end}, folder)
    except RowError as error:
        raise SourceError(str(error)) from None


def require_new(name: str, number: int, seen: dict[str, int], what: str = "line") -> None:
    """Raise RowError if an id is that of an earlier line of `seen`; remember it if not."""
    first = seen.setdefault(name, number)
    if first != number:
        raise RowError(f"id {shown(name)} is that of {what} {first} too; give each question its own")


def _question(raw: bytes, folder: Path) -> Question | None:
    row = _parsed(raw)
    if row is None:
        return None
    for key in row:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            raise RowError(
                f"unknown key {shown(key)}; " + (f"did you mean {near[0]!r}?" if near else f"known: {_KEYS}")
            )
    return question_of(row, lambda: _clip(row, folder))


def question_of(row: dict[str, Any], clip: Callable[[], Clip]) -> Question:
    """Return the question that a row with the keys of a line of `questions.jsonl` asks about a clip.

    Every source's rows pass here. Raises RowError; whatever `clip` raises travels.
    """
    for key in _REQUIRED:
        if row.get(key) is None:
            raise RowError(f"{key!r} is missing; every question needs {', '.join(_REQUIRED)}")
    text = _text(row["question"], "question", "\n\t").strip()
    choices = _choices(row.get("choices"))
    think, response = _thought(row.get("think"))
    description = row.get("description")
    return Question(
        id=_identity(row["id"]),
        clip=clip(),
        text=text,
        choices=choices,
        answer=_answer_or_response(row.get("answer"), response, choices),
        think=think,
        description=None if description is None else _text(description, "description", "\n\t").strip(),
        tags=_tags(row.get("tags")),
    )


def _parsed(raw: bytes) -> dict[str, Any] | None:
    if len(raw) > _LONGEST_LINE:
        raise RowError(f"a line of {len(raw)} bytes, above {_LONGEST_LINE}; one question per line")
    try:
        text = raw.decode("utf-8").strip()
        row = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique) if text else None
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON at column {error.colno} ({error.msg}); one JSON object per line") from None
    except (RecursionError, ValueError):  # nested without end, or a number of thousands of digits
        raise RowError("JSON that nests too deep or holds an endless number; write a plain object") from None
    if row is not None and not isinstance(row, dict):
        raise RowError(f"{shown(row)} is not an object; write {{...}}")
    return row


def _refuse(constant: str) -> None:
    raise RowError(f"{constant} is no number that JSON has; write a number or leave the key out")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RowError(f"key {shown(next(k for k in keys if keys.count(k) > 1))} is written twice; keep one")
    return row


def _text(value: Any, name: str, allowed: str = "") -> str:
    if not isinstance(value, str):
        raise RowError(f"{name} is {shown(value)}, not text; put it in quotes")
    if reason := unfit(value, name, allowed):
        raise RowError(reason)
    return value


def _identity(value: Any) -> str:
    name = _text(value, "id")
    if len(name) > _LONGEST_ID:
        raise RowError(f"id {shown(name)} is longer than {_LONGEST_ID} characters; shorten it")
    if any(character.isspace() for character in name):
        raise RowError(f"id {shown(name)} holds a space; use - or _")
    if "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise RowError(f"id {shown(name)} looks like a path; use letters, digits, - and _, with / only between words")
    return name


def _clip(row: dict[str, Any], folder: Path) -> Clip:
    media = media_in(row["media"], folder)
    return clip_of(row, media, Path(os.path.abspath(folder)) / media)  # noqa: PTH100 (links keep their names)


def clip_of(row: dict[str, Any], name: str, file: Path) -> Clip:
    """Return the span of a file that a row's `start` and `end` name; its id is `name`, and the span where it has one.

    Raises RowError.
    """
    start, end = _seconds(row.get("start"), "start"), _seconds(row.get("end"), "end")
    if end is not None and end <= (start or 0.0):
        raise RowError(f"end {end:g} is not after start {start or 0:g}; give seconds, start < end")
    span = f"@{_shortest(start or 0.0)}-{'' if end is None else _shortest(end)}"
    whole = not start and end is None
    return Clip(id=name if whole else name + span, media=str(file), start=start or 0.0, end=end)


def media_in(value: Any, folder: Path) -> str:
    """Return a file's path relative to a folder, in which it stays. Raises RowError."""
    name = _text(value, "media")
    inside = "name a file inside the folder of the questions, relative to it"
    if "://" in name:
        raise RowError(f"media {shown(name)} is an address; download it and {inside}")
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root:
        raise RowError(f"media {shown(name)} is absolute; {inside}")
    if ".." in path.parts or ".." in windows.parts or not path.parts:
        raise RowError(f"media {shown(name)} leaves its folder; {inside}")
    try:
        within = _followed(folder / path).is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # links in a circle, names that are too long
        raise RowError(f"media {shown(name)} cannot be followed ({error}); {inside}") from None
    if not within:
        raise RowError(f"media {shown(name)} is a link that leaves its folder; {inside}")
    return path.as_posix()


def _followed(path: Path) -> Path:
    """Return where a path leads. Raises OSError or RuntimeError for links in a circle, but not for a missing file."""
    try:
        return path.resolve(strict=True)  # from Python 3.13 on only a strict look tells of a circle
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path.resolve()


def _seconds(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{name} is {shown(value)}, not a number; give seconds")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise RowError(f"{name} is {shown(value)}; give seconds from 0 upwards")
    return seconds


def _shortest(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _choices(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise RowError(f"choices is {shown(value)}, not a list; write [...] or leave it out for an open question")
    if len(value) < 2:
        raise RowError(f"choices has {len(value)} entries; give at least two, or leave it out for an open question")
    choices = tuple(_text(choice, f"choice {number}").strip() for number, choice in enumerate(value, 1))
    seen: dict[str, str] = {}
    for number, choice in enumerate(choices, 1):
        first = seen.setdefault(folded(choice), choice)
        if len(seen) < number:
            raise RowError(f"choices {shown(first)} and {shown(choice)} are the same; keep one")
    return choices


def _answer(value: Any, choices: tuple[str, ...] | None) -> str | None:
    if value is None:
        return None
    if choices is None:
        return _text(value, "answer").strip()
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RowError(f"answer is {shown(value)}; give the text of a choice, or its index from 0")
    if isinstance(value, int):
        if not 0 <= value < len(choices):
            raise RowError(f"answer is index {shown(value)}, but choices are 0 to {len(choices) - 1}")
        return choices[value]
    text = folded(_text(value, "answer"))
    for choice in choices:
        if folded(choice) == text:
            return choice
    close = difflib.get_close_matches(str(value), choices, n=1) or choices[:4]
    raise RowError(f"answer {shown(value)} is not among the choices; the nearest: {', '.join(map(shown, close))}")


def _thought(value: Any) -> tuple[str | None, str | None]:
    """Return the reasoning that a line carries, and the response beside it where it is CoTA's whole text."""
    if not isinstance(value, str) or not in_parts(value):
        return None if value is None else _text(value, "think", "\n\t").strip(), None
    try:
        parts = parse(value)
    except CotaError as error:
        raise RowError(f"think is not in CoTA's four parts: {error}; mend it, or write it without these tags") from None
    for name, text in vars(parts).items():
        if text is not None:
            _text(text, f"think's {name}", "\n\t")
    return think_of(parts), parts.response


def _answer_or_response(value: Any, response: str | None, choices: tuple[str, ...] | None) -> str | None:
    """Return a line's answer. A response says it where no answer is written, and must not name another choice."""
    answer = _answer(value, choices)
    if response is None or (choices is None and answer is not None):
        return answer
    if choices is None:
        return response.strip()
    said = read(response, choices).answer
    if answer is None and said is None:
        raise RowError(
            f"think's response {shown(response.strip())} names none of the choices; write an answer beside it"
        )
    if answer is not None and said is not None and not same(answer, said):
        raise RowError(f"answer is {shown(answer)}, and think's response names {shown(said)}; keep the right one")
    return said if answer is None else answer


def _tags(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RowError(f'tags is {shown(value)}; write an object such as {{"category": "temporal"}}')
    return {_text(key, "a tag's name"): _text(text, f"tag {shown(key)}") for key, text in value.items()}
