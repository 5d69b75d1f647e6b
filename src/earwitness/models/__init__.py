"""The only room that loads or calls a model. `connect` is its door."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from earwitness.config import Model, Role

if TYPE_CHECKING:
    from earwitness.models.local import LocalModel, Sense

SENSES: dict[Role, Sense] = {
    "teacher": "sight",
    "checker": "hearing",
    "student": "hearing",
    "describer": "hearing",
    "textual_teacher": "reading",
}


def connect(spec: Model, role: Role) -> LocalModel:
    """Open the model of a role. What it is shown is decided by the role: teachers see, checkers and students hear."""
    from earwitness.models.loading import ModelError, load
    from earwitness.models.local import LocalModel

    if spec.kind == "served":
        raise ModelError(
            f"{role}: served models are not built yet in this version; name a local one (kind = \"local\"), "
            "or rehearse this configuration with --rehearse"
        )
    return LocalModel(spec.name, load(spec), SENSES[role])


@lru_cache(maxsize=2)
def connected(spec: Model, role: Role) -> LocalModel:
    """Like `connect`, remembering the models used last in this process: a worker opens each once."""
    return connect(spec, role)
