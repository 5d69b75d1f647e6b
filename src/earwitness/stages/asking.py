"""Putting questions to a model, block by block: what one question gets wrong costs that question alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from earwitness.models.exchange import Completion, Drawing, Prompt, Voice
from earwitness.records import Clip
from earwitness.table import Failed

if TYPE_CHECKING:
    from earwitness.learn.tree import Root
    from earwitness.models.local import LocalModel

T = TypeVar("T")


def draw_each(
    model: Voice,
    prompts: Sequence[Prompt],
    how: Drawing,
    keys: Sequence[tuple[object, ...]],
    read: Callable[[int, list[Completion]], T | Failed],
) -> list[T | Failed]:
    """Read what a model answers to each prompt (`read` gets its index); one without an answer becomes the reason."""
    return [
        failure(drawn, prompts[i].clip) if isinstance(drawn, Exception) else read(i, drawn)
        for i, drawn in enumerate(model.draw(prompts, how, keys))
    ]


def encode_each(model: LocalModel, prompts: Sequence[Prompt]) -> list[Root | Failed]:
    """Encode prompts one by one; a prompt that cannot be encoded becomes the reason why."""
    encoded = zip(model.encode_each(prompts), prompts, strict=True)
    return [failure(root, prompt.clip) if isinstance(root, Exception) else root for root, prompt in encoded]


def failure(error: Exception, clip: Clip | None) -> Failed:
    """Return why a question failed. The clip goes by its id: rows do not say where files lie."""
    return Failed(str(error) if clip is None else str(error).replace(clip.media, clip.id))


def heard_in_part(model: LocalModel, clips: Iterable[Clip]) -> dict[str, float]:
    """Return {"in_part": how many of these clips were not heard whole} of a model that cuts them; {} of any other."""
    cuts = model.long_clips == "truncate"
    return {"in_part": float(sum(clip in model.notes for clip in clips))} if cuts else {}


def where_encoded(
    encoded: Sequence[Root | Failed], work: Callable[[list[int], list[Root]], list[T]]
) -> list[T | Failed]:
    """Do the work for what was encoded (indexes and roots) and put the failures back in their places."""
    good = [i for i, root in enumerate(encoded) if not isinstance(root, Failed)]
    done = dict(zip(good, work(good, [encoded[i] for i in good]) if good else [], strict=True))  # type: ignore[misc]
    return [done.get(i, root) for i, root in enumerate(encoded)]  # type: ignore[misc]
