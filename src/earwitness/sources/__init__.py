"""Data sets become questions: one file per source, each a plain function that yields `Question` records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from earwitness.config import Questions
from earwitness.records import Question
from earwitness.sources.avqa import read_avqa
from earwitness.sources.questions import SourceError, read_folder, read_questions
from earwitness.world.questions import read_world
from earwitness.world.selections import SELECTIONS

KNOWN = (
    "world:SELECTION, world-easy:SELECTION, world-speech:SELECTION, world-given:train, world-reasoned:train, "
    "folder:PATH, jsonl:PATH, avqa:train, avqa:train-choose, avqa:val"
)


def read_source(name: str, settings: Questions, limit: int, note: Callable[[str], None] = print) -> list[Question]:
    """Return the first `limit` questions (0: all) of a source such as `world:train` or `folder:my-videos`.

    `note` is told how much of the source is there. Raises SourceError where the source is unknown or its rows are not
    as they must be.
    """
    kind, _, rest = name.partition(":")
    if name in SELECTIONS:
        if rest == "exam":
            raise SourceError(f"{name} belongs to the exams: nothing is trained or chosen on it")
        return read_world(name, limit)
    if kind == "folder":
        questions = read_folder(Path(rest))
    elif kind == "jsonl":
        questions = read_questions(Path(rest))
    elif kind == "avqa":
        if not settings.annotations or not settings.media:
            raise SourceError(
                "the avqa source needs questions.annotations (a file name with {split} in it) and questions.media "
                "(patterns such as clips/{video_name}*.mp4)"
            )
        split, choose = rest.removesuffix("-choose"), rest.endswith("-choose")
        annotations = Path(settings.annotations.replace("{split}", split))
        questions, missing = read_avqa(annotations, list(settings.media), split)
        if split == "train":  # some training clips are for choosing checkpoints alone
            questions = [q for q in questions if _chooses(q) == choose]
        if missing:
            absent = f"{len(missing)} clips are not on this machine, such as {missing[0]}"
            note(f"{name}: {len(questions)} questions; {absent}")
    else:
        raise SourceError(f"no source is called {name!r}; there are {KNOWN}")
    return questions[:limit] if limit else questions


def _chooses(question: Question) -> bool:
    """Whether a clip is one of the 2 % that are set apart, by its name alone."""
    return int(hashlib.sha256(question.clip.id.encode()).hexdigest(), 16) % 50 == 0


def read_sources(
    names: tuple[str, ...], settings: Questions, limit: int, note: Callable[[str], None] = print
) -> list[Question]:
    """Return the questions of several sources, `limit` (0: all) of each. Ids must not meet."""
    questions = [question for name in names for question in read_source(name, settings, limit, note)]
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise SourceError(f"the question id {question.id!r} comes from two sources: ids must be unique in a run")
        seen.add(question.id)
    return questions
