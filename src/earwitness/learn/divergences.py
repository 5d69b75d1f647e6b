"""Divergences between a teacher's and the student's next-token distributions, read through the head piece by piece.

Each is written in closed form with its gradient, so that a vocabulary of any size is held for a few predictions at a
time, once: nothing is kept for a backward pass and nothing is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["jsd", "forward", "reverse"]
ROWS = 512  # predictions whose logits are held at once: enough to keep matrix products busy
AT_ONCE = 2**17  # of their logits, those compared at once on a CPU: they stay in its cache


@dataclass(frozen=True)
class Divergence:
    """Which divergence: `jsd` generalised Jensen-Shannon, `forward` KL(teacher, student), `reverse` KL(student,
    teacher).

    `mixture` is the teacher's share b of the mean in JSD_b = b KL(p_T, m) + (1-b) KL(p_S, m), m = b p_T + (1-b) p_S
    (Agarwal et al., arXiv 2306.13649, equation 1). `softness` is the temperature of both distributions.
    """

    kind: Kind = "jsd"
    mixture: float = 0.5
    softness: float = 1.0

    def __call__(self, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
        """Compare distributions over C categories, both (n, C) log-probabilities.

        Returns the divergence (n) in nats, and (n, C) q dD/dq up to multiples of q, q being the student's
        probabilities: what the gradient with respect to its logits is made of.
        """
        p, q = teacher.exp(), student.exp()
        if self.kind == "forward":
            return (p * (teacher - student)).sum(-1), -p
        if self.kind == "reverse":
            rise = q * (student - teacher)
            return rise.sum(-1), rise
        b = self.mixture
        mean = q.lerp(p, b).clamp_min_(torch.finfo(q.dtype).tiny).log_()
        rise = q.mul_(student - mean)
        loss = b * p.mul_(teacher - mean).sum(-1) + (1 - b) * rise.sum(-1)
        return loss, rise.mul_(1 - b)


@dataclass(frozen=True)
class Target:
    """What n predictions of the student are compared with: (n, C) log-probabilities of the teacher.

    `columns` says which of the student's tokens they are of: (C) the same for every prediction, (n, C) its own for
    each, a number for the first so many, None for all of them in order. `rest` (n) is the log-probability of all other
    tokens taken together; where `columns` is None there are none.
    """

    logprobs: Tensor
    columns: Tensor | int | None = None
    rest: Tensor | None = None

    @classmethod
    def likeliest(cls, logprobs: Tensor, count: int) -> Target:
        """Keep the `count` likeliest tokens of (n, V) log-probabilities, and the rest of them as one."""
        kept, columns = logprobs.topk(count, dim=-1)
        return cls(kept, columns, remainder(kept))


def remainder(logprobs: Tensor) -> Tensor:
    """Return the log-probability (n) of whatever (n, C) log-probabilities leave over.

    It is the difference of two numbers near 1: never below what the precision can tell from nothing (1e-7 in 32 bits).
    """
    return torch.log1p(-logprobs.exp().sum(-1).clamp_max(1 - torch.finfo(logprobs.dtype).eps))


def together(logprobs: Tensor) -> Tensor:
    """Return the log-probability (n) of (n, C) log-probabilities taken together, at least that of `remainder`."""
    return logprobs.logsumexp(-1).clamp_min(math.log(torch.finfo(logprobs.dtype).eps))


def compare(divergence: Divergence, target: Target, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence (n, nats) of the student's (n, V) logits from a target, and its gradient (n, V)."""
    soft = logits if divergence.softness == 1 else logits / divergence.softness
    student = soft.log_softmax(-1)
    if target.columns is None:
        loss, rise = divergence(target.logprobs, student)
        gradient = torch.addcmul(rise, student.exp_(), rise.sum(-1, keepdim=True), value=-1)
    else:
        loss, gradient = _lumped(divergence, target, student)
    return loss, gradient if divergence.softness == 1 else gradient / divergence.softness


def _lumped(divergence: Divergence, target: Target, student: Tensor) -> tuple[Tensor, Tensor]:
    """Compare tokens one by one that the target names, and all others as one."""
    assert target.columns is not None and target.rest is not None
    first = target.columns if isinstance(target.columns, int) else 0
    columns = target.columns.expand(len(student), -1) if isinstance(target.columns, Tensor) else None
    own = student[:, :first] if columns is None else student.gather(-1, columns)
    named, rise = divergence(target.logprobs, own)
    every = student.exp()
    likely = every[:, :first] if columns is None else own.exp()
    others = every[:, first:] if columns is None else every.scatter_(-1, columns, 0.0)
    # Added up, not taken from 1: of a student that is sure, nothing but rounding would be left.
    mass = others.sum(-1, keepdim=True).clamp_min_(torch.finfo(every.dtype).tiny)
    lumped, rest = divergence(target.rest[:, None], mass.log())
    total = rise.sum(-1, keepdim=True) + rest
    others.mul_(rest / mass - total)
    torch.addcmul(rise, likely, total, value=-1, out=likely)
    return named + lumped, every if columns is None else every.scatter_(-1, columns, likely)


def surprise(targets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative log-probability (n, nats) of n targets in (n, V) logits, and its gradient (n, V)."""
    logprobs = logits.log_softmax(-1)
    loss = -logprobs.gather(-1, targets[:, None])[:, 0]
    gradient = logprobs.exp_()
    return loss, gradient.scatter_add_(-1, targets[:, None], -torch.ones_like(loss)[:, None])


Score = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


def through_head(states: Tensor, head: Any, weight: Tensor, score: Score) -> Tensor:
    """Return the weighted sum of what `score` makes of the logits that a head reads from (N, D) states.

    `score` gets (n, V) logits in 32 bits at least, and which of the N they are of; it returns (n) values and their
    gradients (n, V). `weight` is (N). Raises ValueError for a head with a bias: none of the families has one.
    """
    if getattr(head, "bias", None) is not None:
        raise ValueError("a head with a bias cannot be read piece by piece")
    total: Tensor = _ThroughHead.apply(states, head.weight, weight, score)  # type: ignore[no-untyped-call]
    return total


def cut(piece: slice, step: int) -> Iterator[slice]:
    """Yield a piece in parts of at most `step`."""
    for start in range(piece.start, piece.stop, step):
        yield slice(start, min(start + step, piece.stop))


class _ThroughHead(torch.autograd.Function):
    """Computes its gradient beside its value, so that no logits outlive their piece."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, weight: Tensor, score: Score) -> Tensor:
        wanted_states, wanted_table = ctx.needs_input_grad[:2]
        low, place = _arithmetic(states), states.device.type
        total = torch.zeros((), device=states.device, dtype=torch.promote_types(low, torch.float32))
        by_states = torch.empty_like(states) if wanted_states else None
        by_table = torch.zeros_like(table) if wanted_table else None
        narrow = table.to(low)
        step = max(1, (AT_ONCE if place == "cpu" else 256 * AT_ONCE) // len(table))
        rows = max(ROWS, step)
        with torch.autocast(place, enabled=False):
            for start in range(0, len(states), rows):
                piece = slice(start, min(start + rows, len(states)))
                read = states[piece].to(low)
                logits = F.linear(read, narrow)
                for some in cut(piece, step):
                    here = logits[some.start - start : some.stop - start]
                    values, gradient = score(here.to(total.dtype), some)
                    total += (values * weight[some]).sum()
                    torch.mul(gradient, weight[some, None], out=here)
                if by_states is not None:
                    by_states[piece] = (logits @ narrow).to(states.dtype)
                if by_table is not None and by_table.dtype == low:
                    by_table.addmm_(logits.T, read)
                elif by_table is not None:
                    by_table += logits.T @ read
        ctx.gradients = by_states, by_table
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what was computed, in place: it is needed once."""
        (scale,), (by_states, by_table) = outer, ctx.gradients
        ctx.gradients = None
        return (*(None if g is None else g.mul_(scale.to(g.dtype)) for g in (by_states, by_table)), None, None)


def _arithmetic(states: Tensor) -> torch.dtype:
    """Return the precision that matrices are multiplied in: autocast's where that is on."""
    place = states.device.type
    return torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else states.dtype
