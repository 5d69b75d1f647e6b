"""What an exam is: how its rows become questions, where its files come from, and who scores it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from earwitness.exams.official import Official
from earwitness.exams.rows import Row, RowError, identity
from earwitness.records import Clip, Question
from earwitness.sources.media import stem
from earwitness.sources.problems import Problems

Measures = Callable[[Sequence[str], Sequence[str | None], Sequence[str]], dict[str, float]]


def by_id(row: Row) -> str | None:
    """Return the id of a row whose key for it is `id`."""
    return identity(row, "id")


@dataclass(frozen=True)
class Exam:
    """One benchmark. `question` makes a row a question whose id is the benchmark's own and whose media is a bare name.

    It returns None for a row that the exam does not ask, and raises RowError for one that is not as it must be.
    `identity` finds the same id in a row of predictions. `files` tells a person what to fetch and where it is.
    `official` is the authors' scorer, None where it needs a model, and `why` says which; `asks_model` says that it
    asks one about the replies that it leaves out, `letters` that it reads letters, `task` by which tag its numbers are
    split. `size` is how many questions a whole file has, 0 where files differ. `repeats` allows several rows of one
    id. `aliases` are other names of choices, as a whole reply. `measures` are more numbers than the accuracy, of
    (gold, read or None, raw) texts.
    """

    name: str
    files: str
    question: Callable[[Row, int], Question | None]
    identity: Callable[[Row], str | None] = by_id
    official: Official | None = None
    why: str = ""
    letters: bool = False
    asks_model: bool = False
    task: str = "task"
    size: int = 0
    repeats: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    measures: Measures | None = None

    def read(self, rows: Sequence[Row], origin: str) -> list[Question]:
        """Return the questions of a file's rows, ids `NAME/id`. Raises one SourceError that names bad rows.

        A second question of an id, where that may be, has the id `NAME/id.2`; `official_id` tells what it was.
        """
        problems = Problems(origin)
        found: list[Question] = []
        times: dict[str, int] = {}
        for number, row in enumerate(rows, 1):
            try:
                question = self.question(row, number)
            except RowError as error:
                problems.add(number, f"{error}; this is no row of {self.name}")
                continue
            if question is None:
                continue
            official = question.id
            times[official] = times.get(official, 0) + 1
            if times[official] > 1 and not self.repeats:
                problems.add(number, f"the id {official!r} is there twice")
            name, tags = f"{self.name}/{official}", question.tags
            if times[official] > 1:
                name, tags = f"{name}.{times[official]}", tags | {REPEATED: official}
            found.append(question.model_copy(update={"id": name, "tags": tags}))
        problems.raise_any()
        return found

    def unasked(self, rows: Sequence[Row]) -> set[str]:
        """Return the ids of rows that are the benchmark's own, but no questions of this exam: its visual ones, say."""

        def passed_over(row: Row, number: int) -> bool:
            try:
                return self.question(row, number) is None
            except RowError:
                return False

        ids = {self.identity(row) for number, row in enumerate(rows, 1) if passed_over(row, number)}
        return {name for name in ids if name is not None}


REPEATED = "same id as"


def official_id(question: Question) -> str:
    """Return the id that a benchmark's own files call a question by."""
    return question.tags.get(REPEATED) or question.id.partition("/")[2]


def clip(family: str, media: str) -> Clip:
    """Return the clip of a media file's name: questions about one file are about one clip."""
    return Clip(id=f"{family}/{stem(media)}", media=media)
