"""choose: which checkpoint of a training step is kept, by agreement with labels on questions of their own.

The labels are the teacher's votes; the data's own answers only where the configuration says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from earwitness.answers import read, same
from earwitness.learn.trainer import complete_checkpoints, restore
from earwitness.models.local import LocalModel, Prompt
from earwitness.prompts import question_prompt
from earwitness.records import Question

BLOCK = 32
MAX_TOKENS = 1024
Labelled = tuple[Question, str]


def keep_best(student: LocalModel, folder: Path, prompt: str, labelled: Sequence[Labelled]) -> dict[str, Any]:
    """Put the best checkpoint's weights into the student; the earliest of equals. Returns every agreement measured."""
    agreements: dict[int, float] = {}
    checkpoints = complete_checkpoints(folder)
    for step, place in checkpoints.items():
        load_weights(student, place)
        agreements[step] = agreement(student, prompt, labelled)
    best = max(agreements, key=lambda step: (agreements[step], -step))
    load_weights(student, checkpoints[best])
    return {"chosen_step": best, "agreement": {str(step): round(share, 4) for step, share in agreements.items()}}


def load_weights(student: LocalModel, place: Path) -> None:
    """Load a trainer's checkpoint into the student: all weights, or its adapter's."""
    if not hasattr(student.model, "peft_config"):
        restore(student.model, place)
        return
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(student.model, load_file(place / "adapter_model.safetensors"))


def agreement(student: LocalModel, prompt: str, labelled: Sequence[Labelled]) -> float:
    """Return the share of questions that the student, answering greedily, answers with the label."""
    right = 0
    for start in range(0, len(labelled), BLOCK):
        block = labelled[start : start + BLOCK]
        prompts = [Prompt(question_prompt(student.manner, prompt, q.text, q.choices), q.clip) for q, _ in block]
        replies = student.sample(prompts, 1, 0.0, MAX_TOKENS, [()] * len(block))
        for (question, label), group in zip(block, replies, strict=True):
            answer = read(group[0].text, question.choices).answer
            right += answer is not None and same(answer, label)
    return right / len(labelled)
