"""What a model's forward is given of a prompt's clip: the media tensors, or the audio embeddings heard before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from earwitness.learn.attention import unwrapped
from earwitness.learn.families import family_of

EMBEDDINGS = "audio_embeddings"  # (R, D, A): the A audio tokens of a clip, as the language model reads them
EMBEDDINGS_MASK = "audio_embeddings_mask"  # (R, A): which of them are not padding


@contextmanager
def inputs(model: Any, ids: Tensor, media: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Give the arguments of a model's forward for token ids (R, L) and the media of their clips.

    Features come in the encoder's precision (not every class sees to that itself). Embeddings take the places of the
    audio tokens, in their order, within the forward: a wrapper that shards has the words' weights at hand only there.
    Raises ValueError where there are not as many of the one as of the other.
    """
    inner = unwrapped(model)
    if EMBEDDINGS not in media:
        yield {"input_ids": ids, **_cast(inner, media)}
        return
    heard = media[EMBEDDINGS].transpose(1, 2)[media[EMBEDDINGS_MASK].bool()]
    places = ids == inner.config.audio_token_id
    if int(places.sum()) != len(heard):
        raise ValueError(f"{len(heard)} audio embeddings do not fit the batch's {int(places.sum())} audio tokens")

    def among(_: Any, given: Any, words: Tensor) -> Tensor:
        return words.masked_scatter(places[..., None], heard.to(words.dtype))

    hook = inner.get_input_embeddings().register_forward_hook(among)
    try:
        yield {"input_ids": ids}
    finally:
        hook.remove()


def _cast(inner: Any, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ears = family_of(inner.config).ears if media else None
    if ears is None:
        return dict(media)
    dtype = next(p.dtype for p in inner.get_submodule(ears.tower).parameters() if p.is_floating_point())
    return {name: t.to(dtype) if torch.is_floating_point(t) else t for name, t in media.items()}
