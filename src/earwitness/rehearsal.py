"""A rehearsal: a real configuration, two questions, every stage, with tiny random models of the same classes.

What a random model says cannot be read, so the rehearsal practises on the questions' first choices: what is rehearsed
is the plumbing, never the result.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from earwitness.config import Model, Role, RunConfig, Step
from earwitness.driver import PRELOAD
from earwitness.flow import (
    Ends,
    Labelled,
    Lessons,
    calibrate_checker,
    choosing_labels,
    describe_clips,
    lessons,
    sit_exam,
    train_arms,
)
from earwitness.flow.exams import NO_REASONING
from earwitness.needs import chooses, roles
from earwitness.preflight import Asked, read_questions, refuse
from earwitness.pretrain.tiny import CLASSES, write_tiny
from earwitness.records import Description, Lesson, Question
from earwitness.run import Run
from earwitness.stages.describe import UNUSABLE
from earwitness.stages.workbench import Rows, Workbench
from earwitness.terminal import ProgressLine
from earwitness.workers import Workers

QUESTIONS = 2
TOKENS = 24
SMALL: dict[str, dict[str, Any]] = {
    "sample": {"traces": 2, "max_tokens": TOKENS, "frames": 4},
    "sft": {"steps": 2, "batch": 2, "micro_batch": 1, "checkpoint_every": 1},
    "grpo": {
        "steps": 2,
        "batch": 1,
        "micro_batch": 0,
        "group": 2,
        "max_tokens": TOKENS,
        "filter_samples": 0,
        "rollouts": "local",
    },
    "distil": {
        "steps": 2,
        "batch": 2,
        "micro_batch": 1,
        "checkpoint_every": 1,
        "layers": "all",
        "acoustic_layers": "all",
        "teacher_layers": [],
        "layer_weights": [],
    },
    "describe": {"max_tokens": TOKENS},
    "answer": {"max_tokens": TOKENS},
    "verify": {"calibrate": 0.5},
    "train": {"seeds": [1], "processes": 1, "parallel": 1},
}
CANDIDATES = 2
PRACTICE = "a rehearsal"  # what stands in for reasoning and descriptions


def rehearse(config: RunConfig, root: Path) -> int:
    """Run a configuration's stages on two questions in a temporary folder under `root`, and say what went through.

    Returns 0, or 1 where a question failed.
    """
    started = time.monotonic()
    line = ProgressLine()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=root) as folder, _one_thread():
        small = small_config(config, Path(folder))
        refuse(small)
        asked = read_questions(small, line.say)
        with Run.open(folder, "run") as run, Workers(1, PRELOAD) as workers:
            bench = Workbench(small, run, workers, line)
            _all_stages(bench, asked)
    for stage, first in bench.failures.values():
        line.say(f"{stage}, first {first}")
    if bench.failures:
        return 1
    seconds = time.monotonic() - started
    line.say(f"rehearsed {config.name} in {seconds:.0f} s: every stage of every arm, with tiny random models")
    return 0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in one thread: for tiny models several only wait for each other, on a busy machine for long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def small_config(config: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration with tiny models (written under `folder`), two questions and two steps."""
    for variant in config.variants:
        config.variant(variant)  # its keys are checked, its stages are those of the run
    data = config.model_dump(mode="json")
    for section, values in SMALL.items():
        data[section].update(values)
    for section in (data["sft"], data["grpo"], data["distil"]):
        section["candidates"] = min(CANDIDATES, section["candidates"])
    data["questions"]["limit"] = data["exams"]["limit"] = data["questions"]["choose_limit"] = QUESTIONS
    data["variants"] = {}
    data["models"] = {role: _tiny(role, spec, folder).model_dump(mode="json") for role, spec in config.models.items()}
    data["arms"] = {arm: [_small_step(step) for step in steps] for arm, steps in config.arms.items()}
    return RunConfig.parse(data, f"the rehearsal of {config.name}")


def _small_step(step: Step) -> dict[str, Any]:
    kept = {k: v for k, v in step.settings.items() if k not in SMALL.get(step.stage, {})}
    if "candidates" in kept:
        kept["candidates"] = min(CANDIDATES, kept["candidates"])
    return {"stage": step.stage, **kept}


def _tiny(role: Role, spec: Model, folder: Path) -> Model:
    """Return a tiny random model of the class that a spec names (of the role's usual class where that is unknown)."""
    place = folder / "models" / role
    write_tiny(spec, CLASSES[role], place)
    return Model(kind="local", name=str(place), dtype="float32")


def _all_stages(bench: Workbench, asked: Asked) -> None:
    bench, asked = _with_descriptions(bench, asked)
    config = bench.config
    made = lessons(bench, asked.train) if asked.train else None
    ends: Ends = {(arm, None): None for arm in config.arms}
    if made is not None:
        if made.verdicts.table:
            calibrate_checker(bench, made)
        ends = train_arms(bench, _with_practice(made), config.arms, _labels(bench, asked.choose or asked.train))
    for exam, questions in asked.exams.items():
        for (arm, _), checkpoint in ends.items():
            sit_exam(bench, questions, arm, checkpoint, exam)
    # That a random teacher does not reason is no failure of what is rehearsed.
    for table in [name for name, (_, why) in bench.failures.items() if why.endswith(NO_REASONING)]:
        del bench.failures[table]


def _with_descriptions(bench: Workbench, asked: Asked) -> tuple[Workbench, Asked]:
    """Let the describer listen and speak; whatever it says, the stages that read go on with stand-ins.

    That a random model's words describe nothing is no failure; a clip that it cannot be shown is one.
    """
    if "describer" not in roles(bench.config):
        return bench, asked
    rows = describe_clips(bench, list({q.id: q for qs in (asked.train, *asked.exams.values()) for q in qs}.values()))
    bench.failures.pop(rows.table, None)
    real = {i: why for i, why in rows.failed.items() if not why.startswith(UNUSABLE)}
    if real:
        first, why = next(iter(real.items()))
        bench.failures[rows.table] = (
            f"describe: {len(real)} of {len(rows.sources)} questions failed",
            f"{first}: {why}",
        )
    bench.note(f"describe: {len(rows.failed) - len(real)} descriptions by a random model mean nothing; stand-ins serve")
    described = bench.config.describe.model_copy(update={"source": "field"})
    readers = replace(bench, config=bench.config.model_copy(update={"describe": described}))
    exams = {exam: _described(questions) for exam, questions in asked.exams.items()}
    return readers, replace(asked, train=_described(asked.train), exams=exams)


def _described(questions: list[Question]) -> list[Question]:
    return [q.model_copy(update={"description": PRACTICE}) for q in questions]


def _labels(bench: Workbench, questions: list[Question]) -> Labelled:
    """Return the labels to compare candidates by; where the teacher gave none, the first choices stand in."""
    if not chooses(bench.config):
        return ()
    return choosing_labels(bench, questions) or tuple((q, _first_choice(q)) for q in questions)


def _with_practice(made: Lessons) -> Lessons:
    """Put every question that came through into every pool, once with and once without thinking, and describe it."""
    rows: dict[str, list[Lesson]] = {}
    heard = {i: [Description(text=PRACTICE, by="rehearsal")] for i in made.lessons.made}
    for question in made.questions:
        if question.id in made.lessons.made:
            thought = Lesson(
                think=PRACTICE,
                answer=_first_choice(question),
                index=0,
                pools=("all", "agreed", "heard", "verified", "given"),
                by="rehearsal",
            )
            label = thought.model_copy(update={"think": None, "index": None, "pools": ("labels", "gold")})
            rows[question.id] = [thought, label]
    told = made.lessons
    practice = Rows(told.stage, told.table, rows, told.failed, told.sources)
    described = made.descriptions and replace(made.descriptions, made=heard, sources=told.sources)
    return replace(made, lessons=practice, descriptions=described)


def _first_choice(question: Question) -> str:
    return (question.choices or ("something",))[0]
