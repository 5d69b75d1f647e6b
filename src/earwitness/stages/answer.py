"""answer: an examinee sits an exam, about clips or about descriptions of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earwitness.answers import read
from earwitness.config import Answer, Model, PromptName, Role
from earwitness.learn.tree import Root
from earwitness.models import connected
from earwitness.models.exchange import Completion, Prompt
from earwitness.models.local import LocalModel
from earwitness.prompts import described_prompt, given_prompt, question_prompt
from earwitness.records import Question, Reply
from earwitness.stages.asking import encode_each, where_encoded
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

        def work(indexes: list[int], roots: list[Root]) -> list[list[Reply]]:
            keys = [(self.seed, "answer", block[i][0].id) for i in indexes]
            s = self.settings
            drawn = model.sample_roots(roots, 1, s.temperature, s.max_tokens, keys, s.top_k, s.top_p)
            return [[_reply(group[0], block[i][0])] for i, group in zip(indexes, drawn, strict=True)]

        return where_encoded(encode_each(model, prompts), work)

    @property
    def _reads(self) -> bool:
        return self.settings.sees != "clip"

    def _prompt(self, model: LocalModel, question: Question, told: str | None) -> Prompt:
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
