"""What is wrong with a configuration, in words that say what would do."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from earwitness.config.base import Section
from earwitness.config.models import Model, Role
from earwitness.config.sections import SECTIONS, Columns, Exams, Questions, Train


def nearest(key: str, known: Any) -> str:
    """Return the end of a sentence about an unknown key: the nearest known one, or all of them."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _known_keys(location: tuple[Any, ...], top: list[str]) -> list[str]:
    if location[:1] == ("models",):
        return list(Model.model_fields) if len(location) > 2 else list(get_args(Role))
    if len(location) == 1:
        return top
    if location[:2] == ("questions", "columns"):
        return list(Columns.model_fields)
    sections: dict[Any, type[Section]] = {**SECTIONS, "questions": Questions, "exams": Exams, "train": Train}
    section = sections.get(location[0])
    return list(section.model_fields) if section else []


def explain(error: Any, top: list[str]) -> str:
    """Return one of pydantic's errors as a line; `top` are the keys at the top of a configuration."""
    location = tuple(p for p in error["loc"] if p != "[key]")
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        return f"  unknown key {key}{nearest(str(location[-1]), _known_keys(location, top))}"
    if location[:1] == ("models",) and error["type"] == "literal_error" and len(location) == 2:
        return f"  unknown role {key}{nearest(str(location[1]), get_args(Role))}"
    given = error.get("input")
    shown = "" if isinstance(given, dict | list | tuple) or error["type"] == "missing" else f" (got {given!r})"
    message = error["msg"].removeprefix("Value error, ")
    return f"  {key}: {message}{shown}" if key else f"  {message}"
