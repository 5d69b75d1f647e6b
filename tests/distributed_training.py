"""Trains with the one trainer in two processes, and writes what came of it: started by a launcher, never imported.

accelerate shards on GPUs only: for the FSDP parts its state is told that there are some, and what follows is its own
and torch's (`fully_shard` on CPUs with gloo).
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
import transformers
from accelerate.state import AcceleratorState, DistributedType, GradientState

import conftest
from earwitness.learn.checkpoints import TrainingError, sharded, whole_weights
from earwitness.learn.trainer import Trainer
from earwitness.stages import training as stages
from objectives import SCHEDULE, KilledError, Practised, Said, lessons, plan_of, stage_job, tasks

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
first = int(os.environ["RANK"]) == 0


class Gradients(transformers.TrainerCallback):
    """Remembers the first step's gradients, whole."""

    def __init__(self):
        self.found = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self.found is None:
            inner = getattr(model, "module", model)
            grads = {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}
            self.found = {n: (g.full_tensor() if hasattr(g, "full_tensor") else g).clone() for n, g in grads.items()}


def train(student: str, folder: Path, kind: str = "full", practice: int = 0, stop_at: int | None = None, **changes):
    """Train a student of a kind; `practice` updates per rollout, 0: on lessons."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    local = conftest.open_model(student, "student")
    plan = plan_of(tasks(local) if practice else lessons(local), stop_at, practice or 1)
    objective = Practised(local, practice) if practice else Said()
    model = local.model
    if kind == "lora":
        torch.manual_seed(5)
        model = conftest.under_lora(model)
    trainer = Trainer(model, objective, plan, replace(SCHEDULE, **changes), folder)
    trainer.add_callback(kept := Gradients())
    with contextlib.suppress(KilledError):
        trainer.fit()
    weights = whole_weights(trainer.model) if sharded(trainer.model) else model.state_dict()
    if first:
        torch.save({"gradients": kept.found, "weights": weights}, folder / f"left-{stop_at}.pt")


@contextlib.contextmanager
def pretended_gpus():
    """Let accelerate take its way for GPUs."""
    real = AcceleratorState.__init__

    def pretend(self, *args, fsdp_plugin=None, **kwargs):
        real(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": fsdp_plugin}

    AcceleratorState.__init__ = pretend
    os.environ.update(FSDP)
    try:
        yield
    finally:
        AcceleratorState.__init__ = real
        for name in FSDP:
            del os.environ[name]


def main(student: str, out: Path) -> None:
    """Train everything that tests/test_processes.py looks at."""
    gc.freeze()  # Trainer collects garbage often, and what is imported is none
    for accumulation in (1, 2):
        train(student, out / f"said-{accumulation}", steps=1, accumulation=accumulation, clip=1e9)
        train(student, out / f"practised-{accumulation}", practice=1, steps=1, accumulation=accumulation, clip=1e9)
    train(student, out / "whole", practice=2)
    for stop_at in (4, None):
        train(student, out / "killed", practice=2, stop_at=stop_at)
    with pretended_gpus():
        train(student, out / "fsdp-full", steps=4)
        for stop_at in (3, None):
            train(student, out / "fsdp-killed", stop_at=stop_at, steps=4)
            train(student, out / "fsdp-lora", "lora", stop_at=stop_at, steps=4, checkpointing=True)
        AcceleratorState._reset_state()
        stages.train(stage_job(student, out / "stage"))
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    try:
        train(student, out / "not-sharded")
    except TrainingError as error:
        (out / f"refused-{os.environ['RANK']}").write_text(str(error))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(sys.argv[1], Path(sys.argv[2]))
