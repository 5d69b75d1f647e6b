"""What every section of a configuration is made of."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def where(default: Any, **bounds: Any) -> Any:
    """A field that says where or how much: not part of the identity of what is made with it."""
    return Field(default, json_schema_extra={"identity": False}, **bounds)


def later(default: Any, **bounds: Any) -> Any:
    """A field that is younger than the first runs: part of the identity only where it departs from its default."""
    return Field(default, json_schema_extra={"identity": "departures"}, **bounds)


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide what is made, as plain JSON values."""
        told = self.model_dump(mode="json")
        kinds = {name: (f.json_schema_extra or {}) for name, f in type(self).model_fields.items()}
        young = {name for name, extra in kinds.items() if extra.get("identity") == "departures"}  # type: ignore[union-attr]
        left_out = {name for name, extra in kinds.items() if extra.get("identity") is False}  # type: ignore[union-attr]
        left_out |= {name for name in young if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in told.items() if name not in left_out}


def digest(value: Any, length: int = 12) -> str:
    """Return the first `length` hex digits of the sha256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
