"""What the training stages share: the job that travels to a worker, the model it starts from, what it leaves."""

from __future__ import annotations

import copy
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from earwitness.config import Model, Optimisation
from earwitness.records import Checkpoint, Lesson, Question
from earwitness.run import Run
from earwitness.stages.workbench import StageError, free_memory, release_models
from earwitness.table import RunError

if TYPE_CHECKING:
    from earwitness.learn.tree import Packed
    from earwitness.models.local import LocalModel

FINAL = "final"
FULL_DISK = ("No space left", "File too large", "quota exceeded", "PytorchStreamWriter failed")  # as libraries word it
LINEAR = r"\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class TrainingJob:
    """One training step: all that decides its outcome, and the folder it leaves its checkpoint in.

    `base` is the model as shipped, `parent` the checkpoint it goes on from (None: the base). `material` holds the
    (question, lesson) pairs; in `grpo` the lesson's answer is the label that is rewarded. `choose` holds the labelled
    questions by which one of several candidate checkpoints is kept, answering in `answer_tokens` at most.
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
    answer_tokens: int = 1024


def student_spec(base: Model, checkpoint: Checkpoint | None) -> Model:
    """Return the spec that loads a checkpoint (or the base where there is none)."""
    if checkpoint is None:
        return base
    if checkpoint.kind == "adapter":
        return base.model_copy(update={"adapter": checkpoint.path})
    return base.model_copy(update={"kind": "local", "name": checkpoint.path, "revision": None, "adapter": None})


def train(job: TrainingJob) -> dict[str, Any]:
    """Run a job in this process, from its last complete checkpoint if there is one, and return its facts.

    A finished job is not run again. Several processes of one launcher train it together. Raises DeafModel where the
    sound does not reach the loss, RunError where the disk is full or another process trains the same job.
    """
    done = finished(job)
    if done is not None:
        return done
    job.folder.mkdir(parents=True, exist_ok=True)
    release_models()
    _take_device()
    with _alone(job.folder) if first_process() else nullcontext(), _room_on_disk(job.folder):
        from earwitness.stages.grpo import practise
        from earwitness.stages.sft import learn_lessons

        facts = {"sft": learn_lessons, "grpo": practise}[job.stage](job)
        if first_process():
            Run.finish(job.folder, facts)
            finished(job)
    free_memory()
    return facts


def finished(job: TrainingJob) -> dict[str, Any] | None:
    """Return the facts of a finished job (None: not finished), and clear what a kill at its very end left behind."""
    done = Run.finished(job.folder)
    if done is not None and first_process():
        for leftover in job.folder.glob("checkpoint-*"):
            shutil.rmtree(leftover)
    return done


def told(facts: dict[str, Any]) -> str:
    """Return a finished job's facts as a sentence."""
    heard = facts["deaf_test"]
    parts = [f"another sound moves what it learns by up to {heard['change']:.2g} nats"]
    if "chosen_step" in facts:
        parts.append(f"step {facts['chosen_step']} was kept of {', '.join(facts['agreement'])}")
    if facts.get("left_out"):
        parts.append(f"{facts['left_out']} draws could not be shown to it ({facts['why']})")
    return "; ".join(parts)


def processes() -> int:
    """Return how many processes of one launcher (accelerate, torchrun) train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_process() -> bool:
    """Whether this is the process that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def _take_device() -> None:
    """Let each process of a launcher work on its own GPU."""
    import torch

    if processes() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def _room_on_disk(folder: Path) -> Iterator[None]:
    """Turn the libraries' many ways of saying that the disk is full into one error."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not full and not any(words in str(error) for words in FULL_DISK):
            raise
        raise RunError(
            f"{folder} could not be written: the disk is full. Make room on it, and the same command goes on from "
            "the last complete checkpoint"
        ) from error


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
    from earwitness.models.loading import merge_adapter

    torch.manual_seed(job.seed)
    from_adapter = job.parent is not None and job.parent.kind == "adapter"
    local = connect(student_spec(job.base, None if from_adapter else job.parent), "student")
    reference: Callable[[Packed], Any] | None = None
    if job.settings.tuning == "full":
        if from_adapter:
            assert job.parent is not None
            local.model = merge_adapter(local.model, job.parent.path)
        if with_reference:
            frozen = copy.deepcopy(_widened(local.model)).requires_grad_(False)  # of the same precision: KL 0 at first
            reference = lambda batch: token_logprobs(frozen, batch, temperature)  # noqa: E731
    else:
        local.model = _under_lora(local, job)
        if with_reference:
            reference = _adapter_reference(local.model, from_adapter, temperature)
    _widened(local.model).train()
    return Student(local, reference)


def _widened(model: Any) -> Any:
    """Put what is trained into 32 bits: small steps would be lost in 16."""
    for parameter in model.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    return model


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
    job: TrainingJob,
    student: Student,
    objective: Any,
    plan: Callable[[int], Sequence[Any]],
    size: int,
    round_steps: int = 1,
) -> None:
    """Train with the one trainer on steps of `size` items. Checkpoints fall on whole rounds of `round_steps`."""
    import transformers

    from earwitness.learn.trainer import Schedule, Trainer

    transformers.logging.set_verbosity_error()
    s = job.settings
    every = -(-s.steps // s.candidates) if s.candidates > 1 else s.checkpoint_every
    schedule = Schedule(
        steps=s.steps,
        learning_rate=s.learning_rate,
        warmup=s.warmup,
        schedule=s.schedule,
        weight_decay=s.weight_decay,
        clip=s.clip,
        checkpoint_every=-(-every // round_steps) * round_steps,
        keep_all=s.candidates > 1,
        accumulation=_accumulation(size, s.micro_batch),
        seed=job.seed,
    )
    Trainer(student.local.model, objective, plan, schedule, job.folder).fit()


def _accumulation(size: int, micro_batch: int) -> int:
    """Return how many micro-batches each process cuts its share of a step into."""
    if size < processes():
        raise StageError(f"a step of {size} questions cannot be shared by {processes()} processes: use fewer processes")
    wanted = -(-size // (micro_batch * processes())) if micro_batch else 1
    return min(wanted, size // processes())


def left_out(folder: Path) -> int:
    """Return how many draws of a training could not be shown to the student, as its log counts them."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(int(json.loads(line).get("left_out", 0)) for line in lines)


def settle(job: TrainingJob, student: Student, prompt: str) -> dict[str, Any]:
    """Keep the best candidate (the last one where there is nothing to choose by), save it, and say what was chosen."""
    chosen: dict[str, Any] = {}
    if not first_process():
        return chosen
    if job.settings.candidates > 1 and job.choose:
        from earwitness.stages.choose import keep_best

        chosen = keep_best(student.local, job.folder, prompt, job.choose, job.answer_tokens)
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
