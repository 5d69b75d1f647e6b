"""Loading models from a folder or a hub name, refusing everything that could run foreign code.

Of a hub name only weights and text are fetched, into the hub's own cache, and then read like any folder: what is
refused in a folder is refused there too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch

from earwitness.config import Model
from earwitness.learn.families import FAMILIES, Family, family_of
from earwitness.learn.router import has_router
from earwitness.models.exchange import LongClips
from earwitness.models.places import ModelError, card_of, place_of

T = TypeVar("T")
FETCHED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # of a hub name: no code, no pickles
warnings.filterwarnings("ignore", "Could not find a config file in world:")  # PEFT looks for it on the hub
PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")  # all that they do stands in tokenizer.json


@dataclass(frozen=True)
class VideoSettings:
    """What the video processor's file says: pixel limits and normalisation."""

    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Loaded:
    """A model with what it needs to read prompts. `extractor` is None for models without ears.

    `manner` is how the prompts speak to it, `prompt` the one it was trained on (None: unknown).
    """

    model: Any
    tokenizer: Any
    extractor: Any
    video: VideoSettings
    family: Family
    manner: str
    prompt: str | None
    long_clips: LongClips = "refuse"


def load(spec: Model, four_bit: bool = False) -> Loaded:
    """Load a `world` or `local` model in evaluation mode, with its adapter if it names one.

    Raises ModelError for what cannot be loaded or must not be.
    """
    import transformers

    place = resolve(place_of(spec), spec.revision)
    refuse_unsafe(place)
    config = _read(place, lambda: transformers.AutoConfig.from_pretrained(place, trust_remote_code=False))
    family = _read(place, lambda: family_of(config))
    refuse_old(family, transformers.__version__)
    model = _model(place, spec, family, four_bit)
    tokenizer = _tokenizer(place, family)
    _check(place, family, model, tokenizer)
    if spec.adapter:
        model = attach_adapter(model, spec.adapter)
    hears = family.ears is not None
    card = card_of(Path(spec.adapter or place))
    return Loaded(
        model=model.eval(),
        tokenizer=tokenizer,
        extractor=_read(place, lambda: transformers.AutoFeatureExtractor.from_pretrained(place)) if hears else None,
        video=video_settings(place),
        family=family,
        manner=str(card.get("manner", "plain")),
        prompt=card.get("prompt"),
        long_clips=spec.long_clips,
    )


def _model(place: Path, spec: Model, family: Family, four_bit: bool) -> Any:
    """Load the weights. Raises ModelError where the files do not hold all of them: the rest would be random."""
    import transformers

    device = spec.device if spec.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    model, told = _read(
        place,
        lambda: getattr(transformers, family.model_class).from_pretrained(
            place,
            dtype=_dtype(spec.dtype, device),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",  # what the prefix tree needs, whatever the file says
            device_map={"": device},
            quantization_config=_four_bits(device) if four_bit else None,
            output_loading_info=True,
        ),
    )
    missing = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if missing:
        some = ", ".join(missing[:3])
        raise ModelError(f"{place} lacks {len(missing)} weights of a {family.model_class} ({some}): is it complete?")
    if has_router(model):
        model.config.get_text_config().output_router_logits = False  # its own loss would trip over the tree's masks
    # What is trained from it names its base by this: a path of this machine's cache would mean nothing elsewhere.
    model.name_or_path = model.config._name_or_path = f"world:{spec.name}" if spec.kind == "world" else spec.name
    return model


def _check(place: Path, family: Family, model: Any, tokenizer: Any) -> None:
    """Refuse a model that would go wrong without a word."""
    if "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        raise ModelError(f"{place} attends within a sliding window, which the prefix tree's masks do not know")
    if family.ears is None:
        return
    read, meant = tokenizer.convert_tokens_to_ids(family.placeholder), model.config.audio_token_id
    if read != meant:
        raise ModelError(
            f"the tokenizer of {place} reads {family.placeholder} as token {read}, its model takes {meant} for sound: "
            "they do not belong together"
        )


def refuse_old(family: Family, version: str) -> None:
    """Raise ModelError where a version of transformers builds a family's class in another way."""
    have, need = (tuple(int(part) for part in v.split(".")[:2]) for v in (version, family.since))
    if have < need:
        raise ModelError(
            f"{family.model_class} needs transformers {family.since} or newer, and this is {version}: before that its "
            "parts went by other names, and adapters would be put on none of them"
        )


def stored_dtype(spec: Model) -> torch.dtype:
    """Return the precision in which a model's files hold its weights, as its configuration states it."""
    import transformers

    place = resolve(place_of(spec), spec.revision)
    config = _read(place, lambda: transformers.AutoConfig.from_pretrained(place, trust_remote_code=False))
    found = getattr(config, "dtype", None) or torch.float32
    return found if isinstance(found, torch.dtype) else getattr(torch, str(found))


def resolve(name: str, revision: str | None = None, patterns: Sequence[str] = FETCHED) -> Path:
    """Return the folder of a model: the one named, or the hub's files of that name, fetched where they are not yet."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{name!r} is not a folder, and not to be had from the hub either ({reason})") from error


def attach_adapter(model: Any, folder: str, name: str = "default", trainable: bool = False) -> Any:
    """Put a PEFT adapter (a folder with safetensors) on a model under a name."""
    from peft import PeftModel

    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} holds no adapter_model.safetensors; adapters are loaded from safetensors only")
    refuse_unsafe(Path(folder))
    if isinstance(model, PeftModel):
        model.load_adapter(folder, adapter_name=name, is_trainable=trainable)
        return model
    return PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)


def merge_adapter(model: Any, folder: str) -> Any:
    """Return a full model with an adapter's changes in its weights, and each weight as trainable as it was before."""
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    merged = attach_adapter(model, folder).merge_and_unload()
    for name, parameter in merged.named_parameters():
        parameter.requires_grad_(trainable[name])  # PEFT freezes all of them, and leaves them so
    return merged


def refuse_unsafe(folder: Path) -> None:
    """Refuse a folder whose configuration names code of its own, or that holds weights only as pickles."""
    for file in sorted(folder.glob("*config.json")):
        _refuse_code(file)
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds no .safetensors weights; weights are never loaded from pickles")


def _refuse_code(file: Path) -> None:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    for key, value in _entries(data):
        if key == "auto_map":
            raise ModelError(f"{file} asks for code of its own (auto_map), which is never run")
        # "name/kernel" is fetched from a hub and run; a dictionary may name one per part of the model.
        if key.endswith("_implementation") and "/" in str(value):
            raise ModelError(f"{file} asks for foreign attention code ({value!r}), which is never run")
        if key == "megatron_config" and value:
            raise ModelError(f"{file} asks for a module to be imported (megatron_config), which is never done")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value in nested JSON."""
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _entries(inner)


def video_settings(folder: Path) -> VideoSettings:
    """Read the pixel limits and normalisation of a model's video processor, or return Qwen2.5-VL's defaults."""
    default = VideoSettings()
    found = [_json(folder / "video_preprocessor_config.json")]
    found.append(_json(folder / "processor_config.json").get("video_processor") or {})
    found.append(_json(folder / "preprocessor_config.json"))
    data = next((settings for settings in found if settings), {})
    size = data.get("size") or {}
    return VideoSettings(
        min_pixels=data.get("min_pixels") or size.get("shortest_edge", default.min_pixels),
        max_pixels=data.get("max_pixels") or size.get("longest_edge", default.max_pixels),
        mean=tuple(data.get("image_mean", default.mean)),
        std=tuple(data.get("image_std", default.std)),
    )


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of a folder, a hub name or `world:NAME`, without the model. Raises ModelError."""
    if name.startswith("world:"):
        name = place_of(Model(kind="world", name=name.removeprefix("world:")))
    place = resolve(name, patterns=[pattern for pattern in FETCHED if "safetensors" not in pattern])
    for file in sorted(place.glob("*config.json")):
        _refuse_code(file)
    return _tokenizer(place, None)


def _tokenizer(place: Path, family: Family | None) -> Any:
    """Load the tokenizer. Listeners may keep their chat template with the processor: it is looked up there, too."""
    import transformers

    template, hears = (family.template, family.ears is not None) if family else (None, False)
    own = {} if template is None else {"mistral_format": False}  # the ordinary kind, which takes a template
    kind: Any = transformers.AutoTokenizer
    if _json(place / "tokenizer_config.json").get("tokenizer_class") in PLAIN_TOKENIZERS:
        # AutoTokenizer would go by the model's type instead, and cut words by rules that are not this tokenizer's.
        kind = transformers.PreTrainedTokenizerFast
    tokenizer = _read(place, lambda: kind.from_pretrained(place, trust_remote_code=False, **own))
    if tokenizer.chat_template is None:
        tokenizer.chat_template = template or _json(place / "chat_template.json").get("chat_template")
    if tokenizer.chat_template is None and hears:
        tokenizer.chat_template = _read(place, lambda: transformers.AutoProcessor.from_pretrained(place)).chat_template
    if tokenizer.chat_template is None:
        raise ModelError(f"{place} holds no chat template: a model without one cannot be asked; take an instruct model")
    return tokenizer


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _four_bits(device: str) -> Any:
    """Return the settings of QLoRA (arXiv 2305.14314): weights in NormalFloat4, arithmetic in bfloat16."""
    import transformers

    if not device.startswith("cuda"):
        raise ModelError(
            f"tuning = 'qlora' keeps the base in 4 bits, which needs a CUDA GPU, not {device!r}: use 'lora'"
        )
    if find_spec("bitsandbytes") is None:
        raise ModelError("tuning = 'qlora' needs bitsandbytes: pip install bitsandbytes")
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _read(place: Path, load_it: Callable[[], T]) -> T:
    try:
        return load_it()
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(FAMILIES))
        reason = str(error).splitlines()[0]
        raise ModelError(f"the model {place} cannot be loaded ({reason}); known types: {known}") from error
