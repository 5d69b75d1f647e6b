"""Sitting exams outside a run: one model, several exams, and what tells whether it listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from earwitness.config import ConfigError, Model, RunConfig, digest
from earwitness.exams import version_here
from earwitness.exams.versions import Version, version_of
from earwitness.flow.ways import sit_in_a_way, way_identity
from earwitness.models.places import card_of, place_of
from earwitness.models.served.desk import open_desk
from earwitness.models.served.probe import refuse_unfit
from earwitness.preflight import read_exam, refuse, worker_count
from earwitness.records import Question, Reply
from earwitness.run import ARMS, Run, RunError, write_json
from earwitness.sit.checks import check_model
from earwitness.sit.contamination import shared_with, training_questions
from earwitness.sit.document import report, told
from earwitness.sit.results import Sat, result
from earwitness.sources.clips import seconds_of
from earwitness.stages.answer import Hears, Way
from earwitness.stages.workbench import Rows, Workbench, release_models
from earwitness.terminal import ProgressLine
from earwitness.workers import Workers

PRELOAD = ("torch", "transformers")
PLAIN = Way()
ANSWERED, SOUND = "exam", "exam, seconds of sound"  # in timings.json: what answering took, and what it was about
FAILED_SHARE = 0.05
CONTROLS: tuple[Hears, ...] = ("silence", "noise", "other", "text")


@dataclass(frozen=True)
class Beside:
    """What is asked beside the exam itself: `samples` at a `temperature` (0: none), every cyclic shuffle of the
    choices, the same questions under `controls`, and whether clips were learnt from, `against` a run or a source.
    """

    samples: int = 0
    temperature: float = 0.7
    shuffles: bool = False
    controls: tuple[Hears, ...] = ()
    against: str | None = None

    def __post_init__(self) -> None:
        if self.samples and (self.samples < 2 or not self.temperature > 0):
            raise ConfigError("samples are two or more, at a temperature above 0: at 0 they are all the same")
        if unknown := sorted(set(self.controls) - set(CONTROLS)):
            raise ConfigError(f"there is no control {unknown[0]!r}; there are {', '.join(CONTROLS)}")


@dataclass(frozen=True)
class Outcome:
    """What a sitting came to: its report (None: a shard makes none), its table as text, and what failed."""

    report: dict[str, Any] | None
    text: str
    failures: list[tuple[str, str]] = field(default_factory=list)
    failing: bool = False


def sitting_config(
    spec: Model, exams: Mapping[str, Any], name: str | None, prompt: str | None, overrides: Sequence[str] = ()
) -> RunConfig:
    """Return the configuration of a run in which one model sits exams and nothing is learnt.

    Without a `prompt` the model gets the one it was trained on, where its folder says so, else `direct`. Without a
    `name` the run is called after both.
    """
    local = spec.kind != "served"
    prompt = prompt or (card_of(Path(spec.adapter or place_of(spec))).get("prompt") if local else None) or "direct"
    arm = _plain(Path(spec.adapter or spec.name).name)
    data = {
        "name": name or f"exam-{arm}-{prompt}",
        "questions": {"train": []},
        "exams": dict(exams),
        "models": {"student": spec.model_dump(mode="json", exclude_unset=True)},
        "arms": {arm: [{"stage": "answer", "prompt": prompt}]},
    }
    return RunConfig.parse(data, "the command's settings", overrides)


def sit(
    config: RunConfig,
    beside: Beside = Beside(),
    root: Path | str = "runs",
    redo: Literal["stale", "failed"] | None = None,
    shard: tuple[int, int] | None = None,
    quiet: bool = False,
) -> Outcome:
    """Let the one arm of a configuration sit its exams, and write `report.json` and `report.md` beside the answers.

    What is answered is not asked again, whatever stopped it. A shard answers its share and writes no report. Raises
    ConfigError, SourceError and what the checks refuse before anything is spent, and RunError.
    """
    line = None if quiet else ProgressLine()
    note: Callable[[str], None] = line.say if line is not None else lambda _: None
    refuse(config)
    asked = {name: _by_clip(read_exam(config, name, note)) for name in config.exams.names}
    versions = {name: _version(config, name, questions) for name, questions in asked.items()}
    learnt = training_questions(beside.against, note) if beside.against else []
    _refuse_foreign_run(config, Path(root))
    release_models()
    with Run.open(root, config.name, shard) as run:
        run.save_config(config.to_toml())
        if shard is not None:
            run.agree(shard[1], digest([[name, [q.id for q in those]] for name, those in asked.items()], 32))
        spec = config.model("student")
        write_json(run.path / ARMS, {arm: spec.model_dump(mode="json") for arm in config.arms})
        findings = check_model(run, config, asked, note)
        with (
            open_desk(config, run.root, run.name, run.part, partial(refuse_unfit, config, None, note)),
            Workers(worker_count(config), PRELOAD) as workers,
        ):
            bench = Workbench(config, run, workers, line, redo)
            sat = [
                Sat(name, *versions[name], questions, _sit(bench, name, run.share(questions), questions, beside))
                for name, questions in asked.items()
            ]
            shared = (
                []
                if shard
                else [shared_with(bench, *one, beside.against or "", learnt) for one in asked.items() if learnt]
            )
        failures = list(bench.failures.values())
        failing = any(stage["failed"] > FAILED_SHARE * stage["in"] for stage in bench.stages.values())
        if shard is not None:
            return Outcome(None, "", failures, failing)
        made = report(run, config, [result(one) for one in sat], sat, findings, shared)
        return Outcome(made, told(made, run.timings.get(ANSWERED), run.timings.get(SOUND)), failures, failing)


def _sit(
    bench: Workbench, exam: str, questions: list[Question], whole: list[Question], beside: Beside
) -> dict[Way, Rows[Reply]]:
    """Ask an exam in every way that is asked for: simply first, for that is the headline."""
    ways = [PLAIN, *(Way(hears=control) for control in beside.controls)]
    if beside.shuffles:
        most = max((len(q.choices or ()) for q in whole), default=0)
        ways += [Way(rotation=number) for number in range(1, most)]
    if beside.samples:
        ways.append(Way(samples=beside.samples, temperature=beside.temperature))
    return {way: _asked(bench, exam, questions, whole, way) for way in ways}


def _asked(bench: Workbench, exam: str, questions: list[Question], whole: list[Question], way: Way) -> Rows[Reply]:
    """Ask an exam in one way. Simply asked, it is told in `timings.json` for how much sound it took how long."""
    (arm,) = bench.config.arms
    table = bench.run.table("answer", way_identity(bench, arm, exam, way))
    there, started = {row.id for row in table.rows()}, time.monotonic()
    rows = sit_in_a_way(bench, questions, whole, arm, exam, way)
    if way == PLAIN and (owed := [q for q in questions if q.id in rows.made and q.id not in there]):
        bench.run.add_seconds(ANSWERED, time.monotonic() - started)
        bench.run.add_seconds(SOUND, sum(seconds_of(question.clip) for question in owed))
    return rows


def _by_clip(questions: Sequence[Question]) -> list[Question]:
    """Return the questions with those about one clip next to each other: what hears a clip once can use it for all."""
    clips: dict[str, list[Question]] = {}
    for question in questions:
        clips.setdefault(question.clip.id, []).append(question)
    return [question for those in clips.values() for question in those]


def _version(config: RunConfig, name: str, questions: Sequence[Question]) -> tuple[Version, int]:
    """Return an exam's version and how many questions it has; of questions of one's own those that are asked."""
    if ":" in name:
        return version_of(name, questions), len(questions)
    return version_here(name, config.exams)


def _refuse_foreign_run(config: RunConfig, root: Path) -> None:
    """Raise RunError where the folder holds another run: its report would be overwritten."""
    place = root / config.name / "config.toml"
    if place.is_file():
        there = RunConfig.load(place)
        if there.arms != config.arms or there.models["student"].identity() != config.models["student"].identity():
            raise RunError(f"{place.parent} holds another run; choose another name with --name")


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).strip("._-") or "model"
