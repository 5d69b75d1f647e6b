"""The one trainer: `transformers.Trainer` with named loss terms, exact normalisation, and a resume that restores.

What is trained differs only in the objective: where a step's batch comes from, and which terms it lists.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler

from earwitness.learn.arguments import Schedule, checkpoint_activations, training_arguments
from earwitness.learn.beside import NAME, Beside, put_aside
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
from earwitness.learn.importance import LARGEST
from earwitness.learn.router import EXPERT

LOG, ROLLOUTS = "log.jsonl", "rollouts.jsonl"


class Objective(Protocol):
    """What is trained for. A step's items are prepared once, then turned into terms that are sums over the batch.

    `weights` are those of the terms. An objective whose weights change as it goes on has a `schedule(step)` too, which
    returns what to multiply them with (1 where a term is not named); steps count from 0.
    """

    weights: dict[str, float]

    def prepare(self, model: Any, items: Sequence[Any], step: int) -> Any:
        """Turn one micro-batch's items into a batch with a `counts()` of what its terms will be divided by.

        A batch may have `rows`, a list of JSON objects to be kept (in `rollouts.jsonl`): they are taken out of it.
        """

    def terms(self, model: Any, batch: Any, totals: dict[str, float]) -> dict[str, Tensor]:
        """Return the named terms, each divided by the totals over all processes and micro-batches."""


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
    """One optimizer step: its counts over all micro-batches and processes, what its terms weigh, and the terms
    themselves, added up as they come.
    """

    counts: dict[str, float]
    weights: dict[str, float]
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
    experiment trackers as transformers does ("tensorboard", "wandb", ...); they are told every step's terms. `beside`
    is trained with the model and kept in the checkpoints, apart from it.
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
        beside: Beside | None = None,
    ) -> None:
        arguments = training_arguments(schedule, folder, trackers, on_cpu=next(model.parameters()).device.type == "cpu")
        if schedule.checkpointing:
            checkpoint_activations(model)
        self.beside = beside
        if beside is not None:
            model.add_module(NAME, beside.module.to(next(model.parameters()).device))
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
        self.model._modules.pop(NAME, None)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Give what is trained beside the model a learning rate of its own."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.beside is not None and made:
            self.beside.own_group(optimizer)
        return optimizer

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
        every = self.accelerator.gather(local)
        total = torch.stack([c.amax() if n == LARGEST else c.sum() for n, c in zip(names, every.T, strict=True)])
        weights = dict(self.objective.weights)
        schedule = getattr(self.objective, "schedule", None)
        for name, factor in (schedule(raw[0][0]) if schedule else {}).items():
            weights[name] *= factor
        return batches, Totals(dict(zip(names, total.tolist(), strict=True)), weights, owed=num_batches)

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
        loss = sum((totals.weights[name] * term for name, term in terms.items()), torch.zeros(()))
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
        """Save a sharded model whole, every other one as Trainer does; what is trained beside it, in its own file."""
        with put_aside(self.model):
            if sharded(self.model):
                self._save(output_dir, state_dict=whole_weights(self.model))
            else:
                super().save_model(output_dir, _internal_call)
        if self.beside is not None:
            self.beside.save(Path(output_dir or self.folder), self.is_world_process_zero())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore every tensor.

        Trainer's own way loads none where a class saves under its original names, and not the trained adapter where
        another lies beside it (5.17): neither says so.
        """
        with put_aside(model or self.model):
            restore(model or self.model, Path(resume_from_checkpoint))
        if self.beside is not None:
            self.beside.restore(Path(resume_from_checkpoint))


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


__all__ = [
    "COMPLETE",
    "Objective",
    "Schedule",
    "Trainer",
    "TrainingError",
    "complete_checkpoints",
    "restore",
]
