"""A teacher's signals made once, ahead of training: kept on disk in shards, read back lesson by lesson.

A shard is one safetensors file and holds a fixed run of lessons; it appears whole or not at all, so that work which was
cut short goes on with the first one that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earwitness.learn.divergences import Target, remainder
from earwitness.learn.teachers import Reading, Signals, Targets, listen_to
from earwitness.learn.tree import Packed

SHARD = 64  # lessons in a file
AT_ONCE = 256  # predictions whose whole distribution is in memory
Packing = Callable[[Sequence[int]], Packed]
"""Packs some lessons, by their numbers, for the teacher: one branch each, in their order."""


def make_ahead(
    folder: Path,
    teacher: Any,
    lessons: int,
    packing: Packing,
    reading: Reading,
    share: tuple[int, int] = (0, 1),
    together: int = SHARD,
) -> None:
    """Write the shards that are missing: of every `share[1]` those that are this process's, number `share[0]`.

    `together` lessons are read in one forward pass. The k likeliest tokens are kept of every distribution, so
    `reading.top_k` must be above 0.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for shard, start in enumerate(range(0, lessons, SHARD)):
        file = _file(folder, shard)
        if shard % share[1] != share[0] or file.exists():
            continue
        numbers = range(start, min(start + SHARD, lessons))
        tensors: dict[str, Tensor] = {}
        for first in range(0, len(numbers), together):
            some = numbers[first : first + together]
            batch = packing(some)
            tensors |= _kept(listen_to(teacher, batch, reading), batch, len(reading.layers), some)
        partial = file.with_suffix(".partial")
        save_file(tensors, partial)
        partial.rename(file)


def _kept(signals: Signals, batch: Packed, layers: int, numbers: Sequence[int]) -> dict[str, Tensor]:
    """Return what is kept of each lesson's C predictions, under names that begin with the lesson's number."""
    count = len(batch.target)
    found = {"top": _targets(signals.top, 0, count)}
    if signals.below is not None:
        found |= {f"layer{n}": _targets(signals.below, n * count, (n + 1) * count) for n in range(layers)}
    kept = {}
    for branch, number in enumerate(numbers):
        mine = batch.branch == branch
        for name, (columns, logprobs) in found.items():
            kept[f"{number}/{name}/columns"] = columns[mine].int().cpu()
            kept[f"{number}/{name}/logprobs"] = logprobs[mine].cpu()
        for n, states in enumerate(signals.states or ()):
            kept[f"{number}/state{n}"] = states[mine].contiguous().cpu()
    return kept


def _targets(targets: Targets, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return columns and log-probabilities of some predictions, made a few at a time."""
    found = [targets(slice(n, min(n + AT_ONCE, stop))) for n in range(start, stop, AT_ONCE)]
    columns = [target.columns for target in found if isinstance(target.columns, Tensor)]
    assert len(columns) == len(found), "only the likeliest tokens can be kept"
    return torch.cat(columns), torch.cat([target.logprobs for target in found])


class SignalStore:
    """Reads back what `make_ahead` wrote, for any lessons in any order."""

    def __init__(self, folder: Path, reading: Reading) -> None:
        self.folder, self.reading = folder, reading

    def __call__(self, numbers: Sequence[int], device: torch.device | str) -> Signals:
        """Return the signals of some lessons, whose predictions follow one another in this order.

        Raises FileNotFoundError for a lesson that was not written.
        """
        from safetensors import safe_open

        needed = {number // SHARD for number in numbers}
        shards: dict[int, Any] = {n: safe_open(_file(self.folder, n), framework="pt") for n in needed}

        def read(name: str) -> Tensor:
            return torch.cat([shards[n // SHARD].get_tensor(f"{n}/{name}") for n in numbers]).to(device)

        def targets(names: Sequence[str]) -> Targets:
            columns, logprobs = (torch.cat([read(f"{n}/{part}") for n in names]) for part in ("columns", "logprobs"))
            return lambda some: Target(logprobs[some], columns[some].long(), remainder(logprobs[some]))

        layers, top = range(len(self.reading.layers)), targets(["top"])
        if self.reading.match == "representation":
            return Signals(top, states=[read(f"state{n}") for n in layers])
        return Signals(top, below=targets([f"layer{n}" for n in layers]) if layers else None)


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.safetensors"
