"""Normal forms of words: what makes two ways of writing the same answer equal. The floor that readings stand on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

_AROUND_LABELS = (0xFF08, 0xFF09, 0xFF0E, 0xFF1A, 0xFF1D, 0xFF3B, 0xFF3D)
_WIDE = (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B), *_AROUND_LABELS)
# Full-width letters and digits, and what stands around labels.
_NARROW: dict[int, str | int] = {code: code - 0xFEE0 for code in _WIDE}
_QUOTES = str.maketrans("\u2019\u2018\u02bc\u201c\u201d\u201e\u00ab\u00bb", "'''" + 5 * '"')
_PLAIN = _NARROW | _QUOTES
_UNQUOTED = _NARROW | {0x2019: "'"}  # quotes around a choice stay what they are
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_OUTER = " \t\r\n\"'`*_~.,;:!?()[]{}\u2026\u3001\u3002\uff01\uff0c\uff1a\uff1f"
# They tell choices apart, A# is not A and <1s is not >1s, or deny what they stand beside.
SIGNS = "<>=#♯♭+%$€£°±^&\u274c\u2717\u2718\u2716"
_PUNCTUATION = re.compile(rf"(?<!\d)[^\w\s{SIGNS}](?!\d)")
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

# The same quantity in another notation. Only behind a digit: "the second" is no unit, and 1920s is a decade.
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MEASURES = {
    "s": r"(?:seconds?|secs?|(?<!\d{4})s)",
    "ms": r"(?:milliseconds?|msecs?|ms)",
    "min": r"(?:minutes?|mins?)",
    "hz": r"(?:hertz|hz)",
    "khz": r"(?:kilohertz|khz)",
    "db": r"(?:decibels?|db)",
    "bpm": r"(?:beats per minute|bpm)",
    "%": r"(?:percent|per cent|%)",
}
_MEASURE = [(re.compile(rf"(?<=\d)[\s-]*{unit}(?!\w)"), f" {name}") for name, unit in _MEASURES.items()]
_ARROW = re.compile(r"\s*(?:[\u2192\u27f6\u2794\u279c\u21d2]|(?<=\s)-{1,2}>(?=\s)|(?<=\s)=>(?=\s))\s*")


def same(a: str, b: str) -> bool:
    """Return whether two texts are the same answer: equal at level two."""
    return key(a) == key(b)


def key(text: str) -> str:
    """Return what makes two answers one: level two, or the bare text where nothing else would be left ("?")."""
    return normalise(text, 2) or unicodedata.normalize("NFC", text.strip())


def normalise(text: str, level: int) -> str:
    """Return the text at one of three levels of normalisation.

    1: outer white space stripped. 2: also casefolded, white space collapsed, quotes made straight, outer punctuation
    and markdown stripped; signs that carry meaning (`<`, `#`, `-`, ...) stay. 3: also articles, accents and inner
    punctuation dropped, number words written as digits, and units, thousands and arrows in one notation; punctuation
    beside a digit stays, 2.14 is not 214.
    """
    if level not in _LEVELS:
        raise ValueError(f"normalise: level must be 1, 2 or 3, not {level}")
    return _remembered(text, level) if len(text) <= 200 else _LEVELS[level](text)


@lru_cache(maxsize=16384)
def _remembered(text: str, level: int) -> str:
    return _LEVELS[level](text)


def level_two(text: str) -> str:
    """Casefold, collapse white space, straighten quotes, strip outer punctuation and markdown."""
    return lowered(text).strip(_OUTER)


def level_three(text: str) -> str:
    """Level two without articles, accents and inner punctuation, and with numbers in digits and units in short."""
    previous, text = "", level_two(text)
    while previous != text:  # "the a dog" is two articles, and dropping one thing may bare another
        previous = text
        text = fold(re.sub(r"(?<=\w)'(?=\w)", "", text).replace("_", " "))
        text = _ARTICLE.sub("", " ".join(_PUNCTUATION.sub(" ", text).split()).strip(_OUTER))
    return text


def folded(text: str) -> str:
    """Level two without Latin accents, with number words as digits and one notation of units, thousands and arrows."""
    return fold(level_two(text))


def lowered(text: str) -> str:
    """Level two with outer punctuation kept, so that questions and ends of sentences stay visible."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    return " ".join(_INVISIBLE.sub("", text).translate(_PLAIN).split())


def fold(text: str) -> str:
    """Fold lowered text as `folded` does. Marks that are letters of a script stay."""
    bare = unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text)))
    text = _ARROW.sub("-", _THOUSANDS.sub("", _NUMBER.sub(_digits, bare)))
    for unit, name in _MEASURE:
        text = unit.sub(name, text)
    return text


def _digits(match: re.Match[str]) -> str:
    tens, unit, small = match.groups()
    if small:
        return str(_SMALL.index(small))
    return str(10 * (_TENS.index(tens) + 2) + (_SMALL.index(unit) if unit else 0))


_LEVELS: dict[int, Callable[[str], str]] = {1: str.strip, 2: level_two, 3: level_three}


# --- endings ----------------------------------------------------------------------------------------------------------

_NO_QUALITY = frozenset({"business", "witness", "harness", "wilderness", "likeness", "highness"})


def stems(text: str) -> tuple[str, ...]:
    """Return the words of level three without the endings of plurals and of qualities: dogs, dog; happiness, happy."""
    return tuple(_stem(word) for word in level_three(text).split())


def _stem(word: str) -> str:
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("ness") and len(word) > 6 and word not in _NO_QUALITY:
        return re.sub("i$", "y", word[:-4])
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search("(?:ch|sh|x|ss|zz)es$", word):
        return word[:-2]
    return word[:-1] if re.search("[^suiy]s$", word) else word


def in_other_form(text: str, choices: Sequence[str]) -> list[str]:
    """Return the choices whose words in some form the text is, but for words that all choices begin or end with.

    None where another choice holds all these words, too.
    """
    words, forms = stems(text), [stems(choice) for choice in choices]
    if not words or not any(words[0] in form for form in forms):
        return []
    before, behind = _shared(forms), _shared([form[::-1] for form in forms])
    letter = len(words) == 1 and len(words[0]) == 1 and words[0].isalpha()  # "B" is Speaker B, or the second option
    if letter or before + behind >= min(map(len, forms)):  # or nothing would be left of one of them
        before = behind = 0
    found = [c for c, form in zip(choices, forms, strict=True) if _within(words, form, before, behind)]
    others = [form for c, form in zip(choices, forms, strict=True) if found and not same(c, found[0])]
    held = any(words == other[i : i + len(words)] for other in others for i in range(len(other)))
    return [] if held else found


def _shared(forms: Sequence[tuple[str, ...]]) -> int:
    """Return how many first words all forms share."""
    least = min(map(len, forms))
    return next((i for i in range(least) if len({form[i] for form in forms}) > 1), least)


def _within(words: tuple[str, ...], form: tuple[str, ...], before: int, behind: int) -> bool:
    """Return whether these are the words of a form, but for some of those that it shares with all others."""
    return any(words == form[i : len(form) - j] for i in range(before + 1) for j in range(behind + 1))


# --- marks around words -----------------------------------------------------------------------------------------------

_STRUCK = re.compile(r"~~[^~\n]+~~|<(s|del|strike)>[^<\n]*</\1>", re.IGNORECASE)
_BULLET = re.compile(r"^[ \t]*(?:[-\u2022>][ \t]+|[-\u2022][ \t]*$)", re.MULTILINE)
_EMPHASIS = re.compile(
    r"(?<![^\s(\[:'\"])[*_`]+|[*_`]+(?![^\s.,;:!?)\]'\"])|</?(?:b|i|u|em|strong|mark)>", re.IGNORECASE
)


def unstruck(text: str) -> str:
    """Drop what was struck out: it was not said."""
    return _STRUCK.sub(" ", text)


def unmark(text: str) -> str:
    """Drop emphasis and bullets, which hide labels (`- **B**. dog`)."""
    return _BULLET.sub("", _EMPHASIS.sub("", text.translate(_UNQUOTED)))


_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[\u3002\uff01\uff1f])\s*|\n+")


def sentences(text: str) -> list[str]:
    """Split at ends of sentences and of lines; always at least one."""
    return [s for s in _SENTENCE_END.split(text) if s.strip()] or [text]


def sentence_ends(text: str) -> list[int]:
    """Return where sentences end in the text, as offsets behind the white space that follows them."""
    return [match.end() for match in _SENTENCE_END.finditer(text)]
