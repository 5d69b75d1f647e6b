"""Asking one model about one file."""

from __future__ import annotations

import json
import re
from pathlib import Path

from earwitness.answers import read
from earwitness.config import ConfigError, Model
from earwitness.models import open_local
from earwitness.models.exchange import Drawing, Prompt
from earwitness.prompts import question_prompt
from earwitness.records import Clip
from earwitness.run import ARMS
from earwitness.terminal import clean

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def ask(
    model: str,
    file: Path,
    question: str,
    choices: tuple[str, ...] | None = None,
    span: tuple[float, float | None] = (0.0, None),
    prompt: str | None = None,
    max_tokens: int = 256,
) -> str:
    """Return what a model says about a sound or video file, and the answer that is read from it, as text.

    `model` is `world:student`, a model's or adapter's folder, or `RUN/ARM` of a finished run; `span` is in seconds.
    """
    spec = model_spec(model)
    if choices is not None and len(choices) < 2:
        raise ConfigError(f"--choices {', '.join(choices)}: give at least two, separated by commas, or none at all")
    if not file.is_file():
        raise ConfigError(f"there is no file {file}")
    student = open_local(spec, "student")
    name = prompt or student.trained_prompt or "direct"
    text = question_prompt(student.manner, name, question, choices)
    clip = Clip(id=file.name, media=str(file.resolve()), start=span[0], end=span[1])
    (said,) = student.draw_roots([student.encode(Prompt(text, clip))], Drawing(max_tokens=max_tokens), [()])[0]
    answer = read(said.text, choices).answer
    return f"{clean(said.text)}\n\nanswer: {clean(answer) if answer is not None else 'none that can be read'}"


def model_spec(name: str) -> Model:
    """Return the spec of a model that a person names: what is no folder and no run's arm may be a name of the hub."""
    if name.startswith("world:"):
        return Model(kind="world", name=name.removeprefix("world:"))
    folder = Path(name)
    if (folder / "adapter_config.json").is_file():
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        spec = model_spec(base) if base.startswith("world:") else Model(kind="local", name=base)
        return spec.model_copy(update={"adapter": name})
    if (folder / "config.json").is_file():
        return Model(kind="local", name=name)
    arms = folder.parent / ARMS
    if arms.is_file():
        table = json.loads(arms.read_text(encoding="utf-8"))
        if folder.name in table:
            return _placed(Model.model_validate(table[folder.name]), folder.parent)
        raise ConfigError(f"the run {folder.parent} has no arm {folder.name!r}; it has {', '.join(sorted(table))}")
    if HUB_NAME.fullmatch(name) and not folder.exists() and not folder.parent.exists():
        return Model(kind="local", name=name)
    raise ConfigError(
        f"{name} is neither world:NAME, nor a model's folder, nor RUN/ARM of a finished run, nor a name of the hub"
    )


def _placed(spec: Model, run: Path) -> Model:
    """Resolve a checkpoint's place, which a run's list of arms gives relative to the run."""
    named = {
        key: str(run / value) for key in ("name", "adapter") if (value := getattr(spec, key)) and (run / value).is_dir()
    }
    return spec.model_copy(update=named)
