"""The sections of a run's configuration: every setting, its bounds, and what it means."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from earwitness.config.base import Names, Section, later, where
from earwitness.records import Pool

PromptName = Literal["direct", "think", "plain", "given-trace"]


class Columns(Section):
    """What a table (`table:PATH`, `hf:NAME`) calls what a question has; None: as here, where it has such a column.

    `choices` is one column with lists, or several with a choice each; `tags` maps a tag's name to a column.
    """

    id: str | None = None
    media: str | None = None
    start: str | None = None
    end: str | None = None
    question: str | None = None
    choices: str | tuple[str, ...] | None = None
    answer: str | None = None
    think: str | None = None
    description: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)


class Questions(Section):
    """`train` feeds the data stages, `choose` picks checkpoints (by the teacher's labels unless `choose_by` says gold).

    Both list `source:selection` names; `limit` is the number of training questions (0: all of them). `media` are the
    folders of clips, or patterns of file names such as `clips/{media}*.mp4`; `annotations` is a published set's file,
    with `{split}` and `{source}` in its name; `unpack` a folder for sound that a table holds within itself. `reword`
    asks about the audio where AVQA asks about the video.
    """

    train: Names
    choose: Names = ()
    limit: int = where(0, ge=0)
    choose_limit: int = Field(400, ge=0)
    choose_by: Literal["teacher", "gold"] = "teacher"
    media: tuple[str, ...] = where(())
    annotations: str = where("")
    unpack: str = where("")
    reword: bool = later(True)
    columns: Columns = later(Columns())


class Exams(Section):
    """Exams by name; `limit` questions of each (0: all of them), the same for every arm and training seed.

    Those named in `both_ways` are asked directly and after thinking, whatever an arm was trained on. `annotations` has
    the file with a benchmark's questions by the exam's name, `media` the folders of clips, or patterns with `{media}`.
    """

    names: Names = ()
    both_ways: Names = ()
    limit: int = where(0, ge=0)
    annotations: dict[str, str] = where({})
    media: tuple[str, ...] = where(())


class Ask(Section):
    """Questions of the teacher's own about clips that have none: `questions` of them a clip, each with `choices`.

    Clips longer than `span` seconds are cut into spans of that length (0: never), and a rest of less than a second is
    left out. The same model is then asked each
    question `blind` times without seeing anything, and those that it answers right every time are dropped (0: none).
    """

    questions: int = Field(3, ge=1)
    choices: int = Field(4, ge=2, le=8)
    span: float = Field(0.0, ge=0)
    blind: int = Field(2, ge=0)
    temperature: float = Field(0.7, ge=0)
    frames: int = Field(16, ge=1)
    max_tokens: int = Field(1024, ge=1)


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
    `noise` mixes white noise into all that the checker hears, so many decibels above the clip (None: none): a control,
    for seeing what a worse checker costs.
    """

    unit: Literal["claims", "trace"] = "claims"
    source: Literal["listed", "extracted"] = "listed"
    threshold: float = Field(0.5, ge=0, le=1)
    accept_without_claims: bool = False
    calibrate: float = Field(0.05, ge=0, le=1)
    level: float = 0.0
    bank: str | None = None
    noise: float | None = None


class Select(Section):
    """Which traces become lessons: at most `traces` per question and pool (0: all of them)."""

    traces: int = Field(0, ge=0)


class Optimisation(Section):
    """Settings that every training stage has.

    `tuning` is `full`, `lora` (on the linear layers of the language model), or `qlora` (the same on a base in 4 bits;
    needs a CUDA GPU). `audio_tower` is `frozen` or `trained`; `auto` trains it under full tuning, `trained` under LoRA
    puts adapters on it, too. `precision` of the arithmetic: `auto` is bfloat16 on GPUs and float32 on CPUs.
    `activation_checkpointing` computes activations again instead of keeping them: slower, and far less memory.
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
    tuning: Literal["full", "lora", "qlora"] = "full"
    lora_rank: int = Field(8, ge=1)
    lora_alpha: int = Field(16, ge=1)
    audio_tower: Literal["auto", "frozen", "trained"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    activation_checkpointing: bool = where(False)
    checkpoint_every: int = where(50, ge=1)
    candidates: int = Field(1, ge=1)


class Sft(Optimisation):
    """Supervised fine-tuning on a pool of lessons.

    Up to `together` lessons of a step are of one clip: they share its sound and, where they can, its question, and so
    cost little more than one.
    """

    lessons: Pool = "verified"
    together: int = Field(1, ge=1)
    questions: int = Field(0, ge=0)


class Grpo(Optimisation):
    """Group-relative policy optimisation with verifiable rewards: agreement with the teacher's label, and format.

    With `checker_weight` the checker listens, too: it rewards a sample of which it hears every claim, by the rules of
    `verify`.
    `prompts` names the pool whose questions and labels are used; `group` samples are drawn per question;
    `filter_samples` drawn once per question before training drop the questions that the model always or never gets
    right (0: no filter), among `filter_questions` drawn from the pool (0: all).
    `rollouts` are drawn in the process that trains (`local`) or by the server at models.student.base_url (`served`),
    which is given each step's adapter, or under full tuning reloads the weights every `reload_every` steps; there each
    token's importance ratio between trainer and server corrects the gradient, at most by `importance_cap`.
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
    rollouts: Literal["local", "served"] = later("local")
    reload_every: int = later(1, ge=1)
    importance_cap: float = later(2.0, gt=0)


class Describe(Section):
    """Method two: the sound as text, for a teacher that reads.

    `source` says who describes: the `describer` model listens (`model`), the caption within the reasoning that the
    data carries (`caption`), a description that the data carries (`field`), or the truth about a scene of the embedded
    world (`oracle`: a control, marked as such wherever it is shown).
    """

    source: Literal["model", "caption", "field", "oracle"] = "model"
    max_tokens: int = Field(512, ge=1)


class Witness(Section):
    """A teacher in `distil`: which model, what it is shown, and its weight in the product that the student learns."""

    model: Literal["textual_teacher"] = "textual_teacher"
    sees: Literal["description", "nothing"] = "description"
    weight: float = 1.0


LayerChoice = Annotated[str, Field(pattern=r"^(all|1 in [1-9][0-9]*)$")] | tuple[Annotated[int, Field(ge=1)], ...]


class Distil(Optimisation):
    """Method two: joint training by a textual teacher, an acoustic teacher and the lessons themselves.

    The loss is `text_weight` text_kd + `layer_weight` layer_kd + `acoustic_weight` acoustic_kd + `sft_weight` ce.
    `divergence` is between the teacher's and the student's next-token distributions at `softness` (a temperature);
    `mixture` is the teacher's share in `jsd`. With `top_k` the teacher's k likeliest tokens are compared one by one
    and the rest as one (0: all). Layers count from 1: `all`, `1 in 7` (7, 14, ...), or a list; `teacher_layers`
    pairs the student's layers by hand, where depth alone would. `match` says what is compared there: hidden states
    through a learned projection (`representation`, by `distance`) or next-token distributions through each model's
    own head (`distribution`). Under `handover` layer_kd fades out over the first `handover` share of the steps,
    while text_kd fades in. `signals` are the teacher's: computed when needed (`live`) or once before training
    (`ahead`).
    """

    lessons: Pool = "verified"
    together: int = Field(1, ge=1)
    questions: int = Field(0, ge=0)
    witnesses: tuple[Witness, ...] = Field((Witness(),), min_length=1)
    divergence: Literal["jsd", "forward", "reverse"] = "jsd"
    mixture: float = Field(0.5, gt=0, lt=1)
    softness: float = Field(1.0, gt=0)
    top_k: int = Field(0, ge=0)
    match: Literal["representation", "distribution"] = "representation"
    distance: Literal["cosine", "mse"] = "cosine"
    layers: LayerChoice = "all"
    teacher_layers: tuple[Annotated[int, Field(ge=1)], ...] = ()
    layer_weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    acoustic_layers: LayerChoice = "all"
    layer_schedule: Literal["constant", "handover"] = "constant"
    handover: float = Field(0.1, gt=0, le=1)
    projection_learning_rate: float = Field(1e-3, gt=0)
    signals: Literal["live", "ahead"] = "live"
    text_weight: float = Field(1.0, ge=0)
    layer_weight: float = Field(0.05, ge=0)
    acoustic_weight: float = Field(0.05, ge=0)
    sft_weight: float = Field(0.5, ge=0)

    @model_validator(mode="after")
    def _goes_together(self) -> Distil:
        if not (self.text_weight or self.layer_weight or self.acoustic_weight or self.sft_weight):
            raise ValueError("every weight of distil is 0: there is nothing to learn")
        if len(self.witnesses) > 1 or self.witnesses[0].weight != 1:
            raise ValueError("witnesses: several of them, or one of a weight other than 1, are not built yet")
        if self.signals == "ahead" and not self.top_k:
            raise ValueError('signals = "ahead" keeps the likeliest tokens only: set distil.top_k (64, for example)')
        if self.layer_schedule == "handover" and not (self.text_weight and self.layer_weight):
            raise ValueError('layer_schedule = "handover" needs text_weight and layer_weight above 0')
        return self

    @property
    def reads(self) -> bool:
        """Whether any term needs the textual teacher."""
        return self.text_weight > 0 or self.layer_weight > 0


class Answer(Section):
    """The exam sitting: who answers, under which prompt (None: the one it was trained on).

    A teacher that thinks is asked what would be heard, or under `plain` for an ordinary chain of thought. Under
    `given-trace` the student answers at once, and is told what the teacher thought.
    `sees` is what it is asked about: the `clip` itself, or text in its place, which any examinee can read: the
    `description` of the describe stage, or the `oracle`'s (a control). At a `temperature` above 0 only the `top_k`
    likeliest tokens are drawn (0: all), and of those only as many as together reach `top_p` of the probability.
    """

    examinee: Literal["student", "teacher", "textual_teacher"] = "student"
    sees: Literal["clip", "description", "oracle"] = "clip"
    prompt: PromptName | None = None
    temperature: float = Field(0.0, ge=0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1)


class Train(Section):
    """Training seeds; `processes` per training step; `parallel` steps side by side (0: one a core, one on a GPU).

    Where `processes` is above 1, `accelerate launch` starts them with the accelerate config named by `launcher` (empty:
    the user's own). `trackers` are told every step: `tensorboard`, `wandb`, `trackio`, `mlflow`, ...
    """

    seeds: tuple[int, ...] = (1,)
    processes: int = where(1, ge=1)
    parallel: int = where(0, ge=0)
    launcher: str = where("")
    trackers: Names = where(())


SECTIONS: dict[str, type[Section]] = {
    "ask": Ask,
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
