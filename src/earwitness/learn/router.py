"""The router loss of a mixture of experts, the same however a step's sequences are packed, cut or spread.

Switch Transformer (arXiv 2101.03961, equations 4 to 6): E sum_e f_e P_e, with f_e the share of routings that chose
expert e and P_e the mean probability that the router gave it, over all layers and tokens. A packed position counts as
often as there are branches below it, so that sharing a prefix changes nothing. f needs the counts of the whole step,
which are no function to be differentiated: they are counted before, and the loss is then a sum over micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from earwitness.learn.attention import unwrapped
from earwitness.learn.losses import hidden_states
from earwitness.learn.tree import Packed, branches_below

T = TypeVar("T")
ROUTINGS, EXPERT = "routings", "expert_"


def has_router(model: Any) -> bool:
    """Whether a model's language model is a mixture of experts."""
    return hasattr(unwrapped(model).config.get_text_config(), "router_aux_loss_coef")


def router_weight(model: Any) -> dict[str, float]:
    """Return the weight that a model's configuration gives its `router` term; {} for models without routers."""
    text = unwrapped(model).config.get_text_config()
    return {"router": float(text.router_aux_loss_coef)} if has_router(model) else {}


def with_router(
    model: Any, batch: Packed, totals: Mapping[str, float], score: Callable[[], T]
) -> tuple[T, dict[str, Tensor]]:
    """Return what `score` makes of a batch in one forward pass, and the `router` term of the same pass, if any."""
    if not has_router(model):
        return score(), {}
    with routed(model) as seen:
        made = score()
    return made, {"router": router_loss(seen, batch, totals)}


@contextmanager
def routed(model: Any) -> Iterator[list[Tensor]]:
    """Collect the router logits (R L, E) of every layer in a forward pass inside: one list, one entry a layer.

    The model without its head is asked for them: with its head it would make a loss of its own, of a mask (R, L).
    """
    body = getattr(unwrapped(model), unwrapped(model).base_model_prefix)
    seen: list[Tensor] = []
    ask = body.register_forward_pre_hook(
        lambda _, a, named: (a, named | {"output_router_logits": True}), with_kwargs=True
    )
    keep = body.register_forward_hook(lambda module, given, output: seen.extend(output.router_logits))
    try:
        yield seen
    finally:
        ask.remove()
        keep.remove()


@torch.no_grad()
def router_counts(model: Any, batch: Packed) -> dict[str, float]:
    """Return how often a batch's routings chose each expert, and how many tokens were routed, layer by layer.

    To be summed over a whole step, as an objective's counts are. Costs a forward pass; {} for models without routers.
    """
    if not has_router(model):
        return {}
    with routed(model) as logits:
        hidden_states(model, batch)
    return counts_of(model, logits, batch)


def counts_of(model: Any, logits: Sequence[Tensor], batch: Packed) -> dict[str, float]:
    """Like `router_counts`, for logits that were collected already."""
    text = unwrapped(model).config.get_text_config()
    weight = branches_below(batch).flatten().double()
    chosen = torch.zeros(text.num_experts, dtype=torch.float64, device=weight.device)
    for layer in logits:
        picked = layer.detach().softmax(-1).topk(text.num_experts_per_tok, dim=-1).indices
        chosen.index_add_(0, picked.flatten(), weight.repeat_interleave(text.num_experts_per_tok))
    experts = {f"{EXPERT}{e}": count for e, count in enumerate(chosen.tolist())}
    return {ROUTINGS: float(weight.sum()) * len(logits), **experts}


def router_loss(logits: Sequence[Tensor], batch: Packed, totals: Mapping[str, float]) -> Tensor:
    """Return a micro-batch's part of the router loss, of its router logits and the counts of the whole step."""
    weight = branches_below(batch).flatten()[:, None]
    probability = torch.stack([(layer.float().softmax(-1) * weight).sum(0) for layer in logits]).sum(0)
    experts = probability.shape[0]
    chosen = torch.tensor([totals[f"{EXPERT}{e}"] for e in range(experts)], device=probability.device)
    routings = max(totals[ROUTINGS], 1.0)  # of a step that trains nothing: none
    return experts * (chosen / routings * probability / routings).sum()
