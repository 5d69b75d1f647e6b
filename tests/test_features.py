"""Sound and pictures as tensors: equal to the official processors', and nothing cut in silence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from earwitness.media import RATE, Frames
from earwitness.models.exchange import MediaLimit
from earwitness.models.features import FeatureCache, audio_tensors, smart_resize, video_tensors
from earwitness.models.loading import VideoSettings

STORED = Path(__file__).parent / "data" / "video_processor.npz"
CASES = ("plain", "rounded", "grown", "shrunk", "odd")


@pytest.fixture(scope="module")
def whisper():
    """The feature extractor of the released listeners: 128 mel bands, a window of 30 s."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)


def tone(seconds: float) -> np.ndarray:
    return np.sin(np.arange(round(seconds * RATE)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.08, 0.5, 3.217, 10.0, 29.99, 30.0])
def test_audio_tokens_are_as_many_as_the_encoder_gives(whisper, listener, seconds):
    media, tokens = audio_tensors(whisper, tone(seconds), "a clip")
    lengths = listener.model.model.audio_tower._get_feat_extract_output_lengths(media["feature_attention_mask"].sum(-1))
    assert tokens == int(lengths[1])
    assert media["input_features"].shape == (1, 128, 3000)
    if seconds == 10.0:
        assert tokens == 250  # 25 a second


def test_the_processor_counts_the_same_tokens_and_makes_the_same_features(listener, tiny_student):
    from transformers import Qwen2AudioProcessor

    processor = Qwen2AudioProcessor(listener.extractor, listener.tokenizer)
    wave = tone(2.3)
    official = processor(text="<|AUDIO|>", audio=[wave], sampling_rate=RATE, return_tensors="pt")
    media, tokens = audio_tensors(listener.extractor, wave, "a clip")
    assert tokens == official["input_ids"].numel()
    for name in media:
        assert torch.equal(media[name], official[name])


def test_a_40_second_clip_is_refused_and_not_cut(whisper):
    with pytest.raises(
        MediaLimit, match=r"a clip: 40.0 s of sound do not fit the model's window of 30 s.*start and end"
    ):
        audio_tensors(whisper, tone(40), "a clip")


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.02, 0.05])
def test_too_short_to_be_heard_is_refused(whisper, seconds):
    """20 ms give no audio token; one token alone would be taken for an old kind of prompt."""
    with pytest.raises(MediaLimit, match=r"\d+ ms of sound are too short"):
        audio_tensors(whisper, tone(seconds), "a clip")


def watcher_config(patch: int):
    vision = SimpleNamespace(patch_size=patch, spatial_merge_size=2, temporal_patch_size=2)
    return SimpleNamespace(vision_config=vision)


@pytest.mark.parametrize("case", CASES)
def test_video_tensors_equal_the_official_processors(case):
    """Bit for bit where the stored tensors were made; one part in a million is left to other processors' rounding."""
    stored = np.load(STORED)
    patch, least, most, rate = stored[f"{case}.settings"].tolist()
    images = stored[f"{case}.images"]
    frames = Frames(images, np.arange(len(images)) / rate, len(images) / rate)
    media, tokens = video_tensors(watcher_config(int(patch)), VideoSettings(int(least), int(most)), frames)
    assert np.abs(media["pixel_values_videos"].numpy() - stored[f"{case}.pixels"]).max() < 1e-6
    assert np.array_equal(media["video_grid_thw"].numpy(), stored[f"{case}.grid"])
    assert tokens == int(media["video_grid_thw"].prod()) // 4
    assert media["second_per_grid_ts"].item() == pytest.approx(2 / rate)
    assert media["second_per_grid_ts"].dtype == torch.float32


def test_a_single_frame_lasts_as_long_as_its_span():
    frames = Frames(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1), 3.0)
    media, _ = video_tensors(watcher_config(8), VideoSettings(1024, 1024), frames)
    assert media["video_grid_thw"].tolist() == [[1, 4, 4]]
    assert media["second_per_grid_ts"].item() == 6.0


@given(
    st.integers(2, 3000), st.integers(2, 3000), st.sampled_from([16, 28]),
    st.integers(1, 900), st.integers(5, 40),
)  # fmt: skip
def test_smart_resize(height, width, factor, least, times):
    """Multiples of the factor, within the limits (a ribbon of one block's height excepted), and idempotent."""
    assume(max(height, width) <= 200 * min(height, width))
    low, high = least * factor**2, times * least * factor**2
    new_height, new_width = smart_resize(height, width, factor, low, high)
    assert new_height % factor == new_width % factor == 0
    assert new_height >= factor and new_width >= factor
    if min(new_height, new_width) > factor:
        assert low <= new_height * new_width <= high
        assert smart_resize(new_height, new_width, factor, low, high) == (new_height, new_width)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_smart_resize_equals_the_official_one(height, width):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as official

    assume(max(height, width) <= 200 * min(height, width))
    assert smart_resize(height, width, 28, 56 * 56, 200_704) == official(height, width, 28, 56 * 56, 200_704)


def test_a_ribbon_is_refused():
    with pytest.raises(MediaLimit, match="4100 x 20 pixels is too long and thin"):
        smart_resize(20, 4100, 28, 3136, 100_000)


def test_the_cache_keeps_what_was_used_last_within_its_bytes():
    cache, made = FeatureCache(max_bytes=100), []

    def make(name):
        def fill():
            made.append(name)
            return {"x": torch.zeros(10)}, 1  # 40 bytes

        return fill

    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get(name, make(name))
    assert made == ["a", "b", "c", "b"]
    assert cache.bytes == 80
