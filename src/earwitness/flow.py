"""Each method from top to bottom, in the order in which a person would tell it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from earwitness.config import NOT_BUILT, Answer, Grpo, Optimisation, Pool, Role, Step, digest
from earwitness.prompts import template
from earwitness.records import (
    Ballot,
    Checkpoint,
    Claim,
    Grade,
    Lesson,
    Question,
    Reply,
    Trace,
    Verdict,
)
from earwitness.run import Run, row_source
from earwitness.sources import read_sources
from earwitness.stages.answer import AnswerQuestions
from earwitness.stages.calibrate import CalibrateChecker
from earwitness.stages.grade import grade
from earwitness.stages.sample import SampleTraces
from earwitness.stages.select import select
from earwitness.stages.training import TrainingJob, checkpoint_of, student_spec, train
from earwitness.stages.verify import VerifyTraces
from earwitness.stages.vote import vote
from earwitness.stages.workbench import Rows, StageError, Workbench
from earwitness.table import Failed, Made

DATA_STAGES = ("sample", "vote", "verify", "select")
Material = tuple[tuple[Question, Lesson], ...]
Labelled = tuple[tuple[Question, str], ...]


@dataclass(frozen=True)
class Lessons:
    """Everything that the data stages have made of the training questions."""

    questions: list[Question]
    traces: Rows[Trace]
    ballots: Rows[Ballot]
    verdicts: Rows[Verdict]
    lessons: Rows[Lesson]


def lessons(bench: Workbench, questions: list[Question], until: str | None = None) -> Lessons | None:
    """Method one's data: the silent teacher writes, the vote agrees, the checker listens, and lessons remain.

    Stops after the stage named by `until` and then returns None.
    """
    traces = sample_traces(bench, questions)
    if until == "sample":
        return None
    ballots = count_votes(bench, questions, traces)
    if until == "vote":
        return None
    verdicts = verify_traces(bench, questions, traces)
    if until == "verify":
        return None
    chosen = select_lessons(bench, questions, traces, ballots, verdicts)
    return Lessons(questions, traces, ballots, verdicts, chosen)


def sample_traces(bench: Workbench, questions: Sequence[Question]) -> Rows[Trace]:
    """K chains of thought per question, from the silent frames."""
    teacher, settings = bench.model("teacher"), bench.config.sample
    identity = {
        "sample": settings.identity(),
        "teacher": teacher.identity(),
        "seed": bench.config.seed,
        "prompts": _prompts(settings.prompt),
    }
    content = bench.model_source(teacher)
    sources = {q.id: row_source(bench.question_source(q), content) for q in questions}
    make = SampleTraces(teacher, settings, bench.config.seed)
    return bench.fill("sample", identity, questions, sources, make, Trace)


def count_votes(bench: Workbench, questions: Sequence[Question], traces: Rows[Trace]) -> Rows[Ballot]:
    """Self-consistency: the answer that the traces agree on."""
    settings = bench.config.vote

    def make(block: list[Question]) -> list[Made]:
        return [[vote(traces.of(q), settings)] if q.id in traces.made else _passed_on(traces, q) for q in block]

    identity = {"vote": settings.identity(), "of": traces.table}
    sources = {q.id: row_source(traces.sources[q.id]) for q in questions}
    return bench.fill("vote", identity, questions, sources, make, Ballot, parallel=False)


def verify_traces(bench: Workbench, questions: Sequence[Question], traces: Rows[Trace]) -> Rows[Verdict]:
    """Audio-grounded fact verification: the checker hears the sound and judges what each trace claims."""
    checker, settings = bench.model("checker"), bench.config.verify
    extractor = bench.model("teacher") if settings.source == "extracted" else None
    identity = {
        "verify": settings.identity(),
        "checker": checker.identity(),
        "extractor": extractor.identity() if extractor else None,
        "of": traces.table,
        "prompts": _prompts("claim", "trace", "extract"),
    }
    content = bench.model_source(checker)
    sources = {q.id: row_source(bench.question_source(q), traces.sources[q.id], content) for q in questions}
    make = VerifyTraces(checker, settings, extractor)
    return bench.fill("verify", identity, questions, sources, make, Verdict, lambda q: (q, traces.of(q)))


def select_lessons(
    bench: Workbench,
    questions: Sequence[Question],
    traces: Rows[Trace],
    ballots: Rows[Ballot],
    verdicts: Rows[Verdict],
) -> Rows[Lesson]:
    """The pools that students learn from."""
    settings, cast = bench.config.select, bench.config.vote.traces

    def make(block: list[Question]) -> list[Made]:
        return [one(q) for q in block]

    def one(q: Question) -> Made:
        if q.id not in ballots.made:
            return _passed_on(ballots, q)
        return select(q, traces.of(q)[:cast], ballots.of(q)[0], verdicts.of(q), settings)

    identity = {"select": settings.identity(), "of": [ballots.table, verdicts.table]}
    sources = {q.id: row_source(bench.question_source(q), ballots.sources[q.id], verdicts.sources[q.id]) for q in questions}
    return bench.fill("select", identity, questions, sources, make, Lesson, parallel=False)


def calibrate_checker(bench: Workbench, made: Lessons) -> Rows[Claim]:
    """How well the checker hears, on a share of the training clips."""
    checker, settings = bench.model("checker"), bench.config.verify
    share = round(len(made.questions) * settings.calibrate)
    step = max(1, len(made.questions) // share) if share else 1
    questions = made.questions[::step][:share]
    claimed = {q.id: tuple({c.text for v in made.verdicts.of(q) for c in v.claims}) for q in questions}
    identity = {"verify": settings.identity(), "checker": checker.identity(), "seed": bench.config.seed}
    content = bench.model_source(checker)
    sources = {q.id: row_source(bench.question_source(q), sorted(claimed[q.id]), content) for q in questions}
    make = CalibrateChecker(checker, settings, bench.config.seed)
    return bench.fill("calibrate", identity, questions, sources, make, Claim, lambda q: (q, claimed[q.id]))


def material(made: Lessons, pool: Pool, labels_only: bool) -> Material:
    """Return a pool's lessons; with `labels_only` one bare label for each question that the pool holds.

    Raises StageError where the pool is empty, saying which settings decide about it.
    """
    pairs = []
    for question in made.questions:
        members = [lesson for lesson in made.lessons.of(question) if pool in lesson.pools]
        if members and labels_only and pool not in ("labels", "gold"):
            members = [lesson for lesson in made.lessons.of(question) if "labels" in lesson.pools]
        pairs += [(question, lesson) for lesson in members]
    if not pairs:
        raise StageError(
            f"the pool {pool!r} is empty after {len(made.questions)} questions: nothing can be learnt from it. "
            "Look at `earwitness show`; vote.share and verify.threshold decide what stays"
        )
    return tuple(pairs)


def train_arms(
    bench: Workbench, made: Lessons, arms: dict[str, tuple[Step, ...]]
) -> dict[tuple[str, int], Checkpoint | None]:
    """Train every arm with every seed and return its last checkpoint (None: untrained). Equal steps are made once.

    On the CPU independent steps run side by side, one worker each.
    """
    choose = choosing_labels(bench, arms)
    ends: dict[tuple[str, int], Checkpoint | None] = {}
    jobs: dict[str, TrainingJob] = {}
    for arm, steps in arms.items():
        for seed in bench.config.train.seeds if _trained(steps) else (0,):
            parent: Checkpoint | None = None
            for step in steps:
                if step.stage != "answer":
                    job = training_job(bench, made, step, parent, seed, choose)
                    jobs[job.key] = job
                    parent = checkpoint_of(job)
            ends[arm, seed] = parent
    _train_all(bench, jobs)
    return ends


def _train_all(bench: Workbench, jobs: dict[str, TrainingJob]) -> None:
    """Run jobs as soon as their parents are done, those first that others wait for."""
    owed = {key: job for key, job in jobs.items() if Run.finished(job.folder) is None}
    awaited = {job.parent.key for job in owed.values() if job.parent}
    running: dict[Future[dict[str, Any]], str] = {}
    while owed or running:
        ready = [k for k, job in owed.items() if not job.parent or job.parent.key not in {*owed, *running.values()}]
        for key in sorted(ready, key=lambda k: k not in awaited)[: bench.workers.count - len(running)]:
            bench.note(f"training {key}: {owed[key].settings.steps} steps")
            running[bench.workers.submit(train, owed.pop(key))] = key
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            bench.note(f"trained {running.pop(future)}: {future.result()}")


def training_job(
    bench: Workbench,
    made: Lessons,
    step: Step,
    parent: Checkpoint | None,
    seed: int,
    choose: Labelled = (),
) -> TrainingJob:
    """Return the job of one step. Its key is a digest of its settings and of all the content that it reads."""
    if step.stage in NOT_BUILT:
        raise StageError(f"the stage {step.stage!r} is not built yet in this version")
    settings = bench.config.settings(step)
    assert isinstance(settings, Optimisation)
    pool: Pool = settings.prompts if isinstance(settings, Grpo) else settings.lessons  # type: ignore[attr-defined]
    pairs = material(made, pool, labels_only=isinstance(settings, Grpo))
    base = bench.model("student")
    identity = {
        step.stage: settings.identity(),
        "student": base.identity(),
        "weights": bench.model_source(base),
        "parent": parent.key if parent else None,
        "seed": seed,
        "material": digest([(bench.question_source(q), les.model_dump(mode="json")) for q, les in pairs]),
        "prompts": _prompts("direct", "think"),
    }
    if settings.candidates > 1:
        identity["choose"] = digest([(bench.question_source(q), label) for q, label in choose])
    folder = bench.run.folder(step.stage, identity)
    return TrainingJob(step.stage, settings, base, parent, pairs, seed, folder, folder.name, choose)  # type: ignore[arg-type]


def choosing_labels(bench: Workbench, arms: dict[str, tuple[Step, ...]]) -> Labelled:
    """Return the questions and labels that checkpoints are chosen by: the teacher's votes, none where none is chosen."""
    settings = [bench.config.settings(step) for steps in arms.values() for step in steps if step.stage not in NOT_BUILT]
    if not any(isinstance(s, Optimisation) and s.candidates > 1 for s in settings):
        return ()
    asked = bench.config.questions
    questions = read_sources(asked.choose, asked, asked.choose_limit, bench.note)
    if asked.choose_by == "gold":
        return tuple((q, q.answer) for q in questions if q.answer is not None)
    ballots = count_votes(bench, questions, sample_traces(bench, questions))
    found = ((q, ballots.of(q)[0].answer) for q in questions if ballots.of(q))
    labelled = tuple((q, label) for q, label in found if label is not None)
    if not labelled:
        raise StageError("candidates are to be compared, and questions.choose gives no labelled question to do it by")
    return labelled


def sit_exam(
    bench: Workbench, questions: list[Question], steps: tuple[Step, ...], checkpoint: Checkpoint | None, exam: str
) -> tuple[str, dict[str, Grade]]:
    """Let an arm's student (or the teacher) answer an exam, and grade it. Returns the mode and the grades."""
    last = steps[-1] if steps and steps[-1].stage == "answer" else Step(stage="answer")
    settings = bench.config.settings(last)
    assert isinstance(settings, Answer)
    role: Role = settings.examinee
    examinee = student_spec(bench.model("student"), checkpoint) if role == "student" else bench.model("teacher")
    prompt = settings.prompt or ("think" if _thinks(bench, steps) or role == "teacher" else "direct")
    identity = {
        "answer": settings.identity(),
        "examinee": checkpoint.key if checkpoint else examinee.identity(),
        "exam": exam,
        "prompts": _prompts(prompt, "audio"),
        "seed": bench.config.seed,
    }
    content = bench.model_source(examinee)
    sources = {q.id: row_source(bench.question_source(q), content) for q in questions}
    make = AnswerQuestions(examinee, role, prompt, settings, bench.config.seed, bench.config.sample.frames)
    replies = bench.fill("answer", identity, questions, sources, make, Reply)

    def graded(block: list[Question]) -> list[Made]:
        return [[grade(q, next(iter(replies.of(q)), None))] for q in block]

    grade_sources = {q.id: row_source(bench.question_source(q), replies.sources[q.id]) for q in questions}
    grades = bench.fill("grade", {"of": replies.table}, questions, grade_sources, graded, Grade, parallel=False)
    return prompt, {i: found[0] for i, found in grades.made.items()}


def _thinks(bench: Workbench, steps: tuple[Step, ...]) -> bool:
    """Whether the last training step taught thinking."""
    trained = [step for step in steps if step.stage != "answer"]
    if not trained:
        return False
    settings = bench.config.settings(trained[-1])
    return isinstance(settings, Grpo) or settings.lessons not in ("labels", "gold")  # type: ignore[attr-defined]


def _trained(steps: tuple[Step, ...]) -> bool:
    return any(step.stage != "answer" for step in steps)


def _prompts(*names: str) -> dict[str, str]:
    """Return the texts of prompts in both manners: a changed prompt is another stage."""
    return {f"{manner}/{name}": digest(template(manner, name)) for manner in ("plain", "world") for name in names if name != "given-trace"}


def _passed_on(rows: Rows[Any], question: Question) -> Failed:
    return Failed(f"an earlier stage failed: {rows.failed[question.id]}")


