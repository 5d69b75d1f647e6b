"""Samples that another copy of the policy drew: its arithmetic differs a little, so it is a slightly other policy.

Each token's part in the loss is multiplied by how much likelier the trainer finds it than its drawer did, cut off at a
cap (truncated importance sampling, token by token). Where the two differ by more than arithmetic can explain, the
samples are of another model, or of one that did not hear the sound, and nothing must be learnt from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.learn.checkpoints import TrainingError

LARGEST = "largest_gap"  # a fact of which the largest counts, over micro-batches and processes
TOO_FAR = 0.25  # mean distance in nats a token


class StrangeSamples(TrainingError):  # noqa: N818 - named for what it is
    """Samples that are not the policy's: the message says how far off they are, and what may be the matter."""


def drift_of(trained: Tensor, drawn: Tensor) -> Tensor:
    """Return log p of the trainer minus log p of the drawer per token (N); 0 where the drawer said nothing (NaN)."""
    return torch.nan_to_num(trained - drawn, nan=0.0)


def refuse_strangers(drift: Tensor) -> float:
    """Return the largest distance (nats) of a batch's tokens. Raises StrangeSamples where they are far off on average.

    `drift` (N) is the trainer's log-probability minus the drawer's.
    """
    mean = float(drift.abs().mean())
    if not mean <= TOO_FAR:
        raise StrangeSamples(
            f"the server's log-probabilities of its samples are {mean:.2f} nats a token from the trainer's, and more "
            f"than {TOO_FAR} is no rounding: it serves other weights, does not use the adapter that it was given, or "
            "does not hear the sound. Look at it with `earwitness probe`; under full tuning, lower grpo.reload_every"
        )
    return float(drift.abs().max())


def refuse_untempered(tempered: Tensor, plain: Tensor) -> None:
    """Raise StrangeSamples where log-probabilities fit the trainer's before its temperature better than after it.

    Both (N) are drifts: from the trainer's log-probabilities at the temperature of the samples, and at 1.
    """
    if float(plain.abs().mean()) < float(tempered.abs().mean()) / 2:
        raise StrangeSamples(
            "the server's log-probabilities are those before grpo.temperature, and not of what it drew from: start "
            "vLLM with --logprobs-mode processed_logprobs, or set grpo.temperature to 1"
        )
