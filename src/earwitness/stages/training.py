"""What the training stages share: the job that travels to a worker, the model it starts from, the checkpoint it leaves."""

from __future__ import annotations

import copy
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from earwitness.config import Model, Optimisation
from earwitness.records import Checkpoint, Lesson, Question
from earwitness.run import Run
from earwitness.table import RunError

if TYPE_CHECKING:
    from earwitness.learn.tree import Packed
    from earwitness.models.local import LocalModel

FINAL = "final"
LINEAR = r"\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class TrainingJob:
    """One training step: all that decides its outcome, and the folder it leaves its checkpoint in.

    `base` is the model as shipped, `parent` the checkpoint it goes on from (None: the base). `material` holds the
    (question, lesson) pairs; in `grpo` the lesson's answer is the label that is rewarded. `choose` holds the labelled
    questions by which one of several candidate checkpoints is kept.
    """

    stage: Literal["sft", "grpo"]
    settings: Optimisation
    base: Model
    parent: Checkpoint | None
    material: tuple[tuple[Question, Lesson], ...]
    seed: int
    folder: Path
    key: str
    choose: tuple[tuple[Question, str], ...] = ()


def student_spec(base: Model, checkpoint: Checkpoint | None) -> Model:
    """Return the spec that loads a checkpoint (or the base where there is none)."""
    if checkpoint is None:
        return base
    if checkpoint.kind == "adapter":
        return base.model_copy(update={"adapter": checkpoint.path})
    return base.model_copy(update={"kind": "local", "name": checkpoint.path, "revision": None, "adapter": None})


def train(job: TrainingJob) -> dict[str, Any]:
    """Run a job in this process, from its last complete checkpoint if there is one, and return its facts.

    A finished job is not run again. Raises DeafModel where the sound does not reach the loss.
    """
    done = Run.finished(job.folder)
    if done is not None:
        return done
    job.folder.mkdir(parents=True, exist_ok=True)
    with _alone(job.folder):
        from earwitness.stages.grpo import practise
        from earwitness.stages.sft import learn_lessons

        facts = {"sft": learn_lessons, "grpo": practise}[job.stage](job)
        Run.finish(job.folder, facts)
        for leftover in job.folder.glob("checkpoint-*"):
            shutil.rmtree(leftover)
    return facts


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a training folder's lock, so that a step started by hand and one of the driver never write together."""
    with (folder / "training.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{folder} is being trained by another process: wait for it or stop it") from None
        yield


@dataclass
class Student:
    """The model that is trained, and how its parent checkpoint scores a batch (None where no reference is needed)."""

    local: LocalModel
    reference: Callable[[Packed], Any] | None


def open_student(job: TrainingJob, temperature: float = 1.0, with_reference: bool = False) -> Student:
    """Load what the job starts from, put it under the job's tuning, and keep its parent as reference if asked.

    The reference is always the parent checkpoint: from an adapter a frozen copy of that adapter (switching it off
    would give the base), from a full model under LoRA the adapter switched off, under full tuning a frozen copy.
    """
    import torch

    from earwitness.learn.losses import token_logprobs
    from earwitness.models import connect

    torch.manual_seed(job.seed)
    from_adapter = job.parent is not None and job.parent.kind == "adapter"
    local = connect(student_spec(job.base, None if from_adapter else job.parent), "student")
    reference: Callable[[Packed], Any] | None = None
    if job.settings.tuning == "full":
        if from_adapter:
            local = connect(student_spec(job.base, job.parent), "student")
            local.model = local.model.merge_and_unload()
        if with_reference:
            frozen = copy.deepcopy(local.model).requires_grad_(False)
            reference = lambda batch: token_logprobs(frozen, batch, temperature)  # noqa: E731
    else:
        local.model = _under_lora(local, job)
        if with_reference:
            reference = _adapter_reference(local.model, from_adapter, temperature)
    for parameter in local.model.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    local.model.train()
    return Student(local, reference)


def _under_lora(local: LocalModel, job: TrainingJob) -> Any:
    from peft import LoraConfig, get_peft_model

    from earwitness.models.loading import attach_adapter

    if job.parent is not None and job.parent.kind == "adapter":
        model = attach_adapter(local.model, job.parent.path, trainable=True)
        return attach_adapter(model, job.parent.path, "reference")
    config = LoraConfig(
        r=job.settings.lora_rank,
        lora_alpha=job.settings.lora_alpha,
        target_modules=local.family.language_model + LINEAR,
    )
    return get_peft_model(local.model, config)


def _adapter_reference(model: Any, from_adapter: bool, temperature: float) -> Callable[[Packed], Any]:
    from earwitness.learn.losses import token_logprobs

    def score(batch: Packed) -> Any:
        if not from_adapter:
            with model.disable_adapter():
                return token_logprobs(model, batch, temperature)
        model.set_adapter("reference")
        try:
            return token_logprobs(model, batch, temperature)
        finally:
            model.set_adapter("default")

    return score


def fit(
    job: TrainingJob, student: Student, objective: Any, plan: Callable[[int], Sequence[Any]], round_steps: int = 1
) -> None:
    """Train with the one trainer. Checkpoints fall on multiples of `round_steps` (whole rollout rounds)."""
    import transformers

    from earwitness.learn.trainer import Schedule, Trainer

    transformers.logging.set_verbosity_error()
    s = job.settings
    every = max(1, s.steps // s.candidates) if s.candidates > 1 else s.checkpoint_every
    schedule = Schedule(
        steps=s.steps,
        learning_rate=s.learning_rate,
        warmup=s.warmup,
        schedule=s.schedule,
        weight_decay=s.weight_decay,
        clip=s.clip,
        checkpoint_every=-(-every // round_steps) * round_steps,
        keep_all=s.candidates > 1,
        accumulation=-(-s.batch // s.micro_batch) if s.micro_batch else 1,
        seed=job.seed,
    )
    Trainer(student.local.model, objective, plan, schedule, job.folder).fit()


def settle(job: TrainingJob, student: Student, prompt: str) -> dict[str, Any]:
    """Keep the best candidate (the last one where there is nothing to choose by), save it, and say what was chosen."""
    chosen: dict[str, Any] = {}
    if job.settings.candidates > 1 and job.choose:
        from earwitness.stages.choose import keep_best

        chosen = keep_best(student.local, job.folder, prompt, job.choose)
    save(job, student, prompt)
    return chosen


def save(job: TrainingJob, student: Student, prompt: str) -> None:
    """Write the final model with all that is needed to ask it: tokenizer, feature extractor, and how to speak to it."""
    from earwitness.models.loading import CARD

    final = job.folder / FINAL
    partial = job.folder / "final.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model = student.local.model
    if hasattr(model, "peft_config"):
        model.save_pretrained(partial, selected_adapters=["default"])
    else:
        model.save_pretrained(partial)
    student.local.tokenizer.save_pretrained(partial)
    student.local.extractor.save_pretrained(partial)
    card = {"manner": student.local.manner, "prompt": prompt}
    (partial / CARD).write_text(json.dumps(card) + "\n", encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def checkpoint_of(job: TrainingJob) -> Checkpoint:
    """Return the record of the checkpoint that a job leaves."""
    kind: Literal["full", "adapter"] = "adapter" if job.settings.tuning == "lora" else "full"
    parent = job.parent.key if job.parent else job.base.name
    return Checkpoint(key=job.key, path=str(job.folder / FINAL), kind=kind, parent=parent)
