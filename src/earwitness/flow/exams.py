"""The exams: an arm's student, or another examinee, answers about clips or about descriptions of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from earwitness.config import Answer, Distil, Grpo, PromptName, Role, RunConfig, Sft, Step
from earwitness.flow.data import describe_clips, prompt_digests
from earwitness.needs import sitting_of
from earwitness.records import Checkpoint, Description, Grade, Question, Reply
from earwitness.stages.answer import AnswerQuestions
from earwitness.stages.grade import grade
from earwitness.stages.student import student_spec
from earwitness.stages.workbench import Rows, Workbench
from earwitness.table import Failed, Made

NO_REASONING = "the teacher answered without reasoning that could be handed over"


def sit_exam(
    bench: Workbench,
    questions: list[Question],
    arm: str,
    checkpoint: Checkpoint | None,
    exam: str,
    seed: int | None = None,
) -> list[tuple[str, dict[str, Grade]]]:
    """Let an arm's student (or a teacher) answer an exam, and grade it.

    Returns the grades of each mode that it is asked in: one, or both where the exam is asked both ways.
    """
    prompts = modes_of(bench.config, arm, exam)
    return [(prompt, _sit(bench, questions, arm, checkpoint, exam, seed, prompt)) for prompt in prompts]


def modes_of(config: RunConfig, arm: str, exam: str) -> list[PromptName]:
    """Return the prompts under which an arm sits an exam: its own, and both where the exam is asked both ways."""
    steps = config.arms[arm]
    settings = sitting_of(config, steps)
    own = settings.prompt or ("think" if _thinks(config, steps) or settings.examinee != "student" else "direct")
    both: tuple[PromptName, ...] = ("direct", "think") if exam in config.exams.both_ways else ()
    return list(dict.fromkeys((*both, own)))


def _sit(
    bench: Workbench,
    questions: list[Question],
    arm: str,
    checkpoint: Checkpoint | None,
    exam: str,
    seed: int | None,
    prompt: PromptName,
) -> dict[str, Grade]:
    settings = sitting_of(bench.config, bench.config.arms[arm])
    one_of_several = seed is not None and len(bench.config.train.seeds) > 1
    asked = f"{exam}, {prompt}" if exam in bench.config.exams.both_ways else exam
    shown = f"answer ({arm}, seed {seed}, {asked})" if one_of_several else f"answer ({arm}, {asked})"
    replies = _replies(bench, questions, exam, settings, prompt, checkpoint, shown)

    def graded(block: list[Question]) -> list[Made]:
        return [[grade(q, next(iter(replies.of(q)), None), lists=prompt != "plain")] for q in block]

    def content(question: Question) -> Sequence[str]:
        return bench.question_source(question), replies.sources[question.id]

    grades = bench.fill("grade", {"of": replies.table}, questions, content, graded, Grade, shown=None)
    return {i: found[0] for i, found in grades.made.items()}


def _replies(
    bench: Workbench,
    questions: list[Question],
    exam: str,
    settings: Answer,
    prompt: PromptName,
    checkpoint: Checkpoint | None,
    shown: str,
) -> Rows[Reply]:
    role: Role = settings.examinee
    examinee = student_spec(bench.model("student"), checkpoint) if role == "student" else bench.model(role)
    told = _told(bench, settings, questions, exam, prompt)
    beside = () if told is None else ("described",) if settings.sees != "clip" else ("given-trace", "direct")
    if settings.sees != "clip":
        examinee = examinee.model_copy(update={"long_clips": "refuse"})  # of no concern to one who reads
    watches = role == "teacher" and settings.sees == "clip"
    identity = {
        **sitting_identity(bench.config, settings, prompt, exam, beside),
        **({"frames": bench.config.sample.frames} if watches else {}),
        "examinee": checkpoint.key if checkpoint else examinee.identity(),
        **({"of": told.table} if told else {}),
    }
    return bench.fill(
        "answer",
        identity,
        questions,
        bench.content,
        AnswerQuestions(examinee, role, prompt, settings, bench.config.seed, bench.config.sample.frames),
        Reply,
        attach=lambda q: _with_words(q, told.of(q)[0]) if told else (q, None),
        parents=[told] if told else [],
        models={role: examinee},
        shown=shown,
    )


def sitting_identity(
    config: RunConfig, settings: Answer, prompt: PromptName, exam: str, beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what decides about a sitting beside its examinee; `beside` are further prompts that it is asked by."""
    return {
        "answer": settings.identity() | {"prompt": prompt},
        "exam": exam,
        "prompts": prompt_digests(prompt, "audio", *beside),
        "seed": config.seed,
    }


def _told(
    bench: Workbench, sitting: Answer, questions: list[Question], exam: str, prompt: PromptName
) -> Rows[Description] | Rows[Reply] | None:
    """Return what each question comes with: a description in place of its clip, or the teacher's reasoning."""
    if sitting.sees != "clip":
        source = "oracle" if sitting.sees == "oracle" else bench.config.describe.source
        return describe_clips(bench, questions, source, f"describe ({exam})")
    if prompt != "given-trace":
        return None
    watching = bench.config.settings(Step(stage="answer", settings={"examinee": "teacher", "sees": "clip"}))
    assert isinstance(watching, Answer)
    return _replies(bench, questions, exam, watching, "think", None, f"answer (the teacher, {exam})")


def _with_words(question: Question, told: Description | Reply) -> tuple[Question, str] | Failed:
    words = told.text if isinstance(told, Description) else told.think
    return (question, words) if words else Failed(NO_REASONING)


def _thinks(config: RunConfig, steps: tuple[Step, ...]) -> bool:
    """Whether the last training step taught thinking."""
    taught = [step for step in steps if step.stage != "answer"]
    if not taught:
        return False
    settings = config.settings(taught[-1])
    lessons = settings.lessons if isinstance(settings, Sft | Distil) else None
    return isinstance(settings, Grpo) or (lessons is not None and lessons not in ("labels", "gold"))
