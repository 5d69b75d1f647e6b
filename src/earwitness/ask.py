"""`ask`: the teacher writes the questions of folders that have none, and they become a file that people can edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from earwitness.config import ConfigError, RunConfig
from earwitness.driver import FAILED_SHARE, PRELOAD
from earwitness.flow import write_drafts
from earwitness.models.places import manner_of
from earwitness.models.served.desk import open_desk
from earwitness.models.served.probe import refuse_unfit
from earwitness.preflight import refuse, worker_count
from earwitness.records import Draft, Question
from earwitness.run import Run
from earwitness.sources.footage import Footage, read_footage, write_questions
from earwitness.sources.questions import FILE, MEDIA, SourceError
from earwitness.stages.ask import tally
from earwitness.stages.workbench import Rows, Workbench, release_models
from earwitness.terminal import ProgressLine, clean
from earwitness.workers import Workers

FOLDER = "folder:"


@dataclass(frozen=True)
class Outcome:
    """What came of asking: the questions of each file that was written, and what became of the clips.

    `dropped` says why questions were left out, `kept` are files that were there already, `failures` say of the stage
    what failed in it and of which clip first.
    """

    written: dict[Path, int]
    kept: list[Path]
    bare: list[Path]
    clips: int
    failed: int
    dropped: str
    failures: list[tuple[str, str]]

    @property
    def failing(self) -> bool:
        """Whether a folder was left without a question, or more clips failed than a run tolerates."""
        return bool(self.bare) or self.failed > FAILED_SHARE * self.clips

    @property
    def text(self) -> str:
        """What happened and what to do next, for people."""
        lines = [f"{path} is there already and stays as it is; move it away to have it written" for path in self.kept]
        if self.clips:
            lines.append(f"{self.clips} clips asked about, {self.failed} of them without a question in the end")
        if self.dropped:
            lines.append(f"dropped: {self.dropped}")
        lines += [f"{folder}: no question came of it, and {FILE} was not written" for folder in self.bare]
        lines += [f"{path}: {count} questions" for path, count in self.written.items()]
        if self.written:
            lines.append(
                "next: read and edit them (tags.proposed is what the teacher had in mind, and nobody's gold answer), "
                "then `earwitness run`"
            )
        return "\n".join(lines)


def ask(
    config: RunConfig,
    root: Path | str = "runs",
    redo: Literal["stale", "failed"] | None = None,
    quiet: bool = False,
) -> Outcome:
    """Let the teacher write the questions of every folder in questions.train that has none.

    What was written before is not asked for again, and a questions.jsonl that is there is never touched. Raises
    ConfigError, ModelError and SourceError before anything is spent, RunError and what a model raises.
    """
    refuse_asking(config)
    folders = [Path(name.removeprefix(FOLDER)) for name in config.questions.train if name.startswith(FOLDER)]
    kept = [folder / FILE for folder in folders if (folder / FILE).exists()]
    footage = {folder: _footage(folder, config) for folder in folders if folder / FILE not in kept}
    _refuse_namesakes(list(footage))
    every = [one for found in footage.values() for one in found]
    if not every:
        return Outcome({}, kept, [], 0, 0, "", [])
    release_models()  # of an earlier run of this process: their files may have changed
    with (
        Run.open(root, config.name) as run,
        open_desk(config, run.root, run.name, first=partial(refuse_unfit, config, "sample"), again=redo == "failed"),
    ):
        run.save_config(config.to_toml())
        with Workers(worker_count(config, "sample"), PRELOAD) as workers:
            bench = Workbench(config, run, workers, None if quiet else ProgressLine(), redo)
            rows = write_drafts(bench, every)
    questions = {folder: _questions(found, rows) for folder, found in footage.items()}
    written = {write_questions(folder, asked): len(asked) for folder, asked in questions.items() if asked}
    bare = [folder for folder, asked in questions.items() if not asked]
    dropped = clean(tally(draft for drafts in rows.made.values() for draft in drafts))
    return Outcome(written, kept, bare, len(every), len(rows.failed), dropped, list(bench.failures.values()))


def refuse_asking(config: RunConfig) -> None:
    """Raise ConfigError or ModelError where there is nobody to ask, or no folder to ask about."""
    refuse(config, "sample")
    if not any(name.startswith(FOLDER) for name in config.questions.train):
        raise ConfigError("ask is for folders of media files: questions.train names none (folder:PATH)")
    if manner_of(config.model("teacher")) != "plain":
        raise ConfigError(
            "models.teacher knows the few words of the embedded world and cannot write questions: name a real model "
            '(kind = "local" or "served", spoken to in the plain manner)'
        )


def _footage(folder: Path, config: RunConfig) -> list[Footage]:
    found = read_footage(folder, config.ask.span)
    if not found:
        raise SourceError(f"{folder} holds no media file ({', '.join(sorted(MEDIA))}): there is nothing to ask about")
    return found


def _refuse_namesakes(folders: Sequence[Path]) -> None:
    """Refuse folders of one name: their clips, and the questions about them, would be called the same."""
    names = [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"questions.train names several folders called {name!r}, such as {folder}: rename one")


def _questions(footage: Sequence[Footage], rows: Rows[Draft]) -> list[Question]:
    return [
        Question(
            id=f"{one.id}-{draft.number}",
            clip=one.clip,
            text=draft.text,
            choices=draft.choices,
            tags={"asked_by": draft.by, "proposed": draft.proposed},
        )
        for one in footage
        for draft in rows.made.get(one.id, [])
        if not draft.dropped
    ]
