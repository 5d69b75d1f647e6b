"""Questions that a model wrote: read from its JSON, and held against rules. Nobody vouches for a word of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from earwitness.answers import normalise, same
from earwitness.sources.problems import shown, unfit
from earwitness.terminal import clean

LONGEST_QUESTION = 500  # characters
LONGEST_CHOICE = 200
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "questions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "question": {"type": "string"},
                        "choices": {"type": "array", "items": {"type": "string"}},
                        "answer": {"type": "string"},
                    },
                    "required": ["question", "choices", "answer"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["questions"],
        "additionalProperties": False,
    }
)
"""What a model that can hold to a JSON schema is held to."""

_LIST = re.compile(r"\[\s*\{")
_LABEL = re.compile(r"[(\[]?[A-Za-z0-9][).\]:]\s+\S")
_OTHERS = re.compile(
    r"\b(?:all|none|both|neither|any|either) of (?:the |these |those )?(?:above|below|others?|these)\b", re.I
)
_EYES = re.compile(
    r"\b(?:colou?rs?|colou?red|pictures?|pictured|images?|frames?|footage|videos?|visible|visibly|visuals?|visually|"
    r"see|sees|seen|look|looks|looking|watch|watched|wear|wears|wearing|dressed|shown|depicted|on[ -]?screen)\b",
    re.IGNORECASE,
)


class DraftError(ValueError):
    """Words that are no question to be asked: the message says why, and is the same for every such question."""


def read_list(text: str) -> list[Any]:
    """Return the items of the one JSON list of objects in a model's answer, be there prose or a fence around it.

    What stands before `</think>` is not read. Raises DraftError where there is no such list, or more than one.
    """
    text = text.rpartition("</think>")[2]
    start = _LIST.search(text)
    if start is None:
        raise DraftError(f"the answer holds no JSON list of questions: {shown(text.strip())}")
    try:
        items, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(text, start.start())
    except (RecursionError, ValueError) as error:  # also a number of thousands of digits
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DraftError(f"the answer is not valid JSON ({why[:100]})") from None
    if _LIST.search(text, end):
        raise DraftError("the answer holds more than one list of questions")
    assert isinstance(items, list)
    return items


def read_draft(item: Any, choices: int) -> tuple[str, tuple[str, ...], str]:
    """Return the question, its choices and the answer that its writer had in mind.

    Raises DraftError where it is not a question with so many distinct choices, the answer one of them, that a listener
    could be asked.
    """
    if not isinstance(item, dict) or not {"question", "choices", "answer"} <= set(item):
        raise DraftError("not an object with question, choices and answer")
    text, offered, answer = item["question"], item["choices"], item["answer"]
    if not isinstance(offered, list):
        raise DraftError("its choices are no list")
    question = _words(text, "the question", LONGEST_QUESTION)
    options = tuple(_words(option, "a choice", LONGEST_CHOICE) for option in offered)
    if len(options) != choices:
        raise DraftError(f"not {choices} choices")
    if any(same(a, b) for i, a in enumerate(options) for b in options[:i]):
        raise DraftError("two of its choices are the same")
    if all(_LABEL.match(option) for option in options):
        raise DraftError("its choices are lettered, and they are shuffled")
    if any(_OTHERS.search(option) for option in options):
        raise DraftError("one of its choices speaks of another, and they are shuffled")
    right = next((option for option in options if isinstance(answer, str) and same(option, answer)), None)
    if right is None:
        raise DraftError("its answer is not among its choices")
    if _EYES.search(question):
        raise DraftError("it asks the eye, and a listener sees nothing")
    if gives_away(question, options, right):
        raise DraftError("the question gives its answer away")
    return question, options, right


def gives_away(question: str, choices: Sequence[str], answer: str) -> bool:
    """Return whether a question names its answer as whole words, and does not name every other choice, too."""
    named = {choice for choice in choices if _within(choice, question)}
    return answer in named and named != set(choices)


def _within(part: str, text: str) -> bool:
    level = 3 if normalise(part, 3) else 2
    return f" {normalise(part, level)} " in f" {normalise(text, level)} "


def _words(value: Any, name: str, longest: int) -> str:
    """Return a model's words on one line."""
    if not isinstance(value, str):
        raise DraftError(f"{name} is no text")
    text = " ".join(value.split())
    if len(text) > longest:
        raise DraftError(f"{name} is longer than {longest} characters")
    if not any(character.isalnum() for character in text):
        raise DraftError(f"{name} has no words")
    if clean(text) != text:
        raise DraftError(f"{name} holds characters that nobody can see")
    if reason := unfit(text, name):
        raise DraftError(reason.partition(";")[0])
    return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number that JSON has")
