"""What a describer says of a clip: read from its JSON, held against itself and the clip, and told as plain text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

KEYS = ("events", "speech", "speakers", "music")
SLACK = 0.5  # seconds beyond the clip's end that an event may be rounded to
_TIME = re.compile(r"(?:(\d{1,6}):)?(\d{1,6}(?:\.\d+)?)\s*(?:s|sec|seconds?)?", re.IGNORECASE)
_THERE = r"(?: (?:is|was))?(?: (?:there|present|heard|detected|audible))?"
_NOTHING = re.compile(rf"(?:none|null|nothing|n/?a|no (?:speech|music|words|transcript){_THERE})?\W*", re.IGNORECASE)
_SILENCE = re.compile(r"(?:(?:complete |total )?silence|silent|nothing|no sounds?)\W*", re.IGNORECASE)
_NO_SPEECH = re.compile(r"\b(?:no speech|no (?:one|body) (?:speaks|is speaking)|nobody (?:speaks|is speaking))\b", re.I)
_SHOWN = 60


class DescriptionError(ValueError):
    """A description that cannot be used: the message goes on after the words `the description`."""


@dataclass(frozen=True)
class Event:
    """One sound, from `start` to `end` in seconds of the clip."""

    what: str
    start: float
    end: float

    @property
    def silent(self) -> bool:
        """Whether it says that nothing sounds."""
        return _SILENCE.fullmatch(self.what) is not None


@dataclass(frozen=True)
class Speaker:
    """Somebody who speaks, and in which emotion (None: not said)."""

    who: str
    emotion: str | None


@dataclass(frozen=True)
class Heard:
    """Everything that a description says. `speech` is what is said, None where nobody speaks; `music` likewise."""

    events: tuple[Event, ...]
    speech: str | None
    speakers: tuple[Speaker, ...]
    music: str | None


def parse(text: str) -> Heard:
    """Read a describer's words: one JSON object with the four keys, be there prose or a fence around it.

    Times may be numbers, `1.5 s` or `0:01`. Raises DescriptionError where there is no such object, a key is missing,
    unknown, or there twice with different values, or a value is not what it should be.
    """
    row = _object(text)
    for key in row:
        if key not in KEYS:
            raise DescriptionError(f"has the unknown key {key!r}; asked for were {', '.join(KEYS)}")
    for key in KEYS:
        if key not in row:
            raise DescriptionError(f"says nothing of {key!r}: null was asked for where there is none")
    return Heard(
        events=tuple(dict.fromkeys(_event(value) for value in _list(row["events"], "events"))),
        speech=_words_or_none(row["speech"], "speech"),
        speakers=tuple(dict.fromkeys(_speaker(value) for value in _list(row["speakers"], "speakers"))),
        music=_words_or_none(row["music"], "music"),
    )


def validate(heard: Heard, seconds: float) -> None:
    """Raise DescriptionError where a description contradicts itself, or a clip of so many seconds, or says nothing."""
    sounds = [event for event in heard.events if not event.silent]
    silences = [event for event in heard.events if event.silent]
    for event in heard.events:
        if event.end < event.start:
            raise DescriptionError(f"lets {event.what!r} end at {event.end:g} s, before it starts at {event.start:g} s")
        if event.end > seconds + SLACK:
            raise DescriptionError(f"lets {event.what!r} end at {event.end:g} s, and the clip has {seconds:.1f} s")
    for silence in silences:
        over = next((e for e in sounds if e.start < silence.end and silence.start < e.end), None)
        if over is not None:
            raise DescriptionError(f"calls {silence.start:g} to {silence.end:g} s silent and hears {over.what!r} there")
    if silences and not sounds and (heard.speech or heard.music):
        raise DescriptionError(f"calls the clip silent and hears {'speech' if heard.speech else 'music'} in it")
    denied = any(_NO_SPEECH.search(event.what) for event in heard.events)
    if heard.speech is not None and (denied or _NO_SPEECH.match(heard.speech)):
        raise DescriptionError(f"says that nobody speaks and what is said: {heard.speech[:_SHOWN]!r}")
    if heard.speakers and heard.speech is None:
        raise DescriptionError(f"names a speaker ({heard.speakers[0].who}) and says that nobody speaks")
    if not heard.events and heard.speech is None and heard.music is None:
        raise DescriptionError("names nothing that is heard: no event, no speech, no music, not even silence")


def render(heard: Heard) -> str:
    """Return a description as lines that a model can read, events in the order of time."""
    lines = [f"{_told(e.start)} to {_told(e.end)} s: {e.what}" for e in sorted(heard.events, key=lambda e: e.start)]
    lines.append("Speech: none" if heard.speech is None else f'Speech: "{heard.speech}"')
    lines += [f"Speaker: {s.who}{f', {s.emotion}' if s.emotion else ''}" for s in heard.speakers]
    return "\n".join([*lines, f"Music: {heard.music or 'none'}"])


def _told(seconds: float) -> str:
    return f"{round(seconds, 2):g}"


def _object(text: str) -> dict[str, Any]:
    if not text.strip():
        raise DescriptionError("is empty")
    start = text.find("{")
    if start < 0:
        raise DescriptionError(f"holds no JSON object: {text.strip()[:_SHOWN]!r}")
    decoder = json.JSONDecoder(object_pairs_hook=_agreeing, parse_constant=_refuse)
    try:
        row, end = decoder.raw_decode(text, start)
    except DescriptionError:
        raise
    except (RecursionError, ValueError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise DescriptionError(f"is not valid JSON ({why}): {text[start : start + _SHOWN]!r}") from None
    if "{" in text[end:]:
        raise DescriptionError("holds more than one JSON object")
    assert isinstance(row, dict)
    return row


def _agreeing(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row and row[key] != value:
            raise DescriptionError(f"has {key!r} twice, with different values")
        row[key] = value
    return row


def _refuse(constant: str) -> None:
    raise DescriptionError(f"holds {constant}, which is no number")


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise DescriptionError(f"has {name} that are no list: {_shown(value)}")
    return value


def _event(value: Any) -> Event:
    fields = _fields(value, ("what", "start", "end"), "an event")
    what = _words(fields["what"], "an event's what")
    return Event(
        what, _seconds(fields["start"], f"the start of {what!r}"), _seconds(fields["end"], f"the end of {what!r}")
    )


def _speaker(value: Any) -> Speaker:
    fields = _fields(value, ("who", "emotion"), "a speaker")
    return Speaker(_words(fields["who"], "a speaker's who"), _words_or_none(fields["emotion"], "a speaker's emotion"))


def _fields(value: Any, keys: tuple[str, ...], name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise DescriptionError(f"has {name} that is not {{{', '.join(keys)}}}: {_shown(value)}")
    return value


def _words(value: Any, name: str) -> str:
    if not isinstance(value, str) or not any(character.isalnum() for character in value):
        raise DescriptionError(f"has {name} that is no text: {_shown(value)}")
    return " ".join(value.split())


def _words_or_none(value: Any, name: str) -> str | None:
    if value is None or (isinstance(value, str) and _NOTHING.fullmatch(value.strip())):
        return None
    return _words(value, name)


def _seconds(value: Any, name: str) -> float:
    seconds = math.nan
    if isinstance(value, str) and (match := _TIME.fullmatch(value.strip())):
        seconds = 60.0 * int(match[1] or 0) + float(match[2])
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9:
        seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise DescriptionError(f"gives {name} as {_shown(value)}, which is no time in seconds")
    return seconds


def _shown(value: Any) -> str:
    return repr(value)[:_SHOWN]
