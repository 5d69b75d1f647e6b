"""A rehearsal: a real configuration, two questions, every stage, with tiny random models of the same classes.

What a random model says cannot be read, so where a pool stays empty the rehearsal practises on the questions'
first choices: what is rehearsed is the plumbing, never the result.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from earwitness.config import Model, Role, RunConfig, Step
from earwitness.driver import read_exam
from earwitness.flow import Lessons, calibrate_checker, lessons, sit_exam, train_arms
from earwitness.pretrain.tiny import CLASSES, write_tiny
from earwitness.records import Lesson
from earwitness.run import Run
from earwitness.sources import read_sources
from earwitness.stages.workbench import Rows, Workbench
from earwitness.terminal import ProgressLine
from earwitness.workers import Workers

QUESTIONS = 2
TOKENS = 24
SMALL: dict[str, dict[str, Any]] = {
    "sample": {"traces": 2, "max_tokens": TOKENS, "frames": 4},
    "sft": {"steps": 2, "batch": 2, "micro_batch": 1, "checkpoint_every": 1, "candidates": 1},
    "grpo": {"steps": 2, "batch": 1, "micro_batch": 0, "group": 2, "max_tokens": TOKENS, "filter_samples": 0},
    "answer": {"max_tokens": TOKENS},
    "verify": {"calibrate": 0.5},
    "train": {"seeds": [1], "processes": 1, "parallel": 1},
}


def rehearse(config: RunConfig, root: Path) -> int:
    """Run a configuration's stages on two questions in a temporary folder under `root`, and say what went through."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=root) as folder:
        small = small_config(config, Path(folder))
        with Run.open(folder, "run") as run, Workers(1) as workers:
            bench = Workbench(small, run, workers, ProgressLine())
            _all_stages(bench)
    print(f"rehearsed {config.name}: every stage of every arm went through with tiny random models", file=sys.stderr)
    return 0


def small_config(config: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration with tiny models (written under `folder`), two questions and two steps."""
    data = config.model_dump(mode="json")
    for section, values in SMALL.items():
        data[section].update(values)
    data["questions"]["limit"] = data["exams"]["limit"] = data["questions"]["choose_limit"] = QUESTIONS
    data["variants"] = {}
    data["models"] = {role: _tiny(role, spec, folder).model_dump(mode="json") for role, spec in config.models.items()}
    data["arms"] = {arm: [_small_step(step) for step in steps] for arm, steps in config.arms.items()}
    return RunConfig.parse(data, f"the rehearsal of {config.name}")


def _small_step(step: Step) -> dict[str, Any]:
    kept = {k: v for k, v in step.settings.items() if k not in SMALL.get(step.stage, {})}
    return {"stage": step.stage, **kept}


def _tiny(role: Role, spec: Model, folder: Path) -> Model:
    """Return a tiny random model of the class that a spec names (of the role's usual class where that is unknown)."""
    place = folder / "models" / role
    write_tiny(spec, CLASSES[role], place)
    return Model(kind="local", name=str(place), dtype="float32")


def _all_stages(bench: Workbench) -> None:
    config = bench.config
    questions = read_sources(config.questions.train, config.questions, config.questions.limit)
    made = lessons(bench, questions)
    assert made is not None
    calibrate_checker(bench, made)
    ends = train_arms(bench, _with_practice(made), config.arms)
    for exam in config.exams.names:
        for (arm, _), checkpoint in ends.items():
            sit_exam(bench, read_exam(config, exam), config.arms[arm], checkpoint, exam)


def _with_practice(made: Lessons) -> Lessons:
    """Put every question into every pool, once with and once without thinking."""
    rows = {}
    for question in made.questions:
        answer = (question.choices or ("something",))[0]
        thought = Lesson(
            think="a rehearsal", answer=answer, index=0, pools=("all", "agreed", "heard", "verified"), by="rehearsal"
        )
        label = Lesson(think=None, answer=answer, index=None, pools=("labels", "gold"), by="rehearsal")
        rows[question.id] = [thought, label]
    practice = Rows(made.lessons.table, rows, {}, made.lessons.sources)
    return Lessons(made.questions, made.traces, made.ballots, made.verdicts, practice)
