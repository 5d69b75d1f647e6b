"""Sampling in process: every prompt is run once, its cache branched to the samples, finished samples dropped.

The model may be any transformers model whose forward takes a cache; positions are explicit, so families
with M-RoPE decode like the others. What is forbidden, media placeholders above all, can never be sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earwitness.learn.attention import dense, unwrapped
from earwitness.learn.inputs import inputs
from earwitness.learn.losses import headless, window
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
    """Draw `samples` continuations of each root. The noise of sample s of root r is a function of (*keys[r], s).

    A sample ends with a stop token, after `decoding.max_tokens`, or where the model's window is full, whatever else is
    in the batch. Raises ValueError for a root that leaves no room for an answer.
    """
    if not roots:
        return []
    limits = [room(model, root, decoding.max_tokens) for root in roots for _ in range(samples)]
    was_training = model.training
    model.eval()
    try:
        with dense(model):
            state = _prefill(model, roots, samples, decoding)
            noise = _noise(keys, samples, max(limits), decoding.temperature).to(state.last.device)
            flat = _decode(model, state, noise, limits, decoding)
    finally:
        model.train(was_training)
    return [flat[i : i + samples] for i in range(0, len(flat), samples)]


def room(model: Any, root: Root, max_tokens: int) -> int:
    """Return how many tokens may follow a root: `max_tokens`, or what is left of the model's window."""
    left = window(model) - len(root.ids)
    if left < 1:
        raise ValueError(f"a prompt of {len(root.ids)} tokens does not fit the model's window of {window(model)}")
    return min(max_tokens, left)


@dataclass
class _State:
    cache: Any
    visible: Tensor  # (B, L) which cached positions each sample may look at
    position: Tensor  # (B) or (3, B): where the next token stands
    last: Tensor  # (B, D) hidden state that predicts the next token


def _prefill(model: Any, roots: Sequence[Root], samples: int, decoding: Decoding) -> _State:
    from transformers import DynamicCache

    inner = unwrapped(model)
    batch: Packed = pack([Tree(root, ()) for root in roots], decoding.pad_id).to(inner.device)
    cache = DynamicCache()
    hidden = _run(inner, batch.input_ids, batch.mask, batch.position_ids, cache, batch.media)
    lengths = torch.tensor([len(root.ids) for root in roots], device=hidden.device)
    visible = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    last = hidden[torch.arange(len(roots), device=hidden.device), lengths - 1]
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


def _run(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, media: Mapping[str, Tensor]) -> Tensor:
    """Return the hidden states (B, L, D) of the next tokens, which the cache remembers."""
    with headless(model):
        output = model(
            **inputs(model, ids, media),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    hidden: Tensor = output.logits
    return hidden


def _noise(keys: Sequence[tuple[object, ...]], samples: int, steps: int, temperature: float) -> Tensor:
    """Return (samples of all keys, steps) noise; greedy decoding needs none."""
    if not temperature:
        return torch.zeros(len(keys) * samples, steps, dtype=torch.float64)
    return torch.stack([torch.from_numpy(uniforms(steps, *key, s)) for key in keys for s in range(samples)])


def _decode(model: Any, state: _State, noise: Tensor, limits: Sequence[int], decoding: Decoding) -> list[Sampled]:
    inner = unwrapped(model)
    drawn: list[list[int]] = [[] for _ in limits]
    stopped = [False] * len(drawn)
    active = list(range(len(drawn)))
    for step in range(max(limits)):
        tokens = draw(inner.lm_head(state.last), noise[active, step], decoding)
        for n, token in zip(active, tokens.tolist(), strict=True):
            drawn[n].append(token)
            stopped[n] = token in decoding.stop
        going = [i for i, n in enumerate(active) if not stopped[n] and step + 1 < limits[n]]
        if not going:
            break
        if len(going) < len(active):
            _keep(state, torch.tensor(going, device=tokens.device))
            tokens, active = tokens[going], [active[i] for i in going]
        state.visible = torch.nn.functional.pad(state.visible, (0, 1), value=True)
        mask = state.visible[:, None, None]
        state.last = _run(inner, tokens[:, None], mask, state.position[..., None], state.cache, {})[:, -1]
        state.position = state.position + 1
    return [Sampled(tuple(ids), done) for ids, done in zip(drawn, stopped, strict=True)]


def _keep(state: _State, rows: Tensor) -> None:
    state.cache.batch_select_indices(rows)
    state.visible = state.visible[rows]
    state.position = state.position.index_select(-1, rows)


def draw(logits: Tensor, noise: Tensor, decoding: Decoding) -> Tensor:
    """Draw one token per row of (B, V) logits by inverting the cumulative distribution at the (B) noise.

    Raises FloatingPointError where the logits are not numbers: every token would be as good as any.
    """
    if not logits.amax(-1).isfinite().all():
        raise FloatingPointError(
            "the model's logits are not finite: its weights, or the sound it was given, are broken"
        )
    forbidden = torch.tensor(decoding.forbidden, dtype=torch.long, device=logits.device)
    logits = logits.float().index_fill(-1, forbidden, -torch.inf)
    if not decoding.temperature:
        return logits.argmax(-1)
    cumulative = (logits / decoding.temperature).double().softmax(-1).cumsum(-1)
    # Rounding may leave the last value below 1: stay among the tokens that have any probability.
    threshold = torch.minimum(noise[:, None] * cumulative[:, -1:], cumulative[:, -1:] * (1 - 1e-12))
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]
