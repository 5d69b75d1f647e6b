"""Training: which lessons each step learns from, and every step of every arm with every seed."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from earwitness.config import Distil, Grpo, Sft, Step, digest
from earwitness.flow.data import Labelled, Lessons, prompt_digests
from earwitness.needs import OWN_POOLS, reads_descriptions, trains
from earwitness.records import Checkpoint, Lesson, Pool, Question
from earwitness.run import Run
from earwitness.stages.launching import train_launched
from earwitness.stages.training import TrainingJob, checkpoint_of, told, train
from earwitness.stages.workbench import StageError, Workbench

Material = tuple[tuple[Question, Lesson], ...]
Described = tuple[tuple[str, str], ...]
Ends = dict[tuple[str, int | None], Checkpoint | None]


def material(made: Lessons, pool: Pool, labels_only: bool, questions: int = 0) -> Material:
    """Return a pool's lessons; with `labels_only` one bare label for each question that the pool holds.

    `questions` takes those of the pool's first so many questions (0: of all). Raises StageError where the pool is
    empty, saying which settings decide about it.
    """
    pairs: list[tuple[Question, Lesson]] = []
    taken = 0
    for question in made.questions:
        members = [lesson for lesson in made.lessons.of(question) if pool in lesson.pools]
        if members and labels_only:
            label: Pool = "gold" if pool in OWN_POOLS else "labels"
            members = [lesson for lesson in made.lessons.of(question) if label in lesson.pools]
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
    if pool in OWN_POOLS:
        return f"no question has {'an answer' if pool == 'gold' else 'both a think and an answer'} of its own"
    traces = [trace for question in made.questions for trace in made.traces.of(question)]
    if not any(trace.answer for trace in traces):
        cut = sum(trace.finish == "length" for trace in traces)
        return f"no trace gave an answer that can be read; {cut} of {len(traces)} were cut off by sample.max_tokens"
    return "vote.share and verify.threshold decide"


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
    assert isinstance(settings, Sft | Grpo | Distil) and step.stage != "answer"
    if isinstance(settings, Grpo):
        pairs = material(made, settings.prompts, labels_only=True)
    else:
        pairs = material(made, settings.lessons, labels_only=False, questions=settings.questions)
    teacher, descriptions = None, Described()
    if isinstance(settings, Distil) and settings.reads:
        teacher = bench.model("textual_teacher")
        if reads_descriptions(settings):
            pairs, descriptions = described(bench, made, pairs)
    checker = None
    if isinstance(settings, Grpo) and settings.checker_weight:
        checker = bench.model("checker"), bench.config.verify
    job = TrainingJob(
        step.stage,
        settings,
        bench.model("student"),
        parent,
        pairs,
        seed,
        folder=Path(),
        key="",
        choose=choose if settings.candidates > 1 else (),
        answer_tokens=bench.config.answer.max_tokens,
        trackers=bench.config.train.trackers,
        textual_teacher=teacher,
        descriptions=descriptions,
        checker=checker,
        budget=bench.config.budget,
    )
    folder = bench.run.folder(step.stage, _identity(bench, job))
    return replace(job, folder=folder, key=folder.name)


def _identity(bench: Workbench, job: TrainingJob) -> dict[str, Any]:
    """Return all that decides what a job makes."""
    pairs = [(bench.question_source(q), lesson.model_dump(mode="json")) for q, lesson in job.material]
    identity: dict[str, Any] = {
        job.stage: job.settings.identity(),
        "student": job.base.identity(),
        "weights": bench.model_source(job.base),
        "parent": job.parent.key if job.parent else None,
        "seed": job.seed,
        "material": digest(pairs),
        "prompts": prompt_digests("direct", "think"),
    }
    if job.textual_teacher is not None:
        identity["textual_teacher"] = [job.textual_teacher.identity(), bench.model_source(job.textual_teacher)]
        identity["descriptions"] = [digest(job.descriptions), prompt_digests("described")]
    if job.checker is not None:
        model, verify = job.checker
        rules = verify.model_dump(include={"threshold", "accept_without_claims", "noise"})
        identity["checker"] = [model.identity(), bench.model_source(model), rules, prompt_digests("claim")]
    if job.settings.candidates > 1:
        labels = [(bench.question_source(q), label) for q, label in job.choose]
        identity["choose"] = {"labels": digest(labels), "answer_tokens": job.answer_tokens}
    return identity


def described(bench: Workbench, made: Lessons, pairs: Material) -> tuple[Material, Described]:
    """Return the lessons whose clip is described, and the descriptions by question id.

    Raises StageError where none is.
    """
    assert made.descriptions is not None
    told = {question.id: d[0].text for question, _ in pairs if (d := made.descriptions.of(question))}
    kept = tuple(pair for pair in pairs if pair[0].id in told)
    if not kept:
        first, why = next(iter(made.descriptions.failed.items()))
        raise StageError(
            f"none of the {len(pairs)} lessons has a description, first {first}: {why}. Name another describer, or let "
            "describe.source take what the data carries (caption, field)"
        )
    if len(kept) < len(pairs):
        bench.note(f"{len(pairs) - len(kept)} of {len(pairs)} lessons have no description: distil leaves them out")
    return kept, tuple(told.items())
