"""Driving a run: opens it, tells the flow variant by variant, and writes the report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from earwitness import __version__
from earwitness.config import ConfigError, RunConfig, digest
from earwitness.exams import load_exam
from earwitness.flow import (
    DATA_STAGES,
    Lessons,
    calibrate_checker,
    lessons,
    sit_exam,
    train_arms,
    training_job,
)
from earwitness.records import Question
from earwitness.report.document import table_text, write
from earwitness.report.pools import pool_rows
from earwitness.report.tables import Sitting
from earwitness.run import Run, RunError, write_json
from earwitness.sources import read_source, read_sources
from earwitness.stages.calibrate import rates
from earwitness.stages.training import checkpoint_of, student_spec, train
from earwitness.stages.workbench import Workbench
from earwitness.terminal import ProgressLine
from earwitness.workers import Workers

PRELOAD = ("torch", "transformers")
FAILED_SHARE = 0.05  # above this share of failed rows in any stage a run ends with an error code
STAGES = (*DATA_STAGES, "train", "answer")


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its report (None if it was stopped early) and the stages in which too much failed."""

    report: dict[str, Any] | None
    stages: list[dict[str, Any]]

    @property
    def text(self) -> str:
        """The report's ladder as text."""
        return table_text(self.report) if self.report else ""

    @property
    def failing(self) -> list[str]:
        """The stages above the tolerated share of failed rows."""
        return [s["name"] for s in self.stages if s["failed"] > FAILED_SHARE * max(1, s["in"])]


def drive(
    config: RunConfig,
    root: Path | str = "runs",
    until: str | None = None,
    redo: Literal["stale", "failed"] | None = None,
    shard: tuple[int, int] | None = None,
    quiet: bool = False,
) -> Outcome:
    """Run a configuration to its end, or up to a stage; what is done is not done again.

    Raises ConfigError, RunError (a second driver, stale rows, a full disk, an empty pool) and what a model raises.
    """
    if until is not None and until not in STAGES:
        raise ConfigError(f"there is no stage {until!r} to stop after; stages: {', '.join(STAGES)}")
    line = None if quiet else ProgressLine()
    with Run.open(root, config.name, shard) as run, Workers(worker_count(config), PRELOAD) as workers:
        run.save_config(config.to_toml())
        sittings: list[Sitting] = []
        facts: list[tuple[str, Lessons | None, Workbench]] = []
        for variant in ("default", *config.variants):
            bench = Workbench(config.variant(variant), run, workers, line, redo)
            made = _one_variant(bench, variant, sittings, until)
            facts.append((variant, made, bench))
        stages = [s for _, _, bench in facts for s in bench.stages]
        if until is not None:
            return Outcome(None, stages)
        report = _report(config, run, sittings, facts)
        return Outcome(report, stages)


def read_exam(config: RunConfig, name: str) -> list[Question]:
    """Return an exam's questions. A source (`folder:PATH`) is an exam of the user's own."""
    if ":" in name:
        return read_source(name, config.questions, config.exams.limit)
    return load_exam(name, config.exams.limit)


def train_step(config: RunConfig, root: Path | str, arm: str, step: int, seed: int) -> dict[str, Any]:
    """Train one step (counted from 1) of one arm in this process, from the tables that a run has made.

    For a launcher of your own: the run's lock is not taken, only that of the step's folder.
    """
    steps = [s for s in config.arms.get(arm, ()) if s.stage != "answer"]
    if not 1 <= step <= len(steps):
        raise ConfigError(f"arm {arm!r} has {len(steps)} training steps; there is no step {step}")
    run = Run(root, config.name)
    bench = Workbench(config, run, Workers(1))
    made = lessons(bench, read_sources(config.questions.train, config.questions, config.questions.limit))
    assert made is not None
    parent = None
    for number, one in enumerate(steps[:step], 1):
        job = training_job(bench, made, one, parent, seed)
        if number < step and Run.finished(job.folder) is None:
            raise RunError(f"step {number} of arm {arm!r} is not trained yet: train it first")
        parent = checkpoint_of(job)
    return train(job)


def worker_count(config: RunConfig) -> int:
    """Return how many one-thread workers run side by side: one a core on the CPU, none beside the driver on a GPU."""
    if config.train.parallel:
        return config.train.parallel
    if any(m.kind != "served" and m.device.startswith("cuda") for m in config.models.values()) or _has_gpu():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _one_variant(bench: Workbench, variant: str, sittings: list[Sitting], until: str | None) -> Lessons | None:
    config = bench.config
    made = None
    ends: dict[tuple[str, int], Any] = {(arm, 0): None for arm in config.arms}
    if any(step.stage != "answer" for steps in config.arms.values() for step in steps) or until in DATA_STAGES:
        questions = read_sources(config.questions.train, config.questions, config.questions.limit)
        made = lessons(bench, questions, until)
        if made is None or until == "select":
            return None
        ends = train_arms(bench, made, config.arms)
        _list_arms(bench, variant, ends)
    if until == "train":
        return made
    for exam in config.exams.names:
        asked = read_exam(config, exam)
        for (arm, seed), checkpoint in ends.items():
            mode, grades = sit_exam(bench, asked, config.arms[arm], checkpoint, exam)
            trained = checkpoint is not None
            sittings.append(Sitting(exam, variant, arm, seed if trained else None, mode, asked, grades))
    return made


def _list_arms(bench: Workbench, variant: str, ends: dict[tuple[str, int], Any]) -> None:
    """Write which model stands behind each arm (its first seed), so that `listen` and people find it."""
    if variant == "default":
        first = bench.config.train.seeds[0]
        specs = {arm: student_spec(bench.model("student"), end) for (arm, s), end in ends.items() if s in (0, first)}
        write_json(bench.run.path / "arms.json", {arm: spec.model_dump(mode="json") for arm, spec in specs.items()})


def _report(
    config: RunConfig, run: Run, sittings: list[Sitting], facts: list[tuple[str, Lessons | None, Workbench]]
) -> dict[str, Any]:
    traces = [row for variant, made, _ in facts if made for row in pool_rows(variant, made.questions, made.lessons.of)]
    checker: dict[str, Any] = {"false_accept": None, "false_reject": None, "n": 0}
    _, made, bench = facts[0]
    if made and bench.config.verify.calibrate:
        checker = rates(list(calibrate_checker(bench, made).made.values()))
    stages = [s for _, _, b in facts for s in b.stages]
    weights = digest({role: bench.model_source(spec) for role, spec in config.models.items() if spec.kind != "served"}, 64)
    meta = {"version": __version__, "config_sha256": digest(config.model_dump(mode="json"), 64), "weights_sha256": weights}
    return write(run.path, config.name, sittings, arm_pairs(config), traces, stages, checker, meta)


def arm_pairs(config: RunConfig) -> list[tuple[str, str]]:
    """Return the pairs of arms to compare: each with the next in the order of the file, and the last with all."""
    arms = list(config.arms)
    pairs = list(zip(arms, arms[1:], strict=False))
    return pairs + [(arm, arms[-1]) for arm in arms[:-2]] if arms else []
