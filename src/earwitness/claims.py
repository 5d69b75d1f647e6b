"""Which sounds does a chain of thought claim to hear? Reads the list that the teacher's prompt asks for."""

from __future__ import annotations

import re

WHOLE_TRACE = "the whole trace"  # stands for a claim where a trace is judged as one
MOST = 32
LONGEST = 80  # characters

_OPENING = re.compile(r"\bi\s+hear\b\s*:?|\bsounds(?:\s+heard)?\s*:", re.IGNORECASE)
_END = re.compile(r"\.(?=\s|$)|[\r\n]")
_SEPARATOR = re.compile(r"[,;]|\s+and\s+", re.IGNORECASE)
_LEADING = re.compile(r"^(?:(?:and|also|then|a|an|the)\s+)+", re.IGNORECASE)
_NOTHING = re.compile(r"^(?:(?:nothing|none|not?)\b.*|silence)?$")
_DECORATION = " .:*_\"'`"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def listed(think: str | None) -> tuple[str, ...]:
    """Return the sounds listed after the first `I hear` or `sounds:`, in order, each once.

    The list ends with its sentence or line; it is split at commas, semicolons and `and`. Claims are casefolded and
    lose their articles; `nothing`, `silence` and `no dog` claim no sound. At most 32 claims of at most 80 characters.
    """
    opening = _OPENING.search(think or "")
    if think is None or opening is None:
        return ()
    rest = think[opening.end() :].lstrip()
    end = _END.search(rest)
    pieces = _SEPARATOR.split(_CONTROL.sub("", rest[: end.start()] if end else rest))
    plain = (" ".join(piece.casefold().split()).strip(_DECORATION) for piece in pieces)
    claims = (_LEADING.sub("", piece)[:LONGEST].strip(_DECORATION) for piece in plain)
    return tuple(dict.fromkeys(claim for claim in claims if not _NOTHING.fullmatch(claim)))[:MOST]
