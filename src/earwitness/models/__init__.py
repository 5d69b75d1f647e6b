"""The only room that loads or calls a model. `connect` is its door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from earwitness.config import Model, Role, RunConfig, digest
from earwitness.models.places import ModelError, place_of

if TYPE_CHECKING:
    from earwitness.models.exchange import Sense, Voice
    from earwitness.models.local import LocalModel

SENSES: dict[Role, Sense] = {
    "teacher": "sight",
    "checker": "hearing",
    "student": "hearing",
    "describer": "hearing",
    "textual_teacher": "reading",
}


def connect(spec: Model, role: Role) -> Voice:
    """Open the model of a role. What it is shown is decided by the role: teachers see, checkers and students hear.

    Whoever is to answer from text alone is opened as `textual_teacher`, and is shown nothing. A served model asks for
    what the ledger of this process's desk does not know.
    """
    if spec.kind == "served":
        from earwitness.models.served.desk import current_desk
        from earwitness.models.served.voice import ServedModel

        return ServedModel(spec, SENSES[role], current_desk())
    return open_local(spec, role)


def open_local(spec: Model, role: Role, four_bit: bool = False) -> LocalModel:
    """Open a role's model in this process, to be trained or looked into.

    With `four_bit` its weights are kept in 4 bits, for adapters to be trained on. Raises ModelError for a served one.
    """
    if spec.kind == "served":
        raise ModelError(f"{role}: {spec.name} is behind a server, and is needed in this process: name a local model")
    from earwitness.models.loading import load
    from earwitness.models.local import LocalModel

    # A model in a folder is called by the folder's name: rows that say who wrote them hold no paths.
    name = Path(spec.name).name if Path(spec.name).is_dir() else spec.name
    return LocalModel(name, load(spec, four_bit), SENSES[role])


@lru_cache(maxsize=2)
def connected(spec: Model, role: Role) -> Voice:
    """Like `connect`, remembering the models used last in this process: a worker opens each once."""
    return connect(spec, role)


def weights_digest(configs: Sequence[RunConfig], folder_digest: Callable[[Path, list[str]], str]) -> str:
    """Return one digest (64 hex digits) of the files of all models that configurations name, served ones left out."""
    found: dict[str, set[str]] = {}
    for config in configs:
        for role, spec in config.models.items():
            if spec.kind != "served":
                found.setdefault(role, set()).add(fingerprint(spec, folder_digest))
    return digest({role: min(these) if len(these) == 1 else sorted(these) for role, these in found.items()}, 64)


def fingerprint(spec: Model, folder_digest: Callable[[Path, list[str]], str]) -> str:
    """Return what a model's rows are made from: the sha256 of its files, or the name and revision that are stated.

    `folder_digest(folder, patterns)` digests the files of a folder.
    """
    named = f"{spec.name}@{spec.revision or 'unstated'}"
    if spec.kind == "served":
        parts = [named, spec.adapter] if spec.adapter else [named]
    else:
        place = Path(place_of(spec))
        parts = [folder_digest(place, ["*.safetensors", "*.json"]) if place.is_dir() else named]
        if spec.adapter:
            parts.append(folder_digest(Path(spec.adapter), ["*.safetensors", "*.json"]))
    if spec.long_clips != "refuse":
        parts.append(spec.long_clips)  # clips are heard otherwise
    return "+".join(parts)
