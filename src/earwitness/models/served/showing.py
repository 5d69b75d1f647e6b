"""What of a prompt's clip a server is shown, and what that is called: silent frames to eyes, sound to ears."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from earwitness.config import Model
from earwitness.media import RATE
from earwitness.models.exchange import MediaLimit, Prompt, PromptError, Sense, parts, shows_media
from earwitness.models.places import ModelError
from earwitness.sources.encoded import (
    Film,
    array_digest,
    content_of,
    encode_film,
    encode_sound,
    film_of,
    samples_in,
    samples_of,
    sound_of,
)

# What tokenizers take for media or for the conversation's frame, wherever in a text it stands.
_FRAME = re.compile(r"<\|[^<>|\s]{1,40}\|>|\[/?INST\]|\[(?:BEGIN_)?AUDIO\]|</?s>|<(?:image|audio|video|sound)>")


@dataclass(frozen=True)
class Shown:
    """What of a clip is sent: silent frames, or sound (WAV files, one after the other), or nothing.

    `note` says what was not heard of it.
    """

    film: Film | None = None
    sounds: tuple[bytes, ...] = ()
    note: str | None = None


def show(prompt: Prompt, spec: Model, sense: Sense) -> Shown:
    """Return what a server is shown with a prompt. Raises MediaError, MediaLimit, or ModelError for a foreign sense."""
    _refuse_foreign(prompt, spec, sense)
    if sense == "reading" or not shows_media(prompt):
        return Shown()
    if sense == "sight":
        if prompt.film is not None:
            return Shown(encode_film(prompt.film))
        assert prompt.clip is not None
        return Shown(film_of(prompt.clip, prompt.frames))
    if prompt.wave is not None:
        return _heard(encode_sound(prompt.wave), prompt, spec)
    assert prompt.clip is not None
    return _heard(sound_of(prompt.clip), prompt, spec)


def content_shown(prompt: Prompt, spec: Model, sense: Sense) -> dict[str, Any]:
    """Return what decides that a server is shown the same, as JSON values, without decoding. Raises MediaError."""
    _refuse_foreign(prompt, spec, sense)
    if sense == "reading" or not shows_media(prompt):
        return {}
    if sense == "sight":
        if prompt.film is not None:
            return {"film": array_digest(prompt.film.images, prompt.film.times)}
        assert prompt.clip is not None
        return {"clip": content_of(prompt.clip), "frames": prompt.frames}
    whole = {} if spec.long_clips == "refuse" else {"long_clips": spec.long_clips}
    if prompt.wave is not None:
        return {"wave": array_digest(prompt.wave), **whole}
    assert prompt.clip is not None
    return {"clip": content_of(prompt.clip), **whole}


def refuse_frame(text: str, name: str) -> None:
    """Raise PromptError for a text that a server's tokenizer could take for more than text."""
    found = _FRAME.search(text)
    if found is not None:
        raise PromptError(f"the text holds {found[0]!r}, which {name} may not read as text: reword it")


def _refuse_foreign(prompt: Prompt, spec: Model, sense: Sense) -> None:
    if sense != "hearing" and prompt.wave is not None:
        raise ModelError(f"{spec.name} is here for its {sense} and must not be given a sound")
    if sense != "sight" and prompt.film is not None:
        raise ModelError(f"{spec.name} is here for its {sense} and must not be given a picture")


def _heard(sound: bytes, prompt: Prompt, spec: Model) -> Shown:
    """Cut a sound for a model whose window is known; a server would let it hear the beginning, and tell nobody."""
    window = _window(spec.name)
    count = samples_in(sound)
    if window is None or count <= window:
        return Shown(sounds=(sound,))
    if spec.long_clips == "refuse":
        where = prompt.clip.id if prompt.clip else "a given waveform"
        raise MediaLimit(
            f"{where}: {count / RATE:.1f} s of sound do not fit the model's window of {window / RATE:g} s; "
            "give the question a span with start and end, or the model another long_clips"
        )
    heard = parts(samples_of(sound), window, spec.long_clips)
    note = None
    if spec.long_clips == "truncate":
        note = f"only the first {window / RATE:g} s of {count / RATE:.1f} s were heard"
    return Shown(sounds=tuple(encode_sound(part.astype(np.float32)) for part in heard), note=note)


def _window(name: str) -> int | None:
    """Return how many samples a model hears at once, where its server drops the rest in silence; None: all of them."""
    return 30 * RATE if "qwen2-audio" in name.casefold() else None
