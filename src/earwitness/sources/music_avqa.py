"""MUSIC-AVQA (Li et al. 2022), both releases, and its second version: questions about music, answered in 42 words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness.config import digest
from earwitness.records import Question
from earwitness.sources.media import Files
from earwitness.sources.problems import Problems, RowError, SourceError, shown
from earwitness.sources.questions import clip_of, question_of
from earwitness.sources.rows import Row, listed, open_table
from earwitness.sources.tables import Found

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "more than ten")
PLACES = ("left", "middle", "right", "indoor", "outdoor", "simultaneously")
INSTRUMENTS = (
    *("accordion", "acoustic_guitar", "bagpipe", "banjo", "bassoon", "cello", "clarinet", "congas", "drum"),
    *("electric_bass", "erhu", "flute", "guzheng", "piano", "pipa", "saxophone", "suona", "trumpet", "tuba"),
    *("ukulele", "violin", "xylophone"),
)
WORDS = ("yes", "no", *NUMBERS, *PLACES, *INSTRUMENTS)
"""The words that every question is answered in, which are its choices, as they are the paper's classes."""

KINDS = {"Audio": "A", "Visual": "V", "Audio-Visual": "AV"}
_PLACEHOLDER = re.compile(r"<[A-Za-z]+>")


@dataclass(frozen=True)
class Asked:
    """What a row asks. `kind` is `A-Counting`, `AV-Temporal`, ...; `id` is made of its content where it has none."""

    id: str
    video: str
    text: str
    answer: str
    kind: str


def read_row(row: Row) -> Asked:
    """Return what a row asks, its placeholders filled. Its answer is called `anser`, or `answer`. Raises RowError."""
    video, question = _text(row, "video_id"), _text(row, "question_content")
    answer = _text(row, "anser" if "anser" in row else "answer")
    if answer not in WORDS:
        raise RowError(f"anser is {shown(answer)}, none of the 42 words")
    kind, values = (listed(row.get(key), key) for key in ("type", "templ_values"))
    if len(kind) != 2 or kind[0] not in KINDS or not isinstance(kind[1], str):
        raise RowError(f"type is {shown(kind)}, not two words such as Audio and Counting")
    own = row.get("question_id")
    if own is not None and (isinstance(own, bool) or not isinstance(own, int | str)):
        raise RowError(f"question_id is {shown(own)}, neither a number nor a text")
    name = made_id(video, row) if own is None else str(own)
    return Asked(name, video, filled(question, values), answer, f"{KINDS[kind[0]]}-{kind[1]}")


def made_id(video: str, row: Row) -> str:
    """Return the id of a row that has none of its own: its video and a digest of what it asks. Raises RowError."""
    return f"{video}-{digest([row['question_content'], listed(row.get('templ_values'), 'templ_values')], 8)}"


def filled(template: str, values: Sequence[object]) -> str:
    """Put values into a template's `<Object>`, `<LR>`, ... from left to right. Raises RowError if they do not fit."""
    places = _PLACEHOLDER.findall(template)
    if len(places) != len(values):
        raise RowError(f"{shown(template)} has {len(places)} places, and {len(values)} values are there for them")
    words = iter(values)
    text = _PLACEHOLDER.sub(lambda _: str(next(words)), template).strip()
    if left := _PLACEHOLDER.search(text):
        raise RowError(f"the question still has {left[0]} in it")
    return text


def read_music_avqa(annotations: Path, places: Sequence[str], split: str) -> Found:
    """Return the questions that sound can answer (those of the picture alone are not asked) and whose clip is here.

    A question that the file asks twice is asked once; where its two answers differ it has none, and the tag
    `repaired` says so. Raises SourceError.
    """
    if not places:
        raise SourceError("no place for MUSIC-AVQA's videos; set questions.media, such as videos/{video_id}*.mp4")
    problems, questions = Problems(str(annotations)), dict[str, Question]()
    for number, row in enumerate(open_table(str(annotations)).rows, 1):
        try:
            asked = read_row(row)
            if asked.kind.startswith("V-"):
                continue
            again = questions.get(asked.id)
            if again is None:
                questions[asked.id] = _question(asked, split)
            elif again.text != asked.text or again.clip.media != f"{asked.video}.mp4":
                raise RowError(f"question_id {asked.id} is that of another question, too")
            elif again.answer != asked.answer:
                tags = again.tags | {"repaired": "answered in two ways"}
                questions[asked.id] = again.model_copy(update={"answer": None, "tags": tags})
        except RowError as error:
            problems.add(number, f"{error}; this is no row of MUSIC-AVQA")
    problems.raise_any()
    found, files = Found(), Files(places, ("video_id", "media"), "video_id")
    for question in questions.values():
        video = question.clip.media.removesuffix(".mp4")
        place = files.find(question.clip.media, {"video_id": video, "media": video})
        if isinstance(place, str):
            found.missing[place] = None
        else:
            clip = question.clip.model_copy(update={"media": str(place.absolute())})
            found.questions.append(question.model_copy(update={"clip": clip}))
    if not found.questions:
        raise SourceError(
            f"none of the {len(found.missing)} clips of {annotations} matches {list(places)}; check the patterns"
        )
    return found


def _question(asked: Asked, split: str) -> Question:
    row = {
        "id": f"music_avqa/{asked.id}",
        "media": f"{asked.video}.mp4",
        "question": asked.text,
        "choices": list(WORDS),
        "answer": asked.answer,
        "tags": {"split": split, "type": asked.kind},
    }
    return question_of(row, lambda: clip_of(row, f"music_avqa/{asked.video}", Path(f"{asked.video}.mp4")))


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{key} is {shown(value)}, not text")
    return value.strip()
