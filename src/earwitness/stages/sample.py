"""sample: the teacher's chains of thought from the silent frames (test-time scaling)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earwitness.answers import read
from earwitness.config import Model, Sample
from earwitness.models import connected
from earwitness.models.exchange import Completion, Drawing, Prompt
from earwitness.prompts import question_prompt
from earwitness.records import Question, Trace
from earwitness.stages.asking import draw_each
from earwitness.table import Failed


@dataclass(frozen=True)
class SampleTraces:
    """Writes `settings.traces` traces for each question of a block."""

    teacher: Model
    settings: Sample
    seed: int

    def __call__(self, questions: Sequence[Question]) -> list[list[Trace] | Failed]:
        """Return each question's traces, or why there are none."""
        model = connected(self.teacher, "teacher")
        prompts = [
            Prompt(question_prompt(model.manner, self.settings.prompt, q.text, q.choices), q.clip, self.settings.frames)
            for q in questions
        ]

        how = Drawing(self.settings.traces, self.settings.temperature, self.settings.max_tokens)
        keys = [(self.seed, "sample", q.id) for q in questions]

        def read_traces(index: int, group: list[Completion]) -> list[Trace]:
            return [read_trace(c, questions[index], n, model.name) for n, c in enumerate(group)]

        return draw_each(model, prompts, how, keys, read_traces)


def read_trace(completion: Completion, question: Question, index: int, by: str) -> Trace:
    """Read a completion: a cut-off one has no answer, whatever it says."""
    reading = read(completion.text, question.choices)
    answer = reading.answer if completion.finish == "stop" else None
    return Trace(index=index, raw=completion.text, think=reading.think, answer=answer, finish=completion.finish, by=by)
