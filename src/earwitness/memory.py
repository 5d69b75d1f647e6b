"""How much memory and arithmetic a training step takes, or a sampling stage, from the model's configuration alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from earwitness.config import Distil, Grpo, Model, Optimisation
from earwitness.models.places import place_of

NEEDED = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
SCORED = 2048  # predictions whose logits exist at once (learn.losses.CHUNK)
AUDIO_TOKENS = 750  # of a window of 30 s, as Qwen2-Audio counts them
TEXT_TOKENS = 200  # of a question with its choices
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """The sizes of a language model: `keys` is the width of its key and value heads together, one of the two."""

    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    vocabulary: int
    window: int


@dataclass(frozen=True)
class Need:
    """Bytes of one process, by what they are for: `company` are models beside the student, teacher or checker."""

    weights: float
    reference: float
    gradients: float
    optimizer: float
    activations: float
    cache: float
    company: float = 0.0

    @property
    def total(self) -> float:
        """All of it: the cache of sampling is gone when activations are kept, so the larger of the two counts."""
        fixed = self.weights + self.reference + self.gradients + self.optimizer + self.company
        return fixed + max(self.activations, self.cache)

    def told(self) -> str:
        """Return the parts that are not nothing, in GiB."""
        parts = {n: v for n, v in vars(self).items() if v >= 0.005 * GIB}
        listed = " + ".join(f"{name} {value / GIB:.2f}" for name, value in parts.items())
        return f"{self.total / GIB:.2f} GiB" + (f" ({listed})" if listed else "")


def parameters(spec: Model) -> int | None:
    """Return a model's number of parameters, None where it is not known.

    They are counted in the headers of its files (of a checkpoint with a voice, its thinker's); where only the
    configuration is there, on a model without memory. Of some released models they are known without either.
    """
    folder = _folder(spec)
    if folder is None:
        return _published().get(spec.name, {}).get("parameters")
    sizes: dict[str, int] = {}
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        sizes |= {name: math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}
    thinker = {name: size for name, size in sizes.items() if name.startswith("thinker.")}
    return sum((thinker or sizes).values()) or _counted(folder)


def _counted(folder: Path) -> int | None:
    try:
        import torch
        import transformers
    except ImportError:
        return None
    from earwitness.learn.families import family_of

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family = family_of(config)
    with torch.device("meta"):
        model = getattr(transformers, family.model_class)(getattr(config, family.part or "", config))
    return int(sum(p.numel() for p in model.parameters()))


def shape(spec: Model) -> Shape | None:
    """Return a model's sizes from its config.json, None where it is not on this machine nor known without it.

    Files that leave out their class's defaults, as some releases do, are completed by transformers if it is there.
    """
    folder = _folder(spec)
    if folder is None:
        known = _published().get(spec.name)
        return None if known is None else Shape(**{name: n for name, n in known.items() if name != "parameters"})
    text = _text_part(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    if any(name not in text for name in NEEDED):
        try:
            from transformers import AutoConfig
        except ImportError:
            return None
        text = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config().to_dict()
    heads = text["num_attention_heads"]
    size = text.get("head_dim") or text["hidden_size"] // heads
    experts = text.get("num_experts_per_tok")
    return Shape(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        inner=text["moe_intermediate_size"] * experts if experts else text["intermediate_size"],
        queries=heads * size,
        keys=(text.get("num_key_value_heads") or heads) * size,
        vocabulary=text["vocab_size"],
        window=text.get("max_position_embeddings", 2**15),
    )


@cache
def _published() -> dict[str, dict[str, int]]:
    """Return the sizes of the released models that the shipped configurations name."""
    file = resources.files("earwitness.models") / "published.json"
    sizes: dict[str, dict[str, int]] = json.loads(file.read_text(encoding="utf-8"))
    return sizes


def _folder(spec: Model) -> Path | None:
    """Return where a model's config.json lies on this machine: in its folder, or in the hub's cache."""
    if spec.kind == "served":
        return None
    folder = Path(place_of(spec))
    if not folder.is_dir() and find_spec("huggingface_hub") is not None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(spec.name, "config.json", revision=spec.revision)
        folder = Path(found).parent if isinstance(found, str) else folder
    return folder if (folder / "config.json").is_file() else None


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = config.get("thinker_config", config)
    text: dict[str, Any] = part.get("text_config") or part
    return text


def training_need(size: int, shape: Shape, settings: Optimisation, answer: int, wide: bool, processes: int = 1) -> Need:
    """Return what a training step needs in each of `processes`.

    `size` counts parameters, `answer` a lesson's tokens in sft (in grpo `max_tokens` counts), `wide` says that the
    arithmetic has 32 bits and not 16.
    """
    number = 4 if wide else 2
    practice = settings if isinstance(settings, Grpo) else None
    group, length = (practice.group, practice.max_tokens) if practice else (1, answer)
    rows = -(-settings.batch // processes)
    held = min(settings.micro_batch, rows) if settings.micro_batch else rows
    row = min(shape.window, AUDIO_TOKENS + TEXT_TOKENS) + group * length
    trained = size if settings.tuning == "full" else _adapter(shape, settings.lora_rank)
    base = {"full": 4.0, "lora": float(number), "qlora": 0.6}[settings.tuning]
    held_to = practice.beta > 0 if practice else isinstance(settings, Distil) and settings.acoustic_weight > 0
    drawn = rows * group if practice else 0
    return Need(
        weights=size * base + (trained * 4 if settings.tuning != "full" else 0),
        reference=size * 4.0 if held_to and settings.tuning == "full" else 0.0,
        gradients=trained * 4.0,
        optimizer=trained * 8.0,
        activations=held * activations(shape, row, number, settings.activation_checkpointing)
        + 3 * 4 * min(SCORED, held * group * length) * shape.vocabulary,
        cache=drawn * (row - (group - 1) * length) * 2 * shape.layers * shape.keys * number,
    )


def distilling_need(
    need: Need, shape: Shape, teacher: tuple[int, Shape], settings: Distil, answer: int, number: int, processes: int = 1
) -> Need:
    """Return what a step of distil needs: that of the same training step, and its textual teacher's part.

    `number` is the bytes of one of the teacher's weights. Beside them there are projections with their gradients and
    moments, and the hidden states of both models at the response's tokens (at the audio tokens too, of the student).
    """
    size, sizes = teacher
    layers = _count(settings.layers, shape.layers) if settings.layer_weight else 0
    heard = _count(settings.acoustic_layers, shape.layers) if settings.acoustic_weight else 0
    rows = -(-settings.batch // processes)
    rows = min(settings.micro_batch, rows) if settings.micro_batch else rows
    states = layers * answer * (shape.hidden + sizes.hidden) + 2 * heard * AUDIO_TOKENS * shape.hidden
    maps = layers * shape.hidden * sizes.hidden if settings.match == "representation" else 0
    return replace(
        need,
        activations=need.activations + 4.0 * rows * states,
        company=(size * float(number) if settings.reads and settings.signals == "live" else 0.0) + 16.0 * maps,
    )


def _count(layers: str | tuple[int, ...], depth: int) -> int:
    """Return how many layers a choice of them takes."""
    if not isinstance(layers, str):
        return len(layers)
    return depth if layers == "all" else depth // int(layers.removeprefix("1 in "))


def operations(size: int, settings: Optimisation, answer: int, teacher: int = 0) -> float:
    """Return the floating-point operations of one optimizer step, all processes together.

    Two for every weight and token in a forward pass, twice as many in the backward pass (half of them where only
    adapters are trained), and a forward pass more where activations are computed again. `teacher` is the size of a
    textual teacher that is asked in every step (0: none).
    """
    practice = settings if isinstance(settings, Grpo) else None
    prompt, group = AUDIO_TOKENS + TEXT_TOKENS, practice.group if practice else 1
    said = group * (practice.max_tokens if practice else answer)
    once = 2.0 * size * (prompt + said)
    passes = 1 + (2 if settings.tuning == "full" else 1) + settings.activation_checkpointing
    work = passes * once
    if practice:
        work += once / practice.updates + (once if practice.beta else 0)
    if isinstance(settings, Distil):
        work += 2.0 * size * prompt if settings.acoustic_weight else 0
        work += 2.0 * teacher * (2 * TEXT_TOKENS + said)
    return settings.batch * work


def sampling_need(size: int, shape: Shape, prompts: int, samples: int, length: int, number: int) -> Need:
    """Return what sampling `samples` answers to each of `prompts` needs."""
    row = min(shape.window, AUDIO_TOKENS + TEXT_TOKENS + length)
    cache = prompts * samples * row * 2 * shape.layers * shape.keys * number
    return Need(size * float(number), 0.0, 0.0, 0.0, 0.0, cache)


def activations(shape: Shape, length: int, number: int, checkpointing: bool) -> float:
    """Return the bytes that the backward pass keeps of one row of `length` tokens in the language model.

    Per block and token: the residual stream twice and what its two norms need (in 32 bits), queries, keys and values
    before and after rotation, what attention returns, and the gated product's four factors. With checkpointing each
    block keeps its input, and one block at a time is whole.
    """
    norms = 2 * (2 * number + 4) * shape.hidden
    attention = number * (3 * shape.queries + 3 * shape.keys)
    product = number * 4 * shape.inner
    block = length * (norms + attention + product)
    return number * length * shape.hidden * shape.layers + block if checkpointing else block * shape.layers


def _adapter(shape: Shape, rank: int) -> int:
    """Return the parameters of LoRA on the seven linear layers of every block."""
    sides = 4 * shape.hidden + 2 * shape.queries + 2 * shape.keys + 3 * (shape.hidden + shape.inner)
    return rank * sides * shape.layers
