"""answer: an examinee sits an exam, about clips or about descriptions of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from earwitness.answers import read
from earwitness.config import Answer, Model, PromptName, Role
from earwitness.learn.noise import generator
from earwitness.models import connected
from earwitness.models.exchange import OF_THE_QUESTION, Completion, Drawing, Prompt, Voice
from earwitness.prompts import described_prompt, given_prompt, question_prompt
from earwitness.records import Clip, Question, Reply
from earwitness.sources.clips import load_sound
from earwitness.stages.asking import draw_each, failure
from earwitness.table import Failed

Hears = Literal["clip", "silence", "noise", "other", "text"]


@dataclass(frozen=True)
class Way:
    """How an exam is sat, where it is not simply sat: for controls, for samples, and with the choices in other orders.

    In place of its clip a question may come with `silence` as long, white `noise` as long and as loud, the sound of
    an`other` clip, or as `text` alone. Several `samples` are drawn at a `temperature` (None: the settings' own).
    `rotation` says by how many places its choices have been moved.
    """

    hears: Hears = "clip"
    samples: int = 1
    temperature: float | None = None
    rotation: int = 0

    def identity(self) -> dict[str, Any]:
        """Return what departs from simply sitting it, as plain JSON values."""
        plain = Way()
        return {name: value for name, value in vars(self).items() if value != getattr(plain, name)}


@dataclass(frozen=True)
class AnswerQuestions:
    """Answers each question of a block under one prompt. `frames` is what a watching examinee is shown.

    Each question comes with a text where one is needed: a description, where the examinee is to read instead of
    hearing or watching the clip, or under `given-trace` the teacher's reasoning. Where the `way` asks for another clip,
    or for other orders of the choices, the questions come with them already.
    """

    examinee: Model
    role: Role
    prompt: PromptName
    settings: Answer
    seed: int
    frames: int = 16
    way: Way = Way()

    def __call__(self, block: Sequence[tuple[Question, str | None]]) -> list[list[Reply] | Failed]:
        """Return each question's replies, one unless the way says otherwise, or why there is none."""
        model = connected(self.examinee, "textual_teacher" if self._reads else self.role)
        waves = self._waves({question.clip for question, _ in block})
        asked = [(q, told) for q, told in block if not isinstance(waves.get(q.clip), Failed)]
        prompts = [self._prompt(model, question, told, waves) for question, told in asked]

        s = self.settings
        how = Drawing(self.way.samples, s.temperature, s.max_tokens, s.top_k, s.top_p)
        keys = [(self.seed, "answer", question.id) for question, _ in asked]
        drawn = iter(draw_each(model, prompts, how, keys, lambda i, group: [_reply(one, asked[i][0]) for one in group]))
        return [wave if isinstance(wave := waves.get(q.clip), Failed) else next(drawn) for q, _ in block]

    @property
    def _reads(self) -> bool:
        return self.settings.sees != "clip"

    def _waves(self, clips: set[Clip]) -> dict[Clip, NDArray[np.float32] | Failed]:
        """Return what is heard in place of each clip, or why it could not be made; nothing where the clip is heard."""
        return {clip: _replaced(clip, self.way.hears) for clip in clips if self.way.hears in ("silence", "noise")}

    def _prompt(
        self, model: Voice, question: Question, told: str | None, waves: dict[Clip, NDArray[np.float32] | Failed]
    ) -> Prompt:
        watches = self.role == "teacher" and not self._reads
        name = {"think": "audio" if watches else "think", "given-trace": "direct"}.get(self.prompt, self.prompt)
        text = question_prompt(model.manner, name, question.text, question.choices)
        if self.way.hears == "text":
            return Prompt(text)
        if told is None:
            wave = waves.get(question.clip)
            return Prompt(text, question.clip, self.frames, None if isinstance(wave, Failed) else wave)
        if self._reads:
            return Prompt(described_prompt(model.manner, told, text))
        return Prompt(given_prompt(model.manner, told, text), question.clip, self.frames)


def _reply(completion: Completion, question: Question) -> Reply:
    reading = read(completion.text, question.choices)
    return Reply(
        raw=completion.text,
        think=reading.think,
        answer=reading.answer,
        rule=reading.rule,
        finish=completion.finish,
    )


def _replaced(clip: Clip, hears: Hears) -> NDArray[np.float32] | Failed:
    """Return silence as long as a clip, or white noise that is as loud, too: the same noise for the same clip."""
    try:
        wave = load_sound(clip)
    except OF_THE_QUESTION as error:
        return failure(error, clip)
    if hears == "silence":
        return np.zeros_like(wave)
    loudness = float(np.sqrt((wave.astype(np.float64) ** 2).mean())) if len(wave) else 0.0
    drawn = generator("control noise", clip.id).standard_normal(len(wave))
    return np.clip(loudness * drawn, -1, 1).astype(np.float32)
