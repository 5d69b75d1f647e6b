"""Random models of the real class, by size, and what the benchmarks ask them: clips, prompts, completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earwitness.learn.tree import Root

PAD, STOP, AUDIO, FIRST_WORD = 0, 1, 2, 8  # token ids; words follow
FRAMES_A_SECOND = 100
LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Shape:
    """A size of Qwen2-Audio. `seconds` is the length of the encoder's window, to which every clip is padded.

    `pairs` is how many heads of keys and values there are (0: as many as `heads`).
    """

    seconds: int
    mels: int
    ear_width: int
    ear_layers: int
    ear_heads: int
    width: int
    layers: int
    inner: int
    heads: int
    words: int
    positions: int = 4096
    pairs: int = 0

    @property
    def audio_tokens(self) -> int:
        """How many tokens a clip of the whole window takes."""
        return self.seconds * FRAMES_A_SECOND // 4


TINY = Shape(4, 32, 64, 2, 4, width=128, layers=2, inner=256, heads=4, words=384)
MIDDLE = Shape(30, 128, 256, 4, 4, width=512, layers=8, inner=1408, heads=8, words=384)
RELEASE = Shape(30, 128, 1280, 32, 20, width=4096, layers=32, inner=11008, heads=32, words=156032, positions=8192)


def configuration(shape: Shape) -> Any:
    """Return the configuration of a model of this shape."""
    from transformers import Qwen2AudioConfig

    return Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": shape.mels,
            "encoder_layers": shape.ear_layers,
            "encoder_attention_heads": shape.ear_heads,
            "encoder_ffn_dim": 4 * shape.ear_width,
            "d_model": shape.ear_width,
            "max_source_positions": shape.seconds * FRAMES_A_SECOND // 2,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": shape.words,
            "hidden_size": shape.width,
            "intermediate_size": shape.inner,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.pairs or shape.heads,
            "max_position_embeddings": shape.positions,
            "bos_token_id": PAD,
            "eos_token_id": STOP,
            "pad_token_id": PAD,
        },
        audio_token_index=AUDIO,
    )


def listener(shape: Shape, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Return a model of this shape with random weights, the same ones every time."""
    from transformers import Qwen2AudioForConditionalGeneration

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2AudioForConditionalGeneration._from_config(configuration(shape), attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    return model


def adapter(rank: int = 16) -> Any:
    """Return the settings of an adapter on the language model that changes something from the start."""
    from peft import LoraConfig

    return LoraConfig(r=rank, target_modules=LINEAR, init_lora_weights=False)


def under_lora(model: Any) -> Any:
    """Put an adapter on the language model."""
    from peft import get_peft_model

    torch.manual_seed(1)
    return get_peft_model(model, adapter())


def checkpoint_activations(model: Any) -> None:
    """Let a model recompute its activations in the backward pass."""
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def clip(shape: Shape, seconds: float, text: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Root:
    """Return a prompt of noise of this length, in a window padded with silence, and words about it."""
    frames, filled = shape.seconds * FRAMES_A_SECOND, round(seconds * FRAMES_A_SECOND)
    features = torch.randn(1, shape.mels, frames, generator=torch.Generator().manual_seed(5)).to(dtype)
    mask = (torch.arange(frames) < filled).long()[None]
    features = features * mask[:, None]
    tokens = ((filled - 1) // 2 + 1 - 2) // 2 + 1
    media = {"input_features": features, "feature_attention_mask": mask}
    return Root((*words(shape, 4, 11), *(AUDIO,) * tokens, *text), None, media)


def words(shape: Shape, count: int, seed: int) -> tuple[int, ...]:
    """Return random words."""
    drawn = torch.randint(FIRST_WORD, shape.words, (count,), generator=torch.Generator().manual_seed(seed))
    return tuple(drawn.tolist())


def gradient_norm(model: Any) -> float:
    """Return the norm of all gradients together."""
    squares = [p.grad.double().pow(2).sum() for p in model.parameters() if p.grad is not None]
    total: Tensor = torch.stack(squares).sum().sqrt()
    return float(total)
