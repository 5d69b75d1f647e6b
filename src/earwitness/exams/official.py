"""Official scorers of the benchmarks, re-implemented from the rules that their scripts follow, faults included.

Each is a pure function of (items, predictions in the same order) -> `Outcome`. A prediction is whatever a model wrote,
or the text of a choice that was read from it; None is a row that the prediction file does not have. Where a script
skips rows its denominator shrinks, and so does `Outcome.counted`: these numbers never stand alone in a report.

MMAU-Pro has no function here: its multiple choice is scored by an embedding model and its open questions by a language
model, and the patterns of its instruction-following part are not described well enough to be equal to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from earwitness.answers import same
from earwitness.exams import instruments


@dataclass(frozen=True)
class Item:
    """One question of an exam as its scorer sees it. `answer` is the text of the gold choice; ids are unique."""

    id: str
    choices: tuple[str, ...]
    answer: str
    task: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a scorer says. `correct` holds the items in the official denominator alone; `counted` is their number.

    `by` is task -> (right, counted), with (0, 0) for a task all of whose rows were left out.
    """

    correct: dict[str, bool]
    counted: int
    by: dict[str, tuple[int, int]]

    @property
    def accuracy(self) -> float | None:
        """The official number as a fraction, or None where nothing was counted."""
        return sum(self.correct.values()) / self.counted if self.counted else None


Official = Callable[[Sequence[Item], Sequence[str | None]], Outcome]


def token_match(items: Sequence[Item], predictions: Sequence[str | None]) -> Outcome:
    """MMAU and MMAR: all words of the gold answer, and no word that only another choice has. Missing rows are skipped.

    Sets of words: the order is lost, `A#` is `A`, `<1s` is `>1s`, and "not a man" is a man.
    """
    return _outcome(items, [None if p is None else _tokens_agree(item, p) for item, p in _pairs(items, predictions)])


def mmsu(items: Sequence[Item], predictions: Sequence[str | None]) -> Outcome:
    """MMSU: the first character where it is A to D, else the last but one; rows that have neither are skipped.

    An empty or "None" prediction is given the letter of the last row that had one. Where there is none yet the script
    ends in an error; here such a row is skipped.
    """
    verdicts: list[bool | None] = []
    before: str | None = None
    for item, prediction in _pairs(items, predictions):
        letter = None if prediction is None else before if _blank(prediction) else _letter(prediction)
        before = letter or before
        verdicts.append(None if letter is None else _choice(item, letter) == item.answer)
    return _outcome(items, verdicts)


def air_bench(items: Sequence[Item], predictions: Sequence[str | None]) -> Outcome:
    """AIR-Bench Foundation without its alignment by GPT: letters as `mmsu` reads them; all other rows are skipped."""
    verdicts: list[bool | None] = []
    for item, prediction in _pairs(items, predictions):
        letter = None if prediction is None or _blank(prediction) else _letter(prediction)
        right = letter_of(item, item.answer) if item.answer in item.choices else None
        verdicts.append(None if letter is None else letter == right)
    return _outcome(items, verdicts)


def music_avqa(items: Sequence[Item], predictions: Sequence[str | None]) -> Outcome:
    """MUSIC-AVQA: one of its 42 words, as `instruments.word` reads it; what is missing or unreadable is wrong.

    The official metric is the argmax of a classifier over the 42 words; for text there is no official rule but this
    accuracy, so nothing is skipped.
    """
    return _outcome(
        items, [p is not None and instruments.word(p) == item.answer for item, p in _pairs(items, predictions)]
    )


def exact_text(items: Sequence[Item], predictions: Sequence[str | None]) -> Outcome:
    """AVQA and labels of emotion: the text of the gold choice, case and outer punctuation aside. Missing is wrong.

    AVQA scores an index, which calls one of two options with the same text wrong; by text they are one.
    """
    return _outcome(items, [p is not None and same(p, item.answer) for item, p in _pairs(items, predictions)])


def letter_of(item: Item, choice: str) -> str:
    """Return the letter of a choice's first place, which scorers that read letters are given instead of its text."""
    if choice not in item.choices:
        raise ValueError(f"item {item.id!r}: {choice!r} is not one of its choices {list(item.choices)}")
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[item.choices.index(choice)]


# --- parts ------------------------------------------------------------------------------------------------------------


def _pairs(items: Sequence[Item], predictions: Sequence[str | None]) -> list[tuple[Item, str | None]]:
    if len({item.id for item in items}) < len(items):
        raise ValueError("official scorers: two items have the same id; number them before they are scored")
    return list(zip(items, predictions, strict=True))


def _outcome(items: Sequence[Item], verdicts: Sequence[bool | None]) -> Outcome:
    correct = {item.id: verdict for item, verdict in zip(items, verdicts, strict=True) if verdict is not None}
    by = dict.fromkeys((item.task for item in items), (0, 0))
    for item in items:
        if item.id in correct:
            right, counted = by[item.task]
            by[item.task] = (right + correct[item.id], counted + 1)
    return Outcome(correct, len(correct), by)


def _tokens(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))


def _tokens_agree(item: Item, prediction: str) -> bool:
    said, gold = _tokens(prediction), _tokens(item.answer)
    others = [_tokens(choice) for choice in item.choices]
    foreign = {token for other in others if other != gold for token in other - gold}
    return bool(said) and gold <= said and not said & foreign


def _blank(prediction: str) -> bool:
    return prediction.strip().replace("\n", "") in ("", "None")


def _letter(prediction: str) -> str | None:
    """Return the letter that the first or else the last but one character is: "Because" says B and "Dog" says D."""
    text = prediction.strip().replace("\n", "")
    return next((c for c in (text[:1], text[-2:-1]) if c in ("A", "B", "C", "D")), None)


def _choice(item: Item, letter: str) -> str | None:
    place = "ABCD".index(letter)
    return item.choices[place] if place < len(item.choices) else None
