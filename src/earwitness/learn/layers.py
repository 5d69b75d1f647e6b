"""What decoder layers make of a sequence, and how two models' layers are paired and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from earwitness.learn.attention import unwrapped
from earwitness.learn.families import family_of
from earwitness.learn.tree import Packed, branches_below

Places = tuple[Tensor, Tensor]  # rows and positions, both (n)


def decoder(model: Any) -> Any:
    """Return the language model inside a model: what has `layers` and the final `norm`."""
    inner = unwrapped(model)
    return inner.get_submodule(family_of(inner.config).text)


def choose_layers(choice: str | Sequence[int], depth: int, whose: str = "the student") -> tuple[int, ...]:
    """Return layer numbers, from 1: `all`, `1 in n` (n, 2n, ...) or those that are listed.

    Raises ValueError for a layer that is not there, or none at all, or a student's layer that is named twice.
    """
    if choice == "all":
        return tuple(range(1, depth + 1))
    if isinstance(choice, str):
        every = int(choice.removeprefix("1 in "))
        if every > depth:
            raise ValueError(f"{choice!r} takes no layer at all: {whose} has {depth}")
        return tuple(range(every, depth + 1, every))
    astray = [i for i in choice if not 1 <= i <= depth]
    if astray or not choice:
        raise ValueError(f"{whose} has layers 1 to {depth}, there is no layer {astray[0] if astray else 'named'}")
    if len(set(choice)) < len(choice) and whose == "the student":
        raise ValueError(f"a layer is named twice: {tuple(choice)}")
    return tuple(choice)


def paired(layers: Sequence[int], student_depth: int, teacher_depth: int) -> tuple[int, ...]:
    """Return the teacher's layer for each of the student's: the nearest at the same relative depth, halves upwards.

    Both count from 1: j(i) = max(1, floor(i n_T / n_S + 1/2)). (arXiv 2509.18579, equation 4, maps in proportion; the
    rounding is ours.)
    """
    return tuple(max(1, (2 * i * teacher_depth + student_depth) // (2 * student_depth)) for i in layers)


@contextmanager
def tapped(model: Any, layers: Sequence[int], places: Sequence[Places]) -> Iterator[list[list[Tensor]]]:
    """Collect, in a forward pass inside, the output of some layers at some places, before any final norm.

    One list per set of places, in it (n, D) for every layer in the order of `layers`. Gradients flow through them.
    """
    found: list[list[Tensor]] = [[torch.empty(0)] * len(layers) for _ in places]
    text = decoder(model)

    def keep(number: int, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        for states, (row, at) in zip(found, places, strict=True):
            states[number] = hidden[row.to(hidden.device), at.to(hidden.device)]

    handles = [
        text.layers[layer - 1].register_forward_hook(lambda _, given, output, n=n: keep(n, output))
        for n, layer in enumerate(layers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def prediction_places(batch: Packed) -> Places:
    """Return where a batch's N predictions are made."""
    return batch.row, batch.source


def audio_places(batch: Packed, placeholder: int) -> tuple[Places, Tensor]:
    """Return where a batch's audio tokens stand, and how many responses lie below each (A positions)."""
    row, at = (batch.input_ids == placeholder).nonzero(as_tuple=True)
    return (row, at), branches_below(batch)[row, at]


class Projections(nn.ModuleDict):
    """A linear map (D_S to D_T) from the student's space into the teacher's for each layer, orthogonal at first."""

    def __init__(self, layers: Sequence[int], student_width: int, teacher_width: int, seed: int = 0) -> None:
        maps = {str(i): nn.Linear(student_width, teacher_width, bias=False) for i in layers}
        for i, linear in maps.items():
            nn.init.orthogonal_(linear.weight, generator=torch.Generator().manual_seed(1000 * seed + int(i)))
        super().__init__(maps)

    def of(self, layer: int, states: Tensor) -> Tensor:
        """Return the (n, D_T) image of a layer's (n, D_S) states."""
        linear = self[str(layer)]
        assert isinstance(linear, nn.Linear)
        image: Tensor = linear(states.to(linear.weight.dtype))
        return image


def cosine_distance(projected: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cos of (n, D) pairs: (n)."""
    return 1 - F.cosine_similarity(_wide(projected), _wide(teacher), dim=-1)


def normalised_mse(own: Tensor, other: Tensor) -> Tensor:
    """Return the mean squared difference (n) of (n, D) states, each divided by its root mean square.

    u(h) = h / sqrt(mean h^2 + 1e-6): what a model computes on does not depend on the length of its hidden states.
    """
    return (_unit(own) - _unit(other)).square().mean(-1)


def _unit(states: Tensor) -> Tensor:
    wide = _wide(states)
    return wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def _wide(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))
