"""An exam sat in other ways: under controls, several times, with its choices in other orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from earwitness.config import Answer, PromptName
from earwitness.flow.exams import sitting_identity
from earwitness.learn.noise import generator
from earwitness.needs import sitting_of
from earwitness.records import Clip, Question, Reply
from earwitness.stages.answer import AnswerQuestions, Way
from earwitness.stages.workbench import Rows, Workbench
from earwitness.statistics.repeated import rotations


def sit_in_a_way(
    bench: Workbench, questions: Sequence[Question], whole: Sequence[Question], arm: str, exam: str, way: Way
) -> Rows[Reply]:
    """Let an untrained arm's student answer an exam in some way, about the clips themselves, under the arm's prompt.

    `questions` are those of the `whole` exam that are a shard's. Simply sat, its table is the one that `sit_exam`
    fills. In the way `other` each question comes with the clip of another one, drawn by its id. With a `rotation`
    questions of fewer choices are left out.
    """
    settings, prompt = _settings(bench, arm, way)
    student = bench.model("student")
    asked = [turned for q in questions if (turned := _turned(q, way.rotation)) is not None]
    others = _others(whole) if way.hears == "other" else {}

    def content(question: Question) -> Sequence[str]:
        heard = [bench.clip_source(others[question.id])] if question.id in others else []
        return bench.question_source(question), *heard

    def attach(question: Question) -> tuple[Question, None]:
        clip = others.get(question.id, question.clip)
        return question.model_copy(update={"clip": clip}), None

    departs = [f"{name} {value}" for name, value in way.identity().items()]
    return bench.fill(
        "answer",
        way_identity(bench, arm, exam, way),
        asked,
        content,
        AnswerQuestions(student, "student", prompt, settings, bench.config.seed, way=way),
        Reply,
        among=questions,
        attach=attach,
        models={"student": student},
        shown=f"answer ({', '.join([exam, *departs])})",
    )


def way_identity(bench: Workbench, arm: str, exam: str, way: Way) -> dict[str, Any]:
    """Return what names the table of an exam sat in some way."""
    settings, prompt = _settings(bench, arm, way)
    departs = way.identity()
    return {
        **sitting_identity(bench.config, settings, prompt, exam),
        "examinee": bench.model("student").identity(),
        **({"way": departs} if departs else {}),
    }


def _settings(bench: Workbench, arm: str, way: Way) -> tuple[Answer, PromptName]:
    settings = sitting_of(bench.config, bench.config.arms[arm])
    if way.temperature is not None:
        settings = settings.model_copy(update={"temperature": way.temperature})
    return settings, settings.prompt or "direct"


def _turned(question: Question, rotation: int) -> Question | None:
    """Return a question with its choices moved by some places; None where it has not so many orders."""
    if not rotation:
        return question
    orders = rotations(question.choices or ())
    return question.model_copy(update={"choices": orders[rotation]}) if rotation < len(orders) else None


def _others(questions: Sequence[Question]) -> dict[str, Clip]:
    """Return for each question, by its id, the clip of another one; a clip is its own only where there is no other."""
    clips = list({q.clip.id: q.clip for q in questions}.values())
    place = {clip.id: number for number, clip in enumerate(clips)}
    steps = {q.id: int(generator("another clip", q.id).integers(1, max(2, len(clips)))) for q in questions}
    return {q.id: clips[(place[q.clip.id] + steps[q.id]) % len(clips)] for q in questions}
