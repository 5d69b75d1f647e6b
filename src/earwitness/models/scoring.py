"""What a model thinks of tokens that somebody wrote: how likely each was in its place, and what was likelier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from earwitness.learn.losses import token_logprobs_and_likeliest
from earwitness.learn.tree import Branch, Root, Tree, pack
from earwitness.models.local import LocalModel

BRANCHES = 4096  # tokens behind one root that are scored at once: masks grow with the square
TOKENS = 16384  # in a batch, padding counted


@dataclass(frozen=True)
class Scored:
    """A token in its place: its log-probability (nats), its rank (from 1), and the likeliest there with theirs."""

    id: int
    logprob: float
    rank: int
    likeliest: tuple[tuple[int, float], ...]


Scores = tuple[Scored, ...]
"""Those of a whole continuation's tokens."""


def score(model: LocalModel, root: Root, continuations: Sequence[Sequence[int]], likeliest: int = 0) -> list[Scores]:
    """Return the score of every token of each continuation of a root, with the `likeliest` tokens in its place.

    The root is computed once for all, at temperature 1 and with nothing forbidden, whatever was sampled how.
    """
    return score_each(model, [(root, continuations)], likeliest)[0]


@torch.no_grad()
def score_each(
    model: LocalModel, texts: Sequence[tuple[Root, Sequence[Sequence[int]]]], likeliest: int = 0
) -> list[list[Scores]]:
    """Like `score`, for several roots with their continuations: all with media, or all without."""
    trees = [(n, Tree(root, some)) for n, (root, following) in enumerate(texts) for some in _branches(following)]
    found: list[list[Scores]] = [[] for _ in texts]
    for batch in _batches(trees):
        for (n, _), scores in zip(batch, _score(model, [tree for _, tree in batch], likeliest), strict=True):
            found[n] += scores
    return found


def _score(model: LocalModel, trees: Sequence[Tree], likeliest: int) -> Iterator[list[Scores]]:
    batch = pack(trees, model.pad).to(model.model.device)
    columns = token_logprobs_and_likeliest(model.model, batch, likeliest)
    tokens = zip(batch.target.tolist(), *(column.tolist() for column in columns), strict=True)
    scored = iter([Scored(i, p, rank, tuple(zip(ids, ps, strict=True))) for i, p, rank, ps, ids in tokens])
    for tree in trees:
        yield [tuple(next(scored) for _ in branch.ids) for branch in tree.branches]


def _branches(continuations: Sequence[Sequence[int]]) -> Iterator[tuple[Branch, ...]]:
    some: list[Branch] = []
    for ids in continuations:
        if some and sum(len(branch.ids) for branch in some) + len(ids) > BRANCHES:
            yield tuple(some)
            some = []
        some.append(Branch.trained(ids))
    if some:
        yield tuple(some)


def _batches(trees: Sequence[tuple[int, Tree]]) -> Iterator[list[tuple[int, Tree]]]:
    some: list[tuple[int, Tree]] = []
    longest = 0
    for number, tree in trees:
        length = len(tree.root.ids) + sum(len(branch.ids) for branch in tree.branches)
        if some and max(longest, length) * (len(some) + 1) > TOKENS:
            yield some
            some, longest = [], 0
        some.append((number, tree))
        longest = max(longest, length)
    if some:
        yield some
