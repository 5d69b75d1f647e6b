"""Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300, and its normalisations), on prefix trees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from earwitness.learn.importance import LARGEST, drift_of, refuse_strangers
from earwitness.learn.losses import token_logprobs, token_logprobs_and_entropies
from earwitness.learn.router import router_counts, with_router
from earwitness.learn.sampling import Decoding, Sampled, sample
from earwitness.learn.tree import Branch, Packed, Root, Tree, pack

Normalise = Literal["grpo", "dapo", "dr_grpo"]


@dataclass(frozen=True)
class Task:
    """One question to practise on: its encoded prompt, what a group of completions is worth, the key of its noise."""

    root: Root
    reward: Callable[[Sequence[tuple[int, ...]]], Sequence[float]]
    key: tuple[object, ...]


@dataclass(frozen=True)
class PolicySettings:
    """See `config.Grpo` for the meaning of each."""

    group: int
    temperature: float
    max_tokens: int
    beta: float
    clip_low: float
    clip_high: float
    normalise: Normalise
    scale: Literal["group", "none"]
    keep_equal_groups: bool
    importance_cap: float = 2.0


Sampler = Callable[[Sequence[Task], int], list[list[Sampled]]]
"""Draws a group of samples for each task in a round, whose number is part of the noise's key."""


@dataclass(frozen=True)
class Drawn:
    """One group: its samples, what each was worth, and its advantage over the others."""

    samples: list[Sampled]
    rewards: list[float]
    advantages: list[float]


@dataclass
class Rollout:
    """Scored samples of some tasks, packed. Per branch: its advantage, its length, and how many samples it stands for.

    Equal samples of a group are one branch: the same gradient for less work. `old` and `reference` (N) are the
    log-probabilities under the sampling policy and the parent checkpoint, None where they are not needed. `drift` (N)
    is by how much `old` is above what the samples' own drawer said of them, None where they were drawn in process.
    `drawn` holds every group as it was sampled, `rows` what is to be kept of them.
    """

    batch: Packed | None
    advantage: Tensor
    length: Tensor
    copies: Tensor
    old: Tensor | None
    reference: Tensor | None
    facts: dict[str, float]
    drift: Tensor | None = None
    drawn: list[Drawn] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def discard(self) -> None:
        """Let the rollout count for nothing: it was made so that a forward pass is run, not to be learnt from."""
        self.copies.zero_()
        self.facts = dict.fromkeys(self.facts, 0.0)
        self.drawn = []

    def counts(self) -> dict[str, float]:
        """What the normalisers divide by: numbers of sampled sequences and tokens, for summing over processes."""
        return {
            "sequences": float(self.copies.sum()),
            "tokens": float((self.copies * self.length).sum()),
            **self.facts,
        }


def advantages(rewards: Tensor, scale: Literal["group", "none"]) -> Tensor:
    """Return a = (r - mean) / (std + 1e-4) per group, std with one degree of freedom off; `none`: a = r - mean.

    Rewards and advantages are (groups, samples).
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred if scale == "none" else centred / (rewards.std(1, keepdim=True) + 1e-4)


def roll_out(
    model: Any,
    tasks: Sequence[Task],
    settings: PolicySettings,
    decoding: Decoding,
    round_number: int,
    reference: Callable[[Packed], Tensor] | None,
    remember_old: bool,
    sampler: Sampler | None = None,
) -> Rollout:
    """Sample a group per task, score it, and pack what carries a signal.

    Where a `sampler` draws elsewhere, the policy's own log-probabilities are always remembered: what it says of its
    samples is held against them. Raises StrangeSamples where it is another model's.
    """
    keys = [(*task.key, round_number) for task in tasks]
    roots = [task.root for task in tasks]
    groups = sampler(tasks, round_number) if sampler else sample(model, roots, settings.group, decoding, keys)
    rewards = torch.tensor([_rewarded(t, [s.ids for s in g]) for t, g in zip(tasks, groups, strict=True)])
    advantage = advantages(rewards, settings.scale)
    varied = (rewards.amax(1) - rewards.amin(1)) > 0
    facts = {
        "reward": float(rewards.sum()),
        "sampled": float(rewards.numel()),
        "equal_groups": float((~varied).sum()),
        "groups": float(len(tasks)),
        "cut_off": float(sum(not s.stopped for g in groups for s in g)),
    }
    kept = [i for i in range(len(tasks)) if varied[i] or settings.keep_equal_groups]
    # With several processes each must run the same forward passes: one without a signal runs one that counts nothing.
    idle = not kept and torch.distributed.is_initialized()
    chosen = [(tasks[i].root, groups[i], advantage[i]) for i in (kept or [0] * idle)]
    rollout = _pack(chosen, facts, decoding.pad_id, next(model.parameters()).device)
    if idle:
        rollout.copies.zero_()
    if sampler:
        rollout.facts[LARGEST] = 0.0
    rollout.drawn = [
        Drawn(group, r, a) for group, r, a in zip(groups, rewards.tolist(), advantage.tolist(), strict=True)
    ]
    if rollout.batch is not None:
        rollout.facts |= router_counts(model, rollout.batch)
        with torch.no_grad():
            scored = remember_old or sampler
            rollout.old = token_logprobs(model, rollout.batch, settings.temperature) if scored else None
            rollout.reference = reference(rollout.batch) if reference else None
    if rollout.drift is not None:
        assert rollout.old is not None
        rollout.drift = drift_of(rollout.old, rollout.drift)
        rollout.facts[LARGEST] = refuse_strangers(rollout.drift)
    return rollout


def _rewarded(task: Task, samples: Sequence[tuple[int, ...]]) -> list[float]:
    """Return a group's rewards, or raise ValueError for what would poison the update without a word."""
    rewards = [float(value) for value in task.reward(samples)]
    if len(rewards) != len(samples) or not all(map(math.isfinite, rewards)):
        raise ValueError(
            f"the reward of {'/'.join(map(str, task.key))} returned {rewards} for {len(samples)} samples: it must "
            "return one finite number for each"
        )
    return rewards


def _pack(
    groups: Sequence[tuple[Root, list[Sampled], Tensor]], facts: dict[str, float], pad_id: int, device: torch.device
) -> Rollout:
    """Pack groups; `drift` holds what the samples' drawer said of each token, until it is known what we say."""
    trees, advantage, length, copies = [], [], [], []
    said: list[float] = []
    for root, samples, values in groups:
        distinct: dict[Sampled, int] = {}
        worth = {s: float(v) for s, v in zip(samples, values, strict=True)}
        for s in samples:
            distinct[s] = distinct.get(s, 0) + 1
        trees.append(Tree(root, tuple(Branch.trained(s.ids) for s in distinct)))
        advantage += [worth[s] for s in distinct]
        length += [len(s.ids) for s in distinct]
        copies += list(distinct.values())
        said += [value for s in distinct for value in s.logprobs]
    batch = pack(trees, pad_id).to(device) if trees else None
    a, n, c = (torch.tensor(x, dtype=torch.float32, device=device) for x in (advantage, length, copies))
    drift = torch.tensor(said, dtype=torch.float32, device=device) if said else None
    return Rollout(batch, advantage=a, length=n, copies=c, old=None, reference=None, facts=facts, drift=drift)


def policy_terms(model: Any, rollout: Rollout, totals: dict[str, float], settings: PolicySettings) -> dict[str, Tensor]:
    """Return the `policy` and `kl_ref` terms (kl_ref not yet multiplied by beta), normalised by the global totals.

    Per token: -min(rho a, clip(rho, 1 - low, 1 + high) a), and exp(d) - d - 1 with d = log p_ref - log p. Beside them,
    to be watched and not trained: the mean `entropy` (nats a token) and the share of tokens that were `clipped`; of
    samples drawn elsewhere also the mean `importance` that multiplies the policy's part, the mean distance between what
    the two said (`gap`, nats), and the share of tokens that were `capped`.
    """
    if rollout.batch is None:
        zero = sum((p.sum() * 0.0 for p in model.parameters() if p.requires_grad), torch.zeros(()))
        return {"policy": zero} | dict.fromkeys(("kl_ref", "entropy", "clipped"), zero.detach())
    packed = rollout.batch
    score = partial(token_logprobs_and_entropies, model, packed, settings.temperature)
    (logprobs, entropy), router = with_router(model, packed, totals, score)
    branch = packed.branch
    copies = rollout.copies[branch]
    weight = copies * _normaliser(rollout, totals, settings)[branch]
    share = copies / max(totals["tokens"], 1.0)
    loss, bound = surrogate(logprobs, rollout.old, rollout.advantage[branch], settings)
    watched = {"entropy": (entropy * share).sum(), "clipped": (bound * share).sum()}
    if rollout.drift is not None:
        ratio = torch.exp(rollout.drift)
        importance = ratio.clamp_max(settings.importance_cap)
        loss = loss * importance
        watched["importance"] = (importance * share).sum()
        watched["gap"] = (rollout.drift.abs() * share).sum()
        watched["capped"] = ((ratio > settings.importance_cap) * share).sum()
    reference = logprobs.detach() if rollout.reference is None else rollout.reference
    return {
        "policy": (loss * weight).sum(),
        "kl_ref": (divergence(reference, logprobs) * weight).sum(),
        **watched,
        **router,
    }


def surrogate(
    logprobs: Tensor, old: Tensor | None, advantage: Tensor, settings: PolicySettings
) -> tuple[Tensor, Tensor]:
    """Return the clipped surrogate's loss per token (N), and where the clip took the gradient away (N, bool).

    Without `old` the policy is its own sampling policy.
    """
    ratio = torch.exp(logprobs - (logprobs.detach() if old is None else old))
    bounded = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    return -torch.minimum(ratio * advantage, bounded * advantage), bounded * advantage < ratio * advantage


def divergence(reference: Tensor, logprobs: Tensor) -> Tensor:
    """Return the estimate of KL(policy, reference) per token (N): exp(d) - d - 1, d = log p_ref - log p."""
    d = reference - logprobs
    return torch.exp(d) - d - 1


def _normaliser(rollout: Rollout, totals: dict[str, float], settings: PolicySettings) -> Tensor:
    """Return what each branch's token sum is multiplied by."""
    if settings.normalise == "grpo":
        return 1 / (rollout.length * max(totals["sequences"], 1.0))
    if settings.normalise == "dapo":
        return torch.full_like(rollout.length, 1 / max(totals["tokens"], 1.0))
    return torch.full_like(rollout.length, 1 / (max(totals["sequences"], 1.0) * settings.max_tokens))
