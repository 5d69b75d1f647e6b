"""Data sets become questions: one file per source, each a plain function that yields `Question` records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from earwitness.config import Questions
from earwitness.records import Question
from earwitness.sources.avqa import read_avqa
from earwitness.sources.music_avqa import read_music_avqa
from earwitness.sources.presets import PRESETS
from earwitness.sources.questions import SourceError, read_folder, read_questions
from earwitness.sources.rows import HUB, open_table
from earwitness.sources.tables import Found, Reading, read_table
from earwitness.world.questions import read_world
from earwitness.world.selections import SELECTIONS

KNOWN = (
    "world:SELECTION, world-easy:SELECTION, world-speech:SELECTION, world-given:train, world-reasoned:train, "
    "folder:PATH, jsonl:PATH, table:PATH, hf:NAME, avqa:train, music_avqa:train, avrt:PATH, audiomcq:PATH, cota:PATH, "
    "and a part of each that is set apart for choosing checkpoints, such as avqa:train-choose; as exams also avqa:val, "
    "music_avqa:val and music_avqa:test"
)
CHOOSE = "-choose"
_PUBLISHED = ("avqa", "music_avqa")  # sets with exams of their own: of these only the training part is learnt from
_KINDS = ("folder", "jsonl", "table", "hf", "vggsound", *_PUBLISHED, *PRESETS)
_SHARE = 50  # one clip in so many is set apart


def read_source(name: str, settings: Questions, limit: int, note: Callable[[str], None] = print) -> list[Question]:
    """Return the first `limit` questions (0: all) of a source such as `world:train` or `folder:my-videos`.

    `SOURCE-choose` is the part of a source that is set apart for choosing checkpoints: 2 % of its clips, by their
    names alone. `note` is told how much of the source is there. Raises SourceError where the source is unknown or its
    rows are not as they must be.
    """
    kind, _, rest = name.partition(":")
    if name in SELECTIONS:
        if rest == "exam":
            raise SourceError(f"{name} belongs to the exams: nothing is trained or chosen on it")
        return read_world(name, limit)
    if kind not in _KINDS:
        raise SourceError(f"no source is called {name!r}; there are {KNOWN}")
    chosen = rest.endswith(CHOOSE) and not Path(rest).exists()  # a path may be called so itself
    place = rest.removesuffix(CHOOSE) if chosen else rest
    whole = kind == "avrt" or (kind in _PUBLISHED and place == "train")  # always has a part that is set apart
    divided = chosen or whole or f"{name}{CHOOSE}" in settings.choose

    def keep(question: Question) -> bool:
        return not divided or is_set_apart(question) == chosen

    found = _found(kind, place, settings, keep, limit)
    questions = [question for question in found.questions if keep(question)]
    for told in _told(found, len(questions)):
        note(f"{name}: {told}")
    return questions[:limit] if limit else questions


def _found(kind: str, place: str, settings: Questions, keep: Callable[[Question], bool], limit: int) -> Found:
    if kind == "folder":
        return Found(read_folder(Path(place)))
    if kind == "jsonl":
        return Found(read_questions(Path(place)))
    if kind in _PUBLISHED:
        annotations = _annotations(kind, place, settings)
        if kind == "music_avqa":
            return read_music_avqa(annotations, settings.media, place)
        questions, missing = read_avqa(annotations, list(settings.media), place, settings.reword)
        return Found(questions, dict.fromkeys(missing))
    if kind in PRESETS:
        table = open_table(place)
        return read_table(table, PRESETS[kind](table, settings), keep, limit)
    if kind in ("table", "hf"):
        table = open_table(HUB + place if kind == "hf" else place)
        return read_table(table, Reading(settings.columns, settings.media, settings.unpack), keep, limit)
    raise SourceError(
        "VGGSound has clips with labels, and nobody's questions: name a folder of its clips as folder:PATH, with a "
        "questions.jsonl in it, or let `earwitness ask` write one"
    )


def _annotations(kind: str, split: str, settings: Questions) -> Path:
    if not settings.annotations or not settings.media:
        raise SourceError(
            f"the {kind} source needs questions.annotations (a file name with {{split}} in it) and questions.media "
            "(patterns such as clips/{video_name}*.mp4)"
        )
    return Path(settings.annotations.replace("{split}", split).replace("{source}", kind))


def _told(found: Found, asked: int) -> list[str]:
    """Return what a person must know of a source: what of it is not here, and what of it cannot be asked."""
    told = []
    if found.missing:
        example = next(iter(found.missing))
        told.append(f"{asked} questions; {len(found.missing)} clips are not on this machine, such as {example}")
    if found.left_out is not None:
        told.append(f"{len(found.left_out)} rows cannot be asked and are left out, first {found.left_out.first}")
    return told


def is_set_apart(question: Question) -> bool:
    """Whether a question's clip is one of the 2 % that are set apart, by its name alone; a file's spans go together."""
    clip = question.clip
    name = clip.id.rpartition("@")[0] if clip.start or clip.end is not None else clip.id
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % _SHARE == 0


def read_sources(
    names: tuple[str, ...], settings: Questions, limit: int, note: Callable[[str], None] = print
) -> list[Question]:
    """Return the questions of several sources, `limit` (0: all) of each.

    Raises SourceError for ids that meet, and one clip's name for two files.
    """
    questions = [question for name in names for question in read_source(name, settings, limit, note)]
    seen: set[str] = set()
    files: dict[str, str] = {}
    for question in questions:
        if question.id in seen:
            raise SourceError(f"the question id {question.id!r} comes from two sources: ids must be unique in a run")
        seen.add(question.id)
        clip = question.clip
        if files.setdefault(clip.id, clip.media) != clip.media:
            raise SourceError(
                f"two sources call different files {clip.id!r}: {files[clip.id]} and {clip.media}; rename one of them"
            )
    return questions


def refuse_exam(name: str) -> None:
    """Raise SourceError where a source that is learnt from or chosen by is an exam's part of a published set."""
    kind, _, rest = name.partition(":")
    if kind in _PUBLISHED and rest not in ("train", f"train{CHOOSE}"):
        raise SourceError(
            f"{name} belongs to the exams: nothing is trained or chosen on it. Learn from {kind}:train, choose by "
            f"{kind}:train{CHOOSE}, and name {name} in exams.names"
        )
