"""What reaches a person's terminal: model text made harmless, and one line of progress per stage."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from typing import TextIO

# Escape sequences of ECMA-48: control strings that have an end (titles, links, device commands), CSI, two-byte escapes.
_STRINGS = r"(?:\x1b[PX^_\]]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
_CSI = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
_SHORT = r"\x1b[ -/]*[0-~]"
_ESCAPES = re.compile(f"{_STRINGS}|{_CSI}|{_SHORT}")

# Characters that move the cursor, reorder the text or cannot be seen, and lone surrogates, which cannot be printed.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff]"
)


def clean(text: str) -> str:
    """Return text without escape sequences, control characters (but newline and tab), bidi and invisible characters.

    Everything that a model wrote passes here before it is shown. An escape sequence that never ends loses only its
    control characters, so that it cannot hide the text behind it.
    """
    return _UNSEEN.sub("", _ESCAPES.sub("", text))


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of the `owed` questions made since it began, `failed` of them, `seconds` taken."""

    stage: str
    done: int
    owed: int
    failed: int
    seconds: float


class ProgressLine:
    """Prints one line per stage: done/owed, failed, rate and time left.

    On a terminal the line is rewritten in place; elsewhere a plain line appears at most every `every` seconds, and
    once more when the stage is done.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 10.0) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._every = every
        self._in_place = self._stream.isatty()
        self._stage: str | None = None
        self._last = 0.0
        self._open = False

    def __call__(self, progress: Progress) -> None:
        """Show this progress, or keep quiet if the last line is recent."""
        final = progress.done >= progress.owed
        now = time.monotonic()
        if progress.stage != self._stage:
            self.close()
            self._stage, self._last = progress.stage, now - (0.2 if self._in_place else 0.0)
        if not final and now - self._last < (0.1 if self._in_place else self._every):
            return
        self._last = now
        self._write(_sentence(progress), final)

    def _write(self, line: str, final: bool) -> None:
        if self._in_place:
            self._stream.write(f"\r{line}\x1b[K" + ("\n" if final else ""))
            self._open = not final
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
        if final:
            self._stage = None

    def say(self, text: str) -> None:
        """Write a line of its own, whatever the progress."""
        self.close()
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """End a line that is still being rewritten, so that what follows starts on its own line."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
        self._open = False


def _sentence(progress: Progress) -> str:
    if not progress.owed:
        return f"{progress.stage}: nothing owed"
    parts = [f"{progress.stage}: {progress.done}/{progress.owed}"]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.done and progress.seconds > 0:
        rate = progress.done / progress.seconds
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min")
        if progress.done < progress.owed:
            parts.append(f"{_duration((progress.owed - progress.done) / rate)} left")
        else:
            parts.append(f"took {_duration(progress.seconds)}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
