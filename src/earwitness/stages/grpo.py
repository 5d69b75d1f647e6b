"""grpo: the student practises on questions, rewarded for agreeing with the teacher's label and for its form.

Where it is asked for, also for claiming only what the checker hears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from earwitness.answers import read
from earwitness.config import Grpo
from earwitness.learn.deaf import deaf_test
from earwitness.learn.losses import token_logprobs
from earwitness.learn.noise import generator
from earwitness.learn.policy import PolicySettings, Rollout, Task, policy_terms, roll_out
from earwitness.learn.rewards import accuracy, form
from earwitness.learn.rollouts import rollout_rows
from earwitness.learn.router import router_weight
from earwitness.learn.sampling import Decoding
from earwitness.learn.tree import Packed, Root
from earwitness.models.exchange import Drawing, Prompt
from earwitness.models.local import LocalModel
from earwitness.prompts import question_prompt
from earwitness.records import Lesson, Question
from earwitness.stages.asking import encode_each, heard_in_part, where_encoded
from earwitness.stages.sft import Supervised, showable
from earwitness.stages.student import Student, open_student
from earwitness.stages.training import TrainingJob, fit, left_out, settle
from earwitness.stages.verify import Listener
from earwitness.stages.workbench import StageError
from earwitness.table import Failed

if TYPE_CHECKING:
    from earwitness.stages.served_rollouts import ServedRollouts

PROMPT = "think"
KEPT = 100  # rounds whose rollouts are written down, evenly spaced: enough to read, at any length of training


class Practice:
    """The objective: the policy term, and beta times the divergence from the parent checkpoint.

    The samples are drawn by the student itself, or by what is `served`.
    """

    def __init__(self, job: TrainingJob, student: Student, served: ServedRollouts | None = None) -> None:
        assert isinstance(job.settings, Grpo)
        self.seed, self.settings, self.student = job.seed, job.settings, student
        self.policy = policy_settings(job.settings)
        self.weights = {"policy": 1.0, "kl_ref": job.settings.beta, "entropy": 0.0, "clipped": 0.0}
        self.served = served
        if served:
            self.weights |= {"importance": 0.0, "gap": 0.0, "capped": 0.0}
        self.weights |= router_weight(student.local.model)
        local = student.local
        self.decoding = Decoding(
            job.settings.temperature, job.settings.max_tokens, local.pad, local.stop, local.forbidden
        )
        self.listener = Listener(*job.checker) if job.checker else None
        self.why = ""  # the first reason why a question could not be shown
        self.spare: Task | None = None  # for a batch of which nothing can be shown
        self.held: dict[tuple[int, tuple[str, ...]], Rollout] = {}

    def prepare(self, model: Any, items: Sequence[tuple[Question, Lesson]], step: int) -> Rollout:
        """Roll out a group per question; with several updates per rollout the same rollouts serve again.

        Of questions that cannot be shown nothing is learnt.
        """
        round_number, update = divmod(step, self.settings.updates)
        key = (round_number, tuple(question.id for question, _ in items))
        if update and key in self.held:
            return self.held[key]
        tasks = self.tasks(items)
        shown = tasks or ([self.spare] if self.spare else [])
        if not shown:
            raise StageError(f"no question of a practice batch can be shown to the student: {self.why}")
        rollout = roll_out(
            model,
            shown,
            self.policy,
            self.decoding,
            round_number,
            self._reference if self.student.parent else None,
            remember_old=self.settings.updates > 1,
            sampler=self.served,
        )
        if not tasks:
            rollout.discard()
        rollout.facts["left_out"] = float(len(items) - len(tasks))
        rollout.facts |= heard_in_part(self.student.local, (question.clip for question, _ in items))
        if round_number % max(1, self.settings.steps // (KEPT * self.settings.updates)) == 0:
            rollout.rows = self._rows(items, tasks, rollout)
        self.held = {k: v for k, v in self.held.items() if k[0] == round_number}
        if self.settings.updates > 1:
            self.held[key] = rollout
        return rollout

    def _reference(self, batch: Packed) -> Tensor:
        assert self.student.parent is not None
        return self.student.parent(lambda model: token_logprobs(model, batch, self.settings.temperature))

    def terms(self, model: Any, batch: Rollout, totals: dict[str, float]) -> dict[str, Tensor]:
        """Return `policy` and `kl_ref`, what is watched beside them, and `router` for mixtures of experts."""
        return policy_terms(model, batch, totals, self.policy)

    def tasks(self, items: Sequence[tuple[Question, Lesson]]) -> list[Task]:
        """Return what can be shown of some items, to practise on."""
        local = self.student.local
        prompts = [Prompt(question_text(local, q), q.clip) for q, _ in items]
        roots = encode_each(local, prompts)
        if self.listener:
            roots = [self.listener.hears(q) or root for (q, _), root in zip(items, roots, strict=True)]
        self.why = self.why or next((root.why for root in roots if isinstance(root, Failed)), "")
        if self.served:
            self.served.prompts |= {self._key(q): p for (q, _), p in zip(items, prompts, strict=True)}
        return [
            Task(root, self._reward(question, lesson.answer), self._key(question))
            for (question, lesson), root in zip(items, roots, strict=True)
            if not isinstance(root, Failed)
        ]

    def _key(self, question: Question) -> tuple[object, ...]:
        return self.seed, "grpo", question.id

    def _rows(
        self, items: Sequence[tuple[Question, Lesson]], tasks: Sequence[Task], rollout: Rollout
    ) -> list[dict[str, Any]]:
        """Return a rollout's samples as rows like those of traces, to be read by people."""
        asked = {question.id: (question, lesson.answer) for question, lesson in items}
        rows = []
        for task, group in zip(tasks, rollout.drawn, strict=True):
            name = str(task.key[-1])
            question, label = asked[name]
            texts = self._texts([sample.ids for sample in group.samples])
            stopped = [sample.stopped for sample in group.samples]
            parts = self.parts(texts, question, label)
            rows += rollout_rows(name, question.choices, texts, stopped, parts, group.rewards, group.advantages)
        return rows

    def _reward(self, question: Question, label: str) -> Callable[[Sequence[tuple[int, ...]]], list[float]]:
        settings = self.settings
        weights = {
            "accuracy": settings.accuracy_weight,
            "format": settings.format_weight,
            "checker": settings.checker_weight,
        }

        def reward(samples: Sequence[tuple[int, ...]]) -> list[float]:
            parts = self.parts(self._texts(samples), question, label)
            return [sum(weights[name] * part[n] for name, part in parts.items()) for n in range(len(samples))]

        return reward

    def parts(self, texts: Sequence[str], question: Question, label: str) -> dict[str, list[float]]:
        """Return the rewards of a group's texts by name, before they are weighted."""
        parts = {
            "accuracy": [accuracy(text, question.choices, label) for text in texts],
            "format": [form(text) for text in texts],
        }
        if self.listener:
            thinks = [read(text, question.choices).think for text in texts]
            parts["checker"] = [float(heard) for heard in self.listener.accepts(question, thinks)]
        return parts

    def _texts(self, samples: Sequence[tuple[int, ...]]) -> list[str]:
        return [self.student.local.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in samples]


def practise(job: TrainingJob) -> dict[str, Any]:
    """Run a grpo job and leave its checkpoint. Returns the deaf test's measurements and how many prompts were used."""
    settings = job.settings
    assert isinstance(settings, Grpo)
    student = open_student(job, with_parent=settings.beta > 0)
    with served_rollouts(job, student) as served:
        first = _first_lessons(job, student.local)
        hearing = deaf_test(
            student.local.model, Supervised(student.local).prepare(student.local.model, first, 0).packed
        )
        prompts = pass_rate_filter(job, student.local) if settings.filter_samples else list(job.material)
        objective = Practice(job, student, served)
        objective.spare = next(iter(objective.tasks(first)), None)
        size = min(settings.batch, len(prompts))

        def plan(step: int) -> list[tuple[Question, Lesson]]:
            rng = generator(job.seed, "grpo", step // settings.updates)
            return [prompts[i] for i in rng.choice(len(prompts), size=size, replace=False)]

        fit(job, student, objective, plan, size, round_steps=settings.updates)
    chosen = settle(job, student, PROMPT)
    facts = {"deaf_test": hearing.facts(), "prompts": len(prompts), "drawn_from": len(job.material), **chosen}
    return facts | {"left_out": left_out(job.folder), "why": objective.why}


@contextmanager
def served_rollouts(job: TrainingJob, student: Student) -> Iterator[ServedRollouts | None]:
    """Give what draws the samples where a server does, None where the student itself does.

    What the server was given is dropped at the end of a practice that ended well; of another it is left, and dropped
    when that goes on.
    """
    assert isinstance(job.settings, Grpo)
    if job.settings.rollouts == "local":
        yield None
        return
    from earwitness.stages.served_rollouts import ServedRollouts

    served = ServedRollouts(job, student)
    try:
        yield served
    finally:
        served.engine.close()
    served.forget_all()


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
        how = Drawing(settings.filter_samples, settings.temperature, settings.max_tokens)
        drawn = local.draw_roots(roots, how, keys)
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
        importance_cap=settings.importance_cap,
    )


def question_text(local: LocalModel, question: Question) -> str:
    """Return the prompt that practice is done under."""
    return question_prompt(local.manner, PROMPT, question.text, question.choices)


def _first_lessons(job: TrainingJob, local: LocalModel) -> list[tuple[Question, Lesson]]:
    """Return what the deaf test is done on: the labels of the first questions, under the practice prompt."""
    as_thought = [
        (question, lesson.model_copy(update={"think": lesson.think or question.text}))
        for question, lesson in job.material[: job.settings.batch]
    ]
    return showable(local, as_thought, job.settings.micro_batch)
