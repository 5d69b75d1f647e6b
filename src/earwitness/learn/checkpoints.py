"""Checkpoints of a training that is under way: which of them count, what they were made with, and putting them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from earwitness.learn.attention import unwrapped

COMPLETE = "complete.json"  # written last into a checkpoint: without it, it does not count


class TrainingError(Exception):
    """A training that must not start, or cannot go on: the message says why and what would do."""


class NotFinite(TrainingError, FloatingPointError):  # noqa: N818 - named for what it is
    """A loss that is no number: the step is not taken."""


def complete_checkpoints(folder: Path) -> dict[int, Path]:
    """Return a folder's complete checkpoints by their step, in order; one whose saving was cut short does not count."""
    found = {int(file.parent.name.split("-")[1]): file.parent for file in folder.glob(f"checkpoint-*/{COMPLETE}")}
    return dict(sorted(found.items()))


def complete(folder: Path, step: int, settings: dict[str, Any]) -> None:
    """Say that a checkpoint is whole, and which settings its training has."""
    (folder / COMPLETE).write_text(json.dumps({"step": step, "settings": settings}, indent=1), encoding="utf-8")


def refuse_other_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise TrainingError naming every setting of a checkpoint that differs from those that would go on from it."""
    before = json.loads((folder / COMPLETE).read_text(encoding="utf-8")).get("settings", {})
    now = json.loads(json.dumps(settings))
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    if names:
        said = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)
        raise TrainingError(
            f"{folder} was made with other settings ({said}): going on from it would be neither training. Set them "
            "back, or train in another folder"
        )


def sharded(model: Any) -> bool:
    """Whether a model's parameters are spread over processes (FSDP2)."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_weights(model: Any) -> dict[str, Any]:
    """Return a sharded model's weights as whole tensors on the CPU: of the first process, nothing of the others.

    Every process must call it.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def restore(model: Any, folder: Path) -> None:
    """Load what was trained (all weights, or the adapter's) from a checkpoint's folder into `model`, sharded or not.

    Raises RuntimeError naming what is missing or astray: a tensor is never left as it was in silence.
    """
    if hasattr(model, "peft_config"):
        _restore_adapter(model, folder)
        return
    saved, info = _class_of(model).from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    astray = {name: keys for name, keys in info.items() if name.endswith("_keys") and keys}
    if astray:
        raise RuntimeError(f"{folder} does not restore this model: {astray}")
    put(model, saved.state_dict())


def _class_of(model: Any) -> Any:
    """Return a model's own class: sharding derives one from it that cannot be loaded."""
    from torch.distributed.fsdp import FSDPModule

    return next(kind for kind in type(unwrapped(model)).__mro__ if not issubclass(kind, FSDPModule))


def _restore_adapter(model: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    own = set(get_peft_model_state_dict(model))
    if set(saved) ^ own:
        raise RuntimeError(f"{folder} does not restore this adapter: {sorted(set(saved) ^ own)}")
    if not sharded(model):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, saved)
        return
    inside = {name.replace(".default.", "."): name for name in model.state_dict() if ".default." in name}
    put(model, {inside[name]: value for name, value in saved.items()}, strict=False)


def put(model: Any, weights: dict[str, Any], strict: bool = True) -> None:
    """Load whole tensors by name, cut to each process's share where the model is sharded."""
    if not sharded(model):
        model.load_state_dict(weights, strict=strict)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=strict))
