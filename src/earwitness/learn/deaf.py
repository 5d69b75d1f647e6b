"""The deaf test: before anything is trained, prove that the sound reaches the loss (and is not just sampled with)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from earwitness.learn.inputs import EMBEDDINGS
from earwitness.learn.losses import token_logprobs
from earwitness.learn.tree import Packed

SOUNDS = ("input_features", EMBEDDINGS)  # what the loss may hear: features, or what was heard of them before
LEAST_CHANGE = 1e-4  # nats


class DeafModel(Exception):  # noqa: N818 (it reads as what it is)
    """The model's training forward does not hear: training it would be a silent waste."""


@dataclass(frozen=True)
class Hearing:
    """What the deaf test measured.

    `gradient`: largest gradient at the audio features. `change`: largest change of a trained token's log-probability
    when the sound is another clip's (noise, for lack of another clip); `noise`: the same between two equal forwards.
    `label_drop`: by how much the mean log-probability of the trained tokens falls without their own sound. All but
    the first in nats.
    """

    gradient: float
    change: float
    noise: float
    label_drop: float

    def facts(self) -> dict[str, float]:
        """Return the measurements, rounded."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


Score = Callable[[Any, Packed], Tensor]


def deaf_test(model: Any, batch: Packed, score: Score = token_logprobs) -> Hearing:
    """Measure on the stage's own first batch, through the forward that trains; raise DeafModel where sound is lost."""
    if not set(SOUNDS) & set(batch.media):
        raise DeafModel("the training batch carries no sound at all: the student would learn to answer without hearing")
    was_training = model.training
    model.eval()
    try:
        hearing = _measure(model, batch, score)
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
    # Written so that a measurement which is not a number refuses, too.
    if not (hearing.gradient > 0 and hearing.change > max(100 * hearing.noise, LEAST_CHANGE)):
        raise DeafModel(
            "the training forward does not hear the sound: gradient at the audio features "
            f"{hearing.gradient:.2g}, log-probabilities move by {hearing.change:.2g} nats when the sound is another "
            f"clip's (repeat noise {hearing.noise:.2g}). Training was not started; check that the model's own forward "
            "receives the audio features and that its prompt holds the audio placeholder"
        )
    return hearing


def _measure(model: Any, batch: Packed, score: Score) -> Hearing:
    sound = next(name for name in SOUNDS if name in batch.media)
    features = batch.media[sound].detach().clone().requires_grad_(True)
    heard = _with(batch, sound, features)
    logprobs = score(model, heard)
    (gradient,) = torch.autograd.grad(logprobs.sum(), features, allow_unused=True)
    with torch.no_grad():
        own, again = score(model, batch), score(model, batch)
        other = score(model, _with(batch, sound, _other_sound(batch.media[sound])))
    return Hearing(
        gradient=0.0 if gradient is None else float(gradient.abs().max()),
        change=float((own - other).abs().max()),
        noise=float((own - again).abs().max()),
        label_drop=float((own - other).mean()),
    )


def _other_sound(features: Tensor) -> Tensor:
    """Return (R, channels, time) features replaced by the row's before; noise as loud where that is the same sound."""
    other = features.roll(1, 0)
    same = (other == features).flatten(1).all(1)[:, None, None]
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    return torch.where(same, noise * features.std().clamp_min(0.5) + features.mean(), other)


def _with(batch: Packed, sound: str, features: Tensor) -> Packed:
    return Packed(**{**batch.__dict__, "media": {**batch.media, sound: features}})
