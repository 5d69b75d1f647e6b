"""Tiny random models of the real classes, one folder each as a release would be, but for its size."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch

from earwitness.learn.families import FAMILIES
from earwitness.models.loading import refuse_old
from earwitness.models.places import ModelError

RATE, HOP, MELS = 16000, 200, 16
FRAMES = 80  # mel frames of one second: the tiny window
HIDDEN = 32
CHATML = (
    "{%% for m in messages %%}<|im_start|>{{ m['role'] }}\n{%% for c in m['content'] %%}"
    "{%% if c['type'] == 'audio' %%}%s{%% else %%}{{ c['text'] }}{%% endif %%}{%% endfor %%}<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)
FRAME = {  # how a family's template shows a clip
    "qwen2_audio": "<|audio_bos|><|AUDIO|><|audio_eos|>\n",
    "qwen2_5_omni": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    "qwen3_omni_moe": "<|audio_start|><|audio_pad|><|audio_end|>",
    "audioflamingo3": "<sound>",
    "musicflamingo": "<|sound_bos|><sound><|sound_eos|>",
}
LISTENERS = ["qwen2_audio", "qwen2_5_omni", "qwen3_omni_moe", "audioflamingo3", "voxtral"]


def write_family(kind: str, folder: Path, whole: bool = False) -> Path:
    """Write a model of a family; `whole`: the full Omni checkpoint, with a voice, of which we load the thinker."""
    import transformers

    try:
        refuse_old(FAMILIES.get(kind, FAMILIES["qwen2_audio"]), transformers.__version__)
    except ModelError as error:
        pytest.skip(str(error))
    torch.manual_seed(7)
    if kind == "voxtral":
        write_tekken(folder)
        ids = {"audio": 24, "pad": 11, "bos": 1, "eos": 2, "size": 256 + 32}
    else:
        tokenizer = byte_tokenizer(kind)
        tokenizer.save_pretrained(folder)
        ids = {name: tokenizer.convert_tokens_to_ids(t) for name, t in NAMED.items()}
        ids |= {"audio": tokenizer.convert_tokens_to_ids(tokenizer.audio_token), "size": len(tokenizer)}
    model = BODIES[kind](transformers, ids)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "norm" not in name:
            parameter.data.normal_(0, 0.15)  # enough that sound and routing matter
    if whole:
        model = _inside_omni(transformers, model)
    model.save_pretrained(folder)
    extractor(kind).save_pretrained(folder)
    return folder


NAMED = {"bos": "<|endoftext|>", "pad": "<|endoftext|>", "eos": "<|im_end|>"}
SEEN = {"image": "<|IMAGE|>", "video": "<|VIDEO|>", "vision_bos": "<|vision_bos|>", "vision_eos": "<|vision_eos|>"}


def extractor(kind: str, **changes):
    """The family's feature extractor with a window of one second (Qwen2.5-Omni: of ten of them)."""
    from transformers import WhisperFeatureExtractor

    seconds = 10 if kind == "qwen2_5_omni" else 1
    small = {"feature_size": MELS, "hop_length": HOP, "chunk_length": seconds}
    return WhisperFeatureExtractor(**small | {"return_attention_mask": True} | changes)


def byte_tokenizer(kind: str):
    """A byte-level tokenizer with a family's special tokens under the names that its processor asks for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    sound = {
        "qwen2_audio": ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        "qwen2_5_omni": ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        "qwen3_omni_moe": ("<|audio_pad|>", "<|audio_start|>", "<|audio_end|>"),
        "audioflamingo3": ("<sound>", "<|sound_bos|>", "<|sound_eos|>"),
        "musicflamingo": ("<sound>", "<|sound_bos|>", "<|sound_eos|>"),
    }[kind]
    named = dict(zip(("audio_token", "audio_bos_token", "audio_eos_token"), sound, strict=True))
    named |= {f"{name}_token": token for name, token in SEEN.items()}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *alphabet])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    built = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named
    )
    built.chat_template = CHATML % FRAME[kind]
    return built


def write_tekken(folder: Path) -> None:
    """Voxtral's tokenizer as it is released: one file, no chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
    special += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"]
    special += ["[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
    special += [f"<SPECIAL_{i}>" for i in range(20, 32)]
    special[24], special[25], special[31] = "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"
    config = {
        "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+",
        "num_vocab_tokens": 256,
        "default_vocab_size": 256 + len(special),
        "default_num_special_tokens": len(special),
        "version": "v7",
    }
    vocab = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)]
    ranked = [{"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(special)]
    data = {"config": config, "vocab": vocab, "special_tokens": ranked}
    (folder / "tekken.json").write_text(json.dumps(data))


def _words(ids, **more):
    return {
        "vocab_size": ids["size"],
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["pad"],
        **more,
    }


def _tower(**more):
    return {
        "num_mel_bins": MELS,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "d_model": HIDDEN,
        "max_source_positions": FRAMES // 2,
        **more,
    }


def _qwen2_audio(t, ids):
    config = t.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **_tower()},
        text_config={"model_type": "qwen2", **_words(ids)},
        audio_token_index=ids["audio"],
    )
    return t.Qwen2AudioForConditionalGeneration(config)


def _audioflamingo3(t, ids):
    tower = _tower(model_type="audioflamingo3_encoder")
    config = t.AudioFlamingo3Config(
        audio_config=tower, text_config={"model_type": "qwen2", **_words(ids)}, audio_token_id=ids["audio"]
    )
    return t.AudioFlamingo3ForConditionalGeneration(config)


def _musicflamingo(t, ids):
    tower = _tower(model_type="audioflamingo3_encoder")
    config = t.MusicFlamingoConfig(
        audio_config=tower,
        text_config={"model_type": "qwen2", **_words(ids)},
        audio_token_id=ids["audio"],
        audio_bos_token_id=ids["audio"] + 1,
        audio_eos_token_id=ids["audio"] + 2,
    )
    return t.MusicFlamingoForConditionalGeneration(config)


def _voxtral(t, ids):
    tower = _tower(model_type="voxtral_encoder", encoder_ffn_dim=4 * HIDDEN)
    words = _words(ids, model_type="llama", head_dim=16)
    config = t.VoxtralConfig(audio_config=tower, text_config=words, audio_token_id=ids["audio"])
    return t.VoxtralForConditionalGeneration(config)


ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}


def _thinker_ids(ids):
    named = {"audio_token_id": ids["audio"], "audio_start_token_id": ids["audio"] + 1}
    seen = {"image_token_id": ids["audio"] + 3, "video_token_id": ids["audio"] + 4}
    return named | {"audio_end_token_id": ids["audio"] + 2} | seen | {"vision_start_token_id": ids["audio"] + 5}


def _qwen2_5_omni(t, ids):
    config = t.Qwen2_5OmniThinkerConfig(
        audio_config=_tower(n_window=20, output_dim=HIDDEN, max_source_positions=60),
        vision_config={
            "depth": 1, "hidden_size": HIDDEN, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0],
        },
        text_config=_words(ids, rope_parameters=ROPE),
        **_thinker_ids(ids),
    )  # fmt: skip
    return t.Qwen2_5OmniThinkerForConditionalGeneration(config)


def _qwen3_omni_moe(t, ids):
    config = t.Qwen3OmniMoeThinkerConfig(
        audio_config=_tower(n_window=50, output_dim=HIDDEN, downsample_hidden_size=8, max_source_positions=60),
        vision_config={
            "depth": 1, "hidden_size": HIDDEN, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": HIDDEN,
            "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
        },
        text_config=_words(
            ids, rope_parameters=ROPE | {"mrope_interleaved": True}, head_dim=16, num_experts=6, num_experts_per_tok=2,
            moe_intermediate_size=16,
        ),
        **_thinker_ids(ids),
    )  # fmt: skip
    return t.Qwen3OmniMoeThinkerForConditionalGeneration(config)


BODIES = {
    "qwen2_audio": _qwen2_audio,
    "qwen2_5_omni": _qwen2_5_omni,
    "qwen3_omni_moe": _qwen3_omni_moe,
    "audioflamingo3": _audioflamingo3,
    "musicflamingo": _musicflamingo,
    "voxtral": _voxtral,
}


def _inside_omni(t, thinker):
    """The full class around a thinker, and what the files of a release hold beside it."""
    kind = thinker.config.model_type.removesuffix("_thinker")
    outer, config = {
        "qwen2_5_omni": (t.Qwen2_5OmniForConditionalGeneration, t.Qwen2_5OmniConfig),
        "qwen3_omni_moe": (t.Qwen3OmniMoeForConditionalGeneration, t.Qwen3OmniMoeConfig),
    }[kind]
    whole = outer(config(thinker_config=thinker.config.to_dict(), enable_audio_output=False))
    whole.thinker.load_state_dict(thinker.state_dict())
    whole.talker = torch.nn.Linear(4, 4)
    return whole
