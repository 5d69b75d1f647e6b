"""What each family is shown of a waveform: equal to what its official processor makes, tensor for tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers import WhisperFeatureExtractor

from earwitness.learn.families import FAMILIES
from earwitness.learn.tree import join
from earwitness.models.exchange import parts
from earwitness.models.features import audio_tensors
from tiny_families import RATE, byte_tokenizer, write_family

LENGTHS = [400, 1234, 16_000, 47_999, 50_001, 480_000]  # a hop's worth more or less, and a whole window
by_itself = pytest.mark.skipif(
    not hasattr(transformers.VoxtralProcessor, "audio_kwargs"),
    reason="before transformers 5.23 this processor cannot be asked about sound alone",
)


def noise(samples: int) -> np.ndarray:
    return (np.random.default_rng(samples).standard_normal(samples) * 0.1).astype(np.float32)


def whisper(**changes) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(**{"feature_size": 16, "return_attention_mask": True} | changes)


def bare(cls, kind, extractor):
    """An official processor without the image and video processors, which need torchvision."""
    made = cls.__new__(cls)
    made.feature_extractor, made.tokenizer = extractor, byte_tokenizer(kind)
    made.audio_token = made.tokenizer.audio_token
    return made


def omni(cls, kind, extractor, wave):
    made, (run,) = bare(cls, kind, extractor)._process_audio([wave], **cls.audio_kwargs, return_tensors="pt")
    return made, run.count(bare(cls, kind, extractor).audio_token)


@pytest.mark.parametrize("samples", LENGTHS)
def test_qwen2_audio(samples):
    extractor, wave = whisper(), noise(samples)
    processor = transformers.Qwen2AudioProcessor(extractor, byte_tokenizer("qwen2_audio"))
    if samples < 1000:
        return  # two tokens at least: tested with the features
    official = processor(text="<|AUDIO|>", audio=[wave], sampling_rate=RATE, return_tensors="pt")
    media, tokens = audio_tensors(extractor, wave, "a clip", FAMILIES["qwen2_audio"].ears)
    assert tokens == official["input_ids"].numel()
    assert all(torch.equal(media[name], official[name]) for name in media)


@by_itself
@pytest.mark.parametrize("samples", LENGTHS)
def test_qwen2_5_omni_without_the_300_seconds_of_padding(samples):
    """Its processor's frames where its own mask says that there is sound: that is what the model keeps of them."""
    extractor, wave = whisper(chunk_length=60), noise(samples)
    official, tokens = omni(transformers.Qwen2_5OmniProcessor, "qwen2_5_omni", extractor, wave)
    heard = official["input_features"][0][:, official["feature_attention_mask"][0].bool()]
    media, ours = audio_tensors(extractor, wave, "a clip", FAMILIES["qwen2_5_omni"].ears)
    assert ours == tokens
    assert media["input_features"].shape[-1] == int(media["feature_attention_mask"].sum())
    assert torch.allclose(media["input_features"][0], heard, atol=1e-5)


@by_itself
@pytest.mark.parametrize("samples", LENGTHS)
def test_qwen3_omni(samples):
    extractor, wave = whisper(), noise(samples)
    official, tokens = omni(transformers.Qwen3OmniMoeProcessor, "qwen3_omni_moe", extractor, wave)
    media, ours = audio_tensors(extractor, wave, "a clip", FAMILIES["qwen3_omni_moe"].ears)
    assert ours == tokens
    assert all(torch.equal(media[name], official[name]) for name in media)


@pytest.mark.parametrize("samples", [*LENGTHS[1:], 480_001, 1_000_000])
def test_audio_flamingo_3_in_windows(samples):
    extractor, wave = whisper(), noise(samples)
    processor = transformers.AudioFlamingo3Processor(extractor, byte_tokenizer("audioflamingo3"))
    official = processor(text="<sound>", audio=[wave])
    media, tokens = audio_tensors(extractor, wave, "a clip", FAMILIES["audioflamingo3"].ears)
    assert tokens == official["input_ids"].numel()
    assert len(media["input_features"]) == -(-samples // 480_000)
    assert all(torch.equal(media[name], official[name]) for name in media)


@by_itself
@pytest.mark.parametrize("samples", [*LENGTHS, 480_001, 1_000_000])
def test_voxtral_to_the_end_of_the_last_window(samples):
    extractor, wave = whisper(), noise(samples)
    processor = bare(transformers.VoxtralProcessor, "qwen2_audio", extractor)
    official = processor._retrieve_input_features([wave], **processor.audio_kwargs)
    media, tokens = audio_tensors(extractor, wave, "a clip", FAMILIES["voxtral"].ears, transformers.VoxtralConfig())
    assert torch.equal(media["input_features"], official)
    assert tokens == 375 * -(-samples // 480_000)  # as mistral-common 1.13 counts them


def test_voxtral_is_asked_as_by_mistrals_own_library(tmp_path):
    """mistral-common 1.13 makes these ids of one clip and a text, with the tiny vocabulary of these tests."""
    from earwitness.config import Model
    from earwitness.models import connect
    from earwitness.models.exchange import Prompt

    local = connect(Model(kind="local", name=str(write_family("voxtral", tmp_path / "voxtral"))), "student")
    ids = local.encode(Prompt("what is heard?", wave=noise(8000))).ids
    text = (151, 136, 129, 148, 64, 137, 147, 64, 136, 133, 129, 146, 132, 95)
    assert ids == (1, 3, 25, *(24,) * 10, *text, 4)
    assert local.stop == (2,) and local.turn_end == 2


def test_clips_of_unequal_length_are_joined_without_a_trace():
    made = [audio_tensors(whisper(), noise(n), "a clip", FAMILIES["qwen3_omni_moe"].ears)[0] for n in (16_000, 4000)]
    joined = join(made)
    assert joined["input_features"].shape == (2, 16, 100)
    assert joined["feature_attention_mask"].sum(1).tolist() == [100, 25]
    assert torch.equal(joined["input_features"][1, :, :25], made[1]["input_features"][0])


@pytest.mark.parametrize("length", [1, 9, 10, 11, 20, 31, 99])
def test_parts_keep_what_they_say(length):
    wave = np.arange(length, dtype=np.float32)
    assert [len(p) for p in parts(wave, None, "chunk")] == [length]
    assert [len(p) for p in parts(wave, 10, "refuse")] == [length]
    assert np.array_equal(parts(wave, 10, "truncate")[0], wave[:10])
    chunks = parts(wave, 10, "chunk")
    assert np.array_equal(np.concatenate(chunks), wave)
    assert max(map(len, chunks)) <= 10
    assert max(map(len, chunks)) - min(map(len, chunks)) <= 1
