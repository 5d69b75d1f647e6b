"""fingerprint: what a recording is known by, however it was encoded since."""

from __future__ import annotations

from collections.abc import Sequence

from earwitness.fingerprints import fingerprint, pack_print
from earwitness.media import MediaError
from earwitness.records import Fingerprint, Question
from earwitness.sources.clips import load_sound
from earwitness.stages.asking import failure
from earwitness.table import Failed


def fingerprint_clips(block: Sequence[Question]) -> list[list[Fingerprint] | Failed]:
    """Return the fingerprint of each question's clip, or why its sound cannot be read."""
    return [_of(question) for question in block]


def _of(question: Question) -> list[Fingerprint] | Failed:
    try:
        return [Fingerprint(words=pack_print(fingerprint(load_sound(question.clip))))]
    except MediaError as error:
        return failure(error, question.clip)
