"""Where a model lies. Needs neither torch nor transformers."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from earwitness.config import Model


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
