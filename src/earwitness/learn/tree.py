"""The one sequence layout: a prefix tree packed into a row.

A row is `[root | branch 1 | ... | branch G]`: clip and prompt once, then every continuation. Forks nest: a clip, the
questions about it, the answers to each. A token sees its ancestors, positions restart where the row branches, so each
path is computed as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

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
class Fork:
    """Context that some branches share below the root: a question about the clip, before its answers."""

    ids: tuple[int, ...]
    branches: tuple[Branch | Fork, ...]


@dataclass(frozen=True)
class Tree:
    """A root and what follows it."""

    root: Root
    branches: tuple[Branch | Fork, ...]


@dataclass(frozen=True)
class Packed:
    """A batch of R rows of L tokens, and the N predictions in it that count.

    `input_ids` (R, L); `position_ids` (R, L) or (3, R, L); `reach` (R, L): a token is seen by the positions from its
    own up to its reach, which is where the part of the tree below it ends. Prediction n is made at (`row[n]`,
    `source[n]`) of the token `target[n]` with `weight[n]`, in branch `branch[n]` (branches, forks not among them, are
    counted over the whole batch in the order of the trees).
    """

    input_ids: Tensor
    position_ids: Tensor
    reach: Tensor
    media: dict[str, Tensor]
    row: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    branch: Tensor

    @property
    def mask(self) -> Tensor:
        """(R, 1, L, L) bool, True where attention may look: at itself, and back at what reaches this far."""
        at = torch.arange(self.reach.shape[1], device=self.reach.device)
        return ((at[:, None] >= at) & (at[:, None] < self.reach[:, None, :]))[:, None]

    def cut(self, length: int) -> Packed:
        """Return the batch's first `length` positions without their predictions: nothing that follows changes them."""
        return Packed(
            input_ids=self.input_ids[:, :length],
            position_ids=self.position_ids[..., :length],
            reach=self.reach[:, :length].clamp_max(length),
            media=self.media,
            row=self.row[:0],
            source=self.source[:0],
            target=self.target[:0],
            weight=self.weight[:0],
            branch=self.branch[:0],
        )

    def to(self, device: torch.device | str) -> Packed:
        """Return the batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return Packed(media={k: v.to(device) for k, v in self.media.items()}, **moved)


def pack(trees: Sequence[Tree], pad_id: int) -> Packed:
    """Pack one tree a row. Rows are padded on the right; padding sees only itself.

    Raises ValueError for no trees at all, for a root without tokens (nothing would predict a branch's first token),
    and for rows of which only some have a media tensor.
    """
    if not trees or not all(tree.root.ids for tree in trees):
        raise ValueError("a batch needs at least one tree, and every tree a root of at least one token")
    rows: list[_Row] = []
    for tree in trees:
        rows.append(_Row(tree, first_branch=rows[-1].branches if rows else 0))
    length = max(len(row.ids) for row in rows)
    alone = torch.arange(1, length + 1)  # how far padding reaches: to itself
    picks = [(r, *pick) for r, row in enumerate(rows) for pick in row.picks]
    columns = list(zip(*picks, strict=True)) if picks else [()] * 5
    row, source, target, branch = (torch.tensor(c, dtype=torch.long) for c in columns[:4])
    return Packed(
        input_ids=torch.stack([_padded(torch.tensor(r.ids), torch.full((length,), pad_id)) for r in rows]),
        position_ids=torch.stack([_padded(r.positions(), torch.zeros(length, dtype=torch.long)) for r in rows], -2),
        reach=torch.stack([_padded(torch.tensor(r.reach), alone) for r in rows]),
        media=_media([t.root for t in trees]),
        row=row,
        source=source,
        target=target,
        weight=torch.tensor(columns[4], dtype=torch.float32),
        branch=branch,
    )


class _Row:
    """One tree, written down depth first."""

    def __init__(self, tree: Tree, first_branch: int) -> None:
        root = tree.root
        self.root = torch.arange(len(root.ids)) if root.positions is None else root.positions
        self.ids = list(root.ids)
        self.steps: list[int] = []  # the positions after the root
        self.reach = [0] * len(root.ids)
        self.picks: list[tuple[int, int, int, float]] = []
        self.branches = first_branch
        for node in tree.branches:
            self._add(node, int(self.root.max()) + 1, len(root.ids) - 1)
        self.reach[: len(root.ids)] = [len(self.ids)] * len(root.ids)

    def positions(self) -> Tensor:
        steps = torch.tensor(self.steps, dtype=torch.long)
        return torch.cat([self.root, steps.expand(*self.root.shape[:-1], -1)], dim=-1)

    def _add(self, node: Branch | Fork, position: int, source: int) -> None:
        """Write a node at a position; the token at index `source` predicts its first one."""
        at, size = len(self.ids), len(node.ids)
        self.ids += node.ids
        self.steps += range(position, position + size)
        self.reach += [0] * size
        if isinstance(node, Fork):
            for child in node.branches:
                self._add(child, position + size, at + size - 1 if size else source)
        else:
            for i, (token, weight) in enumerate(zip(node.ids, node.weights, strict=True)):
                if weight:
                    self.picks.append((at + i - 1 if i else source, token, self.branches, weight))
            self.branches += 1
        self.reach[at : at + size] = [len(self.ids)] * size


def share(trees: Sequence[Tree], placeholder: int | None) -> Tree:
    """Return one tree of several about the same clip: what their prompts begin with alike is kept once.

    The branches keep their order. Raises ValueError where the prompts differ before the clip's last placeholder.
    """
    first, *others = (tree.root for tree in trees)
    common = len(first.ids)
    for other in others:
        pairs = zip(first.ids[:common], other.ids, strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(common, len(other.ids)))
    rests = [tree.root.ids[common:] for tree in trees]
    if not common or any(placeholder in rest for rest in rests):
        raise ValueError("prompts that differ before their clip ends cannot share it: put the clip first")
    positions = None if first.positions is None else first.positions[..., :common]
    below: list[Branch | Fork] = []
    for tree, rest in zip(trees, rests, strict=True):
        below += [Fork(rest, tree.branches)] if rest else tree.branches
    return Tree(Root(first.ids[:common], positions, first.media), tuple(below))


def ends(tree: Tree) -> list[tuple[int, int]]:
    """Return for each branch (index in the row, tokens on its path) of its last token; that above where it has none."""
    found: list[tuple[int, int]] = []

    def walk(node: Branch | Fork, at: int, last: int, depth: int) -> int:
        size = len(node.ids)
        last, at, depth = (at + size - 1 if size else last), at + size, depth + size
        if not isinstance(node, Fork):
            found.append((last, depth))
            return at
        for child in node.branches:
            at = walk(child, at, last, depth)
        return at

    at = len(tree.root.ids)
    for node in tree.branches:
        at = walk(node, at, len(tree.root.ids) - 1, len(tree.root.ids))
    return found


def branches_below(batch: Packed) -> Tensor:
    """Return (R, L): how many branches a position belongs to; 0 for padding, and where nothing is predicted in a row.

    Branches without a token do not count.
    """
    reach, at = batch.reach, torch.arange(batch.reach.shape[1], device=batch.reach.device)
    inside = at < reach[:, :1]  # the root reaches to the end of its row
    ends = ((reach == at + 1) & inside).long().cumsum(1)
    before = torch.nn.functional.pad(ends, (1, 0))[:, :-1]
    predicting = torch.zeros_like(reach[:, :1]).index_fill(0, batch.row, 1)  # a root alone is no branch of its own
    return (ends.gather(1, reach - 1) - before) * inside * predicting


def _padded(values: Tensor, padding: Tensor) -> Tensor:
    """Return (..., n) values followed by the rest of a (L) padding."""
    return torch.cat([values, padding[values.shape[-1] :].expand(*values.shape[:-1], -1)], dim=-1)


def _media(roots: Sequence[Root]) -> dict[str, Tensor]:
    names = {name for root in roots for name in root.media}
    for name in names:
        if any(name not in root.media for root in roots):
            raise ValueError(f"some rows of a batch have {name} and some have not: batch them apart")
    return join([root.media for root in roots])


def join(media: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return several clips' media as one, row after row; a shorter last axis (time) is filled up with zeros."""
    joined = {}
    for name in sorted(media[0]):
        tensors = [m[name] for m in media]
        longest = max(t.shape[-1] for t in tensors)
        joined[name] = torch.cat([torch.nn.functional.pad(t, (0, longest - t.shape[-1])) for t in tensors])
    return joined
