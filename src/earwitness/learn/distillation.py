"""Joint training by lessons and two teachers: the terms of method two, out of one forward pass of the student.

Source- and layer-wise distillation (arXiv 2509.18579): a textual teacher that reads a description of the sound scores
the same responses as the student, and an acoustic teacher, the student's own parent checkpoint, keeps its hearing where
it was. What the paper leaves open is said in docs/distillation.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from earwitness.learn.attention import unwrapped
from earwitness.learn.divergences import Divergence, compare, surprise, through_head
from earwitness.learn.layers import (
    Projections,
    audio_places,
    cosine_distance,
    decoder,
    normalised_mse,
    prediction_places,
    tapped,
)
from earwitness.learn.losses import forward_and_read, hidden_states
from earwitness.learn.teachers import Signals
from earwitness.learn.tree import Packed

TERMS = ("ce", "text_kd", "layer_kd", "acoustic_kd")
OUTSIDE = "outside"  # share of the response tokens that the teacher's target has no place of its own for


@dataclass(frozen=True)
class Comparison:
    """How the student is compared with its teachers.

    `layers` are the student's, from 1, that are paired with the textual teacher's; each counts with its own of
    `layer_weights` (none: alike). `distance` is between projected hidden states. `acoustic_layers` are compared with
    the parent's at the positions that `placeholder` (a token id) marks.
    """

    terms: frozenset[str]
    divergence: Divergence
    layers: tuple[int, ...]
    layer_weights: tuple[float, ...]
    distance: Literal["cosine", "mse"]
    acoustic_layers: tuple[int, ...]
    placeholder: int


def responses_below_sound(batch: Packed, placeholder: int) -> float:
    """Return what the acoustic term is divided by: audio positions, each as often as there are responses below it."""
    return float(audio_places(batch, placeholder)[1].sum())


@torch.no_grad()
def anchor(parent: Any, batch: Packed, comparison: Comparison) -> list[Tensor]:
    """Return the parent's hidden states (A, D) at the audio tokens, for every layer that the student is held to."""
    places, _ = audio_places(batch, comparison.placeholder)
    if not len(places[1]):
        return []
    with tapped(parent, comparison.acoustic_layers, [places]) as (states,):
        hidden_states(parent, batch.cut(int(places[1].max()) + 1))
    return states


def joint_terms(
    model: Any,
    batch: Packed,
    comparison: Comparison,
    totals: Mapping[str, float],
    signals: Signals | None,
    anchored: list[Tensor],
    projections: Projections | None,
) -> dict[str, Tensor]:
    """Return the terms that the comparison asks for, each divided by its count over the global batch.

    `totals` holds the counts `tokens` (N) and `sound` (A). `signals` are the textual teacher's for this batch, None
    where no term needs them; `anchored` the parent's states.
    """
    wanted = [name for name in TERMS if name in comparison.terms]
    text = decoder(model)
    sound, below = audio_places(batch, comparison.placeholder)
    taps = comparison.layers if "layer_kd" in wanted else ()
    held = comparison.acoustic_layers if anchored else ()
    missing = [torch.zeros((), device=batch.weight.device)]

    def read(hidden: Tensor) -> Tensor:
        head = unwrapped(model).lm_head
        if not len(batch.target):
            return _nothing(hidden, head, projections).expand(len(wanted))
        found: dict[str, Tensor] = {}
        states = hidden[batch.row, batch.source]
        if "ce" in wanted:
            found["ce"] = through_head(states, head, batch.weight, lambda z, some: surprise(batch.target[some], z))
        if "text_kd" in wanted:
            assert signals is not None
            found["text_kd"], missing[0] = _top(states, head, batch, comparison.divergence, signals)
        if "layer_kd" in wanted:
            assert signals is not None
            found["layer_kd"] = (
                _by_states(own, signals.states, batch.weight, comparison, projections)
                if signals.states is not None
                else _by_distribution(text.norm(torch.cat(own)), head, batch.weight, comparison, signals)
            )
        if "acoustic_kd" in wanted:
            pairs = zip(heard, anchored, strict=True) if anchored else ()
            apart = [(normalised_mse(h, r) * below).sum() for h, r in pairs]
            found["acoustic_kd"] = torch.stack(apart).sum() if apart else (hidden * 0).sum()
        terms = torch.stack([found[name] for name in wanted])
        return terms if {"ce", "text_kd"} & set(wanted) else terms + _nothing(hidden, head, None)

    with tapped(model, taps, [prediction_places(batch)]) as (own,), tapped(model, held, [sound]) as (heard,):
        sums = dict(zip(wanted, forward_and_read(model, batch, read), strict=True))
    tokens = max(totals["tokens"], 1.0)
    counts = {
        "ce": tokens,
        "text_kd": tokens,
        "layer_kd": tokens * max(len(comparison.layers), 1),
        "acoustic_kd": max(totals["sound"], 1.0) * max(len(comparison.acoustic_layers), 1),
    }
    return {**{name: value / counts[name] for name, value in sums.items()}, OUTSIDE: missing[0] / tokens}


def _nothing(hidden: Tensor, head: Any, projections: Projections | None) -> Tensor:
    """Return 0 that every trained weight has a part in: processes that train together wait for all of them."""
    nothing = (hidden * 0).sum()
    for parameter in (head.weight, *(projections.parameters() if projections is not None else ())):
        nothing = nothing + (parameter * 0).sum() if parameter.requires_grad else nothing
    return nothing


def _top(states: Tensor, head: Any, batch: Packed, divergence: Divergence, signals: Signals) -> tuple[Tensor, Tensor]:
    """Compare the top layer's distributions; also count the response tokens that the targets do not name."""
    outside = torch.zeros((), device=states.device)

    def score(logits: Tensor, some: slice) -> tuple[Tensor, Tensor]:
        target, said = signals.top(some), batch.target[some]
        if isinstance(target.columns, int):
            named = said < target.columns
        elif target.columns is None:
            named = torch.ones_like(said, dtype=torch.bool)
        else:
            named = (target.columns.expand(len(said), -1) == said[:, None]).any(-1)
        outside.add_((~named * batch.weight[some]).sum())
        return compare(divergence, target, logits)

    return through_head(states, head, batch.weight, score), outside


def _by_states(
    own: list[Tensor], states: list[Tensor], weight: Tensor, comparison: Comparison, projections: Projections | None
) -> Tensor:
    """Compare hidden states, the student's through its projections."""
    assert projections is not None
    distance = cosine_distance if comparison.distance == "cosine" else normalised_mse
    factors = comparison.layer_weights or (1.0,) * len(own)
    total = torch.zeros((), device=weight.device)
    for layer, factor, mine, theirs in zip(comparison.layers, factors, own, states, strict=True):
        mapped = projections.of(layer, mine)
        total = total + factor * (distance(mapped, theirs) * weight).sum()
    return total


def _by_distribution(states: Tensor, head: Any, weight: Tensor, comparison: Comparison, signals: Signals) -> Tensor:
    """Compare what the layers' (n_L N, D) states would say, read by each model's own final norm and head."""
    assert signals.below is not None
    below, factors = signals.below, comparison.layer_weights or (1.0,) * len(comparison.layers)
    weights = (torch.tensor(factors, device=weight.device)[:, None] * weight).flatten()
    return through_head(states, head, weights, lambda z, some: compare(comparison.divergence, below(some), z))
