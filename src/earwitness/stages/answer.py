"""answer: an examinee sits an exam, about clips or about descriptions of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earwitness.answers import read
from earwitness.config import Answer, Model, PromptName, Role
from earwitness.models import connected
from earwitness.models.exchange import Completion, Drawing, Prompt, Voice
from earwitness.prompts import described_prompt, given_prompt, question_prompt
from earwitness.records import Question, Reply
from earwitness.stages.asking import draw_each
from earwitness.table import Failed


@dataclass(frozen=True)
class AnswerQuestions:
    """Answers each question of a block under one prompt. `frames` is what a watching examinee is shown.

    Each question comes with a text where one is needed: a description, where the examinee is to read instead of
    hearing or watching the clip, or under `given-trace` the teacher's reasoning.
    """

    examinee: Model
    role: Role
    prompt: PromptName
    settings: Answer
    seed: int
    frames: int = 16

    def __call__(self, block: Sequence[tuple[Question, str | None]]) -> list[list[Reply] | Failed]:
        """Return each question's one reply, or why there is none."""
        model = connected(self.examinee, "textual_teacher" if self._reads else self.role)
        prompts = [self._prompt(model, question, told) for question, told in block]

        s = self.settings
        how = Drawing(1, s.temperature, s.max_tokens, s.top_k, s.top_p)
        keys = [(self.seed, "answer", question.id) for question, _ in block]
        return draw_each(model, prompts, how, keys, lambda i, group: [_reply(group[0], block[i][0])])

    @property
    def _reads(self) -> bool:
        return self.settings.sees != "clip"

    def _prompt(self, model: Voice, question: Question, told: str | None) -> Prompt:
        watches = self.role == "teacher" and not self._reads
        name = {"think": "audio" if watches else "think", "given-trace": "direct"}.get(self.prompt, self.prompt)
        text = question_prompt(model.manner, name, question.text, question.choices)
        if told is None:
            return Prompt(text, question.clip, self.frames)
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
