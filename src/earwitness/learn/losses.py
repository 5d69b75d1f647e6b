"""Named loss terms: pure functions on tensors, each returning a sum, so that the caller normalises by global counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from earwitness.learn.tree import Packed

CHUNK = 2048  # predictions scored at once: bounds the (N, V) logits that are ever in memory


def hidden_states(model: Any, batch: Packed) -> Tensor:
    """Run a model over a packed batch: (R, L, D), the last hidden states after the final norm.

    The wrapped model's own forward is called (a distributed wrapper synchronises gradients only then), with its head
    stepping aside so that no (R, L, V) logits are made.
    """
    with _headless(unwrapped(model).lm_head):
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.mask,
            position_ids=batch.position_ids,
            use_cache=False,
            **batch.media,
        )
    hidden: Tensor = output.logits
    return hidden


@contextmanager
def _headless(head: Any) -> Iterator[None]:
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside a PEFT or a distributed wrapper."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "peft_config") else model


def token_logprobs(model: Any, batch: Packed, temperature: float = 1.0) -> Tensor:
    """Return the log-probability (nats) of each of the batch's N targets: (N), never holding full (R, L, V) logits."""
    hidden = hidden_states(model, batch)[batch.row, batch.source]
    head = unwrapped(model).lm_head.weight
    parts = []
    for states, targets in zip(hidden.split(CHUNK), batch.target.split(CHUNK), strict=True):
        if len(hidden) > CHUNK and torch.is_grad_enabled():
            parts.append(checkpoint(_score, states, head, targets, temperature, use_reentrant=False))
        else:
            parts.append(_score(states, head, targets, temperature))
    return torch.cat(parts)


def _score(states: Tensor, head: Tensor, targets: Tensor, temperature: float) -> Tensor:
    logits = F.linear(states, head).float() / temperature
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def cross_entropy(logprobs: Tensor, weight: Tensor) -> Tensor:
    """Negative log-likelihood in nats, summed with weights: both (N)."""
    return -(logprobs * weight).sum()
