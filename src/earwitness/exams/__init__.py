"""Benchmarks: their questions, where their files lie, and their official scorers, one file each."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

from earwitness.config import ConfigError, Exams
from earwitness.exams import air_bench, avqa, iemocap, meld, mmar, mmau, mmau_pro, mmsu, music_avqa, transcript, world
from earwitness.exams.exam import Exam
from earwitness.exams.media import find_clips
from earwitness.exams.rows import read_rows
from earwitness.exams.versions import Version, version_of
from earwitness.records import Question
from earwitness.sources.problems import Problems, unfit

PARTS = (mmau, mmar, mmau_pro, mmsu, air_bench, avqa, music_avqa, meld, iemocap, transcript)
EXAMS: dict[str, Exam] = {exam.name: exam for part in PARTS for exam in part.EXAMS}
_SHOWN = 3


def exam_named(name: str) -> Exam:
    """Return a benchmark, or raise ConfigError naming those that there are."""
    if name not in EXAMS:
        near = difflib.get_close_matches(name, [*EXAMS, *world.NAMES], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no exam {name!r}{hint}; there are {', '.join([*EXAMS, *world.NAMES])}")
    return EXAMS[name]


def load_exam(name: str, settings: Exams, note: Callable[[str], None] = lambda _: None) -> list[Question]:
    """Return an exam's questions, each with its clip on this machine.

    Of a benchmark `settings.limit` questions (0: all) are drawn by their ids, so that each kind is among them. `note`
    is told the version and what is missing. Raises ConfigError or SourceError with what to fetch and where to name it.
    """
    if name in world.NAMES:
        return world.load(name, settings.limit)
    exam = exam_named(name)
    path = annotations_of(exam, settings)
    asked = exam.read(read_rows(path), str(path))
    note(f"the exam {name}: {version_of(name, asked).told()}")
    graded = [question for question in asked if question.answer is not None]
    if not graded:
        raise ConfigError(f"the exam {name} has no answers in {path}: it cannot be graded here")
    if len(graded) < len(asked):
        note(f"the exam {name}: {len(asked) - len(graded)} questions have no answer and are left out")
    _refuse_unfit(graded, str(path))
    found, missing = find_clips(graded, settings.media)
    if not found:
        raise ConfigError(
            f"the exam {name}: none of its {len(missing)} clips is there, {missing[0]} for example; name their "
            "folders, or patterns such as clips/{media}*.wav, in exams.media"
        )
    if missing:
        note(
            f"the exam {name}: {len(found)} of {len(graded)} questions can be asked, {len(missing)} clips are not "
            f"there ({', '.join(missing[:_SHOWN])}{', ...' if len(missing) > _SHOWN else ''}): its score is not that "
            "of the whole exam"
        )
    return _drawn(found, settings.limit)


def version_here(name: str, settings: Exams) -> tuple[Version, int]:
    """Return which version of an exam the file on this machine is, and how many questions it has, all counted."""
    if name in world.NAMES:
        whole = world.load(name, 0)
    else:
        exam = exam_named(name)
        path = annotations_of(exam, settings)
        whole = exam.read(read_rows(path), str(path))
    return version_of(name, whole), len(whole)


def annotations_of(exam: Exam, settings: Exams) -> Path:
    """Return the file with an exam's questions. Raises ConfigError with what to fetch and where to name it."""
    named = settings.annotations.get(exam.name)
    if named is None:
        raise ConfigError(
            f"the exam {exam.name} needs {exam.files}; put them on this machine and name the file with the questions: "
            f'[exams] annotations = {{ {exam.name} = "PATH" }}, and the clips\' folders: media = ["FOLDER"]'
        )
    path = Path(named).expanduser()
    if not path.is_file():
        raise ConfigError(f"exams.annotations.{exam.name}: there is no file {path}; it needs {exam.files}")
    return path


def _refuse_unfit(questions: list[Question], origin: str) -> None:
    """Raise SourceError for texts that a model would read as structure: its own tokens, tags, unfilled places."""
    problems = Problems(origin)
    for number, question in enumerate(questions, 1):
        for text in (question.text, *filter(None, question.choices or ())):
            if reason := unfit(text, "a text", "\n\t\r"):
                problems.add(number, f"question {question.id}: {reason}")
    problems.raise_any()


def _drawn(questions: list[Question], limit: int) -> list[Question]:
    if not limit or limit >= len(questions):
        return questions
    by_name = sorted(questions, key=lambda q: hashlib.sha256(q.id.encode()).digest())
    kept = {question.id for question in by_name[:limit]}
    return [question for question in questions if question.id in kept]
