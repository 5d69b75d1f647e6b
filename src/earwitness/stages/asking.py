"""Putting questions to a model, block by block: what one question gets wrong costs that question alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from earwitness.learn.tree import Root
from earwitness.media import MediaError
from earwitness.models.exchange import Prompt, PromptError
from earwitness.models.features import MediaLimit
from earwitness.models.local import LocalModel
from earwitness.records import Clip
from earwitness.table import Failed

T = TypeVar("T")
OF_THE_QUESTION = (MediaError, MediaLimit, PromptError)  # a question's own faults: a row that says why


def encode_each(model: LocalModel, prompts: Sequence[Prompt]) -> list[Root | Failed]:
    """Encode prompts one by one; a prompt that cannot be encoded becomes the reason why."""
    encoded: list[Root | Failed] = []
    for prompt in prompts:
        try:
            encoded.append(model.encode(prompt))
        except OF_THE_QUESTION as error:
            encoded.append(failure(error, prompt.clip))
    return encoded


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
