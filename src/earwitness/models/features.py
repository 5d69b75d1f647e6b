"""Sound and pictures as the tensors that the model classes take, made without torchvision."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earwitness.learn.families import QWEN2_AUDIO_EARS, Ears
from earwitness.media import RATE, Frames
from earwitness.models.exchange import MediaLimit

Media = dict[str, Tensor]
RESCALE = 1 / 255
LONGEST = 200  # times as long as wide: what the official processor still takes


def audio_tensors(
    extractor: Any, wave: NDArray[np.float32], where: str, ears: Ears = QWEN2_AUDIO_EARS, config: Any = None
) -> tuple[Media, int]:
    """Return a family's tensors for a waveform (N,) at 16 kHz, and how many audio tokens it takes.

    `config` is the model's. Raises MediaLimit for a clip longer than these ears take (it would be cut in silence), or
    too short to give the audio tokens that they need.
    """
    longest = ears.longest(extractor)
    if longest is not None and len(wave) > longest:
        raise MediaLimit(
            f"{where}: {len(wave) / RATE:.1f} s of sound do not fit the model's window of {longest / RATE:g} s; "
            "give the question a span with start and end, or the model another long_clips"
        )
    media, tokens = ears.tensors(extractor, wave, config) if len(wave) >= extractor.n_fft else ({}, 0)
    if tokens < ears.least:
        raise MediaLimit(f"{where}: {len(wave) / RATE * 1000:.0f} ms of sound are too short to be heard by this model")
    return media, tokens


def video_tensors(config: Any, settings: Any, frames: Frames) -> tuple[Media, int]:
    """Return Qwen2.5-VL's tensors for frames, and how many video tokens they take.

    Equal to the official video processor: bicubic resize to multiples of patch x merge within the pixel limits,
    CLIP's normalisation, patches in merge-block order; an odd number of frames is padded with its last one.
    `config` is the model's, `settings` a VideoSettings. Raises MediaLimit for a picture too long and thin to resize.
    """
    vision = config.vision_config
    patch, merge, per_patch = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    images = torch.from_numpy(np.ascontiguousarray(frames.images)).permute(0, 3, 1, 2)
    height, width = smart_resize(
        images.shape[-2], images.shape[-1], patch * merge, settings.min_pixels, settings.max_pixels
    )
    pixels = _normalise(_resize(images, height, width), settings.mean, settings.std)
    while len(pixels) % per_patch:
        pixels = torch.cat([pixels, pixels[-1:]])
    t, h, w = len(pixels) // per_patch, height // patch, width // patch
    blocks = pixels.view(t, per_patch, 3, h // merge, merge, patch, w // merge, merge, patch)
    flat = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, 3 * per_patch * patch * patch)
    spacing = float(np.diff(frames.times).mean()) if len(frames.times) > 1 else frames.duration
    media = {
        "pixel_values_videos": flat,
        "video_grid_thw": torch.tensor([[t, h, w]]),
        "second_per_grid_ts": torch.tensor([spacing * per_patch], dtype=torch.float32),
    }
    return media, t * h * w // merge**2


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the size nearest to (height, width) whose sides are multiples of `factor`, within the pixel limits.

    The rule of Qwen2-VL's processors. Raises MediaLimit for pictures more than 200 times longer than wide.
    """
    if max(height, width) > LONGEST * min(height, width):
        raise MediaLimit(f"a picture of {width} x {height} pixels is too long and thin for this model; crop it")
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize (F, 3, H, W) bytes as bytes: floats, rounded afterwards, are off by a step in places."""
    if images.shape[-2:] == (height, width):
        return images
    return torch.nn.functional.interpolate(
        images.contiguous(), size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )


def _normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return bytes as floats of CLIP's scale, with the official processor's order of operations."""
    scaled_mean, scaled_std = (torch.tensor(x)[:, None, None] * (1.0 / RESCALE) for x in (mean, std))
    return (images.float() - scaled_mean) / scaled_std


class FeatureCache:
    """Remembers the media tensors of the clips used last and how many tokens they take, up to a number of bytes."""

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        self.max_bytes = max_bytes
        self.held: OrderedDict[Hashable, tuple[Media, Any]] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable, make: Callable[[], tuple[Media, Any]]) -> tuple[Media, Any]:
        """Return what is kept under the key, or make it and keep it."""
        if key in self.held:
            self.held.move_to_end(key)
            return self.held[key]
        made = make()
        self.held[key] = made
        self.bytes += _size(made[0])
        while self.bytes > self.max_bytes and len(self.held) > 1:
            _, (dropped, _) = self.held.popitem(last=False)
            self.bytes -= _size(dropped)
        return made


def _size(media: Media) -> int:
    return sum(t.numel() * t.element_size() for t in media.values())
