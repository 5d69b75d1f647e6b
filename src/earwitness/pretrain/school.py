"""Clips of the building seeds as tensors, and the prompts that the embedded models are taught with."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from earwitness.learn.families import mrope_positions
from earwitness.learn.tree import Root
from earwitness.media import Frames
from earwitness.models.features import FeatureCache, Media, audio_tensors, video_tensors
from earwitness.models.loading import VideoSettings
from earwitness.pretrain.bodies import AUDIO_TOKENS, VIDEO_TOKENS, feature_extractor, new_watcher
from earwitness.pretrain.vocabulary import Words
from earwitness.world import render
from earwitness.world.scenes import SECONDS, Difficulty, Scene
from earwitness.world.selections import draw_clip
from earwitness.world.speech import Talk, Utterance

WORDS = Words()
SCREEN = VideoSettings(min_pixels=render.SIDE**2, max_pixels=render.SIDE**2)
POOL = 4000  # clips of each kind that the weights are made from


class School:
    """The clips of one difficulty, their sound and picture as tensors, remembered."""

    def __init__(self, difficulty: Difficulty | Talk, first_seed: int, size: int = POOL) -> None:
        self.difficulty, self.first_seed, self.size = difficulty, first_seed, size
        self.features = FeatureCache(2**30)
        self.extractor = feature_extractor()
        self.watcher_config = _watcher_config()

    @lru_cache(maxsize=POOL)  # noqa: B019 - a school lives as long as the build
    def scene(self, index: int) -> Scene | Utterance:
        """The clip with this index."""
        return draw_clip(self.difficulty, self.first_seed + index)

    def sound(self, index: int) -> Media:
        """The listener's tensors of a clip."""
        scene = self.scene(index)
        return self.features.get(("a", index), lambda: audio_tensors(self.extractor, render.sound(scene), "scene"))[0]

    def picture(self, index: int) -> Media:
        """The watcher's tensors of a scene."""
        return self.features.get(("v", index), lambda: self._look(self.scene(index)))[0]

    def _look(self, scene: Scene | Utterance) -> tuple[Media, int]:
        images = render.picture(scene)
        times = np.arange(len(images)) / render.FRAMES_PER_SECOND
        return video_tensors(self.watcher_config, SCREEN, Frames(images, times, float(SECONDS)))

    def heard_root(self, index: int, text: str) -> Root:
        """A prompt with the sound of a clip."""
        clip = ["<|audio_bos|>", *["<|AUDIO|>"] * AUDIO_TOKENS, "<|audio_eos|>"]
        return Root(turn(clip, text), None, self.sound(index))

    def seen_root(self, index: int, text: str) -> Root:
        """A prompt with the picture of a scene."""
        clip = ["<|vision_start|>", *["<|video_pad|>"] * VIDEO_TOKENS, "<|vision_end|>"]
        ids = turn(clip, text)
        media = self.picture(index)
        positions = mrope_positions(torch.tensor(ids), self.watcher_config, media)
        return Root(ids, positions, {k: v for k, v in media.items() if k != "second_per_grid_ts"})


def turn(clip: list[str], text: str) -> tuple[int, ...]:
    """Return the ids of a user's turn and the opening of the assistant's, as the chat template spells them."""
    return WORDS(" ".join(["<|im_start|> user", *clip, text, "<|im_end|> <|im_start|> assistant"]))


def response(text: str) -> tuple[int, ...]:
    """Return the ids of a whole response."""
    return (*WORDS(text), *WORDS("<|im_end|>"))


@lru_cache(maxsize=1)
def _watcher_config() -> object:
    return new_watcher().config
