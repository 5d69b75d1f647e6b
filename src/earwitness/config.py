"""A run's configuration: one flat TOML file, validated, with every setting open to `section.key=value` overrides.

Each stage has the section of its own name. What a section says is the identity of what the stage makes, except the
fields marked `where` (they say where or how much, never what).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from earwitness.records import Pool

Role = Literal["teacher", "checker", "student", "describer", "textual_teacher"]
TrainingStage = Literal["sft", "grpo", "distil"]
PromptName = Literal["direct", "think", "given-trace"]


class ConfigError(Exception):
    """A configuration that cannot be run: the message says which key, why, and what would do."""


def where(default: Any, **bounds: Any) -> Any:
    """A field that says where or how much: not part of the identity of what is made with it."""
    return Field(default, json_schema_extra={"identity": False}, **bounds)


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide what is made, as plain JSON values."""
        fields = type(self).model_fields
        keep = {k for k, f in fields.items() if (f.json_schema_extra or {}).get("identity", True)}  # type: ignore[union-attr]
        return self.model_dump(mode="json", include=keep)


def digest(value: Any, length: int = 12) -> str:
    """Return the first `length` hex digits of the sha256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Questions(Section):
    """`train` feeds the data stages, `choose` picks checkpoints (by the teacher's labels unless `choose_by` says gold).

    Both list `source:selection` names; `limit` is the number of training questions (0: all of them).
    """

    train: Names
    choose: Names = ()
    limit: int = where(0, ge=0)
    choose_limit: int = Field(400, ge=0)
    choose_by: Literal["teacher", "gold"] = "teacher"
    media: tuple[str, ...] = where(())
    annotations: str = where("")


class Exams(Section):
    """Exams by name; `limit` questions of each (0: all of them), the same for every arm and training seed."""

    names: Names = ()
    limit: int = where(0, ge=0)


class Model(Section):
    """A model and where it runs: `world` (ships in the package), `local` (a transformers folder or hub name), `served`.

    `adapter` is a PEFT adapter's folder. `revision` is stated for hub and served models, whose weights we cannot hash.
    """

    kind: Literal["world", "local", "served"]
    name: str
    revision: str | None = None
    adapter: str | None = None
    base_url: str | None = where(None)
    profile: Literal["vllm", "sglang", "openai", "transformers-serve", "custom"] = where("vllm")
    api_key_env: str | None = where(None)
    concurrency: int = where(0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = where("auto")

    @model_validator(mode="after")
    def _served_has_a_place(self) -> Model:
        if self.kind == "served" and not self.base_url:
            raise ValueError("a served model needs base_url (for example http://localhost:8000/v1)")
        return self


class Sample(Section):
    """The teacher's chains of thought from silent frames: `traces` of them per question at `temperature`.

    `frames` are sampled evenly over the span by presentation time. `prompt` is `audio` (write what would be heard) or
    `plain` (an ordinary chain of thought).
    """

    traces: int = Field(4, ge=1)
    temperature: float = Field(0.7, ge=0)
    frames: int = Field(16, ge=1)
    max_tokens: int = Field(1024, ge=1)
    prompt: Literal["audio", "plain"] = "audio"


class Vote(Section):
    """Self-consistency: an answer is agreed on when its share of the votes is at least `share` (1.0: unanimous).

    `traces` reads only the first so many sampled traces (None: all of them).
    """

    traces: int | None = Field(None, ge=1)
    share: float = Field(1.0, gt=0, le=1)


class Verify(Section):
    """Audio-grounded fact verification: the checker judges each claimed sound (`claims`) or the whole `trace` at once.

    `source` says where claims come from: the list that the teacher's prompt asks for, or an `extracted` call to the
    teacher. A claim is heard when its score reaches `threshold`. Calibration mixes a known sound into a `calibrate`
    share of the clips, `level` decibels below the clip; `bank` is a folder of sound files named by what they hold.
    """

    unit: Literal["claims", "trace"] = "claims"
    source: Literal["listed", "extracted"] = "listed"
    threshold: float = Field(0.5, ge=0, le=1)
    accept_without_claims: bool = False
    calibrate: float = Field(0.05, ge=0, le=1)
    level: float = 0.0
    bank: str | None = None


class Select(Section):
    """Which traces become lessons: at most `traces` per question and pool (0: all of them)."""

    traces: int = Field(0, ge=0)


class Optimisation(Section):
    """Settings that every training stage has. Full fine-tuning or LoRA on the language model's linear layers.

    `batch` counts sequences (in `grpo`: questions) per optimizer step, `micro_batch` how many of them per forward
    pass (0: all). `candidates` checkpoints, evenly spaced, are compared on the `choose` questions (1: the last one).
    """

    steps: int = Field(200, ge=1)
    batch: int = Field(24, ge=1)
    micro_batch: int = where(0, ge=0)
    learning_rate: float = Field(5e-4, gt=0)
    warmup: float = Field(0.05, ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = Field(8, ge=1)
    lora_alpha: int = Field(16, ge=1)
    checkpoint_every: int = where(50, ge=1)
    candidates: int = Field(1, ge=1)


class Sft(Optimisation):
    """Supervised fine-tuning on a pool of lessons."""

    lessons: Pool = "verified"
    questions: int = Field(0, ge=0)


class Grpo(Optimisation):
    """Group-relative policy optimisation with verifiable rewards: agreement with the teacher's label, and format.

    `prompts` names the pool whose questions and labels are used; `group` samples are drawn per question;
    `filter_samples` drawn once per question before training drop the questions that the model always or never gets
    right (0: no filter), among `filter_questions` drawn from the pool (0: all).
    """

    steps: int = Field(60, ge=1)
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    prompts: Pool = "agreed"
    group: int = Field(8, ge=2)
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(1024, ge=1)
    updates: int = Field(1, ge=1)
    beta: float = Field(0.04, ge=0)
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    normalise: Literal["grpo", "dapo", "dr_grpo"] = "grpo"
    scale: Literal["group", "none"] = "group"
    keep_equal_groups: bool = False
    accuracy_weight: float = Field(1.0, ge=0)
    format_weight: float = Field(1.0, ge=0)
    checker_weight: float = Field(0.0, ge=0)
    filter_samples: int = Field(0, ge=0)
    filter_questions: int = Field(0, ge=0)


class Describe(Section):
    """Method two: the sound as text for the textual teacher (not built yet)."""

    source: Literal["model", "field", "oracle"] = "model"
    max_tokens: int = Field(512, ge=1)


class Distil(Optimisation):
    """Method two: joint training with a textual and an acoustic teacher, layer by layer (not built yet)."""

    lessons: Pool = "verified"
    match: Literal["representation", "distribution"] = "representation"
    layers: str = "all"
    text_weight: float = Field(1.0, ge=0)
    layer_weight: float = Field(0.05, ge=0)
    acoustic_weight: float = Field(0.05, ge=0)
    sft_weight: float = Field(0.5, ge=0)


class Answer(Section):
    """The exam sitting: who answers (`student` or `teacher`), under which prompt (None: the one it was trained on)."""

    examinee: Literal["student", "teacher"] = "student"
    prompt: PromptName | None = None
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(1024, ge=1)


class Train(Section):
    """Training seeds; `processes` per training step; `parallel` steps side by side (0: one a core, one on a GPU)."""

    seeds: tuple[int, ...] = (1,)
    processes: int = where(1, ge=1)
    parallel: int = where(0, ge=0)


SECTIONS: dict[str, type[Section]] = {
    "sample": Sample,
    "vote": Vote,
    "verify": Verify,
    "select": Select,
    "sft": Sft,
    "grpo": Grpo,
    "describe": Describe,
    "distil": Distil,
    "answer": Answer,
}
NOT_BUILT = ("describe", "distil")


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
                raise ValueError(f"unknown key {key!r} in a step of stage {self.stage}{_nearest(key, known)}")
        return self


class RunConfig(Section):
    """Everything one run is made of. Read it with `RunConfig.load`; see docs/configuration.md for each key."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 1
    questions: Questions
    exams: Exams = Exams()
    models: dict[Role, Model]
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
        for item in overrides:
            key, _, value = item.partition("=")
            if not _:
                raise ConfigError(f"override {item!r}: write section.key=value")
            _set(data, key.strip(), _toml_value(value.strip()))
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: dict[str, Any], origin: str = "the configuration") -> RunConfig:
        """Validate a plain dictionary; `origin` is named in errors."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"{origin}:\n" + "\n".join(_explain(e) for e in error.errors())) from None

    def to_toml(self) -> str:
        """Return the whole resolved configuration as TOML; `load` reads it back to an equal one."""
        data = self.model_dump(mode="json", exclude_none=True)
        data["arms"] = {
            arm: [{"stage": step.stage, **step.settings} for step in steps] for arm, steps in self.arms.items()
        }
        return tomli_w.dumps(data)

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
            raise ValueError("; ".join(_explain(e) for e in error.errors())) from None

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


def _nearest(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    if location[:1] == ("models",):
        return list(Model.model_fields) if len(location) > 2 else list(get_args(Role))
    section: Any = RunConfig
    for part in location[:-1]:
        section = SECTIONS.get(part) or {"questions": Questions, "exams": Exams, "train": Train}.get(part)
    return list(section.model_fields) if section else []


def _explain(error: Any) -> str:
    location = tuple(p for p in error["loc"] if p != "[key]")
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        return f"  unknown key {key}{_nearest(str(location[-1]), _known_keys(location))}"
    if location[:1] == ("models",) and error["type"] == "literal_error" and len(location) == 2:
        return f"  unknown role {key}{_nearest(str(location[1]), get_args(Role))}"
    given = error.get("input")
    shown = "" if isinstance(given, dict | list | tuple) or error["type"] == "missing" else f" (got {given!r})"
    message = error["msg"].removeprefix("Value error, ")
    return f"  {key}: {message}{shown}" if key else f"  {message}"
