"""Which public version of a benchmark a file is: known by a digest of what it asks and what it holds to be right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from earwitness.config import digest
from earwitness.exams.exam import official_id
from earwitness.records import Question

UNKNOWN = "unknown"
BROKEN = ", broken"


@dataclass(frozen=True)
class Version:
    """One version of an exam. `label` is its name, or `unknown` with the digest's beginning, and says if it is broken.

    `note` says more. `hopeless` are the ids of questions whose answer is none of their choices: nobody can be right.
    """

    label: str
    digest: str
    note: str
    hopeless: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether this is a public version that was registered."""
        return not self.label.startswith(UNKNOWN)

    def told(self) -> str:
        """Return the version in words, with a warning where it has questions that nobody can get right."""
        words = [f"version {self.label}" if self.known else f"a version that is not known ({self.digest[:12]})"]
        if self.note:
            words.append(self.note)
        if self.hopeless:
            words.append(f"{len(self.hopeless)} answers are not among the choices: scores made with it mean little")
        return "; ".join(words)


def version_of(exam: str, questions: Sequence[Question]) -> Version:
    """Return the version that these questions are."""
    found = version_digest(questions)
    hopeless = tuple(official_id(q) for q in questions if not answerable(q))
    entry = next((e for e in registered().get(exam, []) if e["digest"] == found), None)
    return Version(
        label=(f"{UNKNOWN} {found[:12]}" if entry is None else entry["version"]) + (BROKEN if hopeless else ""),
        digest=found,
        note="" if entry is None else entry.get("note", ""),
        hopeless=hopeless,
    )


def version_digest(questions: Sequence[Question]) -> str:
    """Return the sha256 (hex) of the sorted (id, question, choices, answer), as they are asked and scored.

    White space around texts is not part of it, and neither is the order of the file.
    """
    rows = [[official_id(q), q.text, list(q.choices or ()), q.answer or ""] for q in questions]
    return digest(sorted(rows), 64)


def answerable(question: Question) -> bool:
    """Whether the answer is one of the choices, as far as either is told."""
    return question.choices is None or question.answer is None or question.answer in question.choices


def others_of(exam: str, version: Version) -> list[str]:
    """Return the other exams that a file which is no known version of this one is a version of."""
    known = {} if version.known else registered()
    return [
        name for name, entries in known.items() if name != exam and version.digest in (e["digest"] for e in entries)
    ]


@cache
def registered() -> dict[str, list[dict[str, Any]]]:
    """Return the known versions of each exam: `version`, `digest`, and a `note` where there is one."""
    text = (resources.files(__package__) / "versions.json").read_text(encoding="utf-8")
    known: dict[str, list[dict[str, Any]]] = json.loads(text)
    return known
