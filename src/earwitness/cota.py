"""CoTA's reasoning in four parts, as Audio-Reasoner (arXiv 2503.02318) trains on it, read and written.

`<THINK><PLANNING>..</PLANNING><CAPTION>..</CAPTION><REASONING>..</REASONING><SUMMARY>..</SUMMARY></THINK>
<RESPONSE>..</RESPONSE>`; the reasoning alone is the four parts without what stands around them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PARTS = ("PLANNING", "CAPTION", "REASONING", "SUMMARY")
_TAG = re.compile(rf"</?(?:{'|'.join(PARTS)}|THINK|RESPONSE)>")
_REASONING = tuple(tag for name in PARTS for tag in (f"<{name}>", f"</{name}>"))
_WHOLE = ("<THINK>", *_REASONING, "</THINK>", "<RESPONSE>", "</RESPONSE>")
_OPENING = {f"<{name}>" for name in (*PARTS, "RESPONSE")}
_SHOWN = 40


class CotaError(ValueError):
    """Text that is not in CoTA's four parts: the message says which part, and what is wrong with it."""


@dataclass(frozen=True)
class FourParts:
    """What the parts say, white space included. `response` None: the reasoning alone.

    Raises CotaError for a part that is empty or holds one of the format's own tags: it could not be read again.
    """

    planning: str
    caption: str
    reasoning: str
    summary: str
    response: str | None = None

    def __post_init__(self) -> None:
        for name, text in vars(self).items():
            if text is not None and not text.strip():
                raise CotaError(f"<{name.upper()}> is empty")
            if text is not None and (tag := _TAG.search(text)):
                raise CotaError(f"<{name.upper()}> holds the tag {tag[0]}")


def in_parts(text: str) -> bool:
    """Return whether a text means to be in four parts: it holds one of the format's tags."""
    return _TAG.search(text) is not None


def parse(text: str) -> FourParts:
    """Read the four parts with their response, or the reasoning alone.

    White space around and between the parts is left out, all within them is kept. Raises CotaError for a part that is
    missing, empty, there twice or out of order, and for text outside the parts.
    """
    tags = list(_TAG.finditer(text))
    whole = any(tag[0] in ("<THINK>", "</THINK>", "<RESPONSE>", "</RESPONSE>") for tag in tags)
    _require([tag[0] for tag in tags], _WHOLE if whole else _REASONING)
    said: list[str] = []
    opening = [None, *(tag[0] for tag in tags)]
    for tag, start, end in zip(
        opening, [0, *(tag.end() for tag in tags)], [*(tag.start() for tag in tags), len(text)], strict=True
    ):
        if tag in _OPENING:
            said.append(text[start:end])
        elif text[start:end].strip():
            raise CotaError(f"text stands outside the parts: {text[start:end].strip()[:_SHOWN]!r}")
    return FourParts(*said)


def _require(found: list[str], expected: tuple[str, ...]) -> None:
    for tag in expected:
        if tag not in found:
            raise CotaError(f"{tag} is missing")
        if found.count(tag) > 1:
            raise CotaError(f"{tag} is there twice")
    for tag, wanted in zip(found, expected, strict=True):
        if tag != wanted:
            raise CotaError(f"{tag} stands where {wanted} belongs; the order is {', '.join(PARTS)}, then RESPONSE")


def write(parts: FourParts) -> str:
    """Write the parts; `parse` reads the same parts again."""
    if parts.response is None:
        return think_of(parts)
    return f"<THINK>{think_of(parts)}</THINK><RESPONSE>{parts.response}</RESPONSE>"


def think_of(parts: FourParts) -> str:
    """Return the reasoning alone, in its four parts: what a lesson keeps as its thinking."""
    said = (parts.planning, parts.caption, parts.reasoning, parts.summary)
    return "".join(f"<{name}>{text}</{name}>" for name, text in zip(PARTS, said, strict=True))
