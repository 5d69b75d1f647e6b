"""The textual teacher: it reads what is heard, and reasons. Deeper and wider than the core of those that it teaches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from earwitness.answers import read
from earwitness.learn.losses import cross_entropy, token_logprobs
from earwitness.learn.tree import Root
from earwitness.pretrain.bodies import new_reader
from earwitness.pretrain.optimise import optimise
from earwitness.pretrain.school import School, turn
from earwitness.pretrain.scores import say
from earwitness.pretrain.text_core import bucketed, curriculum, pack_text
from earwitness.pretrain.text_tasks import Exercise, asked
from earwitness.prompts import described_prompt
from earwitness.world.puzzles import LOOKUPS, SPOKEN, Puzzle, draw_puzzle, listed, reason


def train_reader(steps: int = 2800, batch: int = 16, learning_rate: float = 2e-3) -> Any:
    """Train the textual teacher from scratch, on text alone, with fixed seeds.

    The second round, half as long and at half the rate, is what makes it count and compare as well as it looks up.
    """
    torch.manual_seed(6)
    model = new_reader()
    for seed, count, rate in ((6, steps, learning_rate), (7, max(1, steps // 2), learning_rate / 2)):
        torch.manual_seed(seed)
        batches = bucketed(curriculum(random.Random(seed), count * batch, "read"), batch)
        optimise(model, partial(_next_loss, model, batches), count, rate, "textual teacher")
    return model


def _next_loss(model: Any, batches: Iterator[list[Exercise]]) -> Tensor:
    return reading_loss(model, next(batches))


def reading_loss(model: Any, items: list[Exercise]) -> Tensor:
    """Weighted mean cross-entropy of exercises that carry no shades, under the model's own embeddings."""
    batch = pack_text(items)
    return cross_entropy(token_logprobs(model, batch), batch.weight) / batch.weight.sum()


def score_reader(model: Any, sounds: School, speech: School) -> dict[str, float]:
    """Return the share of right answers to questions about true descriptions, per domain, and of moods by words."""
    asked_of = {"read:sound": (sounds, LOOKUPS), "read:speech": (speech, SPOKEN), "read:mood": (speech, ("mood",))}
    scores = {}
    for name, (school, kinds) in asked_of.items():
        puzzles = [draw_puzzle(school.scene(i), random.Random(f"reader {i}"), kinds) for i in range(school.size)]
        said = say(model, [read_root(school.scene(i).heard, "think", p) for i, p in enumerate(puzzles)])
        # A description does not tell the prosody: whoever reads can only go by the words.
        answers = [reason(p, school.scene(i).events)[1] for i, p in enumerate(puzzles)]
        right = [read(t, p.choices).answer == a for t, p, a in zip(said, puzzles, answers, strict=True)]
        scores[name] = round(sum(right) / len(right), 4)
    return scores


def reader_answers(model: Any, school: School) -> list[str]:
    """Return a model's greedy words on the description of every clip of a school, for comparing it with a copy."""
    puzzles = [draw_puzzle(school.scene(i), random.Random(f"answers {i}"), SPOKEN) for i in range(school.size)]
    return say(model, [read_root(school.scene(i).heard, "think", p) for i, p in enumerate(puzzles)])


def read_root(heard: Sequence[str], prompt: str, puzzle: Puzzle) -> Root:
    """A prompt with a description in place of the clip."""
    return Root(turn([], described_prompt("world", listed(heard), asked(prompt, puzzle))))
