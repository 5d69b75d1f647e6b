"""Sampling in process: every prompt is run once, its cache branched to the samples, finished samples dropped.

The model may be any transformers model whose `model` attribute takes a cache; positions are explicit, so families
with M-RoPE decode like the others. Media placeholders can never be sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earwitness.learn.losses import unwrapped
from earwitness.learn.noise import uniforms
from earwitness.learn.tree import Packed, Root, Tree, pack


@dataclass(frozen=True)
class Decoding:
    """How to decode: `temperature` 0 is greedy; `stop` ids end a sample, `forbidden` ids are never drawn."""

    temperature: float
    max_tokens: int
    pad_id: int
    stop: tuple[int, ...]
    forbidden: tuple[int, ...]


@dataclass(frozen=True)
class Sampled:
    """One sample's token ids, the stop token included where it was reached (`stopped`)."""

    ids: tuple[int, ...]
    stopped: bool


@torch.no_grad()
def sample(
    model: Any, roots: Sequence[Root], samples: int, decoding: Decoding, keys: Sequence[tuple[object, ...]]
) -> list[list[Sampled]]:
    """Draw `samples` continuations of each root. The noise of sample s of root r is a function of (*keys[r], s)."""
    was_training = model.training
    model.eval()
    try:
        state = _prefill(model, roots, samples, decoding)
        noise = _noise(keys, samples, decoding).to(state.last.device)
        return _decode(model, state, noise, len(roots), samples, decoding)
    finally:
        model.train(was_training)


@dataclass
class _State:
    cache: Any
    visible: Tensor  # (B, L) which cached positions each sample may look at
    position: Tensor  # (B) or (3, B): where the next token stands
    last: Tensor  # (B, D) hidden state that predicts the next token


def _prefill(model: Any, roots: Sequence[Root], samples: int, decoding: Decoding) -> _State:
    from transformers import DynamicCache

    body = unwrapped(model).model
    batch: Packed = pack([Tree(root, ()) for root in roots], decoding.pad_id).to(body.device)
    cache = DynamicCache()
    hidden = body(
        input_ids=batch.input_ids,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        past_key_values=cache,
        use_cache=True,
        **batch.media,
    ).last_hidden_state
    lengths = torch.tensor([len(root.ids) for root in roots], device=hidden.device)
    visible = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    last = hidden[torch.arange(len(roots)), lengths - 1]
    following = batch.position_ids.masked_fill(~visible, -1).amax(-1) + 1
    if following.dim() == 2:  # M-RoPE: text goes on after the furthest of the three axes
        following = following.amax(0).expand(3, -1)
    if samples > 1:
        cache.batch_repeat_interleave(samples)
    return _State(
        cache,
        visible.repeat_interleave(samples, 0),
        following.repeat_interleave(samples, -1),
        last.repeat_interleave(samples, 0),
    )


def _noise(keys: Sequence[tuple[object, ...]], samples: int, decoding: Decoding) -> Tensor:
    if not decoding.temperature:
        return torch.zeros(len(keys) * samples, decoding.max_tokens, dtype=torch.float64)
    rows = [uniforms(decoding.max_tokens, *key, s) for key in keys for s in range(samples)]
    return torch.tensor(rows) if not rows else torch.stack([torch.from_numpy(row) for row in rows])


def _decode(
    model: Any, state: _State, noise: Tensor, prompts: int, samples: int, decoding: Decoding
) -> list[list[Sampled]]:
    body, head = unwrapped(model).model, unwrapped(model).lm_head
    drawn: list[list[int]] = [[] for _ in range(prompts * samples)]
    stopped = [False] * len(drawn)
    active = list(range(len(drawn)))
    stop = set(decoding.stop)
    for step in range(decoding.max_tokens):
        tokens = draw(head(state.last), noise[active, step], decoding)
        for n, token in zip(active, tokens.tolist(), strict=True):
            drawn[n].append(token)
            stopped[n] = token in stop
        going = [i for i, n in enumerate(active) if not stopped[n]]
        if not going or step == decoding.max_tokens - 1:
            break
        if len(going) < len(active):
            _keep(state, torch.tensor(going, device=tokens.device))
            tokens, active = tokens[going], [active[i] for i in going]
        state.visible = torch.nn.functional.pad(state.visible, (0, 1), value=True)
        state.last = body(
            input_ids=tokens[:, None],
            attention_mask=state.visible[:, None, None],
            position_ids=state.position[..., None],
            past_key_values=state.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        state.position = state.position + 1
    flat = [Sampled(tuple(ids), done) for ids, done in zip(drawn, stopped, strict=True)]
    return [flat[i : i + samples] for i in range(0, len(flat), samples)]


def _keep(state: _State, rows: Tensor) -> None:
    state.cache.batch_select_indices(rows)
    state.visible = state.visible[rows]
    state.position = state.position.index_select(-1, rows)


def draw(logits: Tensor, noise: Tensor, decoding: Decoding) -> Tensor:
    """Draw one token per row of (B, V) logits by inverting the cumulative distribution at the (B) noise."""
    logits = logits.float()
    logits[:, list(decoding.forbidden)] = -torch.inf
    if not decoding.temperature:
        return logits.argmax(-1)
    cumulative = (logits / decoding.temperature).double().softmax(-1).cumsum(-1)
    # Rounding may leave the last value below 1: stay among the tokens that have any probability.
    threshold = torch.minimum(noise[:, None] * cumulative[:, -1:], cumulative[:, -1:] * (1 - 1e-12))
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]
