"""Ears and eyes alone: every perceptual token is trained to land on the embedding of the word that it shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from earwitness.pretrain.bodies import (
    HIDDEN,
    SHADES,
    SLOT_GRID,
    VIDEO_TOKENS,
    fixed_embeddings,
    new_listener,
    new_watcher,
    shade_table,
    word_id,
)
from earwitness.pretrain.optimise import optimise
from earwitness.pretrain.school import School
from earwitness.pretrain.text_tasks import heard_tokens, seen_tokens
from earwitness.world.scenes import SOUNDS, Scene
from earwitness.world.speech import MOODS, SAYINGS, VOICES, Utterance

SHOWN = ("silence", *SOUNDS, *VOICES, *SAYINGS)
SPREAD = 0.3  # standard deviation of the embeddings
Pick = tuple[School, int]


def train_ear(schools: Sequence[School], steps: int = 1100) -> Any:
    """Train a listener's encoder and projector; returns the whole (otherwise random) listener."""
    torch.manual_seed(0)
    model = new_listener()
    tower, projector = model.model.audio_tower, model.model.multi_modal_projector

    def encode(picks: list[Pick]) -> Tensor:
        mels = torch.cat([school.sound(i)["input_features"] for school, i in picks])
        shown: Tensor = projector(tower(mels).last_hidden_state)
        return shown

    def truth(pick: Pick) -> tuple[list[str], list[str]]:
        return heard_tokens(pick[0].scene(pick[1]))

    _train([*tower.parameters(), *projector.parameters()], encode, truth, schools, steps, model, "ear")
    return model


def train_eye(school: School, steps: int = 250) -> Any:
    """Train a watcher's vision tower; returns the whole (otherwise random) watcher."""
    torch.manual_seed(0)
    model = new_watcher()
    tower = model.model.visual
    grid = torch.tensor([SLOT_GRID])

    def encode(picks: list[Pick]) -> Tensor:
        patches = torch.cat([school.picture(i)["pixel_values_videos"] for school, i in picks])
        shown: Tensor = tower(patches, grid_thw=grid.repeat(len(picks), 1)).pooler_output
        return shown.view(len(picks), VIDEO_TOKENS, HIDDEN)

    def truth(pick: Pick) -> tuple[list[str], list[str]]:
        scene = pick[0].scene(pick[1])
        assert isinstance(scene, Scene)
        return seen_tokens(scene), [""] * VIDEO_TOKENS

    _train(list(tower.parameters()), encode, truth, (school,), steps, model, "eye")
    return model


def _train(
    parameters: list[torch.nn.Parameter],
    encode: Callable[[list[Pick]], Tensor],
    truth: Callable[[Pick], tuple[list[str], list[str]]],
    schools: Sequence[School],
    steps: int,
    model: Any,
    name: str,
) -> None:
    """Train an encoder so that each token is nearest to its word and its shade, and lands there."""
    rng = random.Random(0)
    table, shadows = fixed_embeddings()[[word_id(w) for w in SHOWN]], shade_table()

    def loss() -> Tensor:
        picks = [(school, rng.randrange(school.size)) for school in schools for _ in range(24 // len(schools))]
        shown = encode(picks)
        words, shades = zip(*(truth(pick) for pick in picks), strict=True)
        classes = torch.tensor([[SHOWN.index(w) for w in row] for row in words]).flatten()
        shade = torch.tensor([[SHADES.index(s) for s in row] for row in shades]).flatten()
        shown, moved = shown.flatten(0, 1), shadows[shade]
        target = table[classes] + moved
        word_off = torch.cdist(shown - moved, table).pow(2) / SPREAD**2 / 16
        shade_off = torch.cdist(shown - table[classes], shadows).pow(2) / SPREAD**2 / 4
        classified = F.cross_entropy(-word_off, classes) + 0.5 * F.cross_entropy(-shade_off, shade)
        return classified + 0.5 * (shown - target).pow(2).mean() / SPREAD**2

    optimise(model, loss, steps, 2e-3, name, parameters)


@torch.no_grad()
def score_ear(model: Any, school: School, count: int = 200) -> dict[str, float]:
    """Return the share of audio tokens whose word is read right, and of sounding ones whose shade.

    The shade is the loudness of a sound, or the mood of speech, which all tokens of a clip also tell together.
    """
    spoken = isinstance(school.scene(0), Utterance)
    family = [k for k, shade in enumerate(SHADES) if k and (shade in MOODS) == spoken]
    table, shadows = fixed_embeddings()[[word_id(w) for w in SHOWN]], shade_table()[family]
    words_right: list[bool] = []
    shades_right: list[bool] = []
    clips_right: list[bool] = []
    for i in range(count):
        mels = school.sound(i)["input_features"]
        shown = model.model.multi_modal_projector(model.model.audio_tower(mels).last_hidden_state)[0]
        words, shades = heard_tokens(school.scene(i))
        guess = torch.cdist(shown, table).argmin(-1).tolist()
        words_right += [SHOWN[g] == w for g, w in zip(guess, words, strict=True)]
        sounding = [k for k, shade in enumerate(shades) if shade]
        off = torch.cdist((shown - table[guess])[sounding], shadows).pow(2)
        shades_right += [SHADES[family[g]] == shades[k] for g, k in zip(off.argmin(-1), sounding, strict=True)]
        clips_right.append(SHADES[family[int(off.sum(0).argmin())]] == shades[sounding[0]])
    token, shade, clip = (round(sum(r) / len(r), 4) for r in (words_right, shades_right, clips_right))
    return {"token": token} | ({"mood_of_token": shade, "mood_of_clip": clip} if spoken else {"loudness": shade})
