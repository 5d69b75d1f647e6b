"""The one trainer: `transformers.Trainer` with named loss terms, exact normalisation, and a resume that restores.

What is trained differs only in the objective: where a step's batch comes from, and which terms it lists.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler

from earwitness.learn.checkpoints import (
    COMPLETE,
    NotFinite,
    TrainingError,
    complete,
    complete_checkpoints,
    refuse_other_settings,
    restore,
    sharded,
    whole_weights,
)
from earwitness.learn.router import EXPERT

ADAM_BETA2 = 0.98
LOG, ROLLOUTS = "log.jsonl", "rollouts.jsonl"
PROJECT = "earwitness"  # what trackers file a run under


class Objective(Protocol):
    """What is trained for. A step's items are prepared once, then turned into terms that are sums over the batch."""

    weights: dict[str, float]

    def prepare(self, model: Any, items: Sequence[Any], step: int) -> Any:
        """Turn one micro-batch's items into a batch with a `counts()` of what its terms will be divided by.

        A batch may have `rows`, a list of JSON objects to be kept (in `rollouts.jsonl`): they are taken out of it.
        """

    def terms(self, model: Any, batch: Any, totals: dict[str, float]) -> dict[str, Tensor]:
        """Return the named terms, each divided by the totals over all processes and micro-batches."""


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


class Steps(Dataset[Any]):
    """The items of every optimizer step, cut into `parts` of neighbours; item i belongs to step i // parts."""

    def __init__(self, plan: Callable[[int], Sequence[Any]], steps: int, parts: int) -> None:
        self.plan, self.steps, self.parts = plan, steps, parts

    def __len__(self) -> int:
        return self.steps * self.parts

    def __getitem__(self, index: int) -> tuple[int, list[Any]]:
        step, part = divmod(index, self.parts)
        items = list(self.plan(step))
        if len(items) < self.parts:
            raise ValueError(
                f"step {step} holds {len(items)} items, too few for {self.parts} micro-batches (accumulation times "
                "processes): set micro_batch higher, or use fewer processes"
            )
        first, end = (len(items) * n // self.parts for n in (part, part + 1))
        return step, items[first:end]


@dataclass
class Totals:
    """One optimizer step: its counts over all micro-batches and processes, and its terms, added up as they come."""

    counts: dict[str, float]
    owed: int
    terms: dict[str, Tensor] = field(default_factory=dict)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add a micro-batch's terms."""
        self.owed -= 1
        for name, term in terms.items():
            value = term.detach().double()
            self.terms[name] = self.terms[name] + value if name in self.terms else value


class Trainer(transformers.Trainer):  # type: ignore[misc]
    """Trains a model for an objective. Call `fit`; it resumes from the last complete checkpoint in its folder.

    `identity` is what else decides the outcome: a checkpoint made under another one is refused. `trackers` names
    experiment trackers as transformers does ("tensorboard", "wandb", ...); they are told every step's terms.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        plan: Callable[[int], Sequence[Any]],
        schedule: Schedule,
        folder: Path,
        progress: Callable[[int, dict[str, float]], None] | None = None,
        identity: dict[str, Any] | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        arguments = _arguments(schedule, folder, trackers, on_cpu=next(model.parameters()).device.type == "cpu")
        if schedule.checkpointing:
            _checkpoint_activations(model)
        parts = schedule.accumulation * max(1, arguments.world_size)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=Steps(plan, schedule.steps, parts),
            data_collator=lambda items: items[0],
        )
        # Our terms are normalised by global counts already: nothing is left for Trainer to divide.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.objective, self.folder, self.progress = objective, folder, progress
        self.settings = {
            **schedule.identity(),
            "objective": type(objective).__name__,
            "weights": dict(objective.weights),
            **(identity or {}),
        }
        self.pending: dict[str, float] = {}  # what the log will say of the step under way
        self.remove_callback(transformers.PrinterCallback)
        self.remove_callback(transformers.ProgressCallback)
        self.add_callback(_Sharding(asked=_fsdp_asked()))
        if _fsdp_asked() and not self.is_fsdp_enabled:
            raise TrainingError(NOT_SHARDED)

    def fit(self) -> None:
        """Train to the last step, from the last complete checkpoint if there is one.

        Raises TrainingError where that was made with other settings, or where FSDP was asked for and is not had.
        """
        checkpoints = complete_checkpoints(self.folder)
        last = max(checkpoints, default=0)
        if last:
            refuse_other_settings(checkpoints[last], self.settings)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            for place in set(self.folder.glob("checkpoint-*")) - set(checkpoints.values()):
                shutil.rmtree(place)  # a kill while saving
            (self.folder / LOG).touch()
            for file in (self.folder / LOG, self.folder / ROLLOUTS):
                _cut(file, last)
        self.accelerator.wait_for_everyone()
        self.train(resume_from_checkpoint=str(checkpoints[last]) if last else None)

    def _get_train_sampler(self, *_: Any, **__: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Totals]:
        """Prepare one optimizer step's micro-batches and add up their counts over all processes."""
        raw = [next(epoch_iterator) for _ in range(num_batches)]
        with self.accelerator.autocast():
            batches = [self.objective.prepare(self.model, items, step) for step, items in raw]
        self._keep_rows(batches)
        names = sorted(batches[0].counts())
        local = torch.tensor([[b.counts()[n] for n in names] for b in batches], dtype=torch.float64, device=device)
        total = self.accelerator.reduce(local.sum(0), reduction="sum")
        return batches, Totals(dict(zip(names, total.tolist(), strict=True)), owed=num_batches)

    def _keep_rows(self, batches: Sequence[Any]) -> None:
        """Write what the batches have to be kept, in the order of the items, whichever process had them."""
        if not hasattr(batches[0], "rows"):
            return
        own = [list(batch.rows) for batch in batches]
        for batch in batches:
            batch.rows.clear()
        every = [own]
        if self.accelerator.num_processes > 1:
            every = [[] for _ in range(self.accelerator.num_processes)]
            torch.distributed.all_gather_object(every, own)
        if self.is_world_process_zero():
            step = self.state.global_step + 1
            rows = [row for parts in zip(*every, strict=True) for part in parts for row in part]
            with (self.folder / ROLLOUTS).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the weighted sum of the objective's terms; distributed averaging over processes is undone."""
        totals: Totals = num_items_in_batch
        terms = self.objective.terms(model, inputs, totals.counts)
        loss = sum((self.objective.weights[name] * term for name, term in terms.items()), torch.zeros(()))
        totals.add(terms)
        if not totals.owed:
            self._add_up(totals, loss.device)
        scaled: Tensor = loss * self.accelerator.num_processes
        return scaled

    def _add_up(self, totals: Totals, device: torch.device) -> None:
        """Sum a step's terms over the processes. Raises NotFinite before a loss that is no number harms."""
        step, names = self.state.global_step + 1, sorted(totals.terms)
        local = torch.stack([totals.terms[name].to(device) for name in names])
        values = dict(zip(names, self.accelerator.reduce(local, reduction="sum").tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise NotFinite(f"step {step}: the loss is not finite ({values}); lower the learning rate")
        counts = {name: n for name, n in totals.counts.items() if not name.startswith(EXPERT)}  # of experts: too many
        self.pending = {**values, **counts}

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *rest: Any, **named: Any) -> None:
        """Write a step's line to the log and tell the trackers, before it is saved."""
        if self.pending:
            norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm
            rate = named["learning_rate"] if "learning_rate" in named else self._get_learning_rate()
            line = {**self.pending, "gradient_norm": float(norm), "learning_rate": rate}
            self.pending = {}
            if self.is_world_process_zero():
                with (self.folder / LOG).open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": self.state.global_step, **line}) + "\n")
                if self.progress:
                    self.progress(self.state.global_step, line)
            self.log(line)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *rest, **named)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def _track_num_input_tokens(self, inputs: Any) -> None:
        return None

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        self.accelerator.wait_for_everyone()
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            for double in folder.glob("pytorch_model_fsdp*.bin"):
                double.unlink()  # the same weights again, as a pickle that we never read
            complete(folder, self.state.global_step, self.settings)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a sharded model whole, every other one as Trainer does."""
        if sharded(self.model):
            self._save(output_dir, state_dict=whole_weights(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore every tensor.

        Trainer's own way loads none where a class saves under its original names, and not the trained adapter where
        another lies beside it (5.17): neither says so.
        """
        restore(model or self.model, Path(resume_from_checkpoint))


NOT_SHARDED = (
    "FSDP was asked for and the parameters are not sharded: this machine would train a whole copy in every process. "
    "FSDP needs one GPU a process and fsdp_version: 2; without GPUs use plain data parallelism (launchers/ddp.yaml)"
)


def _fsdp_asked() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


class _Sharding(transformers.TrainerCallback):  # type: ignore[misc]
    """Makes sure, before the first step, that parameters are sharded where that was asked for."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.asked and not sharded(model):
            raise TrainingError(NOT_SHARDED)


def _cut(file: Path, last_step: int) -> None:
    """Keep a file's lines up to a step: the later ones are about to be written again."""
    if file.is_file():
        whole = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        file.write_text("".join(line for line in whole if json.loads(line)["step"] <= last_step), encoding="utf-8")


def _checkpoint_activations(model: Any) -> None:
    """Let the layers forget their activations; the reentrant kind would lose gradients where the input is frozen."""
    how = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(how)
    else:
        model.gradient_checkpointing_enable(how)


def _arguments(schedule: Schedule, folder: Path, trackers: Sequence[str], on_cpu: bool) -> Any:
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


__all__ = [
    "COMPLETE",
    "Objective",
    "Schedule",
    "Trainer",
    "TrainingError",
    "complete_checkpoints",
    "restore",
]
