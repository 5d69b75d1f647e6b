"""What a model thinks of tokens that somebody wrote: how likely each was in its place, and what was likelier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from earwitness.learn.losses import token_logprobs_and_likeliest
from earwitness.learn.tree import Branch, Root, Tree, pack
from earwitness.models.local import LocalModel

TOGETHER = 4096  # tokens behind one root that are scored at once: masks grow with the square


@dataclass(frozen=True)
class Scored:
    """A token in its place: its log-probability (nats), its rank (from 1), and the likeliest there with theirs."""

    id: int
    logprob: float
    rank: int
    likeliest: tuple[tuple[int, float], ...]


@torch.no_grad()
def score(
    model: LocalModel, root: Root, continuations: Sequence[Sequence[int]], likeliest: int = 0
) -> list[tuple[Scored, ...]]:
    """Return the score of every token of each continuation of a root, with the `likeliest` tokens in its place.

    The root is computed once for all, at temperature 1 and with nothing forbidden, whatever was sampled how.
    """
    return [scored for some in _together(continuations) for scored in _score(model, root, some, likeliest)]


def _score(
    model: LocalModel, root: Root, continuations: Sequence[Sequence[int]], likeliest: int
) -> Iterator[tuple[Scored, ...]]:
    tree = Tree(root, tuple(Branch.trained(ids) for ids in continuations))
    batch = pack([tree], model.pad).to(model.model.device)
    columns = token_logprobs_and_likeliest(model.model, batch, likeliest)
    tokens = zip(batch.target.tolist(), *(column.tolist() for column in columns), strict=True)
    scored = iter([Scored(i, p, rank, tuple(zip(ids, ps, strict=True))) for i, p, rank, ps, ids in tokens])
    for ids in continuations:
        yield tuple(next(scored) for _ in ids)


def _together(continuations: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    some: list[Sequence[int]] = []
    for ids in continuations:
        if some and sum(map(len, some)) + len(ids) > TOGETHER:
            yield some
            some = []
        some.append(ids)
    if some:
        yield some
