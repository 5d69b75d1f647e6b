"""Data sets become questions: one file per source, each a plain function that yields `Question` records."""

from __future__ import annotations

from pathlib import Path

from earwitness.config import Questions
from earwitness.records import Question
from earwitness.sources.avqa import read_avqa
from earwitness.sources.questions import SourceError, read_folder, read_questions
from earwitness.sources.world import read_world
from earwitness.world.selections import SELECTIONS

KNOWN = "world:SELECTION, world-easy:SELECTION, folder:PATH, jsonl:PATH, avqa:SPLIT"


def read_source(name: str, settings: Questions, limit: int) -> list[Question]:
    """Return the first `limit` questions (0: all) of a source such as `world:train` or `folder:my-videos`.

    Raises SourceError where the source is unknown or its rows are not as they must be.
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
        questions, _missing = read_avqa(Path(settings.annotations), list(settings.media), rest)
    else:
        raise SourceError(f"no source is called {name!r}; there are {KNOWN}")
    return questions[:limit] if limit else questions


def read_sources(names: tuple[str, ...], settings: Questions, limit: int) -> list[Question]:
    """Return the questions of several sources, `limit` (0: all) of each. Ids must not meet."""
    questions = [question for name in names for question in read_source(name, settings, limit)]
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise SourceError(f"the question id {question.id!r} comes from two sources: ids must be unique in a run")
        seen.add(question.id)
    return questions
