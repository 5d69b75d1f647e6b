"""The report of a sitting: `report.json` for programs, `report.md` for people, a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from earwitness import __version__
from earwitness.config import RunConfig
from earwitness.disk import write_bytes
from earwitness.models import weights_digest
from earwitness.records import Grade
from earwitness.report.tables import Sitting, rows_and_summary
from earwitness.report.wording import escaped, markdown_table, percent, points, stable
from earwitness.run import Run
from earwitness.score import Score, exam_of
from earwitness.score.table import table
from earwitness.sit.results import PLAIN, Sat
from earwitness.stages.answer import Way
from earwitness.stages.grade import grade

SAID = {
    "silence": "silence of the same length",
    "noise": "white noise, as long and as loud",
    "other": "another clip's sound",
    "text": "no sound at all",
}


def report(
    run: Run,
    config: RunConfig,
    scores: Sequence[Score],
    sat: Sequence[Sat],
    findings: Sequence[Mapping[str, str]],
    shared: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write `report.json` and `report.md` into the run's folder, and return what the first holds.

    `run`, `version`, `config_sha256`, `weights_sha256`, `rows` and `summary` are those of any run's report, where
    controls are variants; rows grade by the choice read. `exams` holds for each exam what `earwitness score --json`
    prints, and what `results.result` adds. `checks` is what was looked at before, `shared` what
    the exams share with what was learnt. Equal sittings write equal files.
    """
    (arm,) = config.arms
    rows, summary = rows_and_summary([sitting for one in sat for sitting in _sittings(one, config, arm)])
    made: dict[str, Any] = stable(
        {
            "run": config.name,
            "version": __version__,
            "config_sha256": config.measured(),
            "weights_sha256": weights_digest([config], run.digests.of_folder),
            "rows": rows,
            "summary": summary,
            "exams": list(scores),
            "checks": list(findings),
            "shared": list(shared),
        }
    )
    write_bytes(run.path / "report.md", _markdown(made, arm, _mode(config)).encode())
    text = json.dumps(made, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(run.path / "report.json", text.encode())
    return made


def told(made: Mapping[str, Any], seconds: float | None, sound: float | None) -> str:
    """Return the scores as text for a terminal, and how long answering took (`seconds`, for seconds of `sound`)."""
    parts = []
    for score in made["exams"]:
        lines = [table(score, exam_of(score["exam"])), *(f"  {line}" for line in _beside(score))]
        parts.append("\n".join(lines))
    parts += [_shared(one) for one in made["shared"]]
    if seconds and sound:
        parts.append(f"answering took {seconds:.1f} s, {seconds / sound:.3f} s for each second of sound")
    return "\n\n".join(parts)


def _beside(score: Score) -> list[str]:
    """Say in lines what a score's own table does not."""
    lines = [f"Wilson's interval, which takes every clip for another: {_interval(score, 'wilson_')}"]
    words = score["words"]
    lines.append(f"a reply has {words['reply']:.1f} words, {words['thought']:.1f} of them thinking")
    if (s := score["samples"]) is not None:
        error = "" if s["error"] is None else f" (standard error {100 * s['error']:.1f})"
        lines.append(
            f"{s['k']} samples at temperature {s['temperature']:g}: avg@{s['k']} {percent(s['average'])}{error}, "
            f"maj@{s['k']} {percent(s['majority'])}, pass@{s['k']} {percent(s['passed'])}, which is no accuracy"
        )
    if (s := score["shuffles"]) is not None:
        lines.append(
            f"over every cyclic shuffle of the choices: mean {percent(s['average'])}, right under each "
            f"{percent(s['always'])}, the same answer under each {percent(s['consistent'])}"
        )
    for c in score["controls"]:
        lines.append(
            f"with {SAID[c['control']]}: {percent(c['accuracy'])}; its own sound adds {points(c['difference'])} points "
            f"({_interval(c, 'difference_')}); {percent(c['same'])} of the answers stay the same"
        )
    return lines


def _markdown(made: Mapping[str, Any], arm: str, mode: str) -> str:
    lines = [f"# {escaped(made['run'])}", ""]
    weights = made["weights_sha256"][:12]
    lines += [f"{escaped(arm)}, prompt `{mode}`, weights `{weights}`, earwitness {escaped(made['version'])}", ""]
    for score in made["exams"]:
        lines += _section(score)
    if made["shared"]:
        lines += ["## Shared with what was learnt", "", *(f"- {escaped_line(_shared(s))}" for s in made["shared"]), ""]
    if made["checks"]:
        lines += ["## Looked at before", ""]
        lines += [f"- {escaped_line(check['check'])}: {escaped_line(check['said'])}" for check in made["checks"]]
    return "\n".join(lines).rstrip() + "\n"


def _section(score: Score) -> list[str]:
    head = ["task", "n", "official raw", "official", "strict", "95 %", "unparsed", "truncated"]
    cells = [("all", score), *score["by"].items()]
    rows = [
        [
            escaped(task),
            str(cell["n"]),
            *(percent(cell[column], 2) for column in ("official_raw", "official", "strict")),
            _interval(cell, ""),
            percent(cell["unparsed"] / cell["n"]),
            percent(cell["truncated"] / cell["n"]),
        ]
        for task, cell in cells
    ]
    lines = [f"## {escaped(score['exam'])}", "", f"Version {escaped(score['version'])}.", ""]
    if score["size"] > score["n"]:
        asked = f"{score['n']} of the exam's {score['size']} questions were asked"
        lines += [f"{asked}: this is no score of the whole exam.", ""]
    if score["missing"]:
        lines += [f"{score['missing']} questions failed and count as wrong.", ""]
    lines += [*markdown_table(head, rows), ""]
    rules = ", ".join(f"{escaped(rule)} {count}" for rule, count in score["rules"].items())
    measures = [f"- {name.replace('_', ' ')}: {percent(value, 2)}" for name, value in score.get("measures", {}).items()]
    return [*lines, f"- read by: {rules}", *measures, *(f"- {escaped_line(line)}" for line in _beside(score)), ""]


def _shared(one: Mapping[str, Any]) -> str:
    unread = f"; {one['unread']} clips could not be read" if one["unread"] else ""
    return (
        f"of {one['clips']} clips of {one['exam']} {one['same_name']} have the name and {one['same_sound']} the sound "
        f"of one of the {one['learnt']} clips of {one['against']}; {one['questions']} questions ask about them{unread}"
    )


def escaped_line(text: str) -> str:
    """Return a sentence of ours, in which names of users may stand, as markdown shows it."""
    return " ".join(escaped(word) for word in text.split())


def _interval(cell: Mapping[str, Any], prefix: str) -> str:
    return f"{100 * cell[f'{prefix}low']:.1f} to {100 * cell[f'{prefix}high']:.1f}"


def _sittings(sat: Sat, config: RunConfig, arm: str) -> list[Sitting]:
    """Return the sitting of the exam, and those under controls as variants of it."""
    mode = _mode(config)
    ways = {way: "default" if way == PLAIN else way.hears for way in sat.ways if way == PLAIN or way.hears != "clip"}
    return [
        Sitting(sat.exam, variant, arm, None, mode, sat.questions, _grades(sat, way, mode))
        for way, variant in ways.items()
    ]


def _grades(sat: Sat, way: Way, mode: str) -> dict[str, Grade]:
    groups = zip(sat.questions, sat.replies(way), strict=True)
    return {q.id: grade(q, next(iter(group), None), lists=mode != "plain") for q, group in groups}


def _mode(config: RunConfig) -> str:
    (steps,) = config.arms.values()
    mode: str = config.settings(steps[-1]).prompt or "direct"  # type: ignore[attr-defined]
    return mode
