"""The shapes of the embedded models: the ordinary transformers classes, small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from earwitness.pretrain.vocabulary import vocabulary
from earwitness.world.render import RATE
from earwitness.world.scenes import SECONDS
from earwitness.world.speech import MOODS

HIDDEN = 128
AUDIO_TOKENS = 16  # two a slot
VIDEO_TOKENS = 32  # one a slot and cell
MELS = 64
HOP = 1000  # 64 mel frames for four seconds
PATCH = 8
SLOT_GRID = (8, 4, 4)  # time, height, width in patches; merged 2 x 2
SHADE = 0.5  # length of a shade, relative to a word's embedding
SHADES = ("", "loud", "soft", *MOODS)  # how a word may sound; the first is no way in particular


def word_id(word: str) -> int:
    """Return a word's token id."""
    return vocabulary().index(word)


def fixed_embeddings() -> Tensor:
    """Return the (V, D) input embeddings, fixed before anything is trained.

    Text core and encoders can then be trained at the same time, each encoder onto the words that it is to show.
    """
    return torch.randn(len(vocabulary()), HIDDEN, generator=torch.Generator().manual_seed(1234)) * 0.3


def shade_table() -> Tensor:
    """Return the (S, D) directions in which audio tokens leave their words: loud and soft are opposite ways."""
    drawn = torch.randn(1 + len(MOODS), HIDDEN, generator=torch.Generator().manual_seed(4321)) * 0.3 * SHADE
    loud, moods = drawn[:1], drawn[1:]
    return torch.cat([torch.zeros(1, HIDDEN), loud, -loud, moods])


def shades_of(rows: Sequence[Sequence[str]], length: int) -> Tensor:
    """Return the (R, length, D) shades of rows of tokens, zero behind the end of a row."""
    indexes = torch.zeros(len(rows), length, dtype=torch.long)
    for row, shades in enumerate(rows):
        indexes[row, : len(shades)] = torch.tensor([SHADES.index(shade) for shade in shades])
    return shade_table()[indexes]


def _text_config() -> dict[str, Any]:
    pad, eos = word_id("<|endoftext|>"), word_id("<|im_end|>")
    return {
        "vocab_size": len(vocabulary()),
        "hidden_size": HIDDEN,
        "intermediate_size": 3 * HIDDEN,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.05,
        "tie_word_embeddings": False,
        "bos_token_id": pad,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }


def new_text_core() -> Any:
    """A Qwen2ForCausalLM with the fixed input embeddings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(Qwen2Config(**_text_config(), rope_theta=10000.0))
    model.model.embed_tokens.weight.data.copy_(fixed_embeddings())
    return model


def new_reader() -> Any:
    """A Qwen2ForCausalLM with embeddings of its own, deeper and wider than the text core: the textual teacher."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    wider = {"hidden_size": 160, "intermediate_size": 480, "num_attention_heads": 5, "num_key_value_heads": 5}
    model = Qwen2ForCausalLM(Qwen2Config(**{**_text_config(), **wider, "num_hidden_layers": 8}, rope_theta=10000.0))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.3)  # words stay in sight through all layers
    return model


def new_listener() -> Any:
    """A Qwen2AudioForConditionalGeneration: checker and student."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": MELS,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * HIDDEN,
            "d_model": HIDDEN,
            "max_source_positions": 2 * AUDIO_TOKENS,
        },
        text_config={"model_type": "qwen2", "rope_theta": 10000.0, **_text_config()},
        audio_token_index=word_id("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    # The encoder's position table is frozen in the architecture and would stay random.
    model.model.audio_tower.embed_positions.weight.data.copy_(_sinusoids(2 * AUDIO_TOKENS, HIDDEN) * 0.3)
    return model


def new_watcher() -> Any:
    """A Qwen2_5_VLForConditionalGeneration: the teacher."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            **_text_config(),
            # Most frequencies tell time; height and width need to tell two rows and two columns.
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 2, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": HIDDEN // 2,
            "intermediate_size": HIDDEN,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 32,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0],
            "tokens_per_second": 2,
        },
        image_token_id=word_id("<|image_pad|>"),
        video_token_id=word_id("<|video_pad|>"),
        vision_start_token_id=word_id("<|vision_start|>"),
        vision_end_token_id=word_id("<|vision_end|>"),
        tie_word_embeddings=False,
        **{k: _text_config()[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def feature_extractor() -> Any:
    """The WhisperFeatureExtractor of the embedded listeners: 64 mel bands, 64 frames, a four-second window."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(
        feature_size=MELS,
        sampling_rate=RATE,
        hop_length=HOP,
        chunk_length=SECONDS,
        n_fft=2 * HOP,
        return_attention_mask=True,
    )


def put_text_core(model: Any, core: Any) -> None:
    """Copy the text core's weights into the language model of a listener or a watcher."""
    model.model.language_model.load_state_dict(core.model.state_dict())
    model.lm_head.load_state_dict(core.lm_head.state_dict())


def _sinusoids(length: int, channels: int) -> Tensor:
    time = torch.arange(length)[:, None]
    rate = torch.exp(-math.log(10000) / (channels // 2 - 1) * torch.arange(channels // 2))
    return torch.cat([(time * rate).sin(), (time * rate).cos()], 1)
