"""What is kept of practice: one row a sample, in the shape of a trace, with what it was worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from earwitness.answers import read


def rollout_rows(
    question: str,
    choices: Sequence[str] | None,
    texts: Sequence[str],
    stopped: Sequence[bool],
    parts: Mapping[str, Sequence[float]],
    rewards: Sequence[float],
    advantages: Sequence[float],
) -> list[dict[str, Any]]:
    """Return the rows of one question's group of samples, for a batch's `rows`; the trainer writes them.

    `parts` are the rewards by name before they are weighted and summed. All sequences have one value a sample.
    """
    rows = []
    for index, (raw, ended, reward, advantage) in enumerate(zip(texts, stopped, rewards, advantages, strict=True)):
        reading = read(raw, choices)
        rows.append(
            {
                "id": question,
                "index": index,
                "raw": raw,
                "think": reading.think,
                "answer": reading.answer,
                "finish": "stop" if ended else "length",
                "parts": {name: round(float(values[index]), 6) for name, values in parts.items()},
                "reward": round(float(reward), 6),
                "advantage": round(float(advantage), 6),
            }
        )
    return rows
