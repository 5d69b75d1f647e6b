"""What a teacher that reads has to say about a batch of responses: its signals, from a forward pass or from a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from earwitness.learn.attention import unwrapped
from earwitness.learn.divergences import ROWS, Target, remainder, together
from earwitness.learn.layers import decoder, prediction_places, tapped
from earwitness.learn.losses import hidden_states
from earwitness.learn.tree import Packed
from earwitness.learn.vocabularies import SharedVocabulary

Match = Literal["representation", "distribution"]
Targets = Callable[[slice], Target]
"""The targets of some of the N predictions, named by their bounds; nothing of the size (N, V) is kept."""


class TeacherError(Exception):
    """A teacher whose signals nobody should learn from: the message says what is wrong with them."""


@dataclass(frozen=True)
class Signals:
    """A teacher's signals for a batch's N predictions.

    `top` makes the targets of the top layer. Of the n_L chosen layers there are (N, D_T) hidden `states`, or what makes
    the targets of all their predictions `below` the top: n_L N of them, layer by layer.
    """

    top: Targets
    states: list[Tensor] | None = None
    below: Targets | None = None


@dataclass(frozen=True)
class Reading:
    """How a teacher is read: which layers (from 1), as what, how many of its likeliest tokens (0: all), how softly.

    `shared` are the tokens that it has in common with the student (None: all, in the same order).
    """

    layers: tuple[int, ...]
    match: Match
    top_k: int = 0
    softness: float = 1.0
    shared: SharedVocabulary | None = None


@torch.no_grad()
def listen_to(teacher: Any, batch: Packed, reading: Reading) -> Signals:
    """Return a teacher's signals for a batch that is packed for it. Raises TeacherError for what is not a number.

    One that is elsewhere (it can `say` them) is asked for its word on the top layer.
    """
    if hasattr(teacher, "say"):
        said: Signals = teacher.say(batch, reading)
        return said
    text, head = decoder(teacher), unwrapped(teacher).lm_head
    with tapped(teacher, reading.layers, [prediction_places(batch)]) as (states,):
        last = hidden_states(teacher, batch)[batch.row, batch.source]
    for number, found in zip((*reading.layers, "top"), (*states, last), strict=True):
        _refuse_no_numbers(found, f"layer {number}")
    top = _read_by(head, last, reading)
    if reading.match == "representation":
        return Signals(top, states=states)
    return Signals(top, below=_read_by(head, text.norm(torch.cat(states)), reading) if states else None)


def _refuse_no_numbers(found: Tensor, where: str) -> None:
    if not torch.isfinite(found).all():
        raise TeacherError(
            f'the textual teacher\'s signals are not numbers ({where}): load it with dtype = "float32" or "bfloat16", '
            "and check its files"
        )


def _read_by(head: Any, states: Tensor, reading: Reading) -> Targets:
    """Return what makes targets of (n, D_T) states. They are read through the head many at a time, and held."""
    first, held = 0, states[:0]

    def targets(some: slice) -> Target:
        nonlocal first, held
        with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
            if not first <= some.start < some.stop <= first + len(held):
                first, ahead = some.start, states[some.start : max(some.stop, some.start + ROWS)]
                held = F.linear(ahead, head.weight.to(states.dtype))
            logits = held[some.start - first : some.stop - first]
            return target_of(logits.to(torch.promote_types(logits.dtype, torch.float32)), reading)

    return targets


def target_of(logits: Tensor, reading: Reading) -> Target:
    """Return the target that a teacher's (n, V_T) logits are, over the student's tokens. Raises TeacherError."""
    logprobs = (logits if reading.softness == 1 else logits / reading.softness).log_softmax(-1)
    _refuse_no_numbers(logprobs.amax(-1), "its distributions")
    shared = reading.shared
    if shared is None:
        return Target.likeliest(logprobs, reading.top_k) if reading.top_k else Target(logprobs)
    size = len(shared.teacher)
    own = logprobs[:, :size] if shared.aligned else logprobs[:, shared.teacher.to(logits.device)]
    if not reading.top_k and shared.aligned:
        return Target(own, size, together(logprobs[:, size:]))
    if not reading.top_k:
        return Target(own, shared.student.to(logits.device), remainder(own))
    kept, chosen = own.topk(reading.top_k, dim=-1)
    return Target(kept, shared.student.to(logits.device)[chosen], remainder(kept))
