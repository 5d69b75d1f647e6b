"""What differs between model families, in one table: media tensors, placeholder tokens, positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earwitness.learn import ears


@dataclass(frozen=True)
class Ears:
    """How a family hears a clip, a mono waveform (N,) at 16 kHz.

    `tensors` makes (media tensors, number of audio tokens) of (feature extractor, waveform, model's config); `longest`
    says for a feature extractor how many samples one clip may have (None: any number). `least` is the fewest audio
    tokens that a clip must have, `several` whether a prompt may hold several clips. `tower` is the encoder's module.
    """

    tensors: Callable[[Any, ears.Wave, Any], ears.Made]
    longest: Callable[[Any], int | None]
    least: int = 1
    several: bool = True
    tower: str = "model.audio_tower"


@dataclass(frozen=True)
class Family:
    """A model class (its name in transformers): which senses it has, and how its sequence is built.

    `placeholder` is the token that stands for one perceptual position; `positions` maps (token ids, config, media) to
    position ids (P) or (3, P), None where they simply count up; `language_model` is a regular expression for the
    modules of the language model, which LoRA may target, and `text` that model's own module. `part` names the part of
    a larger checkpoint's configuration that is loaded. `template` is the chat template of releases that hold none.
    `since` is the first version of transformers that builds the class as it is used here.
    """

    model_class: str
    senses: frozenset[str]
    placeholder: str | None
    positions: Callable[[Tensor, Any, dict[str, Tensor]], Tensor] | None = None
    language_model: str = r".*language_model.*"
    text: str = "model.language_model"
    ears: Ears | None = None
    part: str | None = None
    template: str | None = None
    since: str = "5.17"


def listener(model_class: str, placeholder: str, ears: Ears, **more: Any) -> Family:
    """A family that hears and whose positions count up, sound and text alike.

    That is so for the Omni thinkers, too: without a picture their three axes are equal.
    """
    return Family(model_class, frozenset({"hearing"}), placeholder, ears=ears, **more)


def reader(model_class: str) -> Family:
    """A language model alone."""
    return Family(model_class, frozenset(), None, language_model=r".*model\.layers.*", text="model")


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


# Mistral's instruct format with the sound before the text. The releases leave it to a library of Mistral's own.
VOXTRAL_TEMPLATE = (
    "<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST]"
    "{% for c in m['content'] %}{% if c['type'] == 'audio' %}[BEGIN_AUDIO][AUDIO]{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}[/INST]{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}</s>{% endif %}{% endfor %}"
)
QWEN2_AUDIO_EARS = Ears(ears.one_window, ears.window, least=2)  # one token is taken for a prompt of an older kind
QWEN2_AUDIO = listener("Qwen2AudioForConditionalGeneration", "<|AUDIO|>", QWEN2_AUDIO_EARS)
QWEN2_5_OMNI = listener(
    "Qwen2_5OmniThinkerForConditionalGeneration",
    "<|AUDIO|>",
    Ears(ears.own_frames, ears.window),
    part="thinker_config",
    since="5.21",  # its layers went by other names before
)
QWEN3_OMNI = listener(
    "Qwen3OmniMoeThinkerForConditionalGeneration",
    "<|audio_pad|>",
    Ears(ears.whole_clip, ears.unlimited),
    part="thinker_config",
    since="5.21",
)
AUDIO_FLAMINGO_3 = listener(
    "AudioFlamingo3ForConditionalGeneration",
    "<sound>",
    Ears(ears.cut_windows, ears.seconds(600), several=False),  # its processor takes one clip a prompt
)
VOXTRAL = listener(
    "VoxtralForConditionalGeneration",
    "[AUDIO]",
    Ears(ears.full_windows, ears.unlimited),
    template=VOXTRAL_TEMPLATE,
)
FAMILIES = {
    "qwen2_audio": QWEN2_AUDIO,
    "qwen2_5_omni": QWEN2_5_OMNI,
    "qwen2_5_omni_thinker": QWEN2_5_OMNI,
    "qwen3_omni_moe": QWEN3_OMNI,
    "qwen3_omni_moe_thinker": QWEN3_OMNI,
    "audioflamingo3": AUDIO_FLAMINGO_3,
    "voxtral": VOXTRAL,
    "qwen2_5_vl": Family("Qwen2_5_VLForConditionalGeneration", frozenset({"sight"}), "<|video_pad|>", mrope_positions),
    "qwen2": reader("Qwen2ForCausalLM"),
    "qwen3": reader("Qwen3ForCausalLM"),
}


def family_of(config: Any) -> Family:
    """Return a model's family, or raise ValueError naming those that are known."""
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(f"models of type {config.model_type!r} are not known here; known: {known}") from None
