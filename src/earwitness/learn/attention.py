"""How a model attends over a prefix tree: a dense boolean mask everywhere, blocks of it where a GPU can use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from earwitness.learn.families import family_of
from earwitness.learn.tree import Packed

DENSE, BLOCKS = "sdpa", "flex_attention"
LEAST_HEAD = 16  # numbers a head: the block kernel takes no smaller ones


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside a PEFT or a distributed wrapper."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def kind(model: Any) -> str:
    """Return the attention of the language model.

    Raises ValueError unless it reads a boolean mask as one: `eager` would add it to the scores, and flash kernels
    drop it. Both would mix the branches without an error.
    """
    found: str = unwrapped(model).config.get_text_config()._attn_implementation
    if found not in (DENSE, BLOCKS):
        raise ValueError(f"the prefix tree needs attn_implementation='sdpa', this model was loaded with {found!r}")
    return found


def attention_mask(model: Any, batch: Packed) -> Any:
    """Return a batch's mask as the model's attention takes it: (R, 1, L, L) bool, or a BlockMask."""
    return block_mask(batch) if kind(model) == BLOCKS else batch.mask


def block_mask(batch: Packed) -> Any:
    """Return the mask as blocks for FlexAttention, which skips those that nothing looks through."""
    from torch.nn.attention.flex_attention import create_block_mask

    reach, (rows, length) = batch.reach, batch.reach.shape

    def sees(row: Tensor, head: Tensor, at: Tensor, back: Tensor) -> Tensor:
        return (at >= back) & (at < reach[row, back])

    return create_block_mask(sees, rows, None, length, length, device=str(reach.device))


def prefer_blocks(model: Any) -> str:
    """Let a model train with FlexAttention where it and its device can, and say in words what it trains with."""
    inner = unwrapped(model)
    text = inner.config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    # The language model is asked, not the class around it, whose encoder goes on without.
    takes = getattr(inner.get_submodule(family_of(inner.config).text), "_supports_flex_attn", False)
    drops = bool(getattr(text, "attention_dropout", 0))  # which the block kernel cannot
    able = takes and not drops and size >= LEAST_HEAD and not size & (size - 1)
    if inner.device.type != "cuda" or not able:
        why = "on this device" if inner.device.type != "cuda" else "for this model"
        return f"attention with a dense mask (no block masks {why})"
    text._attn_implementation = BLOCKS
    return "attention with block masks (FlexAttention)"


@contextmanager
def dense(model: Any) -> Iterator[None]:
    """Attend with dense masks for a while: what samples one token at a time has no blocks to skip."""
    text = unwrapped(model).config.get_text_config()
    before = kind(model)
    text._attn_implementation = DENSE
    try:
        yield
    finally:
        text._attn_implementation = before
