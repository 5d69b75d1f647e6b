"""What every reader of questions shares: the error, a list of problems told at once, and what no text may hold."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

_SHOWN = 10
_MODEL_TOKEN = re.compile(r"<\|[^<>|\s]{1,64}\|>")
_TAG = re.compile(r"</?\s*(?:audio|video|image|sound|speech|think|answer)\s*/?>", re.IGNORECASE)
_TEMPLATE = re.compile(r"\{\{?\s*[A-Za-z_][A-Za-z0-9_.]*\s*\}?\}")
_DIRECTION = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


class SourceError(Exception):
    """Questions that cannot be read: the message names the file and line of each problem and what would mend it."""


class RowError(Exception):
    """What is wrong with one row; whoever reads the file adds which."""


class Problems:
    """Collects what is wrong with a file, so that one run tells all of it."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._found: list[str] = []

    def __len__(self) -> int:
        return len(self._found)

    @property
    def first(self) -> str:
        """The first problem, with its place."""
        return self._found[0]

    def add(self, line: int, what: str) -> None:
        """Note a problem of a line (counted from 1)."""
        self._found.append(f"{self._origin}:{line}: {what}")

    def raise_any(self) -> None:
        """Raise one SourceError with the first ten problems, if there are any."""
        if self._found:
            more = len(self._found) - _SHOWN
            rest = [f"... and {more} more"] if more > 0 else []
            count = "1 problem" if len(self._found) == 1 else f"{len(self._found)} problems"
            raise SourceError("\n".join([f"{count} in {self._origin}:", *self._found[:_SHOWN], *rest]))


@lru_cache(maxsize=4096)  # the same choices stand under many questions
def unfit(text: str, name: str, allowed: str = "") -> str | None:
    """Return why a text cannot be shown to a model, or None if it can; `allowed` are control characters that may stay.

    A model's own tokens and tags in a question would be read as structure, or as media that is not there, and a
    template's placeholder is a question that nobody finished.
    """
    if not text.strip():
        return f"{name} is empty; write it or leave the line out"
    for character in text:
        kind = unicodedata.category(character)
        if (kind in ("Cc", "Cs") and character not in allowed) or character in _DIRECTION:
            return f"{name} holds the control character U+{ord(character):04X}; remove it"
    if found := _MODEL_TOKEN.search(text):
        return f"{name} holds a model's own token {found[0]}; remove it, the prompt places the sound itself"
    if found := _TAG.search(text):
        return f"{name} holds the tag {found[0]}; write it as a plain word"
    if found := _TEMPLATE.search(text):
        return f"{name} holds the unfilled placeholder {found[0]}; fill it in"
    return None


def folded(text: str) -> str:
    """The form in which two choices count as equal."""
    return " ".join(text.split()).casefold()


def shown(value: Any) -> str:
    """A value as an error shows it: short, and on one line."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
