"""What is trained beside a model and is no part of it: projections that a loss needs and nobody publishes.

While it is trained it hangs on the model, so that every wrapper finds it; when the model is saved or restored it is put
aside, and kept in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from earwitness.learn.checkpoints import put, sharded, whole_weights

NAME, FILE = "beside", "beside.safetensors"


@dataclass(frozen=True)
class Beside:
    """A module and the learning rate that is its own."""

    module: nn.Module
    learning_rate: float

    def own_group(self, optimizer: Any) -> None:
        """Move the module's parameters into a group of the optimizer with its learning rate, and without decay."""
        mine = {id(p) for p in self.module.parameters()}
        moved = [p for group in optimizer.param_groups for p in group["params"] if id(p) in mine]
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in mine]
        like = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        optimizer.add_param_group({**like, "params": moved, "lr": self.learning_rate, "weight_decay": 0.0})

    def save(self, folder: Path, first: bool) -> None:
        """Write the module's weights into a checkpoint's folder. Every process of a sharded training takes part."""
        from safetensors.torch import save_file

        weights = whole_weights(self.module) if sharded(self.module) else self.module.state_dict()
        if first:
            save_file({name: value.contiguous().cpu() for name, value in weights.items()}, folder / FILE)

    def restore(self, folder: Path) -> None:
        """Load the module's weights from a checkpoint's folder."""
        from safetensors.torch import load_file

        put(self.module, load_file(folder / FILE))


@contextmanager
def put_aside(model: Any) -> Iterator[None]:
    """Let a model be nothing but itself for a while."""
    module = model._modules.pop(NAME, None)
    try:
        yield
    finally:
        if module is not None:
            model._modules[NAME] = module
