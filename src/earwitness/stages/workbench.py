"""The workbench of a run: where stages find their tables, their models' fingerprints and the worker processes."""

from __future__ import annotations

import gc
import sys
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from earwitness.config import Model, Role, RunConfig
from earwitness.models import SENSES, connected, fingerprint
from earwitness.records import Clip, Question, Record, Row
from earwitness.run import Run, read_object, row_source
from earwitness.sources.clips import WORLD, WORLD_VERSION
from earwitness.table import BLOCK, EARLIER, Failed, Made, Make, Noted, RunError, StaleRow, Table, write_json
from earwitness.terminal import Progress, ProgressLine
from earwitness.workers import Workers, waiting_map

R = TypeVar("R", bound=Record)
SLOTS = 64  # requests under way at a server, unless the model's `concurrency` says another number
MAKERS = "models.json"  # in a table's folder: the fingerprints of the models that made its rows, to name a changed one


class StageError(RunError):
    """A stage that cannot go on with what it was given."""


@dataclass(frozen=True)
class Rows(Generic[R]):
    """What a stage has made: records by question id, why the others failed, and the table's name as parent."""

    stage: str
    table: str
    made: dict[str, list[R]]
    failed: dict[str, str]
    sources: dict[str, str]

    @classmethod
    def none(cls, stage: str) -> Rows[R]:
        """Return the rows of a stage that is not made, because no arm needs it."""
        return cls(stage, "", {}, {}, {})

    def of(self, question: Question) -> list[R]:
        """Return a question's records; none if it failed."""
        return self.made.get(question.id, [])

    def failure(self, question: Question) -> Failed | None:
        """Return why a question failed, named by the first stage that it failed in; None if it did not."""
        why = self.failed.get(question.id)
        if why is None:
            return None
        return Failed(why if why.startswith(EARLIER) else f"{EARLIER}{self.stage}: {why}")


@dataclass(frozen=True)
class Unless:
    """A stage's function that is spared the questions that failed before: their rows say so.

    `ears` are models that do not hear long clips whole: rows of what they made say what was heard.
    """

    make: Callable[[list[Any]], Sequence[Made]]
    ears: tuple[tuple[Model, Role], ...] = ()

    def __call__(self, block: Sequence[Any]) -> list[Made]:
        """Return what is made of each item, or the item itself where it is a failure."""
        good = [item for item in block if not isinstance(item, Failed)]
        made = iter(self._noted(good) if good else [])
        return [item if isinstance(item, Failed) else next(made) for item in block]

    def _noted(self, items: list[Any]) -> Sequence[Made]:
        if not self.ears:
            return self.make(items)
        from earwitness.models.exchange import HeardInPart

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeardInPart)  # the rows tell
            made = self.make(items)
        notes = ChainMap(*(connected(spec, role).notes for spec, role in self.ears))
        clips = [(item[0] if isinstance(item, tuple) else item).clip for item in items]
        return [
            Noted(out, notes[clip]) if clip in notes and not isinstance(out, Failed | Noted) else out
            for clip, out in zip(clips, made, strict=True)
        ]


@dataclass
class Workbench:
    """One run with one variant's configuration. With `finished_only` tables are read and nothing is ever made."""

    config: RunConfig
    run: Run
    workers: Workers
    progress: ProgressLine | None = None
    redo: Literal["stale", "failed"] | None = None
    finished_only: bool = False
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    _at_work: frozenset[tuple[Role, Model]] = frozenset()

    def model(self, role: Role) -> Model:
        """Return the spec of a role's model."""
        return self.config.model(role)

    def model_source(self, spec: Model) -> str:
        """Return the fingerprint of a model's content."""
        return fingerprint(spec, self.run.digests.of_folder)

    def clip_source(self, clip: Clip) -> str:
        """Return the digest of a clip's content, or a word for a file that is not there (its rows will say so)."""
        return _clip_source(self.run, clip)

    def question_source(self, question: Question) -> str:
        """Return the digest of a question and its clip's content; where the clip lies is no part of it."""
        return _question_source(self.run, question)

    def content(self, question: Question) -> Sequence[str]:
        """What the row of a question is made from where nothing else decides: the question and its clip."""
        return (self.question_source(question),)

    def fill(
        self,
        stage: str,
        identity: dict[str, Any],
        questions: Sequence[Question],
        content: Callable[[Question], Sequence[Any]],
        make: Any,
        record: type[R],
        *,
        among: Sequence[Question] | None = None,
        attach: Callable[[Question], Any] | None = None,
        parents: Sequence[Rows[Any]] = (),
        models: Mapping[Role, Model] | None = None,
        shown: str | None = "",
    ) -> Rows[R]:
        """Fill a stage's table and read it back.

        `content` says what a question's row is made from, beside its models and its parents' rows. `make` is called
        with blocks of questions, or of what `attach` makes of each (a tuple that begins with the question); in worker
        processes where `models` do the work. Blocks are counted in the list `among`, of which `questions` may be a
        part, so that shards make the blocks of one process. A question that failed in one of the `parents` fails here,
        too. `shown` is the stage's name on the progress line (None: not shown).
        """
        table = self.run.table(stage, identity)
        makers = {role: self.model_source(spec) for role, spec in (models or {}).items()}
        sources = {
            q.id: row_source(*content(q), *(rows.sources[q.id] for rows in parents), *makers.values())
            for q in questions
        }

        def work(question: Question) -> Any:
            failures = (rows.failure(question) for rows in parents)
            failure = next((f for f in failures if f is not None), None)
            return failure or (attach(question) if attach else question)

        def over(function: Make, blocks: list[list[Question]]) -> Iterable[Sequence[Made]]:
            items = ([work(q) for q in block] for block in blocks)
            return self._over(Unless(function, _cutting_ears(models or {})), items, models or {})

        blocks = questions if among is None else among
        rows = self._rows(table, questions, blocks, sources, make, over, makers, models or {}, shown)
        return self._read(table, rows, record, shown or stage)

    def _over(
        self, make: Unless, blocks: Iterable[list[Any]], models: Mapping[Role, Model]
    ) -> Iterable[Sequence[Made]]:
        """Apply a stage's function to blocks: in worker processes where models compute, in threads where they wait."""
        served = [spec for spec in models.values() if spec.kind == "served"]
        if not served:
            return self.workers.map(make, blocks) if models else map(make, blocks)
        if len(served) < len(models):
            return map(make, blocks)  # a model that computes here is one thread's
        return waiting_map(make, blocks, max(map(_askers, served)))

    def note(self, text: str) -> None:
        """Say something on the terminal that is not a stage's progress."""
        if self.progress is not None:
            self.progress.say(text)

    def _rows(
        self,
        table: Table,
        questions: Sequence[Question],
        among: Sequence[Question],
        sources: Mapping[str, str],
        make: Any,
        over: Any,
        makers: dict[Role, str],
        models: Mapping[Role, Model],
        shown: str | None,
    ) -> dict[str, Row]:
        try:
            if self.finished_only:
                return table.read([q.id for q in questions], sources)
            self._make_room(frozenset(models.items()))
            if makers and not (table.folder / MAKERS).exists():
                write_json(table.folder / MAKERS, makers)
            with self.run.timed(table.stage):
                line = None if shown is None else self._line(shown or table.stage)
                found = table.fill(
                    questions, sources, make, block=BLOCK, among=among, over=over, progress=line, redo=self.redo
                )
        except StaleRow as error:
            raise StaleRow(f"{error}. {self._changed(table, error.ids[0], questions, makers, models)}") from None
        if makers and read_object(table.folder / MAKERS) != makers:
            write_json(table.folder / MAKERS, makers)
        return found

    def _line(self, shown: str) -> Callable[[Progress], None] | None:
        line = self.progress
        return None if line is None else lambda p: line(Progress(shown, p.done, p.owed, p.failed, p.seconds))

    def _read(self, table: Table, rows: dict[str, Row], record: type[R], shown: str) -> Rows[R]:
        made = {i: [record.model_validate(r) for r in row.out] for i, row in rows.items() if row.error is None}
        failed = {i: row.error for i, row in rows.items() if row.error is not None}
        name = table.folder.name
        notes = {i: row.note for i, row in rows.items() if row.note is not None}
        counts = {"in": len(rows), "out": len(made), "failed": len(failed), "in_part": len(notes)}
        self.stages[name] = {"name": table.stage, **counts}
        if notes:
            first, note = next(iter(notes.items()))
            whose = f"{len(notes)} of {len(rows)} questions are about clips that were not heard whole"
            self.note(f"{shown}: {whose}, first {first}: {note}")
        here = {i: why for i, why in failed.items() if not why.startswith(EARLIER)}
        if here:
            first, why = next(iter(here.items()))
            self.failures[name] = (f"{shown}: {len(here)} of {len(rows)} questions failed", f"{first}: {why}")
        return Rows(table.stage, name, made, failed, {i: row.source for i, row in rows.items()})

    def _make_room(self, at_work: frozenset[tuple[Role, Model]]) -> None:
        """Free the models of the stage before: memory is needed for the largest stage, not for all of them.

        A stage that works with the same models goes on with them. Worker processes keep the two used last.
        """
        if at_work and at_work != self._at_work:
            release_models()
            self._at_work = at_work

    def _changed(
        self,
        table: Table,
        question_id: str,
        questions: Sequence[Question],
        makers: Mapping[Role, str],
        models: Mapping[Role, Model],
    ) -> str:
        """Say what has changed since a row was made: a model, or else the question or its clip."""
        before = read_object(table.folder / MAKERS) or {}
        changed = [role for role, value in makers.items() if before.get(role) != value]
        if before and changed:
            return f"Changed: the {changed[0]}'s files ({models[changed[0]].name})"
        media = next(q.clip.media for q in questions if q.id == question_id)
        return f"Changed: the question {question_id!r} or its clip {media}"


def _clip_source(run: Run, clip: Clip) -> str:
    if clip.media.startswith(WORLD):
        return f"{WORLD_VERSION} {clip.media}"
    return run.digests.of(clip.media) if Path(clip.media).is_file() else "missing"


def _question_source(run: Run, question: Question) -> str:
    record = question.model_dump(mode="json")
    record["clip"].pop("media")
    return row_source(record, _clip_source(run, question.clip))


def asked_otherwise(run: Run, folder: Path, rows: Mapping[str, Row], questions: Sequence[Question]) -> list[str]:
    """Return the ids of those of the questions that a table of answers was not made of: they have changed since.

    Of a table that is made from another one nothing is known: its rows hold more than the question and its models.
    """
    makers = read_object(folder / MAKERS)
    if makers is None or "of" in (read_object(folder / "settings.json") or {}):
        return []
    known = [q for q in questions if q.id in rows]
    return [q.id for q in known if rows[q.id].source != row_source(_question_source(run, q), *makers.values())]


def _askers(spec: Model) -> int:
    """Return how many blocks are put to a server side by side: enough to fill its slots, and not the memory."""
    return min(32, max(2, (spec.concurrency or SLOTS) * len(spec.base_url) // 4))


def _cutting_ears(models: Mapping[Role, Model]) -> tuple[tuple[Model, Role], ...]:
    return tuple(
        (spec, role) for role, spec in models.items() if SENSES[role] == "hearing" and spec.long_clips == "truncate"
    )


def release_models() -> None:
    """Free the models that this process has opened."""
    if connected.cache_info().currsize:
        connected.cache_clear()
        free_memory()


def free_memory() -> None:
    """Give back what nothing refers to any more: models that were trained, and a GPU's cache."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
