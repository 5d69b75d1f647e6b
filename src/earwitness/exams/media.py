"""An exam's clips on this machine, and how many of them there are."""

from __future__ import annotations

from collections.abc import Sequence

from earwitness.records import Question
from earwitness.sources.media import Files, stem

SEVERAL = "clips"  # the tag of a question about more than one clip


def find_clips(questions: Sequence[Question], places: Sequence[str]) -> tuple[list[Question], list[str]]:
    """Return the questions whose clip is there, its path in place of its name, and the names of those that are not.

    `places` are folders and patterns with `{media}`, the clip's name without ending, as `Files` has them. A question
    about several clips cannot be asked and is among the missing. Raises SourceError for a pattern that is none.
    """
    files = Files(places, ("media",))
    found: list[Question] = []
    missing: dict[str, None] = {}
    for question in questions:
        name = question.clip.media
        if SEVERAL in question.tags:
            missing[f"{name} and {int(question.tags[SEVERAL]) - 1} more for one question"] = None
            continue
        place = files.find(name, {"media": stem(name.replace("\\", "/"))})
        if isinstance(place, str):
            missing[place] = None
        else:
            clip = question.clip.model_copy(update={"media": str(place.absolute())})
            found.append(question.model_copy(update={"clip": clip}))
    return found, list(missing)
