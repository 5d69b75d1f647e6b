"""The workbench of a run: where stages find their tables, their models' fingerprints and the worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from earwitness.config import Model, Role, RunConfig
from earwitness.models import fingerprint
from earwitness.records import Clip, Question, Record
from earwitness.run import Run, row_source
from earwitness.table import BLOCK, Make, Made, RunError
from earwitness.terminal import Progress
from earwitness.workers import Workers

R = TypeVar("R", bound=Record)
WORLD_VERSION = "world 1"


@dataclass(frozen=True)
class Rows(Generic[R]):
    """What a stage has made: records by question id, why the others failed, and the table's name as parent."""

    table: str
    made: dict[str, list[R]]
    failed: dict[str, str]
    sources: dict[str, str]

    def of(self, question: Question) -> list[R]:
        """Return a question's records; none if it failed."""
        return self.made.get(question.id, [])


@dataclass
class Workbench:
    """One run with one variant's configuration."""

    config: RunConfig
    run: Run
    workers: Workers
    progress: Callable[[Progress], None] | None = None
    redo: Literal["stale", "failed"] | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)

    def model(self, role: Role) -> Model:
        """Return the spec of a role's model."""
        return self.config.model(role)

    def model_source(self, spec: Model) -> str:
        """Return the fingerprint of a model's content."""
        return fingerprint(spec, self.run.digests.of_folder)

    def clip_source(self, clip: Clip) -> str:
        """Return the digest of a clip's content, or a word for a file that is not there (its rows will say so)."""
        if clip.media.startswith("world:"):
            return f"{WORLD_VERSION} {clip.media}"
        return self.run.digests.of(clip.media) if Path(clip.media).is_file() else "missing"

    def question_source(self, question: Question) -> str:
        """Return the digest of a question and its clip's content; where the clip lies is no part of it."""
        record = question.model_dump(mode="json")
        record["clip"].pop("media")
        return row_source(record, self.clip_source(question.clip))

    def fill(
        self,
        stage: str,
        identity: dict[str, Any],
        questions: Sequence[Question],
        sources: Mapping[str, str],
        make: Any,
        record: type[R],
        attach: Callable[[Question], Any] | None = None,
        parallel: bool = True,
    ) -> Rows[R]:
        """Fill a stage's table and read it back. `make` is called with blocks of questions, or of what `attach`
        makes of each; with `parallel` in worker processes."""
        table = self.run.table(stage, identity)

        def over(function: Make, blocks: list[list[Question]]) -> Iterable[Sequence[Made]]:
            work = ([attach(q) if attach else q for q in block] for block in blocks)
            return self.workers.map(make, work) if parallel else map(make, work)

        share = self.run.share(list(questions))
        with self.run.timed(stage):
            rows = table.fill(share, sources, make, block=BLOCK, over=over, progress=self.progress, redo=self.redo)
        made = {i: [record.model_validate(r) for r in row.out] for i, row in rows.items() if row.error is None}
        failed = {i: row.error for i, row in rows.items() if row.error is not None}
        self.stages.append({"name": stage, "in": len(share), "out": len(made), "failed": len(failed)})
        return Rows(table.folder.name, made, failed, {i: row.source for i, row in rows.items()})

    def note(self, text: str) -> None:
        """Print a line of progress that is not a stage's."""
        if self.progress is not None:
            import sys

            print(text, file=sys.stderr, flush=True)


class StageError(RunError):
    """A stage that cannot go on with what it was given."""
