"""Driving a run: opens it, tells the flow variant by variant, and writes the report."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from earwitness import __version__
from earwitness.config import ConfigError, RunConfig, digest
from earwitness.flow import (
    DATA_STAGES,
    Ends,
    Labelled,
    Lessons,
    calibrate_checker,
    choosing_labels,
    lessons,
    sit_exam,
    train_arms,
    training_job,
)
from earwitness.launcher import launcher_around
from earwitness.models import weights_digest
from earwitness.models.served.desk import open_desk
from earwitness.models.served.probe import refuse_unfit
from earwitness.models.served.training import refuse_unfit_servers
from earwitness.needs import chooses, controls, data_stages, roles, sitting_of, trains
from earwitness.pool import hand_out
from earwitness.preflight import (
    Asked,
    read_questions,
    refuse,
    refuse_no_choice,
    refuse_no_truth,
    refuse_pool,
    worker_count,
)
from earwitness.records import Checkpoint, Question
from earwitness.report.document import table_text, write
from earwitness.report.hearing import judged
from earwitness.report.pools import left_rows, pool_rows
from earwitness.report.tables import Sitting
from earwitness.run import ARMS, Run, RunError, write_json
from earwitness.stages.calibrate import rates
from earwitness.stages.launching import watched
from earwitness.stages.student import student_spec
from earwitness.stages.training import checkpoint_of, processes, train
from earwitness.stages.workbench import Workbench, release_models
from earwitness.terminal import ProgressLine
from earwitness.workers import Workers

PRELOAD = ("torch", "transformers")
FAILED_SHARE = 0.05  # above this share of failed rows in any stage a run ends with an error code
PATIENCE = 30.0  # seconds for the last shards of a driver that was killed to end
STAGES = (*DATA_STAGES, "train", "answer")
COUNTS = ("in", "out", "failed", "in_part")  # of a stage's questions; in_part: whose clip was not heard whole


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its report (None if it was stopped early), its stages, and what failed in them."""

    report: dict[str, Any] | None
    stages: list[dict[str, Any]]
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The report's ladder as text."""
        return table_text(self.report) if self.report else ""

    @property
    def failing(self) -> list[str]:
        """The stages above the tolerated share of failed rows."""
        return list(dict.fromkeys(s["name"] for s in self.stages if s["failed"] > FAILED_SHARE * s["in"]))


@dataclass
class _Story:
    """One variant of a run, as far as it is told."""

    variant: str
    bench: Workbench
    asked: Asked
    made: Lessons | None = None
    sittings: list[Sitting] = field(default_factory=list)


def drive(
    config: RunConfig,
    root: Path | str = "runs",
    until: str | None = None,
    redo: Literal["stale", "failed"] | None = None,
    shard: tuple[int, int] | None = None,
    quiet: bool = False,
) -> Outcome:
    """Run a configuration to its end, or up to a stage; what is done is not done again.

    A shard does its share of the data stages and no more; with `pool = "ray"` shards are handed out to a cluster before
    the driver goes on with what they have made. Raises ConfigError and SourceError before anything is
    spent, RunError (a second driver, stale rows, a full disk, an empty pool) and what a model raises.
    """
    if until is not None and until not in STAGES:
        raise ConfigError(f"there is no stage {until!r} to stop after; stages: {', '.join(STAGES)}")
    until = until if until in DATA_STAGES or shard is None else data_stages(config)[-1]
    pooled = shard is None and config.pool == "ray"
    line = None if quiet else ProgressLine()
    if shard is None:
        refuse_pool(config)
    asked = _ask(config, until, line)
    release_models()  # of an earlier run of this process: their files may have changed
    with Run.open(root, config.name, shard, PATIENCE if pooled else 0.0) as run:
        if shard is not None:
            run.agree(shard[1], _questions_digest(asked))
        elif pooled and any(one.train for one in asked.values()):
            _hand_out(config, run, asked, until, redo, line)
        run.save_config(config.to_toml())
        with (
            open_desk(
                config, run.root, run.name, run.part, partial(_test_servers, config, until, line), redo == "failed"
            ) as desk,
            Workers(worker_count(config, until), PRELOAD) as workers,
        ):
            if desk.ledger is not None and line is not None:
                for note in desk.ledger.notes:
                    line.say(note)
            stories = []
            for variant, questions in asked.items():
                bench = Workbench(config.variant(variant), run, workers, line, redo)
                stories.append(_tell(_Story(variant, bench, questions), until))
            report = _report(config, run, stories) if until is None else None
        failures = {name: said for s in stories for name, said in s.bench.failures.items()}
        return Outcome(report, _stages(stories), list(failures.values()))


def _test_servers(config: RunConfig, until: str | None, line: ProgressLine | None) -> None:
    """Raise ServerError where a server does not do what the run needs of it: before the first question is asked."""
    refuse_unfit(config, until, line.say if line is not None else lambda _: None)
    if until is None:
        refuse_unfit_servers(config)


def _hand_out(
    config: RunConfig,
    run: Run,
    asked: dict[str, Asked],
    until: str | None,
    redo: Literal["stale", "failed"] | None,
    line: ProgressLine | None,
) -> None:
    """Let a Ray cluster make the data stages; what the shards have made is taken over as that of any others."""
    words = run.lend(config.shards, _questions_digest(asked))
    make = partial(_make_shard, config, run.root.resolve(), words, until, redo)
    last = until if until in DATA_STAGES else data_stages(config)[-1]
    heavy = any(config.model(role).kind != "served" for role in roles(config, last))
    hand_out(make, config.shards, worker_count(config), heavy, line)
    run.take_back(PATIENCE)


def _make_shard(
    config: RunConfig,
    root: Path,
    words: str,
    until: str | None,
    redo: Literal["stale", "failed"] | None,
    number: int,
) -> None:
    """Make one shard in a worker of a cluster, once it is known that what it writes will be seen by the driver."""
    host = socket.gethostname()
    if Run.lender(root, config.name) != words:
        raise RunError(
            f"{host} does not see the run's folder {root / config.name}: --root must be a folder that all machines of "
            "the cluster share, under the same path"
        )
    with Run.open(root, config.name, (number, config.shards), PATIENCE):
        pass  # a worker that was given up may live a little longer
    alone = config.model_copy(update={"train": config.train.model_copy(update={"parallel": 1})})
    drive(alone, root, until, redo, (number, config.shards), quiet=True)


def _questions_digest(asked: dict[str, Asked]) -> str:
    """Return the digest of the lists that shards are cut from: which question is in which block."""
    return digest([[variant, [q.id for q in one.train]] for variant, one in asked.items()], 32)


def train_step(
    config: RunConfig, root: Path | str, arm: str, step: int, seed: int, line: ProgressLine | None = None
) -> dict[str, Any]:
    """Train one step (counted from 1) of one arm in this process, from the tables that a run has made.

    For a launcher of your own, over several processes if need be. The run's lock is not taken, only that of the
    step's folder, and no table is written: raises RunError where the data stages, or an earlier step, are not done.
    """
    steps = [s for s in config.arms.get(arm, ()) if s.stage != "answer"]
    if arm not in config.arms:
        raise ConfigError(f"there is no arm {arm!r}; there are {', '.join(config.arms)}")
    if not 1 <= step <= len(steps):
        raise ConfigError(f"arm {arm!r} has {len(steps)} training steps; there is no step {step}")
    if config.train.processes not in (1, processes()):
        raise ConfigError(f"train.processes is {config.train.processes}, and this launcher started {processes()}")
    together = config.model_copy(update={"train": config.train.model_copy(update={"processes": processes()})})
    refuse(together, launcher=launcher_around())
    asked = read_questions(config, lambda _: None)
    bench = Workbench(config, Run.read(root, config.name), Workers(1), finished_only=True)
    made = lessons(bench, asked.train)
    assert made is not None
    choose = _labels(bench, asked.choose)
    parent: Checkpoint | None = None
    for number, one in enumerate(steps[:step], 1):
        job = training_job(bench, made, one, parent, seed, choose)
        if number < step and Run.finished(job.folder) is None:
            raise RunError(f"step {number} of arm {arm!r} with seed {seed} is not trained yet: train it first")
        parent = checkpoint_of(job)
    with watched(job, f"{job.stage} of {arm}, seed {seed}", line) if line else nullcontext():
        return train(job)


def arm_pairs(config: RunConfig) -> list[tuple[str, str]]:
    """Return the pairs of arms to compare, in the order of the file: each with the next two, all with the last, and
    all that are trained with the first of them.
    """
    arms = list(config.arms)
    trained = [arm for arm in arms if trains(config.arms[arm])]
    first = [(trained[0], arm) for arm in trained[1:]] if trained else []
    near = [*itertools.pairwise(arms), *zip(arms, arms[2:], strict=False)]
    return list(dict.fromkeys([*near, *((arm, arms[-1]) for arm in arms[:-2]), *first]))


def _ask(config: RunConfig, until: str | None, line: ProgressLine | None) -> dict[str, Asked]:
    """Refuse what cannot be run, and read the questions of every variant."""
    data_only = until in DATA_STAGES
    variants = {name: config.variant(name) for name in ("default", *config.variants)}
    for one in variants.values():
        refuse(one, until)
    said: set[str] = set()

    def note(text: str) -> None:
        if line is not None and text not in said:
            line.say(text)
        said.add(text)

    asked = {name: read_questions(one, note, data_only) for name, one in variants.items()}
    for name, one in variants.items():
        refuse_no_truth(one, asked[name], until)
        if not data_only:
            refuse_no_choice(one, asked[name])
    return asked


def _tell(story: _Story, until: str | None) -> _Story:
    bench, asked = story.bench, story.asked
    config = bench.config
    ends: Ends = {(arm, None): None for arm in config.arms}
    if asked.train:
        story.made = lessons(bench, bench.run.share(asked.train), until)
        if until in DATA_STAGES or story.made is None:
            return story
        ends = train_arms(bench, story.made, config.arms, _labels(bench, asked.choose))
    _list_arms(story, ends)
    if until == "train":
        return story
    for exam, questions in asked.exams.items():
        for (arm, seed), checkpoint in ends.items():
            for mode, grades in sit_exam(bench, questions, arm, checkpoint, exam, seed):
                story.sittings.append(Sitting(exam, story.variant, arm, seed, mode, questions, grades))
    return story


def _labels(bench: Workbench, questions: list[Question]) -> Labelled:
    """Return what checkpoints are compared by, nothing where none are."""
    if not chooses(bench.config):
        return ()
    labels = choosing_labels(bench, questions)
    if not labels:
        raise RunError(
            f"candidates are to be compared, and none of the {len(questions)} questions of questions.choose has a "
            "label to do it by: name another source there, or leave candidates at 1"
        )
    return labels


def _list_arms(story: _Story, ends: Ends) -> None:
    """Write which model stands behind each arm, so that `listen` and people find it: `ARM`, and `ARM, seed N` for all
    seeds but the first. Arms that are no student's, or whose student is told more than the question, are left out.

    A checkpoint's place is written relative to the run, which may be moved.
    """
    if story.variant != "default":
        return
    bench, first = story.bench, story.bench.config.train.seeds[0]
    arms = {}
    for (arm, seed), end in ends.items():
        if not _listens(bench.config, arm):
            continue
        place = end.model_copy(update={"path": os.path.relpath(end.path, bench.run.path)}) if end else None
        name = arm if seed in (None, first) else f"{arm}, seed {seed}"
        arms[name] = student_spec(bench.model("student"), place).model_dump(mode="json")
    write_json(bench.run.path / ARMS, arms)


def _listens(config: RunConfig, arm: str) -> bool:
    """Whether an arm's student answers by what it hears alone."""
    sitting = sitting_of(config, config.arms[arm])
    return (sitting.examinee, sitting.sees) == ("student", "clip") and sitting.prompt != "given-trace"


def _stages(stories: Sequence[_Story]) -> list[dict[str, Any]]:
    """Return the entries of every table once, however many variants read it."""
    return list({name: entry for story in stories for name, entry in story.bench.stages.items()}.values())


def _report(config: RunConfig, run: Run, stories: Sequence[_Story]) -> dict[str, Any]:
    traces = [row for s in stories if s.made for row in pool_rows(s.variant, s.made.questions, s.made.lessons.of)]
    claims = [row for s in stories if s.made for row in judged(s.variant, s.made.questions, s.made.verdicts.of)]
    first = stories[0]
    left = left_rows(first.made.questions, first.made.lessons.of) if first.made else []
    calibrated = calibrate_checker(first.bench, first.made) if first.made and first.made.verdicts.table else None
    checker = rates(list(calibrated.made.values()) if calibrated else [])
    weights = weights_digest([s.bench.config for s in stories], run.digests.of_folder)
    meta = {
        "version": __version__,
        "config_sha256": config.measured(),
        "weights_sha256": weights,
        "controls": list(dict.fromkeys(arm for s in stories for arm in controls(s.bench.config))),
        "readers": [arm for arm in config.arms if sitting_of(config, config.arms[arm]).sees != "clip"],
        "helped": [arm for arm in config.arms if not _listens(config, arm)],
    }
    sittings = [sitting for s in stories for sitting in s.sittings]
    pairs = arm_pairs(config) if sittings else []
    return write(
        run.path,
        config.name,
        sittings,
        pairs,
        traces,
        _summed(_stages(stories)),
        checker,
        meta,
        judged=claims,
        left=left,
    )


def _summed(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per stage: the rows of all its tables together."""
    total: dict[str, dict[str, Any]] = {}
    for entry in stages:
        one = total.setdefault(entry["name"], {"name": entry["name"], **dict.fromkeys(COUNTS, 0)})
        for key in COUNTS:
            one[key] += entry[key]
    return list(total.values())
