"""ONE reading of an answer, shared by vote, reward and grade.

A ladder of rules is tried in order and the first that applies decides: it reads one choice, or none. Nothing is ever
guessed, because a guess scores points that nobody earned; text that says two things says nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from earwitness import mentions

MOST_STATED = 8  # of the statements "the answer is ..." in one text, the last ones


@dataclass(frozen=True)
class Reading:
    """What a reply says. `answer` is one of the given choices, level-two text for an open question, or None.

    `rule` names what decided, outermost first (`tag/exact`, `stated/letter`, `mention`, `conflict`, `none`).
    """

    think: str | None
    answer: str | None
    rule: str


def read(raw: str, choices: Sequence[str] | None) -> Reading:
    """Read a reply to a question with these choices (None: an open question). Never raises, never guesses."""
    think, rest = _split_think(raw)
    if rest is None:  # cut off while thinking: a sound it weighed is not a sound it chose
        return Reading(think, None, "unclosed-think")
    tags = [_Tag(part, closed) for part, closed in _answer_tags(rest) if part.strip()]
    if not tags and not rest.strip():
        return Reading(think, None, "empty")
    read_part = _open if choices is None else lambda part: _choose(part, choices)
    if not tags:
        return Reading(think, *read_part(rest))
    readings = [read_part(tag.text) if tag.closed else _cut_off(tag.text, choices) for tag in tags]
    answer, rule = readings[-1]
    if any((a is None) != (answer is None) or (a and answer and not same(a, answer)) for a, _ in readings):
        return Reading(think, None, "tag/conflict")  # several answers are no answer
    return Reading(think, answer, f"tag/{rule}")


def well_formed(raw: str) -> bool:
    """Return whether a reply is `<think>...</think><answer>...</answer>`, both non-empty, and nothing else."""
    match = re.fullmatch(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", raw, re.DOTALL)
    return match is not None and all(
        part.strip() and not re.search(r"</?(?:think|answer)>", part) for part in match.groups()
    )


def same(a: str, b: str) -> bool:
    """Return whether two texts are the same answer: equal at level two."""
    return _key(a) == _key(b)


def normalise(text: str, level: int) -> str:
    """Return the text at one of three levels of normalisation.

    1: outer white space stripped. 2: also casefolded, white space collapsed, quotes made straight, outer punctuation
    and markdown stripped; signs that carry meaning (`<`, `#`, `-`, ...) stay. 3: also articles, accents and inner
    punctuation dropped and number words written as digits; punctuation beside a digit stays, 2.14 is not 214.
    """
    if level not in _LEVELS:
        raise ValueError(f"normalise: level must be 1, 2 or 3, not {level}")
    return _remembered(text, level) if len(text) <= 200 else _LEVELS[level](text)


_LEVELS: dict[int, Callable[[str], str]] = {1: str.strip, 2: mentions.level_two, 3: mentions.level_three}


@lru_cache(maxsize=16384)
def _remembered(text: str, level: int) -> str:
    return _LEVELS[level](text)


def _key(text: str) -> str:
    """Return what makes two answers one: level two, or the bare text where nothing else would be left ("?")."""
    return normalise(text, 2) or unicodedata.normalize("NFC", text.strip())


# --- parts of a reply -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tag:
    text: str
    closed: bool


def _split_think(raw: str) -> tuple[str | None, str | None]:
    """Return (thinking or None, the rest, or None where a thought was never closed)."""
    inside: list[str] = []
    outside: list[str] = []
    thinking = False
    for piece in re.split(r"(</?think(?:ing)?>)", raw, flags=re.IGNORECASE):
        if re.fullmatch(r"<think(?:ing)?>", piece, re.IGNORECASE):
            thinking = True
        elif re.fullmatch(r"</think(?:ing)?>", piece, re.IGNORECASE):
            if not thinking:  # the prompt's template had already said the opening tag
                inside, outside = inside + outside, []
            thinking = False
        else:
            (inside if thinking else outside).append(piece)
    return "\n".join(inside).strip() or None, None if thinking else "\n".join(outside)


def _answer_tags(text: str) -> list[tuple[str, bool]]:
    """Return (content, whether the tag was closed) of every answer tag; `response` is some models' name for it."""
    pieces = re.split(r"<(?:answer|response)>", text, flags=re.IGNORECASE)[1:]
    split = [re.split(r"</(?:answer|response)>", piece, maxsplit=1, flags=re.IGNORECASE) for piece in pieces]
    return [(parts[0], len(parts) > 1) for parts in split]


def _open(part: str) -> tuple[str | None, str]:
    answer = normalise(part, 2) or None
    return answer, "open" if answer else "empty"


def _cut_off(part: str, choices: Sequence[str] | None) -> tuple[str | None, str]:
    """Read a tag that was never closed: exact text only, and only where no longer choice begins with it."""
    if choices is None:
        return _open(part)
    answer = _one(_exact(part, choices) or [])
    start = normalise(part, 3)
    longer = [c for c in choices if answer is not None and not same(c, answer) and normalise(c, 3).startswith(start)]
    return (None, "cut-off") if answer is None or longer else (answer, "exact")


# --- the ladder: a rule returns None where it does not apply, else the choices that it reads; exactly one decides -----

_Rule = Callable[[str, Sequence[str]], "list[str] | None"]


def _choose(part: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """Return (choice or None, rule) of the first rule that applies to the text."""
    for name, rule in _LADDER:
        found = rule(part, choices)
        if found is not None:
            answer = _one(found)
            return answer, name if answer is not None else f"{name}/{'conflict' if found else 'none'}"
    return None, "none"


def _one(found: Sequence[str]) -> str | None:
    """Return the one choice found; doubled options with the same text are one choice."""
    return found[0] if len({_key(c) for c in found}) == 1 else None


def _exact(part: str, choices: Sequence[str]) -> list[str] | None:
    """The text of a choice and nothing else; text comes before letters because a choice may be the letter D."""
    for level in (1, 2, 3):
        if level == 3 and len({normalise(c, 3) for c in choices} | {""}) <= len({_key(c) for c in choices}):
            return None  # what level three drops is what tells these choices apart
        text = normalise(part, level)
        found = [c for c in choices if text and normalise(c, level) == text]
        if found:
            return found
    return None


def _boxed(part: str, choices: Sequence[str]) -> list[str] | None:
    r"""`\boxed{...}`: the last word of models trained on mathematics; unreadable inside means unreadable."""
    boxes = re.findall(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}", part[-mentions.LONGEST :])[-MOST_STATED:]
    if not boxes:
        return None
    inner = [_choose(re.sub(r"\\[a-z]+\{([^{}]*)\}", r"\1", box), choices)[0] for box in boxes]
    return [] if inner[-1] is None else [c for c in inner if c is not None]


_STATED = re.compile(
    r"\b(?:answer|choice|option)\b\s*(?:(?:is|was|would be|should be|must be)\b\s*[:\uff1a]?|[:\uff1a=])\s*",
    re.IGNORECASE,
)


def _stated(part: str, choices: Sequence[str]) -> list[str] | None:
    """`The answer is X`, `Answer: X`: what is stated outranks what is only mentioned, readable or not."""
    text = mentions.unmark(part[-mentions.LONGEST :])
    inner = [
        _one(_statement(text[match.end() :], choices) or [])
        for match in list(_STATED.finditer(text))[-MOST_STATED:]
        if not mentions.negated_before(text[: match.start()])
    ]
    if not inner:
        return None
    return [] if inner[-1] is None else [c for c in inner if c is not None]


def _statement(text: str, choices: Sequence[str]) -> list[str] | None:
    """Read what follows `the answer is`: all of it, its line, then its first sentence."""
    line = text.strip().split("\n", 1)[0]
    sentence = mentions.sentences(line)[0] if line else ""
    exact: list[tuple[_Rule, str]] = [(_exact, text), (_exact, line), (_letter, line)]
    for rule, part in [*exact, (_exact, sentence), (_head, sentence), (_mention, sentence)]:
        found = rule(part, choices)
        if found is not None:
            return found
    return None


_LABEL = re.compile(
    r"(?:(?:option|choice)\s+)?(?:[(\[]([a-z])[)\]]|([a-z])(?=$|[):\]]|[.,](?:\s|$)|\s+[-\u2013\u2014:]\s))"
    r"[\s.,):\]\u2013\u2014-]*(.*)",
    re.IGNORECASE | re.DOTALL,
)
_LABEL_BEHIND = re.compile(r"(.*\S)\s*[(\[]([a-z])[)\]]\W*", re.IGNORECASE | re.DOTALL)


def _label(text: str, labels: str) -> tuple[int, str] | None:
    """Return (index of the labelled option, the text after the label), or None without a label of these options."""
    match = _LABEL.fullmatch(text)
    letter = (match[1] or match[2]).casefold() if match else ""
    return (labels.index(letter), match[3]) if match and letter and letter in labels else None


def _letter(part: str, choices: Sequence[str]) -> list[str] | None:
    """`B`, `(b)`, `B. dog`, `dog (B)`: a label of the actual options; the text beside it wins where they conflict."""
    if len(part) > mentions.LONGEST:
        return None
    text = mentions.unmark(part).strip(" \t\r\n\"'\u201c\u201d\u2018\u2019")
    labels = mentions.labels(choices)
    behind = _LABEL_BEHIND.fullmatch(text)
    if behind and behind[2].casefold() in labels and (found := _exact(behind[1], choices)):
        return found
    label = _label(text, labels)
    if label is None:
        return None
    labelled, rest = choices[label[0]], label[1]
    if (found := _exact(rest, choices)) is not None:
        return found
    second = _label(rest, labels)
    affirmed, denied = mentions.find(rest, choices)
    if any(same(labelled, c) for c in denied):  # "B. Not the dog."
        return []
    return [labelled, *([choices[second[0]]] if second else []), *affirmed]


def _head(part: str, choices: Sequence[str]) -> list[str] | None:
    """`Yes, there is a dog.`: a choice, then a comma or full stop, then words that affirm no other choice."""
    text = mentions.unmark(part).strip()
    match = re.match(r"([^,.;:!?\n]+)(?:[,.;:!](?=\s|$)|\n)(.*)", text, re.DOTALL)
    found = _exact(match[1], choices) if match else None
    if match is None or found is None or len(normalise(match[1], 2)) == 1:  # "B. ..." may be a label or an initial
        return None
    affirmed, denied = mentions.find(match[2], choices)
    taken_back = any(same(c, found[0]) for c in denied) or mentions.takes_back(match[2])
    return [] if taken_back else [*found, *affirmed]


def _mention(part: str, choices: Sequence[str]) -> list[str] | None:
    """The only choice that the text affirms as a whole word and nowhere denies."""
    text = mentions.unmark(part)
    if mentions.refuses(text):
        return None
    affirmed, denied = mentions.find(text, choices)
    if any(same(a, d) for a in affirmed for d in denied) or any(mentions.too_common(c, text) for c in affirmed):
        return []
    return affirmed or None


_LADDER: tuple[tuple[str, _Rule], ...] = (
    ("exact", _exact),
    ("boxed", _boxed),
    ("stated", _stated),
    ("letter", _letter),
    ("head", _head),
    ("mention", _mention),
)
