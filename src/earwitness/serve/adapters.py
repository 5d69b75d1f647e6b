"""Where adapters and weights may be read from, which model an adapter is for, and whether it fits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earwitness.models.places import ModelError
from earwitness.serve.refusals import Refused


class Folders:
    """The folders below which requests may name weights: none unless the server was started with them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._allowed = [folder.resolve() for folder in folders]

    def allowed(self, path: str) -> Path:
        """Return the folder that a request names. Raises Refused, saying nothing of what lies elsewhere."""
        try:
            folder = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):
            raise Refused("the path cannot be read") from None
        if not any(folder.is_relative_to(allowed) for allowed in self._allowed):
            raise Refused("weights are read only from below the folders that the server was started with (--adapters)")
        if not folder.is_dir():
            raise Refused(f"there is no folder {path}")
        return folder


def base_named(folder: Path, named: str | None, bases: Mapping[str, str]) -> str:
    """Return the served model that an adapter is put on: the one named, or the one it says it was made for.

    `bases` are the served models and what each was loaded from.
    """
    if named is not None:
        if named not in bases:
            raise Refused(f"there is no model {named!r}; there are: {', '.join(bases)}", 404, "model_not_found")
        return named
    if len(bases) == 1:
        return next(iter(bases))
    try:
        made_for = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused("the folder holds no adapter_config.json that can be read") from None
    found = [name for name, base in bases.items() if base == made_for]
    if len(found) != 1:
        raise Refused(f"the adapter does not say for which of {', '.join(bases)} it is: name it as base_model_name")
    return found[0]


def refuse_partial(model: Any, adapter: str, folder: Path) -> None:
    """Raise ModelError unless a folder holds every tensor of an adapter and no other: PEFT only warns of either."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        astray = set(file.keys()) ^ set(get_peft_model_state_dict(model, adapter_name=adapter))
    if astray:
        raise ModelError(f"the adapter was made for another model: {len(astray)} tensors are missing or astray")


def undress(model: Any) -> None:
    """Take away what PEFT put into a model of transformers before it failed."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            model.set_submodule(name, module.get_base_layer())
    vars(model).pop("peft_config", None)
