"""The one trainer: `transformers.Trainer` with named loss terms, exact normalisation, and a resume that restores.

What is trained differs only in the objective: where a step's batch comes from, and which terms it lists.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler

ADAM_BETA2 = 0.98
COMPLETE = "complete.json"  # written last into a checkpoint: without it, it does not count


class Objective(Protocol):
    """What is trained for. A step's items are prepared once, then turned into terms that are sums over the batch."""

    weights: dict[str, float]

    def prepare(self, model: Any, items: Sequence[Any], step: int) -> Any:
        """Turn one micro-batch's items into a batch with a `counts()` of what its terms will be divided by."""

    def terms(self, model: Any, batch: Any, totals: dict[str, float]) -> dict[str, Tensor]:
        """Return the named terms, each divided by the totals over all processes and micro-batches."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: see `config.Optimisation`. `checkpoint_every` counts optimizer steps.

    `accumulation` is the number of micro-batches that each process cuts its share of a step into.
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


class Steps(Dataset[Any]):
    """The items of every optimizer step, cut into `parts`; item i belongs to step i // parts."""

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
        return step, items[part :: self.parts]


@dataclass
class Totals:
    """One optimizer step: its counts over all micro-batches and processes, and its terms, added up as they come."""

    counts: dict[str, float]
    owed: int
    terms: dict[str, float] = field(default_factory=dict)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add a micro-batch's terms."""
        self.owed -= 1
        for name, term in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + float(term.detach())


class Trainer(transformers.Trainer):  # type: ignore[misc]
    """Trains a model for an objective. Call `fit`; it resumes from the last complete checkpoint in its folder."""

    def __init__(
        self,
        model: Any,
        objective: Objective,
        plan: Callable[[int], Sequence[Any]],
        schedule: Schedule,
        folder: Path,
        progress: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        arguments = _arguments(schedule, folder, on_cpu=next(model.parameters()).device.type == "cpu")
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
        self.log_file = folder / "log.jsonl"
        self.remove_callback(transformers.PrinterCallback)
        self.remove_callback(transformers.ProgressCallback)

    def fit(self) -> None:
        """Train to the last step, from the last complete checkpoint if there is one."""
        checkpoints = complete_checkpoints(self.folder)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            for place in set(self.folder.glob("checkpoint-*")) - set(checkpoints.values()):
                shutil.rmtree(place)  # a kill while saving
            _cut_log(self.log_file, max(checkpoints, default=0))
        self.accelerator.wait_for_everyone()
        self.train(resume_from_checkpoint=str(checkpoints[max(checkpoints)]) if checkpoints else None)

    def _get_train_sampler(self, *_: Any, **__: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Totals]:
        """Prepare one optimizer step's micro-batches and add up their counts over all processes."""
        raw = [next(epoch_iterator) for _ in range(num_batches)]
        batches = [self.objective.prepare(self.model, items, step) for step, items in raw]
        names = sorted(batches[0].counts())
        local = torch.tensor([[b.counts()[n] for n in names] for b in batches], dtype=torch.float64, device=device)
        total = self.accelerator.reduce(local.sum(0), reduction="sum")
        return batches, Totals(dict(zip(names, total.tolist(), strict=True)), owed=num_batches)

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
            self._note(totals, loss.device)
        scaled: Tensor = loss * self.accelerator.num_processes
        return scaled

    def _note(self, totals: Totals, device: torch.device) -> None:
        """Write a step's line to the log. Raises FloatingPointError before a loss that is no number can do harm."""
        step, names = self.state.global_step + 1, sorted(totals.terms)
        local = torch.tensor([totals.terms[name] for name in names], dtype=torch.float64, device=device)
        values = dict(zip(names, self.accelerator.reduce(local, reduction="sum").tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(f"step {step}: the loss is not finite ({values}); lower the learning rate")
        if self.is_world_process_zero():
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values, **totals.counts}) + "\n")
            if self.progress:
                self.progress(step, values)

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
            (folder / COMPLETE).write_text(json.dumps({"step": self.state.global_step}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore every tensor.

        Trainer's own way loads none where a class saves under its original names, and not the trained adapter where
        another lies beside it (5.17): neither says so.
        """
        restore(model or self.model, Path(resume_from_checkpoint))


def restore(model: Any, folder: Path) -> None:
    """Load what was trained (all weights, or the adapter's) from a checkpoint's folder into `model`.

    Raises RuntimeError naming what is missing or astray: a tensor is never left as it was in silence.
    """
    if hasattr(model, "peft_config"):
        _restore_adapter(model, folder)
        return
    saved, info = type(model).from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    astray = {name: keys for name, keys in info.items() if name.endswith("_keys") and keys}
    if astray:
        raise RuntimeError(f"{folder} does not restore this model: {astray}")
    model.load_state_dict(saved.state_dict(), strict=True)


def _restore_adapter(model: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    astray = set(saved) ^ set(get_peft_model_state_dict(model))
    if astray:
        raise RuntimeError(f"{folder} does not restore this adapter: {sorted(astray)}")
    set_peft_model_state_dict(model, saved)


def complete_checkpoints(folder: Path) -> dict[int, Path]:
    """Return a folder's complete checkpoints by their step, in order; one whose saving was cut short does not count."""
    found = {int(file.parent.name.split("-")[1]): file.parent for file in folder.glob(f"checkpoint-*/{COMPLETE}")}
    return dict(sorted(found.items()))


def _cut_log(file: Path, last_step: int) -> None:
    """Keep the lines of a log up to a step: the later ones are about to be written again."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    file.write_text("".join(line for line in whole if json.loads(line)["step"] <= last_step), encoding="utf-8")


def _arguments(schedule: Schedule, folder: Path, on_cpu: bool) -> Any:
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
        save_strategy="steps",
        save_steps=schedule.checkpoint_every,
        save_total_limit=None if schedule.keep_all else 2,
        logging_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        seed=schedule.seed,
        data_seed=schedule.seed,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=on_cpu,
        # The head is used outside the wrapped forward, which the search for unused parameters would not see.
        ddp_find_unused_parameters=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # DataParallel would cut masks and positions along the wrong axes: use processes
    return arguments


__all__ = ["Objective", "Schedule", "Trainer", "complete_checkpoints", "restore"]
