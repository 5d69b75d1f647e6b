"""How a text is read as one of the 42 words that MUSIC-AVQA is answered in."""

from __future__ import annotations

import re

from earwitness import mentions
from earwitness.answers import normalise
from earwitness.sources.music_avqa import NUMBERS, WORDS

# What models call them. "guitar" is either of two instruments, and stays unread.
_ALIASES = {
    **{str(n): word for n, word in enumerate(NUMBERS[:-1])},
    "more than 10": "more than ten",
    "indoors": "indoor",
    "outdoors": "outdoor",
    "at the same time": "simultaneously",
    "bagpipes": "bagpipe",
    "conga": "congas",
    "drums": "drum",
}
_ALIAS = re.compile(r"(?<![\w.])(?:" + "|".join(sorted(_ALIASES, key=len, reverse=True)) + r")(?![\w]|\.\d)")


def word(text: str) -> str | None:
    """Return the word that a text is, or the only one that it affirms and nowhere denies, else None."""
    plain = _ALIAS.sub(lambda match: _ALIASES[match[0]], normalise(text, 2))
    if plain.replace(" ", "_") in WORDS or plain in WORDS:
        return plain if plain in WORDS else plain.replace(" ", "_")
    affirmed, denied = mentions.find(plain, WORDS)
    found = set(affirmed)
    return affirmed[0] if len(found) == 1 and not found & set(denied) else None
