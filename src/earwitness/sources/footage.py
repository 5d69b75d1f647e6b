"""A folder of media without questions: its clips or spans of them, and the `questions.jsonl` that is written for it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness.config import digest
from earwitness.media import MediaError, probe
from earwitness.records import Clip, Question
from earwitness.sources.questions import FILE, MEDIA, SourceError, clip_in, read_questions
from earwitness.table import sync_folder, writing

SHORTEST = 1.0  # seconds: what is left of a clip behind its last whole span, and is shorter, is no span
_LONGEST_ID = 120


@dataclass(frozen=True)
class Footage:
    """A span of a media file that is to be asked about, by its `id`, or why it cannot be."""

    id: str
    clip: Clip
    refused: str | None = None


def media_in(folder: Path) -> list[str]:
    """Return the media files of a folder, relative to it and sorted; hidden ones are left out."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in MEDIA and p.is_file())
    return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))


def read_footage(folder: Path, span: float) -> list[Footage]:
    """Return the clips of a folder, those longer than `span` seconds (0: never) cut into spans of that length.

    A file that no question may name, because of its name or because it lies elsewhere, is there with the reason. A
    file that is damaged, or does not say how long it is, is one clip; a damaged one fails where it is shown.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; name the folder that holds the media files")
    found: list[Footage] = []
    for name in media_in(folder):
        try:
            clips = [clip_in(folder, name, start, end) for start, end in _spans(folder / name, span)]
        except SourceError as error:
            safe = name.encode("utf-8", "backslashreplace").decode()
            lost = Clip(id=safe, media=safe)
            found.append(Footage(footage_id(folder, safe), lost, str(error)))
        else:
            found += [Footage(footage_id(folder, clip.id), clip) for clip in clips]
    return found


def footage_id(folder: Path, clip: str) -> str:
    """Return a name for a clip of a folder that can begin a question's id, the same on every machine."""
    whole = f"{folder.resolve().name or 'clips'}/{clip}"
    name = re.sub(r"[^\w.@/-]+", "_", whole)[:_LONGEST_ID].rstrip("/.")
    return name if name == whole else f"{name}-{digest(whole, 6)}"


def spans(seconds: float, length: float) -> list[tuple[float, float | None]]:
    """Return the starts and ends of the spans of a file; the last one ends with the file (None) if it is shorter.

    A rest of less than a second is no span.
    """
    if length <= 0 or seconds <= length:
        return [(0.0, None)]
    whole = math.floor(seconds / length)
    cut: list[tuple[float, float | None]] = [(round(i * length, 6), round((i + 1) * length, 6)) for i in range(whole)]
    return [*cut, (round(whole * length, 6), None)] if seconds - whole * length >= SHORTEST else cut


def _spans(path: Path, length: float) -> list[tuple[float, float | None]]:
    if length <= 0:
        return [(0.0, None)]
    try:
        tracks = probe(path)
    except MediaError:
        return [(0.0, None)]
    return spans(tracks.duration or 0.0, length if tracks.picture and tracks.sound else 0.0)


def write_questions(folder: Path, questions: Sequence[Question]) -> Path:
    """Write the `questions.jsonl` of a folder and return its path; it is read back before it gets that name.

    Answers are not written. Raises SourceError where there is such a file already: it is never overwritten.
    """
    path = folder / FILE
    draft = folder / f".{FILE}.{os.getpid()}"
    with writing(path):
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.writelines(_line(folder, question) for question in questions)
                file.flush()
                os.fsync(file.fileno())
            if read_questions(draft) != list(questions):
                raise SourceError(f"{path} would not be read as it was written; {draft.name} was not kept")
            _publish(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(folder)
    return path


def _publish(draft: Path, path: Path) -> None:
    """Give a written file its name, unless there is one of that name."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise SourceError(f"{path} is there already and is not overwritten; move it away to have it written") from None
    except OSError:  # a file system without links
        if path.exists():
            raise SourceError(f"{path} is there already and is not overwritten; move it away") from None
        draft.replace(path)


def _line(folder: Path, question: Question) -> str:
    clip = question.clip
    span = {"start": clip.start or None, "end": clip.end}
    row = {
        "id": question.id,
        "media": Path(clip.media).relative_to(os.path.abspath(folder)).as_posix(),  # noqa: PTH100 (as it was read)
        **{key: value for key, value in span.items() if value is not None},
        "question": question.text,
        "choices": list(question.choices or ()),
        "tags": question.tags,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
