"""Sampling in process: every prompt is run and remembered once for all of its samples, finished samples are dropped.

The model may be any transformers model whose forward takes a cache; positions are explicit, so families
with M-RoPE decode like the others. What is forbidden, media placeholders above all, can never be sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earwitness.learn.attention import dense, unwrapped
from earwitness.learn.inputs import inputs
from earwitness.learn.losses import headless, window
from earwitness.learn.noise import uniforms
from earwitness.learn.tree import Branch, Packed, Root, Tree, ends, pack

LEAF = Branch((), ())  # where a sample begins
NOBODY = -1


@dataclass(frozen=True)
class Decoding:
    """How to decode: `temperature` 0 is greedy; `stop` ids end a sample, `forbidden` ids are never drawn.

    Only the `top_k` likeliest tokens are drawn (0: all), and of those only as many as together reach `top_p` of the
    probability.
    """

    temperature: float
    max_tokens: int
    pad_id: int
    stop: tuple[int, ...]
    forbidden: tuple[int, ...]
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Sampled:
    """One sample's token ids, the stop token included where it was reached (`stopped`).

    `logprobs` are what its drawer said of each token (nats, NaN: nothing); none where it was drawn in process.
    """

    ids: tuple[int, ...]
    stopped: bool
    logprobs: tuple[float, ...] = ()


@torch.no_grad()
def sample(
    model: Any, roots: Sequence[Root], samples: int, decoding: Decoding, keys: Sequence[tuple[object, ...]]
) -> list[list[Sampled]]:
    """Draw `samples` continuations of each root. The noise of sample s of root r is a function of (*keys[r], s).

    A sample ends with a stop token, after `decoding.max_tokens`, or where the model's window is full, whatever else is
    in the batch. Raises ValueError for a root that leaves no room for an answer.
    """
    return sample_trees(model, [Tree(root, (LEAF,)) for root in roots], samples, decoding, keys)


@torch.no_grad()
def sample_trees(
    model: Any, trees: Sequence[Tree], samples: int, decoding: Decoding, keys: Sequence[tuple[object, ...]]
) -> list[list[Sampled]]:
    """Like `sample`, going on from every branch of each tree: what branches share is computed once.

    Branches, and keys, are counted over all trees.
    """
    if not trees:
        return []
    limits = [_room(model, n, decoding.max_tokens) for tree in trees for _, n in ends(tree) for _ in range(samples)]
    was_training = model.training
    model.eval()
    try:
        with dense(model):
            noise = _noise(keys, samples, max(limits), decoding.temperature)
            flat = _decode(model, _prefill(model, trees, noise, decoding), limits, decoding)
    finally:
        model.train(was_training)
    return [flat[i : i + samples] for i in range(0, len(flat), samples)]


def room(model: Any, root: Root, max_tokens: int) -> int:
    """Return how many tokens may follow a root: `max_tokens`, or what is left of the model's window."""
    return _room(model, len(root.ids), max_tokens)


def _room(model: Any, length: int, max_tokens: int) -> int:
    left = window(model) - length
    if left < 1:
        raise ValueError(f"a prompt of {length} tokens does not fit the model's window of {window(model)}")
    return min(max_tokens, left)


@dataclass
class _State:
    """What is being decoded: R rows, one a tree, of G slots, one a sample, that see their branch and themselves.

    A row goes on as the prefix tree that it will be when it is trained on: the root is remembered once, and each step
    adds one token per slot. Rows of fewer samples are filled up with slots that are nobody's.
    """

    cache: Any
    visible: Tensor  # (R, 1, G, L) which remembered tokens each slot looks at
    position: Tensor  # (R, G) or (3, R, G): where the next token stands
    last: Tensor  # (R, G, D) hidden state that predicts the next token
    noise: Tensor  # (R, G, steps)
    sample: list[list[int]]  # (R, G) whose slot it is, counted over all branches; NOBODY where it is none's


def _prefill(model: Any, trees: Sequence[Tree], noise: Tensor, decoding: Decoding) -> _State:
    from earwitness.learn.cache import growing_cache

    inner = unwrapped(model)
    batch: Packed = pack(trees, decoding.pad_id).to(inner.device)
    cache = growing_cache()
    mask = batch.mask
    hidden = _run(inner, batch.input_ids, mask, batch.position_ids, cache, batch.media)
    whose, after = _slots(trees, noise.shape[1])
    row, end = torch.arange(len(trees), device=hidden.device)[:, None], torch.tensor(after, device=hidden.device)
    visible = mask[row, 0, end]  # (R, G, L)
    following = batch.position_ids[..., None, :].masked_fill(~visible, -1).amax(-1) + 1
    if following.dim() == 3:  # M-RoPE: text goes on after the furthest of the three axes
        following = following.amax(0).expand(3, -1, -1)
    drawn = torch.tensor(whose).clamp_min(0)  # what nobody's slots draw is not looked at
    return _State(
        cache, visible[:, None], following, hidden[row, end], noise.flatten(0, 1)[drawn].to(end.device), whose
    )


def _slots(trees: Sequence[Tree], samples: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return (R, G) whose slot each is, and after which token of its row it begins."""
    rows = [[end for end, _ in ends(tree) for _ in range(samples)] for tree in trees]
    width, first = max(map(len, rows)), 0
    whose: list[list[int]] = []
    for row in rows:
        empty = width - len(row)
        whose.append([*range(first, first + len(row)), *[NOBODY] * empty])
        first += len(row)
    return whose, [[*row, *row[:1] * (width - len(row))] for row in rows]


def _run(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, media: Mapping[str, Tensor]) -> Tensor:
    """Return the hidden states (B, L, D) of the next tokens, which the cache remembers."""
    with headless(model), inputs(model, ids, media) as given:
        output = model(
            **given,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    hidden: Tensor = output.logits
    return hidden


def _noise(keys: Sequence[tuple[object, ...]], samples: int, steps: int, temperature: float) -> Tensor:
    """Return (keys, samples, steps) noise; greedy decoding needs none."""
    if not temperature:
        return torch.zeros(len(keys), samples, steps, dtype=torch.float64)
    return torch.from_numpy(np.stack([[uniforms(steps, *key, s) for s in range(samples)] for key in keys]))


def _decode(model: Any, state: _State, limits: Sequence[int], decoding: Decoding) -> list[Sampled]:
    inner = unwrapped(model)
    drawn: list[list[int]] = [[] for _ in limits]
    stopped = [False] * len(drawn)
    going = set(range(len(drawn)))
    for step in range(max(limits)):
        logits = inner.lm_head(state.last)
        tokens = draw(logits.flatten(0, 1), state.noise[..., step].flatten(), decoding).view(state.last.shape[:2])
        for row, said in zip(state.sample, tokens.tolist(), strict=True):
            for n, token in zip(row, said, strict=True):
                if n in going:
                    drawn[n].append(token)
                    stopped[n] = token in decoding.stop
                    if stopped[n] or step + 1 == limits[n]:
                        going.remove(n)
        if not going:
            break
        tokens = _drop(state, tokens, going)
        _advance(inner, state, tokens)
    return [Sampled(tuple(ids), done) for ids, done in zip(drawn, stopped, strict=True)]


def _advance(model: Any, state: _State, tokens: Tensor) -> None:
    """Run the model over the next token (R, G) of every slot: it sees what the slot saw so far, and itself."""
    slots = tokens.shape[1]
    itself = torch.eye(slots, dtype=torch.bool, device=tokens.device).expand(len(tokens), 1, -1, -1)
    state.visible = torch.cat([state.visible, itself], -1)
    state.last = _run(model, tokens, state.visible, state.position, state.cache, {})
    state.position = state.position + 1


def _drop(state: _State, tokens: Tensor, going: set[int]) -> Tensor:
    """Forget rows and slots that are no longer needed, and return the tokens (R, G) of those that are left.

    Rows keep as many slots as the fullest needs: a finished sample may go on beside the others, unheard.
    """
    rows = [r for r, row in enumerate(state.sample) if not going.isdisjoint(row)]
    width = max(sum(n in going for n in state.sample[r]) for r in rows)
    if (len(rows), width) == tuple(tokens.shape):
        return tokens
    slots = [sorted(range(tokens.shape[1]), key=lambda s: state.sample[r][s] not in going)[:width] for r in rows]
    state.sample = [[state.sample[r][s] for s in kept] for r, kept in zip(rows, slots, strict=True)]
    if len(rows) < len(tokens):
        state.cache.batch_select_indices(torch.tensor(rows, device=tokens.device))
    row = torch.tensor(rows, device=tokens.device)[:, None]
    slot = torch.tensor(slots, device=tokens.device)
    state.visible = state.visible[row, 0, slot][:, None]
    state.position = state.position[..., row, slot]
    state.noise = state.noise[row, slot]
    return tokens[row, slot]


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
    cumulative = _truncated((logits / decoding.temperature).double().softmax(-1), decoding).cumsum(-1)
    # Rounding may leave the last value below 1: stay among the tokens that have any probability.
    threshold = torch.minimum(noise[:, None] * cumulative[:, -1:], cumulative[:, -1:] * (1 - 1e-12))
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def _truncated(shares: Tensor, decoding: Decoding) -> Tensor:
    """Return the (..., V) shares that may be drawn, the others at 0: the draw itself divides by what is left."""
    if not decoding.top_k and decoding.top_p >= 1:
        return shares
    size = shares.shape[-1]
    likeliest, index = shares.topk(min(decoding.top_k or size, size), dim=-1)
    before = likeliest.cumsum(-1) - likeliest
    likeliest = likeliest.masked_fill(before >= decoding.top_p * likeliest.sum(-1, keepdim=True), 0.0)
    return torch.zeros_like(shares).scatter(-1, index, likeliest)
