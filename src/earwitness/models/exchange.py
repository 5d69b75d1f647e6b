"""What a model is asked and what it answers, wherever it runs. Needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from earwitness.media import Frames, MediaError
from earwitness.records import Clip, FinishReason

Sense = Literal["sight", "hearing", "reading"]
LongClips = Literal["refuse", "truncate", "chunk"]


class PromptError(Exception):
    """A prompt that must not be sent: too long, or its text would be taken for media or the conversation's frame."""


class TooLong(PromptError):  # noqa: N818 (it reads as what it is)
    """A prompt that leaves no room for an answer in the model's window."""


class MediaLimit(Exception):  # noqa: N818 (it reads as what it is)
    """A clip that this model's window cannot take: too short to hear anything, or longer than the window."""


class Unanswered(Exception):  # noqa: N818 - named for what it is
    """A question that a server would not answer, or not in time: the message says what it said instead."""


class Unclear(Unanswered):
    """A question that was answered, and not with one of the words to choose from: asked again, it would be the same."""


OF_THE_QUESTION = (MediaError, MediaLimit, PromptError, Unanswered)  # a question's own faults: a row that says why


class HeardInPart(UserWarning):
    """Tells of a clip that was not heard whole, wherever nobody reads a model's `notes`."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked. Of the clip it gets what its sense can take: `frames` silent frames, or the sound.

    `wave` (N,) replaces the clip's own sound (16 kHz, mono), `film` its own frames. `earlier` are the turns of the
    conversation before this one, as (role, text).
    """

    text: str
    clip: Clip | None = None
    frames: int = 16
    wave: NDArray[np.float32] | None = None
    film: Frames | None = None
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Completion:
    """One sample: its text without special tokens, its token ids, and why it ended."""

    text: str
    ids: tuple[int, ...]
    finish: FinishReason


@dataclass(frozen=True)
class Drawing:
    """How completions are drawn: `samples` of each prompt, at a `temperature` (0: greedy), of at most `max_tokens`.

    Only the `top_k` likeliest tokens are drawn (0: all), and of those only as many as together reach `top_p` of the
    probability. `schema` is a JSON schema as text: models that can hold an answer to one do, others do not look at it.
    """

    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 1024
    top_k: int = 0
    top_p: float = 1.0
    schema: str | None = None


class Voice(Protocol):
    """A model that can be asked, wherever it runs. `manner` says in which words.

    `notes` says of clips that were not heard whole (None: of a waveform) what was heard.
    """

    name: str
    manner: str
    notes: dict[Clip | None, str]

    def check(self, prompt: Prompt) -> None:
        """Raise one of OF_THE_QUESTION where a prompt cannot be sent as it is."""

    def draw(
        self, prompts: Sequence[Prompt], how: Drawing, keys: Sequence[tuple[object, ...]]
    ) -> list[list[Completion] | Exception]:
        """Draw completions of each prompt, or say what of OF_THE_QUESTION kept it from being answered.

        The noise is a function of the keys, wherever the model allows.
        """

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[list[float]]:
        """Return the log-probability (nats) of each option as the whole beginning of the answer to each prompt.

        Raises one of OF_THE_QUESTION.
        """


def shows_media(prompt: Prompt) -> bool:
    """Whether there is anything to see or hear with a prompt."""
    return any(part is not None for part in (prompt.clip, prompt.wave, prompt.film))


def parts(wave: NDArray[np.float32], longest: int | None, how: LongClips) -> list[NDArray[np.float32]]:
    """Return a waveform in parts of at most `longest` samples: `chunk` cuts it evenly, `truncate` drops its end.

    `refuse` leaves it whole, for `audio_tensors` to refuse.
    """
    if longest is None or len(wave) <= longest or how == "refuse":
        return [wave]
    return [wave[:longest]] if how == "truncate" else np.array_split(wave, -(-len(wave) // longest))
