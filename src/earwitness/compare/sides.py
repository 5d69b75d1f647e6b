"""What is compared: the arm of a run, or a file of predictions, as who answered which question right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earwitness.config import ConfigError, RunConfig
from earwitness.exams import version_here
from earwitness.exams.versions import version_of
from earwitness.flow.exams import modes_of
from earwitness.needs import sitting_of, trains
from earwitness.preflight import read_exam
from earwitness.records import Grade, Question, Reply
from earwitness.run import ARMS, Run, RunError, Table, arm_keys, examinee_key, read_object
from earwitness.score import exam_of, judge, matched_file
from earwitness.score.predictions import Matched
from earwitness.stages.workbench import asked_otherwise

Note = Callable[[str], None]


@dataclass(frozen=True)
class Answered:
    """One sitting of one exam: of which version, by which training seed (None: none), under which prompt, and how.

    `grades` is keyed by question id; right is what the official rule says of the choice read, or ours for lack of one.
    """

    exam: str
    version: str
    seed: int | None
    mode: str
    questions: list[Question]
    grades: dict[str, Grade]


def side_of(name: str, exams: Sequence[str], data: Path | None, field: str | None, note: Note) -> list[Answered]:
    """Return every sitting behind a name: a file of predictions of the one exam named, a run's folder, or RUN/ARM.

    `exams` are those to be looked at (none: all of a run's). Raises ConfigError, RunError or SourceError in words.
    """
    path = Path(name)
    if path.is_file():
        if len(exams) != 1:
            raise ConfigError(f"{name} is a file of predictions: say of which exam with --on, one at a time")
        exam, version, matched = matched_file(exams[0], path, data, field, note=note)
        return [Answered(exam.name, version.label, None, "predictions", *_graded(exam.name, matched))]
    folder, arm = (path, None) if (path / "config.toml").is_file() else (path.parent, path.name)
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{name} is neither a file of predictions, nor a run's folder, nor RUN/ARM")
    config = RunConfig.load(folder / "config.toml")
    arm = _arm(config, folder, arm)
    names = [exam for exam in config.exams.names if not exams or exam in exams]
    if not names:
        raise ConfigError(f"{name} sat {', '.join(config.exams.names) or 'no exam'}, and none of {', '.join(exams)}")
    run = Run.read(folder.parent, folder.name)
    return [answered for exam in names for answered in _of_run(run, config, arm, exam, note)]


def _arm(config: RunConfig, folder: Path, arm: str | None) -> str:
    if arm is None and len(config.arms) == 1:
        return next(iter(config.arms))
    if arm is None or arm not in config.arms:
        wrong = "has several arms" if arm is None else f"has no arm {arm!r}"
        raise ConfigError(f"the run {folder} {wrong}; name one as {folder}/ARM, of {', '.join(config.arms)}")
    return arm


def _of_run(run: Run, config: RunConfig, arm: str, exam: str, note: Note) -> list[Answered]:
    questions = read_exam(config, exam, note)
    known = version_of(exam, questions) if ":" in exam else version_here(exam, config.exams)[0]
    sat = {entry["exam"]: entry["version"] for entry in (read_object(run.path / "report.json") or {}).get("exams", [])}
    if sat.get(exam, known.label) != known.label:
        raise ConfigError(
            f"{run.path} sat version {sat[exam]} of {exam}, and the file that its configuration names is {known.label} "
            "now: put the file back, or sit the exam again"
        )
    found = []
    for seed, key in _keys(run, config, arm).items():
        for mode in modes_of(config, arm, exam):
            replies = _replies(run, _table(run, config, arm, exam, key, mode), questions)
            matched = Matched(
                questions,
                [None if reply is None else reply.raw for reply in replies],
                [reply is not None and reply.finish == "length" for reply in replies],
                [],
                0,
            )
            found.append(Answered(exam, known.label, seed, mode, *_graded(exam, matched)))
    return found


def _keys(run: Run, config: RunConfig, arm: str) -> dict[int | None, str]:
    """Return which checkpoint or model answers for an arm, by training seed."""
    steps = config.arms[arm]
    if not trains(steps):
        return {None: examinee_key({"examinee": config.model(sitting_of(config, steps).examinee).identity()})}
    keys: dict[int | None, str] = {}
    listed = arm_keys(run.path)
    for number, seed in enumerate(config.train.seeds):
        name = arm if number == 0 else f"{arm}, seed {seed}"
        if name in listed:
            keys[seed] = listed[name]
    if not keys:
        raise RunError(f"{run.path / ARMS} does not list {arm}: run it to its end first")
    return keys


def _table(run: Run, config: RunConfig, arm: str, exam: str, key: str, mode: str) -> Path:
    """Return the one folder of an arm's answers. Raises RunError where there is none, or more than one."""
    wanted = sitting_of(config, config.arms[arm]).identity() | {"prompt": mode}
    found = []
    for place in sorted(run.path.glob("answer-*/settings.json")):
        settings: Mapping[str, Any] = read_object(place) or {}
        same = settings.get("answer") == wanted and settings.get("exam") == exam and "way" not in settings
        if same and settings.get("seed") == config.seed and examinee_key(dict(settings)) == key:
            found.append(place.parent)
    if len(found) != 1:
        there = "no answers" if not found else f"{len(found)} tables of answers ({', '.join(f.name for f in found)})"
        mend = "run it to its end first" if not found else "remove what is not meant"
        raise RunError(f"{run.path} has {there} of {arm} ({key}, {mode}) to {exam}: {mend}")
    return found[0]


def _replies(run: Run, folder: Path, questions: Sequence[Question]) -> list[Reply | None]:
    rows = {row.id: row for row in Table(folder, "answer", writable=False).rows()}
    missing = [q.id for q in questions if q.id not in rows]
    if missing:
        raise RunError(
            f"{folder} answers {len(questions) - len(missing)} of {len(questions)} questions so far, not "
            f"{missing[0]!r}: let the command that makes it run to its end"
        )
    if changed := asked_otherwise(run, folder, rows, questions):
        raise RunError(
            f"{folder} answered other questions than those there now: {len(changed)} of {len(questions)}, or their "
            f"clips, have changed since, {changed[0]!r} for example: put the files back, or sit the exam again"
        )
    return [Reply.model_validate(rows[q.id].out[0]) if rows[q.id].out else None for q in questions]


def _graded(exam: str, matched: Matched) -> tuple[list[Question], dict[str, Grade]]:
    judged = judge(exam_of(exam), matched)
    grades = {
        question.id: Grade(
            right=one.strict if one.official is None else one.official,
            parsed=one.choice is not None,
            truncated=one.cut,
            claims=(),
            hallucinated=None,
        )
        for question, one in zip(matched.questions, judged, strict=True)
    }
    return sorted(matched.questions, key=lambda q: q.id), grades
