"""Ears and eyes alone: every perceptual token is trained to land on the embedding of the word that it shows."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from earwitness.pretrain.bodies import (
    AUDIO_TOKENS,
    HIDDEN,
    SLOT_GRID,
    VIDEO_TOKENS,
    fixed_embeddings,
    level_direction,
    new_listener,
    new_watcher,
    word_id,
)
from earwitness.pretrain.optimise import optimise
from earwitness.pretrain.school import School
from earwitness.pretrain.text_tasks import heard_tokens, seen_tokens
from earwitness.world.scenes import SOUNDS

SHOWN = ("silence", *SOUNDS)
SPREAD = 0.3  # standard deviation of the embeddings


def train_ear(school: School, steps: int = 400) -> Any:
    """Train a listener's encoder and projector; returns the whole (otherwise random) listener."""
    torch.manual_seed(0)
    model = new_listener()
    tower, projector = model.model.audio_tower, model.model.multi_modal_projector

    def encode(indexes: list[int]) -> Tensor:
        mels = torch.cat([school.sound(i)["input_features"] for i in indexes])
        shown: Tensor = projector(tower(mels).last_hidden_state)
        return shown

    parameters = [*tower.parameters(), *projector.parameters()]
    _train(model, parameters, encode, lambda i: heard_tokens(school.scene(i)), school, AUDIO_TOKENS, steps, "ear")
    return model


def train_eye(school: School, steps: int = 250) -> Any:
    """Train a watcher's vision tower; returns the whole (otherwise random) watcher."""
    torch.manual_seed(0)
    model = new_watcher()
    tower = model.model.visual
    grid = torch.tensor([SLOT_GRID])

    def encode(indexes: list[int]) -> Tensor:
        patches = torch.cat([school.picture(i)["pixel_values_videos"] for i in indexes])
        shown: Tensor = tower(patches, grid_thw=grid.repeat(len(indexes), 1)).pooler_output
        return shown.view(len(indexes), VIDEO_TOKENS, HIDDEN)

    def truth(index: int) -> tuple[list[str], list[float]]:
        return seen_tokens(school.scene(index)), [0.0] * VIDEO_TOKENS

    _train(model, list(tower.parameters()), encode, truth, school, VIDEO_TOKENS, steps, "eye")
    return model


def _train(
    model: Any,
    parameters: list[torch.nn.Parameter],
    encode: Callable[[list[int]], Tensor],
    truth: Callable[[int], tuple[list[str], list[float]]],
    school: School,
    tokens: int,
    steps: int,
    name: str,
) -> None:
    rng = random.Random(0)
    table = fixed_embeddings()[[word_id(w) for w in SHOWN]]

    def loss() -> Tensor:
        indexes = [rng.randrange(school.size) for _ in range(24)]
        shown = encode(indexes).flatten(0, 1)
        words, levels = zip(*(truth(i) for i in indexes), strict=True)
        classes = torch.tensor([[SHOWN.index(w) for w in row] for row in words]).flatten()
        moved = torch.tensor(levels).flatten()[:, None] * level_direction()
        target = table[classes] + moved
        distance = torch.cdist(shown - moved, table).pow(2) / SPREAD**2 / 16
        return F.cross_entropy(-distance, classes) + 0.5 * (shown - target).pow(2).mean() / SPREAD**2

    assert tokens == len(truth(0)[0])
    optimise(model, loss, steps, 2e-3, name, parameters)


@torch.no_grad()
def score_ear(model: Any, school: School, count: int = 200) -> dict[str, float]:
    """Return the share of audio tokens whose word, and of sounding tokens whose loudness, is read right."""
    table = fixed_embeddings()[[word_id(w) for w in SHOWN]]
    right = loud_right = sounding = 0
    for i in range(count):
        mels = school.sound(i)["input_features"]
        shown = model.model.multi_modal_projector(model.model.audio_tower(mels).last_hidden_state)[0]
        words, levels = heard_tokens(school.scene(i))
        guess = torch.cdist(shown, table).argmin(-1).tolist()
        right += sum(SHOWN[g] == w for g, w in zip(guess, words, strict=True))
        side = ((shown - table[guess]) @ level_direction()).tolist()
        loud_right += sum((s > 0) == (x > 0) for s, x in zip(side, levels, strict=True) if x)
        sounding += sum(1 for x in levels if x)
    return {"token": round(right / (count * AUDIO_TOKENS), 4), "loudness": round(loud_right / sounding, 4)}
