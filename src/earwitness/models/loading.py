"""Loading models from a folder or a hub name, refusing everything that could run foreign code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from earwitness.config import Model
from earwitness.learn.families import FAMILIES, Family, family_of
from earwitness.models.places import ModelError, place_of

CARD = "earwitness.json"  # how to speak to a model of ours: {"manner": "world" | "plain", "prompt": "think" | "direct"}


@dataclass(frozen=True)
class VideoSettings:
    """What the video processor's file says: pixel limits and normalisation."""

    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Loaded:
    """A model with what it needs to read prompts. `extractor` is None for models without ears."""

    model: Any
    tokenizer: Any
    extractor: Any
    video: VideoSettings
    family: Family
    manner: str
    prompt: str | None


def load(spec: Model) -> Loaded:
    """Load a `world` or `local` model in evaluation mode, with its adapter if it names one."""
    import transformers

    place = place_of(spec)
    refuse_unsafe(Path(place))
    source = {"revision": spec.revision} if spec.revision else {}
    config = _read(place, lambda: transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **source))
    family = family_of(config)
    device = spec.device if spec.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    model = _read(
        place,
        lambda: getattr(transformers, family.model_class).from_pretrained(
            place, dtype=_dtype(spec.dtype, device), use_safetensors=True, trust_remote_code=False, **source
        ),
    ).to(device)
    if spec.adapter:
        model = attach_adapter(model, spec.adapter)
    hears = "hearing" in family.senses
    card = _card(Path(spec.adapter or place))
    return Loaded(
        model=model.eval(),
        tokenizer=_read(place, lambda: transformers.AutoTokenizer.from_pretrained(place, **source)),
        extractor=transformers.AutoFeatureExtractor.from_pretrained(place, **source) if hears else None,
        video=video_settings(Path(place)),
        family=family,
        manner=str(card.get("manner", "plain")),
        prompt=card.get("prompt"),
    )


def attach_adapter(model: Any, folder: str, name: str = "default", trainable: bool = False) -> Any:
    """Put a PEFT adapter (safetensors) on a model under a name."""
    from peft import PeftModel

    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} holds no adapter_model.safetensors; adapters are loaded from safetensors only")
    if isinstance(model, PeftModel):
        model.load_adapter(folder, adapter_name=name, is_trainable=trainable)
        return model
    return PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)


def refuse_unsafe(folder: Path) -> None:
    """Refuse a folder whose configuration names code of its own, or that holds weights only as pickles."""
    if not folder.is_dir():
        return
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            _refuse_code(folder / name)
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds no .safetensors weights; weights are never loaded from pickles")


def _refuse_code(file: Path) -> None:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    stack = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "auto_map" in value:
                raise ModelError(f"{file} asks for code of its own (auto_map), which is never run")
            for key, inner in value.items():
                if "attn_implementation" in key and isinstance(inner, str) and "/" in inner:
                    raise ModelError(f"{file} asks for foreign attention code ({inner!r}), which is never run")
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def video_settings(folder: Path) -> VideoSettings:
    """Read the pixel limits and normalisation of a model's video processor, or return Qwen2.5-VL's defaults."""
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            data = json.loads((folder / name).read_text(encoding="utf-8"))
            size, default = data.get("size") or {}, VideoSettings()
            return VideoSettings(
                min_pixels=data.get("min_pixels") or size.get("shortest_edge", default.min_pixels),
                max_pixels=data.get("max_pixels") or size.get("longest_edge", default.max_pixels),
                mean=tuple(data.get("image_mean", default.mean)),
                std=tuple(data.get("image_std", default.std)),
            )
    return VideoSettings()


def _card(folder: Path) -> dict[str, Any]:
    file = folder / CARD
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _read(place: str, load_it: Any) -> Any:
    try:
        return load_it()
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(f"the model {place!r} cannot be loaded ({str(error).splitlines()[0]}); known types: {known}") from error
