"""The words of an answer: normal forms, and which choices a sentence affirms or denies. Used by `answers` alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

LONGEST = 4000  # characters; what is longer is an essay, and a word mentioned in it is not an answer

# --- normal forms -----------------------------------------------------------------------------------------------------

_STRAIGHT = str.maketrans("\u2019\u2018\u02bc\u201c\u201d\u201e\u00ab\u00bb", "'''" + 5 * '"')
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_OUTER = " \t\r\n\"'`*_~.,;:!?()[]{}\u2026\u3001\u3002\uff01\uff0c\uff1a\uff1f"
_SIGNS = r"<>=#♯♭+%$€£°±^&"  # they tell choices apart: A# is not A, <1s is not >1s
_PUNCTUATION = re.compile(rf"(?<!\d)[^\w\s{_SIGNS}](?!\d)")
_ARTICLE = re.compile(r"(?<!\S)(?:a|an|the)\s+(?=\S)")

_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_SMALL = (*_UNITS, "ten", *_TEENS)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBER = re.compile(
    rf"(?<![\w-])(?<!hundred )(?<!hundred and )(?<!thousand )(?<!point )"
    rf"(?:({'|'.join(_TENS)})(?:[\s-]({'|'.join(_UNITS[1:])}))?|({'|'.join(_SMALL)}))"
    rf"(?![\w-]|\s+(?:hundred|thousand|million|point|dozen|and a half)\b)"
)


def level_two(text: str) -> str:
    """Casefold, collapse white space, straighten quotes, strip outer punctuation and markdown."""
    return lowered(text).strip(_OUTER)


def level_three(text: str) -> str:
    """Level two without articles, accents and inner punctuation, and with numbers in digits."""
    text = re.sub(r"(?<=\w)'(?=\w)", "", folded(text)).replace("_", " ")
    previous = ""
    while previous != text:  # "the a dog" is two articles, and dropping one thing may bare another
        previous = text
        text = _ARTICLE.sub("", " ".join(_PUNCTUATION.sub(" ", text).split()).strip(_OUTER))
    return text


def folded(text: str) -> str:
    """Level two without Latin accents and with number words as digits. Marks that are letters of a script stay."""
    return _fold(level_two(text))


def lowered(text: str) -> str:
    """Level two with outer punctuation kept, so that questions and ends of sentences stay visible."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    return " ".join(_INVISIBLE.sub("", text).translate(_STRAIGHT).split())


def _fold(text: str) -> str:
    bare = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text))
    return _NUMBER.sub(_digits, unicodedata.normalize("NFC", bare))


def _digits(match: re.Match[str]) -> str:
    tens, unit, small = match.groups()
    if small:
        return str(_SMALL.index(small))
    return str(10 * (_TENS.index(tens) + 2) + (_SMALL.index(unit) if unit else 0))


def unmark(text: str) -> str:
    """Drop markdown emphasis, which hides labels (`**B**. dog`)."""
    return re.sub(r"(?<![^\s(\[:'\"])[*_`]+|[*_`]+(?![^\s.,;:!?)\]'\"])", "", text)


_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[\u3002\uff01\uff1f])\s*|\n+")


def sentences(text: str) -> list[str]:
    """Split at ends of sentences and of lines; always at least one."""
    return [s for s in _SENTENCE_END.split(text) if s.strip()] or [text]


def labels(choices: Sequence[str]) -> str:
    """Return the option letters that can be labels: none where a choice is itself such a letter (notes, grades)."""
    letters = "abcdefghijklmnopqrstuvwxyz"[: len(choices)]
    return "" if any(level_two(c) in tuple(letters) for c in choices) else letters


# --- affirmed and denied ----------------------------------------------------------------------------------------------

_NEGATOR = re.compile(
    r"\b(?:not|no|nor?|never|neither|none|without|cannot|hardly|unlikely|except|excluding|exclude[sd]?|wrong|incorrect"
    r"|false|eliminate[sd]?|lacks?|absen(?:t|ce)|rules? out|ruled out|rather than|instead of|other than|different from"
    r"|unlike|too \w+ (?:for|to be)|nicht|keine?[mnrs]?|pas|jamais|nunca)\b|n't\b|不|没|沒|非"
)
_CONTRAST = re.compile(
    r"\bbut\b|\bhowever\b|\binstead\b(?! of)|\b(?:it|this|that) (?:is|was)\b(?! no)|\bit's\b(?! no)|而是"
)
_AFTERWARDS = re.compile(
    r"\b(?:is|was|are|were|do|does|did|can|could|would|has|have|had|seems?|sounds?)\s+(?:\w+ly\s+)?(?:not|never)\b"
    r"|n't\b|\bcannot\b|\b(?:wrong|incorrect|unlikely|excluded|ruled out|absent|missing|false|impossible|eliminated)\b"
    r"|ない|ません|아니|않"
)
_REFUSAL = re.compile(
    r"\bnone of\b|\bneither of\b|\b(?:cannot|can't|can not|could not|couldn't|unable to|impossible to|hard to)\s+"
    r"(?:\w+ly\s+)?(?:determine|tell|say|identify|answer|hear|know|decide|be)\b"
    r"|\b(?:don't|do not) know\b|\b(?:not|un)\s?(?:sure|certain|clear)\b|\bno (?:idea|clue|option|choice|answer)\b"
)
_TAKEN_BACK = re.compile(r"\W*(?:no|nope|wait|wrong|incorrect|false|not really|actually)\b(?!\s+(?:doubt|question))")
# Everyday words that are choices of some questions: said in a sentence, they are seldom the answer.
_COMMON = frozenset(
    {"yes", "no", "none", "neither", "both", "all", "either", "right", "left", "true", "false", "same"}
    | {"is", "it", "not", "the", "that", "this", "hear", "answer", "option", "choice"}
)
_SCRIPTS_WITHOUT_SPACES = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")


def negated_before(text: str) -> bool:
    """Return whether the sentence that ends here holds a negation that reaches its end."""
    return _negated(lowered(sentences(text)[-1])) if not re.search(r"[.!?;\n]\s*$", text) else False


def refuses(text: str) -> bool:
    """Return whether the text declines to answer, or is too long to be an answer."""
    return len(text) > LONGEST or _REFUSAL.search(lowered(text)) is not None


def takes_back(text: str) -> bool:
    """Return whether the text begins by withdrawing what was said before it."""
    return _TAKEN_BACK.match(lowered(text)) is not None


def too_common(choice: str, text: str) -> bool:
    """Return whether a choice is a word that any sentence may hold: a letter, `yes`, the pronoun `one`."""
    bare = folded(choice)
    letter = len(bare) == 1 and bare.isalpha() and bare.isascii()
    return letter or bare in _COMMON or (bare == "1" and re.search(r"\bone\b", text, re.IGNORECASE) is not None)


def find(text: str, choices: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (choices affirmed, choices denied) by whole words or labels like `(B)`, over all sentences."""
    if len(text) > LONGEST:  # every choice counts as affirmed: nothing can be told apart in an essay
        return list(choices), []
    affirmed: list[str] = []
    denied: list[str] = []
    plain = "\n".join(_fold(lowered(line)) for line in text.splitlines())
    ends = [match.end() for match in _SENTENCE_END.finditer(plain)]
    spans = _spans(plain, tuple(choices))
    for i, (start, end, choice) in enumerate(spans):
        stop = next((e for e in ends if e >= end), len(plain))
        following = spans[i + 1][0] if i + 1 < len(spans) else len(plain)
        clause = re.split(r"[,;:]", plain[end : min(stop, following)], maxsplit=1)[0]
        doubted = plain[:stop].rstrip().endswith(("?", "\uff1f")) or _AFTERWARDS.search(clause) is not None
        before = plain[max((e for e in ends if e <= start), default=0) : start]
        (denied if doubted or _negated(before) else affirmed).append(choices[choice])
    return affirmed, denied


def _negated(before: str) -> bool:
    """Return whether a negation reaches the end of this text; `but` and `it is` end its reach, a comma does not."""
    contrasts = list(_CONTRAST.finditer(before))
    return _NEGATOR.search(before[contrasts[-1].end() :] if contrasts else before) is not None


def _spans(plain: str, choices: tuple[str, ...]) -> list[tuple[int, int, int]]:
    """Return (start, end, choice index) of mentions in order, without those inside a longer mention."""
    found = [(m.start(), m.end(), i) for i, p in enumerate(_patterns(choices)) if p for m in p.finditer(plain)]
    found.sort(key=lambda span: (span[0], -span[1]))
    kept: list[tuple[int, int, int]] = []
    reach = (-1, -1)  # the furthest-reaching mention so far: one that ends within it and is shorter lies inside it
    for span in found:
        if span[1] > reach[1] or span[:2] == reach:
            kept.append(span)
            reach = span[:2]
    return kept


@lru_cache(maxsize=4096)
def _patterns(choices: tuple[str, ...]) -> tuple[re.Pattern[str] | None, ...]:
    letters = labels(choices)
    return tuple(_pattern(choice, letters[i : i + 1]) for i, choice in enumerate(choices))


def _pattern(choice: str, letter: str) -> re.Pattern[str] | None:
    """Return what mentions a choice: its words as whole words, or its label in brackets or after `option`."""
    bare = re.sub(r"^(?:a|an|the)\s+(?=\S)", "", folded(choice))
    ways = []
    if bare:
        words = re.split(r"[\s_]+|(?<=[^\W\d])-(?=[^\W\d])", bare)
        body = r"[\s_-]+".join(re.escape(word) for word in words)
        before = "" if _SCRIPTS_WITHOUT_SPACES.match(bare[0]) else rf"(?<![\w{_SIGNS}-])(?<!\w')(?<!\d[.,:/])"
        after = "" if _SCRIPTS_WITHOUT_SPACES.match(bare[-1]) else rf"(?![\w{_SIGNS}-]|'\w|[.,:/]\d)"
        ways.append(before + body + after)
    if letter:
        ways += [rf"[(\[]{letter}[)\]]", rf"\b(?:option|choice)\s+{letter}\b(?!')"]
    return re.compile("|".join(ways)) if ways else None
