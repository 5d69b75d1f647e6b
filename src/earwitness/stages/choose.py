"""choose: which checkpoint of a training step is kept, by agreement with labels on questions of their own.

The labels are the teacher's votes; the data's own answers only where the configuration says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from earwitness.answers import read, same
from earwitness.learn.trainer import complete_checkpoints, restore
from earwitness.learn.tree import Root
from earwitness.models.exchange import Drawing, Prompt
from earwitness.models.local import LocalModel
from earwitness.prompts import question_prompt
from earwitness.records import Question
from earwitness.stages.asking import encode_each, where_encoded

BLOCK = 32
Labelled = tuple[Question, str]


def keep_best(
    student: LocalModel, folder: Path, prompt: str, labelled: Sequence[Labelled], max_tokens: int
) -> dict[str, Any]:
    """Put the best checkpoint's weights into the student; the earliest of equals. Returns every agreement measured."""
    agreements: dict[int, float] = {}
    checkpoints = complete_checkpoints(folder)
    for step, place in checkpoints.items():
        restore(student.model, place)
        agreements[step] = agreement(student, prompt, labelled, max_tokens)
    best = max(agreements, key=lambda step: (agreements[step], -step))
    restore(student.model, checkpoints[best])
    return {"chosen_step": best, "agreement": {str(step): round(share, 4) for step, share in agreements.items()}}


def agreement(student: LocalModel, prompt: str, labelled: Sequence[Labelled], max_tokens: int) -> float:
    """Return the share of questions that the student, answering greedily, answers with the label.

    A question that cannot be shown to it counts as one that it gets wrong.
    """
    blocks = [labelled[start : start + BLOCK] for start in range(0, len(labelled), BLOCK)]
    return sum(_agreed(student, prompt, block, max_tokens) for block in blocks) / len(labelled)


def _agreed(student: LocalModel, prompt: str, block: Sequence[Labelled], max_tokens: int) -> int:
    prompts = [Prompt(question_prompt(student.manner, prompt, q.text, q.choices), q.clip) for q, _ in block]

    def work(indexes: list[int], roots: list[Root]) -> list[bool]:
        drawn = student.draw_roots(roots, Drawing(max_tokens=max_tokens), [()] * len(roots))
        return [_agrees(group[0].text, *block[i]) for i, group in zip(indexes, drawn, strict=True)]

    return sum(found is True for found in where_encoded(encode_each(student, prompts), work))


def _agrees(text: str, question: Question, label: str) -> bool:
    answer = read(text, question.choices).answer
    return answer is not None and same(answer, label)
