"""The one sequence layout: a prefix tree packed into a row.

A row is `[root | branch 1 | ... | branch G]`: clip and prompt once, then every continuation. A token sees its own
branch and the root, positions restart after the root, so each branch is computed as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Root:
    """What the branches share: token ids (P), positions (P) or (3, P) for M-RoPE, and the media tensors of the clip.

    Every media tensor is batch-first, so that the tensors of several roots can be concatenated.
    """

    ids: tuple[int, ...]
    positions: Tensor | None = None
    media: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Branch:
    """One continuation: token ids (C) and the weight of each token's prediction (0: context, not trained)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def trained(cls, ids: Sequence[int]) -> Branch:
        """A branch whose every token is trained."""
        return cls(tuple(ids), (1.0,) * len(ids))


@dataclass(frozen=True)
class Tree:
    """A root and its branches."""

    root: Root
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Packed:
    """A batch of R rows of L tokens, and the N predictions in it that count.

    `input_ids` (R, L); `position_ids` (R, L) or (3, R, L); `mask` (R, 1, L, L) bool, True where attention may look.
    Prediction n is made at (`row[n]`, `source[n]`) of the token `target[n]` with `weight[n]`, in branch `branch[n]`
    (branches are counted over the whole batch).
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    media: dict[str, Tensor]
    row: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    branch: Tensor

    def to(self, device: torch.device | str) -> Packed:
        """Return the batch on another device."""
        moved = {k: v.to(device) for k, v in self.__dict__.items() if isinstance(v, Tensor)}
        return Packed(media={k: v.to(device) for k, v in self.media.items()}, **moved)


def pack(trees: Sequence[Tree], pad_id: int) -> Packed:
    """Pack one tree a row. Rows are padded on the right; padding sees only itself.

    Raises ValueError for no trees at all, for a root without tokens (nothing would predict a branch's first token),
    and for rows of which only some have a media tensor.
    """
    if not trees or not all(tree.root.ids for tree in trees):
        raise ValueError("a batch needs at least one tree, and every tree a root of at least one token")
    length = max(len(t.root.ids) + sum(len(b.ids) for b in t.branches) for t in trees)
    ids = torch.full((len(trees), length), pad_id)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
    positions, picks, branch_count = [], [], 0
    for r, tree in enumerate(trees):
        tokens = [*tree.root.ids, *(i for b in tree.branches for i in b.ids)]
        ids[r, : len(tokens)] = torch.tensor(tokens)
        positions.append(_positions(tree, length))
        _connect(mask[r], tree)
        picks += _predictions(tree, r, branch_count)
        branch_count += len(tree.branches)
    columns = list(zip(*picks, strict=True)) if picks else [()] * 5
    row, source, target, branch = (torch.tensor(c, dtype=torch.long) for c in columns[:4])
    return Packed(
        input_ids=ids,
        position_ids=torch.stack(positions, dim=-2),
        mask=mask[:, None],
        media=_media([t.root for t in trees]),
        row=row,
        source=source,
        target=target,
        weight=torch.tensor(columns[4], dtype=torch.float32),
        branch=branch,
    )


def _positions(tree: Tree, length: int) -> Tensor:
    root = tree.root.positions
    if root is None:
        root = torch.arange(len(tree.root.ids))
    start = int(root.max()) + 1
    parts = [root]
    for branch in tree.branches:
        step = torch.arange(start, start + len(branch.ids))
        parts.append(step.expand(*root.shape[:-1], -1))
    joined = torch.cat(parts, dim=-1)
    return torch.nn.functional.pad(joined, (0, length - joined.shape[-1]))


def _connect(mask: Tensor, tree: Tree) -> None:
    p = len(tree.root.ids)
    mask[:p, :p] = torch.ones(p, p, dtype=torch.bool).tril()
    at = p
    for branch in tree.branches:
        n = len(branch.ids)
        mask[at : at + n, :p] = True
        mask[at : at + n, at : at + n] = torch.ones(n, n, dtype=torch.bool).tril()
        at += n


def _predictions(tree: Tree, row: int, first_branch: int) -> list[tuple[int, int, int, int, float]]:
    found = []
    at = len(tree.root.ids)
    for b, branch in enumerate(tree.branches):
        for i, (token, weight) in enumerate(zip(branch.ids, branch.weights, strict=True)):
            if weight:
                source = at + i - 1 if i else len(tree.root.ids) - 1
                found.append((row, source, token, first_branch + b, weight))
        at += len(branch.ids)
    return found


def _media(roots: Sequence[Root]) -> dict[str, Tensor]:
    names = {name for root in roots for name in root.media}
    for name in names:
        if any(name not in root.media for root in roots):
            raise ValueError(f"some rows of a batch have {name} and some have not: batch them apart")
    return {name: torch.cat([root.media[name] for root in roots]) for name in sorted(names)}
