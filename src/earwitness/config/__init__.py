"""A run's configuration: one flat TOML file, validated, with every setting open to `section.key=value` overrides.

Each stage has the section of its own name. What a section says is the identity of what the stage makes, except the
fields marked `where` (they say where or how much, never what).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field, ValidationError, model_validator

from earwitness.config.base import Section, digest
from earwitness.config.explain import explain, nearest
from earwitness.config.models import Budget, Model, Role, Wire
from earwitness.config.sections import (
    SECTIONS,
    Answer,
    Ask,
    Columns,
    Describe,
    Distil,
    Exams,
    Grpo,
    Optimisation,
    PromptName,
    Questions,
    Sample,
    Select,
    Sft,
    Train,
    Verify,
    Vote,
)

__all__ = [
    "SECTIONS",
    "Answer",
    "Ask",
    "Budget",
    "Columns",
    "ConfigError",
    "Describe",
    "Distil",
    "Exams",
    "Grpo",
    "Model",
    "Optimisation",
    "PromptName",
    "Questions",
    "Role",
    "RunConfig",
    "Sample",
    "Section",
    "Select",
    "Sft",
    "Step",
    "Train",
    "Verify",
    "Vote",
    "Wire",
    "digest",
]


class ConfigError(Exception):
    """A configuration that cannot be run: the message says which key, why, and what would do."""


class Step(Section):
    """One step of an arm: a stage, and the keys of that stage's section that this step sets otherwise."""

    stage: Literal["sft", "grpo", "distil", "answer"]
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        if isinstance(value, dict) and "settings" not in value:
            rest = {k: v for k, v in value.items() if k != "stage"}
            return {"stage": value.get("stage"), "settings": rest}
        return value

    @model_validator(mode="after")
    def _known_settings(self) -> Step:
        known = SECTIONS[self.stage].model_fields
        for key in self.settings:
            if key not in known:
                raise ValueError(f"unknown key {key!r} in a step of stage {self.stage}{nearest(key, known)}")
        return self


class RunConfig(Section):
    """Everything one run is made of. Read it with `RunConfig.load`; see docs/configuration.md for each key."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 1
    pool: Literal["local", "ray"] = "local"
    shards: int = Field(0, ge=0)
    questions: Questions
    exams: Exams = Exams()
    models: dict[Role, Model]
    budget: Budget = Budget()
    ask: Ask = Ask()
    sample: Sample = Sample()
    vote: Vote = Vote()
    verify: Verify = Verify()
    select: Select = Select()
    sft: Sft = Sft()
    grpo: Grpo = Grpo()
    describe: Describe = Describe()
    distil: Distil = Distil()
    answer: Answer = Answer()
    train: Train = Train()
    arms: dict[str, tuple[Step, ...]] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _steps_are_whole(self) -> RunConfig:
        for arm, steps in self.arms.items():
            for number, step in enumerate(steps):
                try:
                    self.settings(step)
                except ValueError as error:
                    raise ValueError(f"arms.{arm}, step {number + 1}: {str(error).strip()}") from None
                if step.stage == "answer" and number != len(steps) - 1:
                    raise ValueError(f"arms.{arm}: an answer step must be the last one")
        for variant in self.variants:
            if variant == "default":
                raise ValueError("variants.default: 'default' is the run without overrides; give it another name")
        return self

    @classmethod
    def load(cls, path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
        """Read a TOML file and apply `section.key=value` overrides (values in TOML, bare words are strings).

        Raises ConfigError naming the file, the key and the nearest known key.
        """
        path = Path(path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no configuration at {path}") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
        return cls.parse(data, str(path), overrides)

    @classmethod
    def parse(cls, data: dict[str, Any], origin: str = "the configuration", overrides: Sequence[str] = ()) -> RunConfig:
        """Validate a plain dictionary with overrides, as `load` does; `origin` is named in errors."""
        for item in overrides:
            key, _, value = item.partition("=")
            if not _:
                raise ConfigError(f"override {item!r}: write section.key=value")
            _set(data, key.strip(), _toml_value(value.strip()))
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(
                f"{origin}:\n" + "\n".join(explain(e, list(cls.model_fields)) for e in error.errors())
            ) from None

    def to_toml(self) -> str:
        """Return the whole resolved configuration as TOML; `load` reads it back to an equal one."""
        data = self.model_dump(mode="json", exclude_none=True)
        data["arms"] = {
            arm: [{"stage": step.stage, **step.settings} for step in steps] for arm, steps in self.arms.items()
        }
        return tomli_w.dumps(data)

    def measured(self) -> str:
        """Return the sha256 of all that decides a run's results: not where it ran, nor how many processes it had."""
        parts = {name: part.identity() for name, part in self if isinstance(part, Section) and name != "ask"}
        parts = {name: identity for name, identity in parts.items() if identity}
        models = {role: model.identity() for role, model in self.models.items()}
        plain = self.model_dump(mode="json", include={"name", "seed", "arms", "variants"})
        limits = [self.questions.limit, self.exams.limit]
        return digest(plain | parts | {"models": models, "limits": limits}, 64)

    def variant(self, name: str) -> RunConfig:
        """Return the configuration of a variant: this one with the variant's overrides, and without variants."""
        data = self.model_dump(mode="json", by_alias=True) | {"variants": {}}
        for key, value in ({} if name == "default" else self.variants[name]).items():
            _set(data, key, value)
        return RunConfig.parse(data, f"variant {name}")

    def settings(self, step: Step) -> Section:
        """Return the section of a step's stage with the step's own keys set."""
        section: Section = getattr(self, step.stage)
        try:
            return type(section).model_validate(section.model_dump() | step.settings)
        except ValidationError as error:
            raise ValueError("; ".join(explain(e, []) for e in error.errors())) from None

    def model(self, role: Role) -> Model:
        """Return the model of a role, or raise ConfigError saying how to name one."""
        if role not in self.models:
            raise ConfigError(f"this run needs a {role}: add [models.{role}] with kind and name")
        return self.models[role]


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {dotted}: {parent} is not a section")
    data[last] = value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
