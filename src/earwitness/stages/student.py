"""The student of a training step: what it starts from, under which tuning, and what is kept of it."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from earwitness.config import Model
from earwitness.launcher import in_shards
from earwitness.records import Checkpoint

if TYPE_CHECKING:
    from earwitness.models.local import LocalModel
    from earwitness.stages.training import TrainingJob

T = TypeVar("T")
FINAL = "final"
LINEAR = r"\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
TOWER_LINEAR = r"\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


def student_spec(base: Model, checkpoint: Checkpoint | None) -> Model:
    """Return the spec that loads a checkpoint (or the base where there is none)."""
    if checkpoint is None:
        return base
    if checkpoint.kind == "adapter":
        return base.model_copy(update={"adapter": checkpoint.path})
    return base.model_copy(update={"kind": "local", "name": checkpoint.path, "revision": None, "adapter": None})


class Parent(Protocol):
    """The checkpoint that a training starts from, as it was."""

    def __call__(self, work: Callable[[Any], T]) -> T:
        """Return what some work makes of the parent's model."""


@dataclass
class Student:
    """The model that is trained, and its parent checkpoint (None where nobody asked for it).

    `attention` says in words what it trains with.
    """

    local: LocalModel
    parent: Parent | None
    attention: str


def open_student(job: TrainingJob, with_parent: bool = False) -> Student:
    """Load what the job starts from, put it under the job's tuning, and keep its parent at hand if asked.

    The parent is always the parent checkpoint: from an adapter a frozen copy of that adapter (switching it off would
    give the base), from a full model under LoRA the adapter switched off, under full tuning a frozen copy.
    """
    import torch

    from earwitness.learn.attention import prefer_blocks
    from earwitness.learn.hearing import frozen_ears
    from earwitness.models import open_local
    from earwitness.models.loading import merge_adapter

    torch.manual_seed(job.seed)
    from_adapter = job.parent is not None and job.parent.kind == "adapter"
    start = student_spec(job.base, None if from_adapter else job.parent)
    local = open_local(start, "student", four_bit=job.settings.tuning == "qlora")
    attention = prefer_blocks(local.model)  # before a parent is copied from it
    parent: Parent | None = None
    if job.settings.tuning == "full":
        if from_adapter:
            assert job.parent is not None
            local.model = merge_adapter(local.model, job.parent.path)
        if job.settings.audio_tower == "frozen":
            _freeze_tower(local)
        if with_parent:
            frozen = copy.deepcopy(_widened(local.model)).requires_grad_(False)  # of the same precision: KL 0 at first
            parent = lambda work: work(frozen)  # noqa: E731
    else:
        local.model = _under_lora(local, job)
        if with_parent:
            parent = _below_the_adapter(local.model, from_adapter)
    _widened(local.model).train()
    if frozen_ears(local.model) and not in_shards():
        local.hear_ahead()
    return Student(local, parent, attention)


def _widened(model: Any) -> Any:
    """Put what is trained into 32 bits: small steps would be lost in 16."""
    for parameter in model.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    return model


def _under_lora(local: LocalModel, job: TrainingJob) -> Any:
    from peft import LoraConfig, get_peft_model

    from earwitness.models.adapters import lora_targets
    from earwitness.models.loading import attach_adapter

    if job.parent is not None and job.parent.kind == "adapter":
        model = attach_adapter(local.model, job.parent.path, trainable=True)
        return attach_adapter(model, job.parent.path, "reference")
    targets = local.family.language_model + LINEAR
    if job.settings.audio_tower == "trained":
        targets = f"({targets})|(.*{TOWER_LINEAR})"
    scope = lora_targets(local.model, targets)
    config = LoraConfig(r=job.settings.lora_rank, lora_alpha=job.settings.lora_alpha, target_modules=scope)
    return get_peft_model(local.model, config)


def _freeze_tower(local: LocalModel) -> None:
    """Leave nothing to be trained but the language model and its head."""
    for name, parameter in local.model.named_parameters():
        parameter.requires_grad_(name.startswith("lm_head") or bool(re.match(local.family.language_model, name)))


def _below_the_adapter(model: Any, from_adapter: bool) -> Parent:
    def parent(work: Callable[[Any], T]) -> T:
        if not from_adapter:
            with model.disable_adapter():
                return work(model)
        model.set_adapter("reference")
        try:
            return work(model)
        finally:
            model.set_adapter("default")

    return parent


def save(job: TrainingJob, student: Student, prompt: str, checkpoint: Path | None = None) -> None:
    """Write the final model with all that is needed to ask it: tokenizer, feature extractor, and how to speak to it.

    The weights are the student's, or those of a checkpoint's folder: of a model that no process holds whole.
    """
    from earwitness.models.places import CARD

    final = job.folder / FINAL
    partial = job.folder / "final.partial"
    shutil.rmtree(partial, ignore_errors=True)
    if checkpoint is not None:
        partial.mkdir()
        for file in [*checkpoint.glob("*.safetensors*"), *checkpoint.glob("*config.json")]:
            shutil.copy(file, partial)
    else:
        save_weights(student.local.model, partial)
    student.local.tokenizer.save_pretrained(partial)
    student.local.extractor.save_pretrained(partial)
    card = {"manner": student.local.manner, "prompt": prompt}
    (partial / CARD).write_text(json.dumps(card) + "\n", encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def save_weights(model: Any, folder: Path) -> None:
    """Write a model's weights and configuration: under LoRA those of the adapter, and of two the one that learns."""
    if hasattr(model, "peft_config"):
        model.save_pretrained(folder, selected_adapters=["default"])
    else:
        model.save_pretrained(folder)
