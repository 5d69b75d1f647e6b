"""describe: the sound of a clip as text, for a model that reads: by a listener, by the data, or by an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from earwitness.config import Model
from earwitness.cota import CotaError, parse
from earwitness.descriptions import DescriptionError, render, validate
from earwitness.descriptions import parse as parse_description
from earwitness.media import RATE
from earwitness.models import connected
from earwitness.models.exchange import Completion, Drawing, Prompt, Voice
from earwitness.prompts import template
from earwitness.records import Clip, Description, Question
from earwitness.sources.clips import WORLD, load_sound, scene_of
from earwitness.sources.problems import unfit
from earwitness.stages.asking import draw_each
from earwitness.stages.workbench import StageError
from earwitness.table import Failed
from earwitness.world.puzzles import listed

UNUSABLE = "the description "
"""How the error of a row begins whose describer was asked, and said what cannot be used."""

Told = list[Description] | Failed


@dataclass(frozen=True)
class DescribeClips:
    """Lets the describer listen to the clip of each question of a block, once however many questions are about it."""

    describer: Model
    max_tokens: int

    def __call__(self, questions: Sequence[Question]) -> list[Told]:
        """Return each question's one description, or why there is none."""
        model = connected(self.describer, "describer")
        clips = list(dict.fromkeys(question.clip for question in questions))
        prompts = [Prompt(template(model.manner, "describe"), clip) for clip in clips]
        keys = [("describe", clip.id) for clip in clips]
        how = Drawing(max_tokens=self.max_tokens)
        read = draw_each(model, prompts, how, keys, lambda i, group: self._read(group[0], model, clips[i]))
        told = dict(zip(clips, read, strict=True))
        return [told[question.clip] for question in questions]

    def _read(self, said: Completion, model: Voice, clip: Clip) -> Told:
        if said.finish == "length":
            return Failed(f"{UNUSABLE}was cut off after {self.max_tokens} tokens: raise describe.max_tokens")
        text = said.text
        if model.manner == "plain":
            try:
                heard = parse_description(text)
                validate(heard, len(load_sound(clip)) / RATE)
            except DescriptionError as error:
                return Failed(f"{UNUSABLE}{error}")
            text = render(heard)
        return _told(text, model.name)


def describe_known(question: Question, source: Literal["caption", "field", "oracle"]) -> Told:
    """Return what is known of a clip without listening, or why nothing is.

    From the caption in the reasoning that the data carries, from the data's own description, or from the truth about a
    scene of the embedded world (a control). Raises StageError for a scene of a kind that has no words here yet.
    """
    if source == "caption":
        return _captioned(question)
    if source == "field":
        if question.description is None:
            return Failed("the question carries no description: write one in its line, or set describe.source to model")
        return _told(question.description, "data")
    if not question.clip.media.startswith(WORLD):
        return Failed(
            f"{question.clip.id} is no clip of the embedded world, and the oracle knows no other: set describe.source "
            "to model, caption or field"
        )
    scene: object = scene_of(question.clip)
    heard = getattr(scene, "heard", None)  # what every kind of scene that has an ear's truth can tell, in order of time
    if heard is None:
        raise StageError(f"the oracle has no words for {question.clip.media}, a {type(scene).__name__}: leave it out")
    return _told(listed(heard), "oracle")


def _captioned(question: Question) -> Told:
    remedy = "give it a think in CoTA's four parts, or set describe.source to model"
    if question.think is None:
        return Failed(f"the question carries no reasoning to take a caption from: {remedy}")
    try:
        return _told(parse(question.think).caption, "data")
    except CotaError as error:
        return Failed(f"no caption can be taken from the question's think ({error}): {remedy}")


def _told(text: str, by: str) -> Told:
    if not text.strip():
        return Failed(f"{UNUSABLE}is empty")
    if reason := unfit(text, "it", "\n\t"):
        return Failed(f"{UNUSABLE}cannot be shown to a model: {reason}")
    return [Description(text=text.strip(), by=by)]
