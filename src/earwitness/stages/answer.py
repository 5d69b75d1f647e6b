"""answer: an examinee sits an exam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earwitness.answers import read
from earwitness.config import Answer, Model, PromptName, Role
from earwitness.learn.tree import Root
from earwitness.models import connected
from earwitness.models.local import Completion, Prompt
from earwitness.prompts import question_prompt
from earwitness.records import Question, Reply
from earwitness.stages.asking import encode_each, where_encoded
from earwitness.table import Failed


@dataclass(frozen=True)
class AnswerQuestions:
    """Answers each question of a block under one prompt. `frames` is what a watching examinee is shown."""

    examinee: Model
    role: Role
    prompt: PromptName
    settings: Answer
    seed: int
    frames: int = 16

    def __call__(self, questions: Sequence[Question]) -> list[list[Reply] | Failed]:
        """Return each question's one reply, or why there is none."""
        model = connected(self.examinee, self.role)
        prompts = [
            Prompt(question_prompt(model.manner, self._prompt_file(), q.text, q.choices), q.clip, self.frames)
            for q in questions
        ]

        def work(indexes: list[int], roots: list[Root]) -> list[list[Reply]]:
            keys = [(self.seed, "answer", questions[i].id) for i in indexes]
            drawn = model.sample_roots(roots, 1, self.settings.temperature, self.settings.max_tokens, keys)
            return [[_reply(group[0], questions[i])] for i, group in zip(indexes, drawn, strict=True)]

        return where_encoded(encode_each(model, prompts), work)

    def _prompt_file(self) -> str:
        return "audio" if self.role == "teacher" and self.prompt == "think" else self.prompt


def _reply(completion: Completion, question: Question) -> Reply:
    reading = read(completion.text, question.choices)
    return Reply(
        raw=completion.text,
        think=reading.think,
        answer=reading.answer,
        rule=reading.rule,
        finish=completion.finish,
    )
