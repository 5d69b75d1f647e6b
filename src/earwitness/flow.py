"""Each method from top to bottom, in the order in which a person would tell it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earwitness.config import Answer, Grpo, Model, Role, Sft, Step, digest
from earwitness.preflight import trains
from earwitness.prompts import template
from earwitness.records import Ballot, Checkpoint, Claim, Grade, Lesson, Pool, Question, Reply, Trace, Verdict
from earwitness.run import Run
from earwitness.stages.answer import AnswerQuestions
from earwitness.stages.calibrate import CalibrateChecker
from earwitness.stages.grade import grade
from earwitness.stages.launching import train_launched
from earwitness.stages.sample import SampleTraces
from earwitness.stages.select import select
from earwitness.stages.student import student_spec
from earwitness.stages.training import TrainingJob, checkpoint_of, told, train
from earwitness.stages.verify import VerifyTraces
from earwitness.stages.vote import vote
from earwitness.stages.workbench import Rows, StageError, Workbench
from earwitness.table import Made

DATA_STAGES = ("sample", "vote", "verify", "select")
Material = tuple[tuple[Question, Lesson], ...]
Labelled = tuple[tuple[Question, str], ...]
Ends = dict[tuple[str, int | None], Checkpoint | None]


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


def sample_traces(bench: Workbench, questions: Sequence[Question], shown: str = "sample") -> Rows[Trace]:
    """K chains of thought per question, from the silent frames."""
    teacher, settings = bench.model("teacher"), bench.config.sample
    identity = {
        "sample": settings.identity(),
        "teacher": teacher.identity(),
        "seed": bench.config.seed,
        "prompts": _prompts(settings.prompt),
    }
    make = SampleTraces(teacher, settings, bench.config.seed)
    return bench.fill(
        "sample", identity, questions, bench.content, make, Trace, models={"teacher": teacher}, shown=shown
    )


def count_votes(
    bench: Workbench, questions: Sequence[Question], traces: Rows[Trace], shown: str = "vote"
) -> Rows[Ballot]:
    """Self-consistency: the answer that the traces agree on."""
    settings = bench.config.vote

    def make(block: list[Question]) -> list[Made]:
        return [[vote(traces.of(q), settings)] for q in block]

    identity = {"vote": settings.identity(), "of": traces.table}
    return bench.fill("vote", identity, questions, _nothing, make, Ballot, parents=[traces], shown=shown)


def verify_traces(bench: Workbench, questions: Sequence[Question], traces: Rows[Trace]) -> Rows[Verdict]:
    """Audio-grounded fact verification: the checker hears the sound and judges what each trace claims."""
    checker, settings = bench.model("checker"), bench.config.verify
    models: dict[Role, Model] = {"checker": checker}
    if settings.source == "extracted" and settings.unit == "claims":
        models["teacher"] = bench.model("teacher")
    identity = {
        "verify": {k: v for k, v in settings.identity().items() if k not in ("calibrate", "level", "bank")},
        "models": {str(role): spec.identity() for role, spec in models.items()},
        "of": traces.table,
        "prompts": _prompts("claim", "trace", "extract"),
    }
    make = VerifyTraces(checker, settings, models.get("teacher"))
    return bench.fill(
        "verify",
        identity,
        questions,
        bench.content,
        make,
        Verdict,
        attach=lambda q: (q, traces.of(q)),
        parents=[traces],
        models=models,
    )


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
        return [select(q, traces.of(q)[:cast], ballots.of(q)[0], verdicts.of(q), settings) for q in block]

    identity = {"select": settings.identity(), "of": [ballots.table, verdicts.table]}
    parents: list[Rows[Any]] = [ballots, verdicts]
    return bench.fill("select", identity, questions, bench.content, make, Lesson, parents=parents)


def calibrate_checker(bench: Workbench, made: Lessons) -> Rows[Claim] | None:
    """How well the checker hears, on a share of the training clips; None where there are no known sounds."""
    checker, settings = bench.model("checker"), bench.config.verify
    known = [q for q in made.questions if settings.bank or q.clip.media.startswith("world:")]
    questions = [q for i, q in enumerate(known) if _falls_on(i, settings.calibrate)]
    if not questions:
        if settings.calibrate:
            bench.note("the checker is not calibrated: verify.bank names no folder of known sounds for these clips")
        return None
    claimed = {q.id: tuple(sorted({c.text for v in made.verdicts.of(q) for c in v.claims})) for q in questions}
    bank = bench.run.digests.of_folder(Path(settings.bank), ["*"]) if settings.bank else "world"
    identity = {
        "calibrate": {"threshold": settings.threshold, "level": settings.level},
        "checker": checker.identity(),
        "seed": bench.config.seed,
        "bank": bank,
        "prompts": _prompts("claim"),
    }
    return bench.fill(
        "calibrate",
        identity,
        questions,
        lambda q: (bench.question_source(q), claimed[q.id]),
        CalibrateChecker(checker, settings, bench.config.seed),
        Claim,
        attach=lambda q: (q, claimed[q.id]),
        models={"checker": checker},
    )


def material(made: Lessons, pool: Pool, labels_only: bool, questions: int = 0) -> Material:
    """Return a pool's lessons; with `labels_only` one bare label for each question that the pool holds.

    `questions` takes those of the pool's first so many questions (0: of all). Raises StageError where the pool is
    empty, saying which settings decide about it.
    """
    pairs: list[tuple[Question, Lesson]] = []
    taken = 0
    for question in made.questions:
        members = [lesson for lesson in made.lessons.of(question) if pool in lesson.pools]
        if members and labels_only and pool not in ("labels", "gold"):
            members = [lesson for lesson in made.lessons.of(question) if "labels" in lesson.pools]
        taken += bool(members)
        if questions and taken > questions:
            break
        pairs += [(question, lesson) for lesson in members]
    if not pairs:
        raise StageError(
            f"the pool {pool!r} is empty after {len(made.questions)} questions: nothing can be learnt from it "
            f"({_why_empty(made, pool)}). Look at the run's rows with `earwitness show`, or ask more questions"
        )
    return tuple(pairs)


def _why_empty(made: Lessons, pool: Pool) -> str:
    failed = made.lessons.failed
    if failed:
        first, why = next(iter(failed.items()))
        return f"{len(failed)} of them failed, first {first}: {why}"
    traces = [trace for question in made.questions for trace in made.traces.of(question)]
    if pool != "gold" and not any(trace.answer for trace in traces):
        cut = sum(trace.finish == "length" for trace in traces)
        return f"no trace gave an answer that can be read; {cut} of {len(traces)} were cut off by sample.max_tokens"
    return "no question has an answer of its own" if pool == "gold" else "vote.share and verify.threshold decide"


def train_arms(bench: Workbench, made: Lessons, arms: dict[str, tuple[Step, ...]], choose: Labelled = ()) -> Ends:
    """Train every arm with every seed and return its last checkpoint (None: untrained). Equal steps are made once.

    `choose` is what checkpoints are compared by. On the CPU independent steps run side by side, one worker each.
    """
    ends: Ends = {}
    jobs: dict[str, TrainingJob] = {}
    names: dict[str, str] = {}
    places: dict[str, tuple[str, int, int]] = {}  # arm, step, seed: what to call a job outside this process
    for arm, steps in arms.items():
        for seed in bench.config.train.seeds if trains(steps) else (None,):
            parent: Checkpoint | None = None
            for number, step in enumerate(steps, 1):
                if step.stage != "answer" and seed is not None:
                    job = training_job(bench, made, step, parent, seed, choose)
                    jobs[job.key] = job
                    names.setdefault(job.key, f"{step.stage} of {arm}, seed {seed}")
                    places.setdefault(job.key, (arm, number, seed))
                    parent = checkpoint_of(job)
            ends[arm, seed] = parent
    if bench.config.train.processes > 1:
        _launch_all(bench, jobs, names, places)
    else:
        _train_all(bench, jobs, names)
    return ends


def _launch_all(
    bench: Workbench, jobs: dict[str, TrainingJob], names: dict[str, str], places: dict[str, tuple[str, int, int]]
) -> None:
    """Run jobs one after another, each in several processes, parents before those that go on from them."""
    for key, job in jobs.items():
        if Run.finished(job.folder) is None:
            bench.note(f"training {names[key]}: {job.settings.steps} steps in {bench.config.train.processes} processes")
            started = time.monotonic()
            facts = train_launched(bench, job, names[key], *places[key])
            bench.run.add_seconds(key, time.monotonic() - started)
            bench.note(f"trained {names[key]}: {told(facts)}")


def _train_all(bench: Workbench, jobs: dict[str, TrainingJob], names: dict[str, str]) -> None:
    """Run jobs as soon as their parents are done, those first that others wait for."""
    owed = {key: job for key, job in jobs.items() if Run.finished(job.folder) is None}
    awaited = {job.parent.key for job in owed.values() if job.parent}
    running: dict[Future[dict[str, Any]], tuple[str, float]] = {}
    while owed or running:
        busy = {*owed, *(key for key, _ in running.values())}
        ready = [k for k, job in owed.items() if not job.parent or job.parent.key not in busy]
        for key in sorted(ready, key=lambda k: k not in awaited)[: bench.workers.count - len(running)]:
            bench.note(f"training {names[key]}: {owed[key].settings.steps} steps")
            started = time.monotonic()
            running[bench.workers.submit(train, owed.pop(key))] = key, started
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            key, started = running.pop(future)
            bench.run.add_seconds(key, time.monotonic() - started)
            bench.note(f"trained {names[key]}: {told(future.result())}")


def training_job(
    bench: Workbench,
    made: Lessons,
    step: Step,
    parent: Checkpoint | None,
    seed: int,
    choose: Labelled = (),
) -> TrainingJob:
    """Return the job of one step. Its key is a digest of its settings and of all the content that it reads."""
    settings = bench.config.settings(step)
    if step.stage not in ("sft", "grpo"):
        raise StageError(f"the stage {step.stage!r} is not built yet in this version")
    assert isinstance(settings, Sft | Grpo)
    if isinstance(settings, Grpo):
        pairs = material(made, settings.prompts, labels_only=True)
    else:
        pairs = material(made, settings.lessons, labels_only=False, questions=settings.questions)
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
        labels = [(bench.question_source(q), label) for q, label in choose]
        identity["choose"] = {"labels": digest(labels), "answer_tokens": bench.config.answer.max_tokens}
    else:
        choose = ()
    folder = bench.run.folder(step.stage, identity)
    tokens = bench.config.answer.max_tokens
    trackers = bench.config.train.trackers
    return TrainingJob(step.stage, settings, base, parent, pairs, seed, folder, folder.name, choose, tokens, trackers)


def choosing_labels(bench: Workbench, questions: list[Question]) -> Labelled:
    """Return the labels that checkpoints are chosen by: the teacher's votes, or the data's own where asked for."""
    if bench.config.questions.choose_by == "gold":
        return tuple((q, q.answer) for q in questions if q.answer is not None)
    traces = sample_traces(bench, questions, "sample (choose)")
    ballots = count_votes(bench, questions, traces, "vote (choose)")
    found = ((q, ballots.of(q)[0].answer) for q in questions if ballots.of(q))
    return tuple((q, label) for q, label in found if label is not None)


def sit_exam(
    bench: Workbench,
    questions: list[Question],
    arm: str,
    checkpoint: Checkpoint | None,
    exam: str,
    seed: int | None = None,
) -> tuple[str, dict[str, Grade]]:
    """Let an arm's student (or the teacher) answer an exam, and grade it. Returns the mode and the grades."""
    steps = bench.config.arms[arm]
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
    make = AnswerQuestions(examinee, role, prompt, settings, bench.config.seed, bench.config.sample.frames)
    one_of_several = seed is not None and len(bench.config.train.seeds) > 1
    shown = f"answer ({arm}, seed {seed}, {exam})" if one_of_several else f"answer ({arm}, {exam})"
    models = {role: examinee}
    replies = bench.fill("answer", identity, questions, bench.content, make, Reply, models=models, shown=shown)

    def graded(block: list[Question]) -> list[Made]:
        return [[grade(q, next(iter(replies.of(q)), None))] for q in block]

    def content(question: Question) -> Sequence[str]:
        return bench.question_source(question), replies.sources[question.id]

    grades = bench.fill("grade", {"of": replies.table}, questions, content, graded, Grade, shown=None)
    return prompt, {i: found[0] for i, found in grades.made.items()}


def _thinks(bench: Workbench, steps: tuple[Step, ...]) -> bool:
    """Whether the last training step taught thinking."""
    taught = [step for step in steps if step.stage != "answer"]
    if not taught:
        return False
    settings = bench.config.settings(taught[-1])
    return isinstance(settings, Grpo) or (isinstance(settings, Sft) and settings.lessons not in ("labels", "gold"))


def _falls_on(index: int, share: float) -> bool:
    """Whether an item is among a share of a list, evenly spread; a longer list only adds to the choice."""
    return math.ceil((index + 1) * share) > math.ceil(index * share)


def _prompts(*names: str) -> dict[str, str]:
    """Return digests of the texts of prompts in both manners: a changed prompt is another stage."""
    texts = [(manner, name) for manner in ("plain", "world") for name in names if name != "given-trace"]
    return {f"{manner}/{name}": digest(_wordings(manner, name)) for manner, name in texts}


def _wordings(manner: str, name: str) -> list[str]:
    return [template(manner, name), template(manner, name, open_question=True)]


def _nothing(_: Question) -> Sequence[str]:
    return ()
