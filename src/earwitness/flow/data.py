"""The data of both methods: what a teacher writes, what vote and checker leave of it, and what a clip sounds like."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from earwitness.config import Model, Role, digest
from earwitness.needs import data_stages, pool_of, reads_descriptions, trainings
from earwitness.prompts import template
from earwitness.records import Ballot, Claim, Description, Draft, Lesson, Question, Trace, Verdict
from earwitness.sources.footage import Footage
from earwitness.stages.ask import AskAboutClips
from earwitness.stages.calibrate import CalibrateChecker
from earwitness.stages.describe import DescribeClips, describe_known
from earwitness.stages.sample import SampleTraces
from earwitness.stages.select import select
from earwitness.stages.verify import VerifyTraces
from earwitness.stages.vote import vote
from earwitness.stages.workbench import Rows, Workbench
from earwitness.table import Failed, Made

Labelled = tuple[tuple[Question, str], ...]
Source = Literal["model", "caption", "field", "oracle"]


@dataclass(frozen=True)
class Lessons:
    """Everything that the data stages have made of the training questions. Stages that no arm needs have no rows.

    `descriptions` are of the questions that distilling arms learn from; None where no arm reads any.
    """

    questions: list[Question]
    traces: Rows[Trace]
    ballots: Rows[Ballot]
    verdicts: Rows[Verdict]
    lessons: Rows[Lesson]
    descriptions: Rows[Description] | None = None


def lessons(bench: Workbench, questions: list[Question], until: str | None = None) -> Lessons | None:
    """Make the data that the arms learn from: of method one, of method two, or the data's own.

    Method one: the silent teacher writes, the vote agrees, the checker listens, and lessons remain. Method two: what
    is learnt from is described, for a teacher that reads. Stops after the stage named by `until`; returns None where
    that comes before the lessons.
    """
    stages = data_stages(bench.config, until)
    traces = sample_traces(bench, questions) if "sample" in stages else Rows[Trace].none("sample")
    ballots = count_votes(bench, questions, traces) if "vote" in stages else Rows[Ballot].none("vote")
    verdicts = verify_traces(bench, questions, traces) if "verify" in stages else Rows[Verdict].none("verify")
    if "select" in stages:
        chosen = select_lessons(bench, questions, traces, ballots, verdicts)
        learnt = _learnt_from(bench, questions, chosen)
        described = describe_clips(bench, learnt, among=questions) if "describe" in stages else None
        return Lessons(questions, traces, ballots, verdicts, chosen, described)
    if "describe" in stages:
        describe_clips(bench, questions)
    return None


def sample_traces(bench: Workbench, questions: Sequence[Question], shown: str = "sample") -> Rows[Trace]:
    """K chains of thought per question, from the silent frames."""
    teacher, settings = bench.model("teacher"), bench.config.sample
    identity = {
        "sample": settings.identity(),
        "teacher": teacher.identity(),
        "seed": bench.config.seed,
        "prompts": prompt_digests(settings.prompt),
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
        "prompts": prompt_digests("claim", "trace", "extract"),
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
    """The pools that students learn from; without the teacher's rows those of the data's own answers."""
    settings, cast = bench.config.select, bench.config.vote.traces

    def make(block: list[Question]) -> list[Made]:
        votes = [next(iter(ballots.of(q)), None) for q in block]
        found = zip(block, votes, strict=True)
        return [select(q, traces.of(q)[:cast], ballot, verdicts.of(q), settings) for q, ballot in found]

    parents: list[Rows[Any]] = [rows for rows in (ballots, verdicts) if rows.table]
    identity = {"select": settings.identity(), "of": [rows.table for rows in parents]}
    return bench.fill("select", identity, questions, bench.content, make, Lesson, parents=parents)


def _learnt_from(bench: Workbench, questions: list[Question], chosen: Rows[Lesson]) -> list[Question]:
    """Return the questions of the pools that are learnt from with descriptions; all of them where no arm does."""
    pools = {pool_of(settings) for settings in trainings(bench.config) if reads_descriptions(settings)}
    return [q for q in questions if not pools or any(pools & set(lesson.pools) for lesson in chosen.of(q))]


def describe_clips(
    bench: Workbench,
    questions: Sequence[Question],
    source: Source | None = None,
    shown: str = "describe",
    among: Sequence[Question] | None = None,
) -> Rows[Description]:
    """One description of each question's clip, by the `source` of the configuration unless another is named.

    Blocks are counted in the list `among`, of which `questions` may be a part.
    """
    settings = bench.config.describe
    source = source or settings.source
    if source != "model":
        known = partial(describe_known, source=source)
        identity: dict[str, Any] = {"describe": {"source": source}}
        return bench.fill(
            "describe", identity, questions, bench.content, partial(_each, known), Description, among=among, shown=shown
        )
    describer = bench.model("describer")
    identity = {
        "describe": settings.identity(),
        "describer": describer.identity(),
        "prompts": prompt_digests("describe"),
    }
    make = DescribeClips(describer, settings.max_tokens)
    models: dict[Role, Model] = {"describer": describer}
    return bench.fill(
        "describe", identity, questions, bench.content, make, Description, among=among, models=models, shown=shown
    )


def _each(make: Callable[[Question], Made], block: list[Question]) -> list[Made]:
    return [make(question) for question in block]


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
        "calibrate": {"threshold": settings.threshold, "level": settings.level, "noise": settings.noise},
        "checker": checker.identity(),
        "seed": bench.config.seed,
        "bank": bank,
        "prompts": prompt_digests("claim"),
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


def choosing_labels(bench: Workbench, questions: list[Question]) -> Labelled:
    """Return the labels that checkpoints are chosen by: the teacher's votes, or the data's own where asked for."""
    if bench.config.questions.choose_by == "gold":
        return tuple((q, q.answer) for q in questions if q.answer is not None)
    traces = sample_traces(bench, questions, "sample (choose)")
    ballots = count_votes(bench, questions, traces, "vote (choose)")
    found = ((q, ballots.of(q)[0].answer) for q in questions if ballots.of(q))
    return tuple((q, label) for q, label in found if label is not None)


def _falls_on(index: int, share: float) -> bool:
    """Whether an item is among a share of a list, evenly spread; a longer list only adds to the choice."""
    return math.ceil((index + 1) * share) > math.ceil(index * share)


def write_drafts(bench: Workbench, footage: Sequence[Footage]) -> Rows[Draft]:
    """The teacher's own questions about clips that have none; a row is a clip's, by the name of its footage."""
    teacher, settings = bench.model("teacher"), bench.config.ask
    identity = {
        "ask": settings.identity(),
        "teacher": teacher.identity(),
        "seed": bench.config.seed,
        "prompts": prompt_digests("ask", "direct", manners=("plain",)),
    }
    refused = {one.id: Failed(one.refused) for one in footage if one.refused is not None}
    clips = [Question(id=one.id, clip=one.clip, text="") for one in footage]
    return bench.fill(
        "ask",
        identity,
        clips,
        bench.content,
        AskAboutClips(teacher, settings, bench.config.seed),
        Draft,
        attach=lambda clip: refused.get(clip.id, clip),
        models={"teacher": teacher},
    )


def prompt_digests(*names: str, manners: Sequence[str] = ("plain", "world")) -> dict[str, str]:
    """Return digests of the texts of prompts in both manners: a changed prompt is another stage."""
    texts = [(manner, name) for manner in manners for name in names]
    return {f"{manner}/{name}": digest(_wordings(manner, name)) for manner, name in texts}


def _wordings(manner: str, name: str) -> list[str]:
    return [template(manner, name), template(manner, name, open_question=True)]


def _nothing(_: Question) -> Sequence[str]:
    return ()
