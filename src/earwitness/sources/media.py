"""Where the clips of a source lie on this machine: in folders, or in files whose names hold what a row says."""

from __future__ import annotations

import bisect
import difflib
import glob
import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from earwitness.sources.problems import SourceError

_FIELD = re.compile(r"\{([^{}/]*)\}")
_MAGIC = re.compile(r"[*?\[]")


def stem(name: str) -> str:
    """Return a file's name without folders and ending, where it has one: `x_2.5` has none."""
    last = name.rpartition("/")[2]
    before, _, ending = last.rpartition(".")
    return before if before and 2 <= len(ending) <= 4 else last


def is_there(file: Path) -> bool:
    """Whether there is such a file; there is none of a name that no file can have."""
    try:
        return file.is_file()
    except OSError:
        return False


class Files:
    """The files of several places, looked for in order. Each place is listed on disk once.

    A place is a folder, in which a clip lies as its row says or right there, or a pattern of a file's name with
    fields of a row in it, such as `clips/{media}*.mp4`; patterns with other fields are another source's.
    """

    def __init__(self, places: Sequence[str], fields: Collection[str], example: str = "media") -> None:
        known = [place for place in places if set(_FIELD.findall(place)) <= set(fields)]
        if places and not known:
            unknown = next(name for name in _FIELD.findall(places[0]) if name not in fields)
            near = difflib.get_close_matches(unknown, fields, n=1)
            raise SourceError(
                f"media pattern {places[0]!r}: a row has no {{{unknown}}}"
                + (f"; did you mean {{{near[0]}}}?" if near else f"; it has {', '.join(sorted(fields))}")
            )
        self._places = [_Pattern(place, example) if _is_pattern(place) else _Folder(place) for place in known]

    def find(self, name: str, row: Mapping[str, str]) -> Path | str:
        """Return a clip's one file, or its name with why there is none: no guess is made between several."""
        for place in self._places:
            found = place.find(name, row)
            if len(found) == 1:
                return found[0]
            if found:
                return f"{name} ({len(found)} files match)"
        return name


def _is_pattern(place: str) -> bool:
    return "{" in place or _MAGIC.search(place) is not None


class _Folder:
    def __init__(self, place: str) -> None:
        self._folder = Path(place).expanduser()

    def find(self, name: str, row: Mapping[str, str]) -> list[Path]:
        path = PurePosixPath(name.replace("\\", "/"))
        parts = [part for part in path.parts if part != "/"]
        if not parts or ".." in parts or ":" in parts[0]:
            return []
        tried = (self._folder.joinpath(*parts), self._folder / parts[-1])
        return [file for file in tried if is_there(file)][:1]


class _Pattern:
    """Files whose names match a pattern, sorted, so that those which begin alike lie together."""

    def __init__(self, place: str, example: str) -> None:
        folder, slash, self._name = place.rpartition("/")
        self._fields = _FIELD.findall(self._name)
        self._before = self._name.partition("{")[0]
        if not self._fields or _FIELD.search(folder) or _MAGIC.search(self._before):
            raise SourceError(
                f"media pattern {place!r}: write {{{example}}} in the file's name, before any *: "
                f"clips/{{{example}}}*.mp4"
            )
        self._magic = _MAGIC.search(_FIELD.sub("", self._name)) is not None
        wanted = Path(folder + slash + _FIELD.sub("*", self._name)).expanduser()
        self._files = sorted((Path(p).name, Path(p)) for p in glob.glob(str(wanted), recursive=True))  # noqa: PTH207

    def find(self, name: str, row: Mapping[str, str]) -> list[Path]:
        if not all(row[field] for field in self._fields):
            return []  # what is empty would fit any name
        begin = self._before + row[self._fields[0]]
        keep = glob.escape if self._magic else str  # a whole name is compared as it is, which is quick
        wanted = _FIELD.sub(lambda field: keep(row[field[1]]), self._name)
        found = []
        for at in range(bisect.bisect_left(self._files, (begin,)), len(self._files)):
            file, path = self._files[at]
            if not file.startswith(begin):
                break
            if fnmatchcase(file, wanted) if self._magic else file == wanted:
                found.append(path)
        return found
