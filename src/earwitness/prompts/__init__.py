"""Every sentence said to a model, as text files: one folder per manner of speaking, one file per occasion.

`plain` speaks to real models; `world` speaks the few words that the embedded models know. A file `NAME.open.txt`, where
there is one, is used for questions without choices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources


def template(manner: str, name: str, open_question: bool = False) -> str:
    """Return a prompt's text with its `{question}`, `{choices}` or `{claim}` still open."""
    folder = resources.files(__name__) / manner
    open_file = folder / f"{name}.open.txt"
    file = open_file if open_question and open_file.is_file() else folder / f"{name}.txt"
    if not file.is_file():
        raise ValueError(f"there is no prompt {name!r} in the manner {manner!r}")
    return file.read_text(encoding="utf-8").rstrip("\n")


def question_prompt(manner: str, name: str, question: str, choices: Sequence[str] | None) -> str:
    """Return the prompt `name` for a question; choices are joined in the manner's way."""
    text = template(manner, name, open_question=choices is None)
    joined = (" , " if manner == "world" else ", ").join(choices or ())
    return fill(text, question=question, choices=joined)


def described_prompt(manner: str, description: str | None, prompt: str) -> str:
    """Return a prompt about a clip for a model that reads a description of it (None: that is told nothing)."""
    return (
        prompt if description is None else fill(template(manner, "described"), description=description, prompt=prompt)
    )


def given_prompt(manner: str, trace: str, prompt: str) -> str:
    """Return a prompt that comes with somebody else's reasoning."""
    return fill(template(manner, "given-trace"), trace=trace, prompt=prompt)


def fill(text: str, **values: str) -> str:
    """Put values into a template's `{name}` slots, in one pass: braces inside a value stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda slot: values.get(slot[1], slot[0]), text)
