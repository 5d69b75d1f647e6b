"""Which choices a sentence affirms or denies: labels, negations, refusals, words taken back. Used by readings alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from earwitness.forms import SIGNS, fold, folded, lowered, normalise, sentence_ends, sentences

LONGEST = 4000  # characters; what is longer is an essay, and a word mentioned in it is not an answer


def labels(choices: Sequence[str]) -> str:
    """Return the option letters that can be labels.

    None where a choice is itself such a letter (notes, grades) or ends in one that is not its own (`Speaker B` as A).
    """
    letters = "abcdefghijklmnopqrstuvwxyz"[: len(choices)]
    if len(choices) > len(letters):
        return ""
    for i, choice in enumerate(choices):
        *before, last = normalise(choice, 2).split() or [""]
        if last in tuple(letters) and (not before or last != letters[i]):
            return ""
    return letters


# --- affirmed and denied ----------------------------------------------------------------------------------------------

_NEGATOR = re.compile(
    r"\b(?:not|no|nor?|never|neither|none|without|cannot|hardly|unlikely|except|excluding|exclude[sd]?|wrong|incorrect"
    r"|false|eliminate[sd]?|lacks?|absen(?:t|ce)|rules? out|ruled out|rather than|instead of|other than|different from"
    r"|(?:anything|everything|all(?: of (?:them|these|those))?) but|far from|opposite of|impossible that"
    r"|reject(?:s|ed)?|nothing (?:suggests|indicates|supports|points to)|least (?:likely|probable|plausible)"
    r"|second[- ]best|unlike|too \w+ (?:for|to be)|doubt(?:s|ed|ful)?|if|whether"
    r"|nicht|keine?[mnrs]?|pas|jamais|nunca)\b|n't\b|不|没|沒|非|[\u274c\u2717\u2718\u2716]"
)
_NO_NEGATION = re.compile(
    r"\b(?:no|without(?: an?y?)?|beyond(?: an?y?)?) (?:doubt|question)\b|\bnot (?:only|just)\b"
    r"|\bif (?:i|we) (?:had|have|were forced) to (?:guess|choose|pick|say|answer)\b"
)
# "It is" ends the reach of a negation where a clause begins with it, not in "I don't think it is".
_CONTRAST = re.compile(
    r"(?<!anything )(?<!everything )(?<!\ball )(?<!\bthem )(?<!\bthese )(?<!\bthose )\bbut\b(?! also)|\bhowever\b"
    r"|\binstead\b(?! of)"
    r"|[,;:\u2013\u2014-]\s*(?:(?:it|this|that) (?:is|was)|it's)\b(?! no)|而是|[,\uff0c]\s*是"
)
_AFTERWARDS = re.compile(
    r"\b(?:is|was|are|were|do|does|did|can|could|would|has|have|had|seems?|sounds?)\s+(?:\w+ly\s+)?(?:not|never)\b"
    r"|n't\b|\bcannot\b|\b(?:wrong|incorrect|unlikely|excluded|ruled out|absent|missing|false|impossible|eliminated)\b"
    r"|^\s*[:=\u2013\u2014-]\s*(?:no|not|wrong|false|incorrect)\W*$|[\u274c\u2717\u2718\u2716]|ない|ません|아니|않"
)
_REFUSAL = re.compile(
    r"\bnone of\b|\bneither of\b|\b(?:cannot|can't|can not|could not|couldn't|unable to|impossible to|hard to)\s+"
    r"(?:\w+ly\s+)?(?:(?:be )?(?:determine|identif|decide|answer|hear)\w*|tell|say|know"
    r"|be (?:told|sure|said|known|certain))\b"
    r"|\b(?:don't|do not) know\b|\b(?:not|un)\s?(?:sure|certain|clear)\b|\bno (?:idea|clue|option|choice|answer)\b"
)
_TAKEN_BACK = re.compile(
    r"\W*(?:no|nope|wait|wrong|incorrect|false|not really|actually)\b(?!\s+(?:doubt|question))"
    r"|\W*(?:is|was|can be|seems)\s+(?:\w+ly\s+)?"
    r"(?:not|wrong|incorrect|false|excluded|ruled out|unlikely|impossible|out)\b"
)
_WITHDRAWN = re.compile(
    r"\b(?:wait(?=\W*$|\s*[^\w\s]|\s+(?:no|actually)\b)|scratch that|correction|on second thoughts?"
    r"|i (?:was|am) wrong|let me correct)\b\W*(?:no\b\W*)*"
    r"|(?<=[.!\n])[ \t]*(?:(?:actually|no|nope|sorry),\s*)",
    re.IGNORECASE,
)
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


def withdrawn(text: str) -> int:
    """Return where the text goes on after the last words that withdraw what was said (`wait, no`), 0 without any."""
    return max((match.end() for match in _WITHDRAWN.finditer(text)), default=0)


def concludes(choice: str, text: str) -> bool:
    """Return whether the text is one sentence that ends in `is` and the choice as it is written: `The note is E.`"""
    tail = re.search(rf"\b(?:is|was|are|were)\s+{re.escape(choice.strip())}\W*$", text)
    return tail is not None and len(sentences(text)) == 1 and "?" not in text[tail.start() :]


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
    plain = "\n".join(fold(lowered(line)) for line in text.splitlines())
    ends = sentence_ends(plain)
    spans = _spans(plain, tuple(choices))
    for i, (start, end, choice) in enumerate(spans):
        stop = next((e for e in ends if e >= end), len(plain))
        following = spans[i + 1][0] if i + 1 < len(spans) else len(plain)
        clause = re.split(r"(?<!^)[,;:]", plain[end : min(stop, following)], maxsplit=1)[0]
        doubted = plain[:stop].rstrip().endswith(("?", "\uff1f")) or _AFTERWARDS.search(clause) is not None
        before = plain[max((e for e in ends if e <= start), default=0) : start]
        (denied if doubted or _negated(before) else affirmed).append(choices[choice])
    return affirmed, denied


def _negated(before: str) -> bool:
    """Return whether a negation reaches the end of this text; `but` and `it is` end its reach, a comma does not."""
    before = _NO_NEGATION.sub("", before)
    contrasts = list(_CONTRAST.finditer(before))
    return _NEGATOR.search(before[contrasts[-1].end() :] if contrasts else before) is not None


def _spans(plain: str, choices: tuple[str, ...]) -> list[tuple[int, int, int]]:
    """Return (start, end, choice index) of mentions in order, without those inside a longer mention."""
    there = [i for i, word in enumerate(_first_words(choices)) if word in plain]  # most of many choices are not
    patterns = _patterns(choices)
    found = [(m.start(), m.end(), i) for i in there if (p := patterns[i]) for m in p.finditer(plain)]
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


@lru_cache(maxsize=4096)
def _first_words(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a text must hold to mention each choice: nothing in particular where letters do, too."""
    return tuple("" if labels(choices) else _words(choice)[0] for choice in choices)


def _words(choice: str) -> list[str]:
    """Return a choice's words without its article, [""] for a choice without any."""
    bare = re.sub(r"^(?:a|an|the)\s+(?=\S)", "", folded(choice))
    return re.split(r"[\s_]+|(?<=[^\W\d])-(?=[^\W\d])", bare)


def _pattern(choice: str, letter: str) -> re.Pattern[str] | None:
    """Return what mentions a choice: its words as whole words, or its label in brackets or after `option`."""
    words = _words(choice)
    ways = []
    if any(words):
        body = r"[\s_-]+".join(re.escape(word) for word in words)
        before = (
            "" if _SCRIPTS_WITHOUT_SPACES.match(words[0]) else rf"(?<![\w{SIGNS}-])(?<!\w')(?<!\d[.,:/])(?<!\bminus )"
        )
        after = "" if _SCRIPTS_WITHOUT_SPACES.match(words[-1][-1:]) else rf"(?![\w{SIGNS}-]|'\w|[.,:/]\d)"
        ways.append(before + body + after)
    if letter:
        ways += [rf"[(\[]{letter}[)\]]", rf"\b(?:option|choice)\s+{letter}\b(?!')"]
    return re.compile("|".join(ways)) if ways else None
