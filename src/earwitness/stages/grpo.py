"""grpo: the student practises on questions, rewarded for agreeing with the teacher's label and for its form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from earwitness.config import Grpo
from earwitness.learn.deaf import deaf_test
from earwitness.learn.noise import generator
from earwitness.learn.policy import PolicySettings, Rollout, Task, policy_terms, roll_out
from earwitness.learn.rewards import accuracy, form
from earwitness.learn.sampling import Decoding
from earwitness.learn.tree import Root
from earwitness.models.local import LocalModel, Prompt
from earwitness.prompts import question_prompt
from earwitness.records import Lesson, Question
from earwitness.stages.asking import encode_each, where_encoded
from earwitness.stages.sft import Lessons, Supervised
from earwitness.stages.student import Student, open_student
from earwitness.stages.training import TrainingJob, fit, left_out, settle
from earwitness.stages.workbench import StageError
from earwitness.table import Failed

PROMPT = "think"


class Practice:
    """The objective: the policy term, and beta times the divergence from the parent checkpoint."""

    def __init__(self, job: TrainingJob, student: Student) -> None:
        assert isinstance(job.settings, Grpo)
        self.seed, self.settings, self.student = job.seed, job.settings, student
        self.policy = policy_settings(job.settings)
        self.weights = {"policy": 1.0, "kl_ref": job.settings.beta, "entropy": 0.0, "clipped": 0.0}
        local = student.local
        self.decoding = Decoding(
            job.settings.temperature, job.settings.max_tokens, local.pad, local.stop, local.forbidden
        )
        self.why = ""  # the first reason why a question could not be shown
        self.held: dict[tuple[int, tuple[str, ...]], Rollout] = {}

    def prepare(self, model: Any, items: Sequence[tuple[Question, Lesson]], step: int) -> Rollout:
        """Roll out a group per question; with several updates per rollout the same rollouts serve again.

        Raises StageError where no question of the batch can be shown to the student.
        """
        round_number, update = divmod(step, self.settings.updates)
        key = (round_number, tuple(question.id for question, _ in items))
        if update and key in self.held:
            return self.held[key]
        tasks = self._tasks(items)
        rollout = roll_out(
            model,
            tasks,
            self.policy,
            self.decoding,
            round_number,
            self.student.reference,
            remember_old=self.settings.updates > 1,
        )
        rollout.facts["left_out"] = float(len(items) - len(tasks))
        self.held = {k: v for k, v in self.held.items() if k[0] == round_number}
        if self.settings.updates > 1:
            self.held[key] = rollout
        return rollout

    def terms(self, model: Any, batch: Rollout, totals: dict[str, float]) -> dict[str, Tensor]:
        """Return `policy` and `kl_ref`."""
        return policy_terms(model, batch, totals, self.policy)

    def _tasks(self, items: Sequence[tuple[Question, Lesson]]) -> list[Task]:
        local = self.student.local
        roots = encode_each(local, [Prompt(question_text(local, q), q.clip) for q, _ in items])
        self.why = self.why or next((root.why for root in roots if isinstance(root, Failed)), "")
        tasks = [
            Task(root, self._reward(question, lesson.answer), (self.seed, "grpo", question.id))
            for (question, lesson), root in zip(items, roots, strict=True)
            if not isinstance(root, Failed)
        ]
        if not tasks:
            raise StageError(f"no question of a practice batch can be shown to the student: {self.why}")
        return tasks

    def _reward(self, question: Question, label: str) -> Callable[[Sequence[tuple[int, ...]]], list[float]]:
        tokenizer, s = self.student.local.tokenizer, self.settings

        def reward(samples: Sequence[tuple[int, ...]]) -> list[float]:
            texts = [tokenizer.decode(list(ids), skip_special_tokens=True) for ids in samples]
            right = [accuracy(text, question.choices, label) for text in texts]
            return [s.accuracy_weight * a + s.format_weight * form(t) for a, t in zip(right, texts, strict=True)]

        return reward


def practise(job: TrainingJob) -> dict[str, Any]:
    """Run a grpo job and leave its checkpoint. Returns the deaf test's measurements and how many prompts were used."""
    settings = job.settings
    assert isinstance(settings, Grpo)
    student = open_student(job, settings.temperature, with_reference=settings.beta > 0)
    heard = _first_lessons(job, student.local)
    hearing = deaf_test(student.local.model, heard.packed)
    prompts = pass_rate_filter(job, student.local) if settings.filter_samples else list(job.material)
    objective = Practice(job, student)
    size = min(settings.batch, len(prompts))

    def plan(step: int) -> list[tuple[Question, Lesson]]:
        rng = generator(job.seed, "grpo", step // settings.updates)
        return [prompts[i] for i in rng.choice(len(prompts), size=size, replace=False)]

    fit(job, student, objective, plan, size, round_steps=settings.updates)
    chosen = settle(job, student, PROMPT)
    facts = {"deaf_test": hearing.facts(), "prompts": len(prompts), "drawn_from": len(job.material), **chosen}
    return facts | {"left_out": left_out(job.folder), "why": objective.why}


def pass_rate_filter(job: TrainingJob, local: LocalModel) -> list[tuple[Question, Lesson]]:
    """Return the questions that the model gets right sometimes: not never, not always, in `filter_samples` tries."""
    settings = job.settings
    assert isinstance(settings, Grpo)
    pool = list(job.material)
    if settings.filter_questions and settings.filter_questions < len(pool):
        chosen = generator(job.seed, "filter").choice(len(pool), size=settings.filter_questions, replace=False)
        pool = [pool[i] for i in sorted(chosen)]
    kept = []
    for start in range(0, len(pool), 32):
        block = pool[start : start + 32]
        right = _times_right(job, settings, local, block)
        kept += [
            item for item, n in zip(block, right, strict=True) if isinstance(n, int) and 0 < n < settings.filter_samples
        ]
    return kept or pool


def _times_right(
    job: TrainingJob, settings: Grpo, local: LocalModel, block: Sequence[tuple[Question, Lesson]]
) -> list[int | Failed]:
    def work(indexes: list[int], roots: list[Root]) -> list[int]:
        keys = [(job.seed, "filter", block[i][0].id) for i in indexes]
        drawn = local.sample_roots(roots, settings.filter_samples, settings.temperature, settings.max_tokens, keys)
        asked = [block[i] for i in indexes]
        return [
            sum(accuracy(c.text, question.choices, lesson.answer) > 0 for c in group)
            for (question, lesson), group in zip(asked, drawn, strict=True)
        ]

    return where_encoded(encode_each(local, [Prompt(question_text(local, q), q.clip) for q, _ in block]), work)


def policy_settings(settings: Grpo) -> PolicySettings:
    """Return the part of the section that the loss needs."""
    return PolicySettings(
        group=settings.group,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        beta=settings.beta,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        normalise=settings.normalise,
        scale=settings.scale,
        keep_equal_groups=settings.keep_equal_groups,
    )


def question_text(local: LocalModel, question: Question) -> str:
    """Return the prompt that practice is done under."""
    return question_prompt(local.manner, PROMPT, question.text, question.choices)


def _first_lessons(job: TrainingJob, local: LocalModel) -> Lessons:
    """A batch for the deaf test: the labels of the first questions, under the practice prompt."""
    as_thought = [
        (question, lesson.model_copy(update={"think": lesson.think or question.text}))
        for question, lesson in job.material[: job.settings.micro_batch or job.settings.batch]
    ]
    return Supervised(local).prepare(local.model, as_thought, 0)
