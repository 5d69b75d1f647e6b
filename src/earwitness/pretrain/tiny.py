"""Tiny random models of the real classes, with a tokenizer that takes any text: for rehearsals and tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from earwitness.config import Model, Role
from earwitness.models.loading import VideoSettings
from earwitness.models.places import CARD, place_of
from earwitness.pretrain.vocabulary import MEDIA, SPECIAL

CLASSES: dict[Role, str] = {
    "teacher": "qwen2_5_vl",
    "checker": "qwen2_audio",
    "student": "qwen2_audio",
    "describer": "qwen2_audio",
    "textual_teacher": "qwen2",
}
WINDOW = 8192
MELS = 16
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny(spec: Model, fallback: str, place: Path) -> None:
    """Write a random model of the class that `spec` names, where its configuration can be read and the class is known.

    Otherwise one of the `fallback` class stands in for it.
    """
    bodies = {"qwen2_audio": _listener, "qwen2_5_vl": _watcher, "qwen2": _reader, "qwen3": _reader}
    stated = _type_of(spec)
    kind = stated if stated in bodies else fallback
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    model = bodies[kind](tokenizer)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    if kind == "qwen2_audio":
        from transformers import WhisperFeatureExtractor

        WhisperFeatureExtractor(feature_size=MELS, return_attention_mask=True).save_pretrained(place)
    default = VideoSettings()
    pixels = {
        "min_pixels": 4 * 28 * 28,
        "max_pixels": 16 * 28 * 28,
        "image_mean": default.mean,
        "image_std": default.std,
    }
    (place / "video_preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    (place / CARD).write_text(json.dumps({"manner": "plain"}), encoding="utf-8")


def byte_tokenizer() -> Any:
    """Return a byte-level tokenizer with the special tokens of the Qwen family."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    built = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[*SPECIAL[:3], *MEDIA],
    )
    built.chat_template = CHAT_TEMPLATE
    return built


def _type_of(spec: Model) -> str | None:
    if spec.kind == "served":
        return None
    config = Path(place_of(spec)) / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None


def _text(tokenizer: Any) -> dict[str, Any]:
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(t) for name, t in (("eos", SPECIAL[2]), ("pad", SPECIAL[0]))
    }
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "tie_word_embeddings": False,
        "bos_token_id": ids["pad_token_id"],
        **ids,
    }


def _reader(tokenizer: Any) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_text(tokenizer)))


def _listener(tokenizer: Any) -> Any:
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    tower = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": MELS,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "d_model": 32,
    }
    config = Qwen2AudioConfig(
        audio_config=tower,
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    return Qwen2AudioForConditionalGeneration(config)


def _watcher(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    ids = {f"{k}_token_id": tokenizer.convert_tokens_to_ids(v) for k, v in names.items()}
    frame = {f"vision_{k}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{k}|>") for k in ("start", "end")}
    text = _text(tokenizer)
    config = Qwen2_5_VLConfig(
        text_config={
            **text,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        tie_word_embeddings=False,
        **ids,
        **frame,
        **{k: text[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    return Qwen2_5_VLForConditionalGeneration(config)
