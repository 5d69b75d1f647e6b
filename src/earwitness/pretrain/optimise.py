"""The plain optimisation loop that makes the embedded weights."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def optimise(
    model: Any,
    loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    name: str,
    parameters: Iterable[torch.nn.Parameter] | None = None,
    report_every: int = 100,
) -> None:
    """Run AdamW with 5 % warm-up and a cosine to 2 %, clipped to norm 1; one progress line per `report_every` steps."""
    chosen = [p for p in (parameters or model.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    started, total = time.time(), 0.0
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps)
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(chosen, 1.0)
        optimizer.step()
        total += value.item()
        if (step + 1) % report_every == 0:
            seconds = time.time() - started
            print(
                f"{name}: step {step + 1}/{steps}, loss {total / report_every:.4f}, {seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            total = 0.0
    model.eval()


def _schedule(step: int, steps: int, warmup: float = 0.05) -> float:
    rise = min(1.0, (step + 1) / max(1.0, steps * warmup))
    return rise * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
