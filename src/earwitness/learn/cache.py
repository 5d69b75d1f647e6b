"""A key-value cache that grows by half at a time: joining tensors at every token costs more than the model itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class Growing(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, (R, heads, capacity, D) each, of which the first `length` positions are used."""

    is_initialized: bool
    length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Remember the keys and values (R, heads, n, D) of n more positions, and return all so far."""
        start, self.length = self.length, self.length + key_states.shape[-2]
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = _room(key_states, self.length), _room(value_states, self.length)
        elif self.length > self.keys.shape[-2]:
            old = self.keys[..., :start, :], self.values[..., :start, :]
            self.keys, self.values = (_room(tensor, self.length) for tensor in old)
            self.keys[..., :start, :], self.values[..., :start, :] = old
        self.keys[..., start : self.length, :] = key_states
        self.values[..., start : self.length, :] = value_states
        return self.keys[..., : self.length, :], self.values[..., : self.length, :]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self.keys, self.values = self.keys.index_select(0, indices), self.values.index_select(0, indices)

    def get_seq_length(self) -> int:
        """Return how many positions are remembered."""
        return self.length


def _room(like: Tensor, length: int) -> Tensor:
    return like.new_empty((*like.shape[:-2], length + length // 2 + 8, like.shape[-1]))


def growing_cache() -> Any:
    """Return an empty cache for any number of layers."""
    return Cache(layer_class_to_replicate=Growing)
