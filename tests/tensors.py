"""What the tests of training and sampling share: clips, prompts, and trees on the embedded world's scenes."""

from __future__ import annotations

import torch

from earwitness.learn.tree import Branch, Tree
from earwitness.models.exchange import Prompt
from earwitness.records import Clip

QUESTION = "which sound is the first one ?"


def clip(seed: int) -> Clip:
    """A scene of the embedded world."""
    return Clip(id=f"world/{seed}", media=f"world:easy:{seed}")


def root(local, seed: int, text: str = QUESTION):
    """A prompt about a scene, encoded for a model."""
    return local.encode(Prompt(text, clip(seed)))


def random_ids(count: int, seed: int) -> tuple[int, ...]:
    """Token ids that are words."""
    drawn = torch.randint(16, 100, (count,), generator=torch.Generator().manual_seed(seed))
    return tuple(drawn.tolist())


def tree(local, seed: int, lengths, text: str = QUESTION) -> Tree:
    """A tree about a scene with random branches of these lengths, the first token of each a context token."""
    branches = []
    for n, length in enumerate(lengths):
        weights = (0.0, *(0.5 + 0.25 * i for i in range(length - 1))) if length > 1 else (1.0,)
        branches.append(Branch(random_ids(length, 1000 * seed + n), weights))
    return Tree(root(local, seed, text), tuple(branches))


def gradients(model) -> dict[str, torch.Tensor]:
    """The gradients of a model by name, as copies."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative_error(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The norm of the difference of two sets of gradients over the norm of the second."""
    assert set(a) == set(b)
    difference = sum(float((a[k] - b[k]).double().pow(2).sum()) for k in a)
    return (difference / sum(float(b[k].double().pow(2).sum()) for k in b)) ** 0.5
