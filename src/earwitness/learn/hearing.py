"""Hearing a clip once: what a frozen encoder makes of a sound does not change, so it need not be made every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from earwitness.learn.attention import unwrapped
from earwitness.learn.families import family_of
from earwitness.learn.inputs import EMBEDDINGS, EMBEDDINGS_MASK, inputs
from earwitness.learn.losses import headless


@torch.no_grad()
def hear(model: Any, media: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return the `count` audio embeddings of one prompt's media, to be media in their place (on the CPU).

    The model's own forward makes them, with its language model stepping aside: they are what that would have read.
    """
    inner = unwrapped(model)
    ids = torch.full((1, count), inner.config.audio_token_id, device=inner.device)
    here = {name: t.to(inner.device) for name, t in media.items()}
    was_training = inner.training
    inner.eval()
    try:
        with headless(inner), _speechless(inner), inputs(inner, ids, here) as given:
            read: Tensor = inner(**given, attention_mask=torch.ones_like(ids), use_cache=False).logits
    finally:
        inner.train(was_training)
    return {
        EMBEDDINGS: read.transpose(1, 2).contiguous().cpu(),
        EMBEDDINGS_MASK: torch.ones(1, count, dtype=torch.int32),
    }


def frozen_ears(model: Any) -> bool:
    """Whether nothing that is trained lies between the sound and the language model."""
    inner = unwrapped(model)
    text = family_of(inner.config).text
    behind = (f"{text}.", "lm_head.")
    return not any(p.requires_grad for name, p in inner.named_parameters() if not name.startswith(behind))


@contextmanager
def _speechless(inner: Any) -> Iterator[None]:
    """Let a model's language model return what it is given to read."""
    from transformers.modeling_outputs import MoeModelOutputWithPast

    text = inner.get_submodule(family_of(inner.config).text)
    before = text.__dict__.get("forward")
    text.forward = lambda *, inputs_embeds, **_: MoeModelOutputWithPast(last_hidden_state=inputs_embeds)
    try:
        yield
    finally:
        del text.forward
        if before is not None:
            text.forward = before
