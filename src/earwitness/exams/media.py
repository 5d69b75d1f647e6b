"""Where an exam's clips lie on this machine: in folders, or by patterns, and how many of them there are."""

from __future__ import annotations

import bisect
import glob
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from earwitness.exams.exam import stem
from earwitness.records import Question
from earwitness.sources.problems import SourceError

PLACE = "{name}"
SEVERAL = "clips"  # the tag of a question about more than one clip


def find_clips(questions: Sequence[Question], places: Sequence[str]) -> tuple[list[Question], list[str]]:
    """Return the questions whose clip is there, its path in place of its name, and the names of those that are not.

    A place is a folder, in which a clip lies as its annotation says or right there, or a pattern of a file's name
    with `{name}` in it, such as `clips/{name}*.mp4`. The first place that has a clip counts; a pattern that two files
    match has none, since no guess is made. A question about several clips cannot be asked and is among the missing.
    """
    shelves = [_Shelf(place) for place in places]
    found: list[Question] = []
    missing: dict[str, None] = {}
    for question in questions:
        name = question.clip.media
        path = None if SEVERAL in question.tags else next(filter(None, (shelf.find(name) for shelf in shelves)), None)
        if path is None:
            several = f"{name} and {int(question.tags.get(SEVERAL, 1)) - 1} more for one question"
            missing[several if SEVERAL in question.tags else name] = None
        else:
            clip = question.clip.model_copy(update={"media": str(path.absolute())})
            found.append(question.model_copy(update={"clip": clip}))
    return found, list(missing)


class _Shelf:
    """One place. What a pattern matches is listed once, sorted, and looked up by how the names begin."""

    def __init__(self, place: str) -> None:
        self._folder = Path(place).expanduser()
        self._before, slot, after = self._folder.name.partition(PLACE)
        self._after = after
        self._is_pattern = bool(slot)
        if PLACE in str(self._folder.parent) or (slot and "*" in self._before):
            raise SourceError(
                f"exams.media {place!r}: write {PLACE} in the file's name, before any *: clips/{PLACE}*.mp4"
            )
        self._files: list[tuple[str, Path]] = []
        if slot:
            wanted = str(self._folder.parent / f"{glob.escape(self._before)}*")
            self._files = sorted((Path(p).name, Path(p)) for p in glob.glob(wanted, recursive=True))  # noqa: PTH207

    def find(self, name: str) -> Path | None:
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in (".", "/")]
        if not parts or ".." in parts:
            return None
        if not self._is_pattern:
            tried = (self._folder.joinpath(*parts), self._folder / parts[-1])
            return next((path for path in tried if path.is_file()), None)
        begin = self._before + stem(parts[-1])
        wanted = glob.escape(begin) + self._after
        matched = []
        for at in range(bisect.bisect_left(self._files, (begin,)), len(self._files)):
            if not self._files[at][0].startswith(begin):
                break
            if fnmatchcase(self._files[at][0], wanted):
                matched.append(self._files[at][1])
        return matched[0] if len(matched) == 1 else None
