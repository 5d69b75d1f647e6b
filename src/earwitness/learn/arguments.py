"""How a training is paced, and what `transformers.Trainer` is told of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers

from earwitness.learn.checkpoints import TrainingError

ADAM_BETA2 = 0.98
PROJECT = "earwitness"  # what trackers file a run under


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: see `config.Optimisation`. `checkpoint_every` counts optimizer steps.

    `accumulation` is the number of micro-batches that each process cuts its share of a step into. `checkpointing`
    computes activations again in the backward pass instead of keeping them. `bf16` runs the forward passes in bfloat16
    where that is safe (autocast); what is trained stays in 32 bits.
    """

    steps: int
    learning_rate: float
    warmup: float
    schedule: str
    weight_decay: float
    clip: float
    checkpoint_every: int
    keep_all: bool
    accumulation: int
    seed: int
    checkpointing: bool = False
    bf16: bool = False

    def identity(self) -> dict[str, Any]:
        """Return what decides the outcome. The rest says where checkpoints fall, and how work is cut up."""
        free = ("checkpoint_every", "keep_all", "accumulation", "checkpointing")
        return {name: value for name, value in asdict(self).items() if name not in free}


def checkpoint_activations(model: Any) -> None:
    """Let the layers forget their activations; the reentrant kind would lose gradients where the input is frozen."""
    how = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(how)
    else:
        model.gradient_checkpointing_enable(how)


def training_arguments(schedule: Schedule, folder: Path, trackers: Sequence[str], on_cpu: bool) -> Any:
    """Return Trainer's arguments. Raises TrainingError where the launcher asks for another precision."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked != "no" and asked != ("bf16" if schedule.bf16 else "no"):
        raise TrainingError(
            f"the launcher asks for mixed precision {asked!r}, this training for {'bf16' if schedule.bf16 else 'none'}:"
            " set `precision` in the configuration, and mixed_precision: 'no' in the accelerate config"
        )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=schedule.learning_rate,
        # Trainer's "constant" would ignore the warm-up without a word.
        lr_scheduler_type="constant_with_warmup" if schedule.schedule == "constant" else schedule.schedule,
        warmup_steps=round(schedule.warmup * schedule.steps),
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.clip,
        adam_beta2=ADAM_BETA2,
        bf16=schedule.bf16,
        save_strategy="steps",
        save_steps=schedule.checkpoint_every,
        save_total_limit=None if schedule.keep_all else 2,
        logging_strategy="no",
        report_to=list(trackers) or "none",
        project=PROJECT,
        run_name=folder.name,
        remove_unused_columns=False,
        seed=schedule.seed,
        data_seed=schedule.seed,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=on_cpu,
        # Every trained tensor is used in every step, which the search for unused parameters would make slow.
        ddp_find_unused_parameters=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # DataParallel would cut masks and positions along the wrong axes: use processes
    return arguments
