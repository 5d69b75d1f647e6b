"""What the training stages share: the job that travels to a worker, the model it starts from, what it leaves."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from earwitness.config import Budget, Grpo, Model, Optimisation, Verify
from earwitness.launcher import in_shards
from earwitness.models.served.desk import desk_of_worker
from earwitness.records import Checkpoint, Lesson, Question
from earwitness.run import Run
from earwitness.stages.student import FINAL, Student, save
from earwitness.stages.workbench import StageError, free_memory, release_models
from earwitness.table import RunError

if TYPE_CHECKING:
    import torch

    from earwitness.learn.beside import Beside

SIGNALS = "signals"  # in a step's folder: what a textual teacher said ahead
NO_MEMORY = "can't allocate memory"  # as torch says it of the CPU's
# How libraries say that the disk is full.
FULL_DISK = (
    "No space left",
    "File too large",
    "quota exceeded",
    "PytorchStreamWriter failed",
    "iostream error",
    "unexpected pos",
)


@dataclass(frozen=True)
class TrainingJob:
    """One training step: all that decides its outcome, and the folder it leaves its checkpoint in.

    `base` is the model as shipped, `parent` the checkpoint it goes on from (None: the base). `material` holds the
    (question, lesson) pairs; in `grpo` the lesson's answer is the label that is rewarded. `choose` holds the labelled
    questions by which one of several candidate checkpoints is kept, answering in `answer_tokens` at most. `trackers`
    are told every step. In `distil` the `textual_teacher` reads `descriptions`, by question id; in `grpo` the `checker`
    listens, where its verdict is rewarded, and where it is served, within the `budget`.
    """

    stage: Literal["sft", "grpo", "distil"]
    settings: Optimisation
    base: Model
    parent: Checkpoint | None
    material: tuple[tuple[Question, Lesson], ...]
    seed: int
    folder: Path
    key: str
    choose: tuple[tuple[Question, str], ...] = ()
    answer_tokens: int = 1024
    trackers: tuple[str, ...] = ()
    textual_teacher: Model | None = None
    descriptions: tuple[tuple[str, str], ...] = ()
    checker: tuple[Model, Verify] | None = None
    budget: Budget = field(default_factory=Budget)


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
    alone = _alone(job.folder) if first_process() else nullcontext()
    with alone, _room_on_disk(job.folder), _room_in_memory(job), _desk(job):
        from earwitness.stages.distil import learn_jointly
        from earwitness.stages.grpo import practise
        from earwitness.stages.sft import learn_lessons

        facts = {"sft": learn_lessons, "grpo": practise, "distil": learn_jointly}[job.stage](job)
        if first_process():
            Run.finish(job.folder, facts)
            finished(job)
    free_memory()
    return facts


def _desk(job: TrainingJob) -> AbstractContextManager[object]:
    """Open the budget, and what servers' answers are kept in: each process has a ledger of its own."""
    checks = job.checker is not None and job.checker[0].kind == "served"
    reads = job.textual_teacher is not None and job.textual_teacher.kind == "served"
    draws = isinstance(job.settings, Grpo) and job.settings.rollouts == "served"
    if not (checks or reads or draws):
        return nullcontext()
    part = f".{job.folder.name}.{os.environ.get('RANK', '0')}"
    return desk_of_worker(job.folder.parent.parent, job.budget, part)


def finished(job: TrainingJob) -> dict[str, Any] | None:
    """Return the facts of a finished job (None: not finished), and clear what was only needed on the way."""
    done = Run.finished(job.folder)
    if done is not None and first_process():
        for leftover in [*job.folder.glob("checkpoint-*"), job.folder / SIGNALS]:
            shutil.rmtree(leftover, ignore_errors=True)
    return done


def told(facts: dict[str, Any]) -> str:
    """Return a finished job's facts as a sentence."""
    heard = facts["deaf_test"]
    parts = [f"another sound moves what it learns by up to {heard['change']:.2g} nats"]
    if "attention" in facts:
        parts.append(facts["attention"])
    if "chosen_step" in facts:
        parts.append(f"step {facts['chosen_step']} was kept of {', '.join(facts['agreement'])}")
    if facts.get("left_out"):
        parts.append(f"{facts['left_out']} draws could not be shown to it ({facts['why']})")
    if "in_part" in facts:
        parts.append(f"{facts['in_part']} draws were about clips that it did not hear whole")
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
def _room_in_memory(job: TrainingJob) -> Iterator[None]:
    """Turn a memory that is too small into an error that says what would make the step smaller."""
    import torch

    from earwitness.learn.checkpoints import complete_checkpoints

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError) or NO_MEMORY in str(error)
        if not short:
            raise
        last = max(complete_checkpoints(job.folder), default=0)
        kept = f"The same command goes on from step {last}, whose checkpoint is whole" if last else "Nothing is lost"
        said = f"{job.stage} does not fit into memory: {_smaller(job)}. {kept} ({_first_line(error)})"
        raise RunError(said) from error


def _smaller(job: TrainingJob) -> str:
    """Say which settings of a job would take less memory, those first that change nothing of what is learnt."""
    s, stage = job.settings, job.stage
    ways = [f"lower {stage}.micro_batch (it is {s.micro_batch or f'0, all {s.batch}'})"]
    if not s.activation_checkpointing:
        ways.append(f"set {stage}.activation_checkpointing = true")
    if isinstance(s, Grpo):
        ways.append(f"lower grpo.group ({s.group}) or grpo.max_tokens ({s.max_tokens})")
    if s.tuning == "full":
        ways.append(f'set {stage}.tuning = "lora"')
    return ", ".join(ways)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_sixteen_bits(settings: Optimisation, device: torch.device) -> bool:
    """Whether a training step's forward passes run in bfloat16 on a device."""
    return settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a training folder's lock, so that a step started by hand and one of the driver never write together."""
    with (folder / "training.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{folder} is being trained by another process: wait for it or stop it") from None
        yield


def fit(
    job: TrainingJob,
    student: Student,
    objective: Any,
    plan: Callable[[int], Sequence[Any]],
    size: int,
    round_steps: int = 1,
    beside: Beside | None = None,
) -> None:
    """Train with the one trainer on steps of `size` items. Checkpoints fall on whole rounds of `round_steps`.

    `beside` is trained with the student and is no part of it.
    """
    import transformers

    from earwitness.learn.trainer import Schedule, Trainer

    transformers.logging.set_verbosity_error()
    s, model = job.settings, student.local.model
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
        checkpointing=s.activation_checkpointing,
        bf16=in_sixteen_bits(s, model.device),
    )
    identity = {"stage": job.stage, **s.identity()}
    trainer = Trainer(
        model, objective, plan, schedule, job.folder, identity=identity, trackers=job.trackers, beside=beside
    )
    trainer.fit()


def _accumulation(size: int, micro_batch: int) -> int:
    """Return how many micro-batches each process cuts its share of a step into."""
    if size < processes():
        raise StageError(f"a step of {size} questions cannot be shared by {processes()} processes: use fewer processes")
    wanted = -(-size // (micro_batch * processes())) if micro_batch else 1
    return min(wanted, size // processes())


def left_out(folder: Path) -> int:
    """Return how many draws of a training could not be shown to the student, as its log counts them."""
    return _counted(folder, "left_out")


def _counted(folder: Path, name: str) -> int:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(int(json.loads(line).get(name, 0)) for line in lines)


def settle(job: TrainingJob, student: Student, prompt: str) -> dict[str, Any]:
    """Keep the best candidate (the last one where there is nothing to choose by), save it, and say what was chosen.

    Said beside it is what the student attended with, and how many draws were about clips that it did not hear whole.
    """
    from earwitness.learn.checkpoints import complete_checkpoints

    if not first_process():
        return {}
    chosen: dict[str, Any] = {"attention": student.attention}
    if in_part := _counted(job.folder, "in_part"):
        chosen["in_part"] = in_part
    if job.settings.candidates > 1 and job.choose:
        from earwitness.stages.choose import keep_best

        chosen |= keep_best(student.local, job.folder, prompt, job.choose, job.answer_tokens)
    save(job, student, prompt, complete_checkpoints(job.folder)[job.settings.steps] if in_shards() else None)
    return chosen


def checkpoint_of(job: TrainingJob) -> Checkpoint:
    """Return the record of the checkpoint that a job leaves."""
    kind: Literal["full", "adapter"] = "full" if job.settings.tuning == "full" else "adapter"
    parent = job.parent.key if job.parent else job.base.name
    return Checkpoint(key=job.key, path=str(job.folder / FINAL), kind=kind, parent=parent)
