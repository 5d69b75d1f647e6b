"""The nouns that travel between rooms: small, frozen, and readable without the run that made them.

Tables join these records by question id; a record never repeats its parent.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]
Pool = Literal["labels", "all", "agreed", "heard", "verified", "gold", "given"]


class Record(BaseModel):
    """Base of every record: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Clip(Record):
    """One span of one media file, or one scene of the embedded world.

    `media` is a file's path, or `world:DIFFICULTY:SEED`. `start` and `end` are seconds within the file (both tracks
    alike); `end` None means the end of the file. `sounds` names what is truly audible, where that is known: it is
    used to measure hallucination, never to teach.
    """

    id: str
    media: str
    start: float = 0.0
    end: float | None = None
    sounds: tuple[str, ...] | None = None


class Question(Record):
    """The unit of work: one question about one clip. `id` is `source/n`; `answer` is read by grading alone.

    `think` is reasoning that the data carries (the `given` pool), `description` what the data says is heard.
    """

    id: str
    clip: Clip
    text: str
    choices: tuple[str, ...] | None = None
    answer: str | None = None
    think: str | None = None
    description: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)


class Draft(Record):
    """A question that a teacher wrote about a clip, the `number`th of its answer, its choices shuffled.

    `proposed` is the choice that it had in mind: no gold answer, and nothing reads it as one. `dropped` says why the
    question is not asked; it is empty for those that are.
    """

    number: int
    text: str
    choices: tuple[str, ...]
    proposed: str
    dropped: str
    by: str


class Trace(Record):
    """One chain of thought of a teacher: what it wrote (`raw`), and what was read from it.

    `think` is None where no reasoning could be told apart, `answer` is None where no answer could be read.
    """

    index: int
    raw: str
    think: str | None
    answer: str | None
    finish: FinishReason
    by: str


class Ballot(Record):
    """The vote over the traces of one question.

    `answer` has `share` of the votes (unparsable and cut-off traces count as votes for nothing); `indexes` are the
    traces behind it. `agreed` says whether the share reached the one asked for.
    """

    answer: str | None
    share: float
    indexes: tuple[int, ...]
    agreed: bool


class Claim(Record):
    """One claimed sound and how sure the checker is that it is there: `score` is p(yes) / (p(yes) + p(no))."""

    text: str
    score: float
    heard: bool


class Verdict(Record):
    """What the checker, which hears the sound, says of one trace. `reason` is empty for an accepted trace."""

    index: int
    claims: tuple[Claim, ...]
    accepted: bool
    reason: str
    by: str


class Lesson(Record):
    """What the student is to say to one question. `think` None teaches the bare answer.

    `pools` names every pool that the lesson belongs to; `index` is the trace it came from, None for a bare label.
    """

    think: str | None
    answer: str
    index: int | None
    pools: tuple[Pool, ...]
    by: str


class Description(Record):
    """What a clip sounds like, in words that a model which cannot hear can read. `by` names who says so."""

    text: str
    by: str


class Checkpoint(Record):
    """A trained model on disk. `parent` is the key of the checkpoint (or the name of the model) it started from."""

    key: str
    path: str
    kind: Literal["full", "adapter"]
    parent: str


class Reply(Record):
    """An examinee's answer: its words, the choice read from them, and the rule of the ladder that read it."""

    raw: str
    think: str | None
    answer: str | None
    rule: str
    finish: FinishReason


class Grade(Record):
    """Right or wrong. `hallucinated` says whether the reply claims a sound that is not in the clip (None: unknown)."""

    right: bool
    parsed: bool
    truncated: bool
    claims: tuple[str, ...]
    hallucinated: bool | None


class Fingerprint(Record):
    """What a recording is known by (`fingerprints.pack_print`)."""

    words: str


class Row(BaseModel):
    """One line of a stage's table: what was made (`out`) for the question `id`, from inputs with digest `source`.

    On disk the digest is called `from`. A question that failed has no `out` and says why in `error`. A `note` says what
    became of a clip that was not heard whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    id: str
    source: str = Field(alias="from")
    out: list[dict[str, Any]]
    error: str | None = None
    note: str | None = None
