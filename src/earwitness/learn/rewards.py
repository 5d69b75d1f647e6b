"""What a sampled completion is worth: agreement with the teacher's label, and the form that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from earwitness.answers import read, same, well_formed


def accuracy(text: str, choices: Sequence[str] | None, label: str) -> float:
    """1 where the answer read from the text is the label, else 0."""
    answer = read(text, choices).answer
    return float(answer is not None and same(answer, label))


def form(text: str) -> float:
    """1 where the text is one think part followed by one answer part and nothing else, else 0."""
    return float(well_formed(text))
