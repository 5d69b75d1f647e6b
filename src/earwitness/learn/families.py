"""What differs between model families, in one table: media tensors, placeholder tokens, positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Family:
    """A model class (its name in transformers): which senses it has, and how its sequence is built.

    `placeholder` is the token that stands for one perceptual position; `positions` maps (token ids, config, media) to
    position ids (P) or (3, P), None where they simply count up; `language_model` is a regular expression for the
    modules of the language model, which LoRA may target.
    """

    model_class: str
    senses: frozenset[str]
    placeholder: str | None
    positions: Callable[[Tensor, Any, dict[str, Tensor]], Tensor] | None = None
    language_model: str = r".*language_model.*"


def mrope_positions(ids: Tensor, config: Any, media: dict[str, Tensor]) -> Tensor:
    """Return the (3, P) time, height and width positions of Qwen2.5-VL for one prompt with at most one video.

    Text goes on after the furthest position of the video, as the released weights were trained; transformers 5.23
    lets it go on as if the video were only as long as it is high or wide.
    """
    pads = (ids == config.video_token_id).nonzero()[:, 0]
    if not len(pads):
        return torch.arange(len(ids)).expand(3, -1)
    merge = config.vision_config.spatial_merge_size
    frames, height, width = (int(n) for n in media["video_grid_thw"][0])
    per_second, spacing = config.vision_config.tokens_per_second, media["second_per_grid_ts"][0].float()
    start, count = int(pads[0]), len(pads)
    grid = torch.meshgrid(
        (torch.arange(frames) * spacing * per_second).long(),  # in this order, or some positions round down
        torch.arange(height // merge),
        torch.arange(width // merge),
        indexing="ij",
    )
    video = torch.stack([axis.flatten() for axis in grid]) + start
    before = torch.arange(start).expand(3, -1)
    after = torch.arange(len(ids) - start - count).expand(3, -1) + int(video.max()) + 1
    return torch.cat([before, video, after], 1)


FAMILIES = {
    "qwen2_audio": Family("Qwen2AudioForConditionalGeneration", frozenset({"hearing"}), "<|AUDIO|>"),
    "qwen2_5_vl": Family("Qwen2_5_VLForConditionalGeneration", frozenset({"sight"}), "<|video_pad|>", mrope_positions),
    "qwen2": Family("Qwen2ForCausalLM", frozenset(), None, language_model=r".*model\.layers.*"),
    "qwen3": Family("Qwen3ForCausalLM", frozenset(), None, language_model=r".*model\.layers.*"),
}


def family_of(config: Any) -> Family:
    """Return a model's family, or raise ValueError naming those that are known."""
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(f"models of type {config.model_type!r} are not known here; known: {known}") from None
