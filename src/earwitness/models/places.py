"""Where a model lies. Needs neither torch nor transformers."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from earwitness.config import Model

CARD = "earwitness.json"  # how to speak to a model of ours: {"manner": "world" | "plain", "prompt": "think" | "direct"}


class ModelError(Exception):
    """A model that cannot be loaded or must not be: the message says which, why, and what would do."""


def place_of(spec: Model) -> str:
    """Return the folder or hub name behind a spec. Embedded models lie in the package."""
    if spec.kind == "world":
        folder = Path(str(resources.files("earwitness.world"))) / "weights" / spec.name
        if not (folder / "config.json").is_file():
            have = sorted(p.name for p in folder.parent.glob("*") if p.is_dir())
            raise ModelError(f"there is no embedded model {spec.name!r}; there are: {', '.join(have) or 'none'}")
        return str(folder)
    return spec.name


def card_of(folder: Path) -> dict[str, Any]:
    """Return what a model's folder says of how to speak to it; {} where it says nothing."""
    card = folder / CARD
    return dict(json.loads(card.read_text(encoding="utf-8"))) if card.is_file() else {}


def manner_of(spec: Model) -> str:
    """Return the manner in which a model is spoken to, without loading it."""
    if spec.kind == "served":
        return spec.manner
    return str(card_of(Path(spec.adapter or place_of(spec))).get("manner", "plain"))
