"""AVQA (Yang et al. 2022): questions about ten-second clips of VGGSound, in the official rows and in re-split ones.

Official rows name the right choice by index and the clip as `<YouTube id>_<start second>`; re-split rows write the
answer out, name the clip `<YouTube id>_trimmed.mp4`, and partly leave the choices out.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any

from earwitness.records import Clip, Question
from earwitness.sources.media import Files
from earwitness.sources.problems import Problems, SourceError, folded, shown, unfit
from earwitness.sources.rows import Row, read_rows

_EXAMPLE = "clips/{video_name}*.mp4"
_YOUTUBE_ID = 11
NONE = "NULL"  # what the official code writes where a choice is missing


def read_avqa(
    annotations: Path | str, media: list[str], split: str, reword: bool = True
) -> tuple[list[Question], list[str]]:
    """Return the questions whose clip is on disk, and the names of clips that are not.

    `annotations` is a JSON file, or a folder of files named `SPLIT_*.json`. `media` are patterns such as
    `clips/{video_name}*.mp4`, tried in order; `{video_name}` is the clip's name without `_trimmed` and ending,
    `{youtube_id}` and `{start}` (in seconds, without zeros before) are its parts. Clips vanish from the web, so missing
    ones are returned for the report, and are an error only if none is found; a name that several files match counts as
    missing, since no guess is made.

    Choices that repeat another are dropped and an answer that is no choice is left out; the tag `repaired` says so.
    `reword` asks about the audio instead of the video. Raises SourceError.
    """
    questions: list[Question] = []
    missing: dict[str, None] = {}
    seen: set[Any] = set()
    if not media:
        raise SourceError(f"no place for AVQA's media; set questions.media to patterns such as {_EXAMPLE}")
    files = Files(media, named(""), "video_name")
    for path in _annotation_files(Path(annotations), split):
        problems = Problems(str(path))
        for number, row in enumerate(read_rows(path), 1):
            reason = _broken(row, seen)
            if reason is not None:
                problems.add(number, reason)
                continue
            seen.add(row["id"])
            found = files.find(clip_name(row["video_name"]), named(row["video_name"]))
            if isinstance(found, str):
                missing[found] = None
            else:
                questions.append(_question(row, found, split, reword))
        problems.raise_any()
    if not questions:
        raise SourceError(f"none of the {len(missing)} clips of {annotations} matches {media}; check the patterns")
    return questions, list(missing)


def heard_wording(text: str) -> str:
    """Ask about the audio where a question asks about the video, as is usual for models that only hear."""
    return re.sub("video", lambda found: "Audio" if found[0][0] == "V" else "audio", text, flags=re.IGNORECASE)


def _annotation_files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.glob(f"{glob.escape(split)}_*.json")) if path.is_dir() else []
    if not found:
        raise SourceError(f"no AVQA annotations at {path}; name a JSON file, or a folder with {split}_*.json")
    return found


def _broken(row: Row, seen: set[Any]) -> str | None:
    """Return why a row is none of AVQA's, or None."""
    for key, kind in (("id", int | str), ("video_name", str), ("question_text", str), ("answer", int | str)):
        if not isinstance(row.get(key), kind) or isinstance(row[key], bool):
            return f"{key} is {shown(row.get(key))}; this is no AVQA row"
    if row["id"] in seen:
        return f"id {row['id']} appears twice"
    choices = row.get("multi_choice")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(c, str) for c in choices)):
        return f"multi_choice is {shown(choices)}, not a list of texts"
    if isinstance(row["answer"], int) and not 0 <= row["answer"] < len(choices or ()):
        return f"answer is index {row['answer']} of {len(choices or ())} choices"
    for name, text in [
        ("question_text", row["question_text"]),
        ("video_name", row["video_name"]),
        *(("a choice", c) for c in choices or ()),
    ]:
        if reason := unfit(text, name):
            return reason
    return None


def _question(row: Row, found: Path, split: str, reword: bool) -> Question:
    choices, answer, repairs = _repaired(row)
    tags = {"split": split}
    for tag, key in (("type", "question_type"), ("category", "question_relation")):
        if isinstance(row.get(key), str):
            tags[tag] = row[key]
    if repairs:
        tags["repaired"] = "; ".join(repairs)
    text = row["question_text"].strip()
    return Question(
        id=f"avqa/{row['id']}",
        clip=Clip(id=f"avqa/{clip_name(row['video_name'])}", media=str(found.absolute())),
        text=heard_wording(text) if reword else text,
        choices=choices,
        answer=answer,
        tags=tags,
    )


def _repaired(row: Row) -> tuple[tuple[str, ...] | None, str | None, list[str]]:
    given = row.get("multi_choice")
    if not given:
        return None, str(row["answer"]).strip() or None, []
    return repaired(given, given[row["answer"]] if isinstance(row["answer"], int) else row["answer"])


def repaired(given: list[str], answer: str) -> tuple[tuple[str, ...], str | None, list[str]]:
    """Return choices without repetition, the answer as one of them, and what had to be mended."""
    repairs = []
    kept: dict[str, str] = {}
    for choice in given:
        if choice != NONE:
            kept.setdefault(folded(choice), choice.strip())
    if len(kept) < len(given):
        repairs.append("repeated choice")
    right = kept.get(folded(answer))
    if right is None:
        repairs.append("answer not among the choices")
    return tuple(kept.values()), right, repairs


def clip_name(video_name: str) -> str:
    """The clip's name without what re-splits add to it."""
    return video_name.removesuffix(".mp4").removesuffix("_trimmed")


def named(video_name: str) -> dict[str, str]:
    """Return what patterns of file names can hold of a VGGSound clip's name: `<YouTube id>_<start in six digits>`."""
    name = clip_name(video_name)
    return {
        "video_name": name,
        "media": name,
        "youtube_id": name[:_YOUTUBE_ID],
        "start": name[_YOUTUBE_ID + 1 :].lstrip("0") or "0",
    }
