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
from earwitness.models.local import LocalModel, Prompt
from earwitness.prompts import question_prompt
from earwitness.records import Lesson, Question
from earwitness.stages.sft import Lessons, Supervised
from earwitness.stages.training import Student, TrainingJob, fit, open_student, settle

PROMPT = "think"


class Practice:
    """The objective: the policy term, and beta times the divergence from the parent checkpoint."""

    def __init__(self, job: TrainingJob, student: Student) -> None:
        assert isinstance(job.settings, Grpo)
        self.seed, self.settings, self.student = job.seed, job.settings, student
        self.policy = policy_settings(job.settings)
        self.weights = {"policy": 1.0, "kl_ref": job.settings.beta}
        local = student.local
        self.decoding = Decoding(
            job.settings.temperature, job.settings.max_tokens, local.pad, local.stop, local.forbidden
        )
        self.held: tuple[int, Rollout] | None = None

    def prepare(self, model: Any, items: Sequence[tuple[Question, Lesson]], step: int) -> Rollout:
        """Roll out a group per question; with several updates per rollout the same rollouts serve again."""
        round_number, update = divmod(step, self.settings.updates)
        if update and self.held and self.held[0] == round_number:
            return self.held[1]
        tasks = [self._task(question, lesson.answer) for question, lesson in items]
        rollout = roll_out(
            model,
            tasks,
            self.policy,
            self.decoding,
            round_number,
            self.student.reference,
            remember_old=self.settings.updates > 1,
        )
        self.held = (round_number, rollout)
        return rollout

    def terms(self, model: Any, batch: Rollout, totals: dict[str, float]) -> dict[str, Tensor]:
        """Return `policy` and `kl_ref`."""
        return policy_terms(model, batch, totals, self.policy)

    def _task(self, question: Question, label: str) -> Task:
        local = self.student.local
        root = local.encode(Prompt(question_text(local, question), question.clip))
        return Task(root, self._reward(question, label), (self.seed, "grpo", question.id))

    def _reward(self, question: Question, label: str) -> Callable[[tuple[int, ...]], float]:
        local, s = self.student.local, self.settings

        def reward(ids: tuple[int, ...]) -> float:
            text = local.tokenizer.decode(list(ids), skip_special_tokens=True)
            return s.accuracy_weight * accuracy(text, question.choices, label) + s.format_weight * form(text)

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

    def plan(step: int) -> list[tuple[Question, Lesson]]:
        rng = generator(job.seed, "grpo", step // settings.updates)
        size = min(settings.batch, len(prompts))
        return [prompts[i] for i in rng.choice(len(prompts), size=size, replace=False)]

    fit(job, student, objective, plan, round_steps=settings.updates)
    chosen = settle(job, student, PROMPT)
    return {"deaf_test": hearing.facts(), "prompts": len(prompts), "drawn_from": len(job.material), **chosen}


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
        prompts = [Prompt(question_text(local, q), q.clip) for q, _ in block]
        keys = [(job.seed, "filter", q.id) for q, _ in block]
        drawn = local.sample(prompts, settings.filter_samples, settings.temperature, settings.max_tokens, keys)
        for (question, lesson), group in zip(block, drawn, strict=True):
            right = sum(accuracy(c.text, question.choices, lesson.answer) for c in group)
            if 0 < right < settings.filter_samples:
                kept.append((question, lesson))
    return kept or pool


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
        for question, lesson in job.material[: job.settings.batch]
    ]
    return Supervised(local).prepare(local.model, as_thought, 0)
