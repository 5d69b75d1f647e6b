"""Named loss terms: pure functions on tensors, each returning a sum, so that the caller normalises by global counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from earwitness.learn.attention import attention_mask, unwrapped
from earwitness.learn.inputs import inputs
from earwitness.learn.tree import Packed

CHUNK = 2048  # predictions scored at once: bounds the (N, V) logits that are ever in memory


def hidden_states(model: Any, batch: Packed) -> Tensor:
    """Run a model over a packed batch: (R, L, D), the last hidden states after the final norm.

    Raises ValueError for a batch that does not fit the window.
    """
    return forward_and_read(model, batch, lambda hidden: hidden)


def forward_and_read(model: Any, batch: Packed, read: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a model over a packed batch and return what is read from its last hidden states, in place of its head.

    The wrapped model's own forward is called, and `read` within it: a distributed wrapper synchronises gradients, and
    one that shards has the head's weights at hand, only there. No (R, L, V) logits are made.
    """
    last = int(batch.position_ids.max())
    if last >= window(model):
        raise ValueError(f"a sequence reaches position {last}, the model's window ends at {window(model)}: shorten it")
    with headless(model, read), inputs(model, batch.input_ids, batch.media) as given:
        output = model(
            **given,
            attention_mask=attention_mask(model, batch),
            position_ids=batch.position_ids,
            use_cache=False,
        )
    found: Tensor = output.logits
    return found


def window(model: Any) -> int:
    """Return how many tokens a model was made for."""
    return int(unwrapped(model).config.get_text_config().max_position_embeddings)


@contextmanager
def headless(model: Any, read: Callable[[Tensor], Tensor] = lambda hidden: hidden) -> Iterator[None]:
    """Let a model's forward return as `logits` what is read from its last hidden states: as they are, if not told."""
    head = unwrapped(model).lm_head
    before = head.__dict__.get("forward")  # a wrapper may have put its own there
    head.forward = read
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before


def token_logprobs(model: Any, batch: Packed, temperature: float = 1.0) -> Tensor:
    """Return the log-probability (nats) of each of the batch's N targets: (N), never holding full (R, L, V) logits."""
    return _scores(model, batch, temperature, _logprobs)[0]


def token_logprobs_and_entropies(model: Any, batch: Packed, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Like `token_logprobs`, with the entropy (N, nats, no gradient) of the distribution that each target is of."""
    logprobs, entropies = _scores(model, batch, temperature, _logprobs_and_entropies)
    return logprobs, entropies.detach()


def token_logprobs_and_likeliest(model: Any, batch: Packed, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Like `token_logprobs`, with each target's rank among all tokens (N, from 1) and the `count` likeliest tokens.

    Of these the log-probabilities (N, count) and the ids (N, count), the likeliest first; fewer where there are fewer.
    """
    rows = _scores(model, batch, 1.0, partial(_logprobs_and_likeliest, count=count))
    values, ids = rows[2:].chunk(2) if len(rows) > 2 else (rows[2:], rows[2:])
    return rows[0], rows[1].long(), values.T, ids.T.long()


def _scores(model: Any, batch: Packed, temperature: float, score: Callable[..., tuple[Tensor, ...]]) -> Tensor:
    """Return what `score` makes of each target, one row for each thing that it returns: (K, N)."""
    head = unwrapped(model).lm_head
    logits_of = head.__dict__.get("forward") or partial(type(head).forward, head)

    def read(hidden: Tensor) -> Tensor:
        states = hidden[batch.row, batch.source]
        parts = []
        for some, targets in zip(torch.split(states, CHUNK), torch.split(batch.target, CHUNK), strict=True):
            if len(states) > CHUNK and torch.is_grad_enabled():
                parts.append(checkpoint(score, some, logits_of, targets, temperature, use_reentrant=False))
            else:
                parts.append(score(some, logits_of, targets, temperature))
        return torch.stack([torch.cat(column) for column in zip(*parts, strict=True)])

    return forward_and_read(model, batch, read)


def _logprobs(states: Tensor, logits_of: Any, targets: Tensor, temperature: float) -> tuple[Tensor]:
    logits: Tensor = logits_of(states).float() / temperature
    return (logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0],)


def _logprobs_and_entropies(
    states: Tensor, logits_of: Any, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits: Tensor = logits_of(states).float() / temperature
    every = logits.log_softmax(-1)
    fixed = every.detach()
    return every.gather(-1, targets[:, None])[:, 0], -(fixed.exp() * fixed).sum(-1)


def _logprobs_and_likeliest(
    states: Tensor, logits_of: Any, targets: Tensor, temperature: float, count: int
) -> tuple[Tensor, ...]:
    """Ids and ranks go as floats, exact up to 2^24, beside what they belong to."""
    every = (logits_of(states).float() / temperature).log_softmax(-1)
    own = every.gather(-1, targets[:, None])
    values, ids = every.topk(min(count, every.shape[-1]), dim=-1)
    return own[:, 0], (every > own).sum(-1).float() + 1, *values.T, *ids.T.float()


def cross_entropy(logprobs: Tensor, weight: Tensor) -> Tensor:
    """Negative log-likelihood in nats, summed with weights: both (N)."""
    return -(logprobs * weight).sum()
