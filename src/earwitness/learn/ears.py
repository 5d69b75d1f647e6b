"""How a waveform becomes the tensors that an audio family's encoder takes, and how many audio tokens it then takes.

Each function equals its family's official processor for one clip, without needing that processor (and torchvision).
Tensors are batch-first. Where a family strips padding by its mask, only the clip's own frames are kept; where it takes
fixed windows, the tensors have one row per window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earwitness.media import RATE

Wave = NDArray[np.float32]
Made = tuple[dict[str, Tensor], int]


def quarter(frames: int) -> int:
    """Tokens of so many mel frames after a convolution and a pooling of stride 2: 25 a second."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def thirteen_of_a_hundred(frames: int) -> int:
    """Tokens of so many mel frames after three convolutions of stride 2 over chunks of 100: 13 a second."""
    rest = frames % 100
    for _ in range(3):
        rest = (rest - 1) // 2 + 1
    return rest + frames // 100 * 13


def one_window(extractor: Any, wave: Wave, config: Any) -> Made:
    """Qwen2-Audio: (1, mels, window) features, padded with silence, and a mask of the frames that are sound."""
    made = extractor(wave, sampling_rate=RATE, padding="max_length", return_attention_mask=True, return_tensors="pt")
    media = {"input_features": made["input_features"], "feature_attention_mask": made["attention_mask"]}
    return media, quarter(int(made["attention_mask"].sum()))


def own_frames(extractor: Any, wave: Wave, config: Any) -> Made:
    """Qwen2.5-Omni: (1, mels, frames) features of the clip alone.

    The official processor pads every clip to 300 s, and the model drops the padding again. A little silence is enough
    for the last frames to be the same.
    """
    frames = -(-len(wave) // extractor.hop_length)
    length = frames * extractor.hop_length + 2 * extractor.n_fft
    made = extractor(wave, sampling_rate=RATE, padding="max_length", max_length=length, return_tensors="pt")
    features = made["input_features"][..., :frames]
    mask = torch.ones(1, frames, dtype=torch.int32)
    return {"input_features": features, "feature_attention_mask": mask}, quarter(frames)


def whole_clip(extractor: Any, wave: Wave, config: Any) -> Made:
    """Qwen3-Omni: (1, mels, frames) features of the clip as it is, with nothing added."""
    made = extractor(
        wave, sampling_rate=RATE, padding=True, truncation=False, return_attention_mask=True, return_tensors="pt"
    )
    media = {"input_features": made["input_features"], "feature_attention_mask": made["attention_mask"]}
    return media, thirteen_of_a_hundred(int(made["attention_mask"].sum()))


def cut_windows(extractor: Any, wave: Wave, config: Any) -> Made:
    """Audio Flamingo 3: the clip cut into W windows, each padded: (W, mels, window) features and their mask."""
    cuts = [wave[start : start + extractor.n_samples] for start in range(0, len(wave), extractor.n_samples)]
    made = extractor(cuts, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
    media = {"input_features": made["input_features"], "input_features_mask": made["attention_mask"]}
    return media, quarter(int(made["attention_mask"].sum()))


def full_windows(extractor: Any, wave: Wave, config: Any) -> Made:
    """Voxtral: the clip padded to W whole windows, heard to their ends: (W, mels, window) features, no mask."""
    made = extractor(
        wave,
        sampling_rate=RATE,
        padding=True,
        truncation=False,
        pad_to_multiple_of=extractor.n_samples,
        return_tensors="pt",
    )
    mels = made["input_features"][0]
    features = mels.unflatten(-1, (-1, extractor.nb_max_frames)).transpose(0, 1).contiguous()
    audio = config.audio_config
    tokens = audio.max_source_positions * audio.hidden_size // audio.intermediate_size
    return {"input_features": features}, len(features) * tokens


def window(extractor: Any) -> int:
    """Samples of the extractor's own window."""
    return int(extractor.n_samples)


def seconds(count: float) -> Callable[[Any], int]:
    """So many seconds in samples, whatever the extractor's window."""
    return lambda extractor: round(count * RATE)


def unlimited(extractor: Any) -> None:
    """No limit but the language model's window."""
