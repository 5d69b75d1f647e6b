"""What a model is asked and what it answers, wherever it runs. Needs neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from earwitness.media import Frames
from earwitness.records import Clip, FinishReason

Sense = Literal["sight", "hearing", "reading"]


class PromptError(Exception):
    """A prompt that must not be sent: too long, or its text would be taken for media or the conversation's frame."""


class HeardInPart(UserWarning):
    """Tells of a clip that was not heard whole, wherever nobody reads a model's `notes`."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked. Of the clip it gets what its sense can take: `frames` silent frames, or the sound.

    `wave` (N,) replaces the clip's own sound (16 kHz, mono), `film` its own frames.
    """

    text: str
    clip: Clip | None = None
    frames: int = 16
    wave: NDArray[np.float32] | None = None
    film: Frames | None = None


@dataclass(frozen=True)
class Completion:
    """One sample: its text without special tokens, its token ids, and why it ended."""

    text: str
    ids: tuple[int, ...]
    finish: FinishReason


def shows_media(prompt: Prompt) -> bool:
    """Whether there is anything to see or hear with a prompt."""
    return any(part is not None for part in (prompt.clip, prompt.wave, prompt.film))
