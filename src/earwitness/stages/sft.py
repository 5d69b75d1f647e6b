"""sft: supervised fine-tuning on a pool of lessons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from earwitness.config import Distil, Sft
from earwitness.learn.deaf import deaf_test
from earwitness.learn.losses import cross_entropy, token_logprobs
from earwitness.learn.noise import generator
from earwitness.learn.router import router_counts, router_weight, with_router
from earwitness.learn.tree import Branch, Packed, Tree, pack, share
from earwitness.models.exchange import Prompt
from earwitness.models.local import LocalModel
from earwitness.prompts import question_prompt
from earwitness.records import Lesson, Question
from earwitness.stages.asking import encode_each, heard_in_part
from earwitness.stages.spelling import prompt_of, spell
from earwitness.stages.student import open_student
from earwitness.stages.training import TrainingJob, fit, left_out, settle
from earwitness.stages.workbench import StageError
from earwitness.table import Failed

Material = tuple[Question, Lesson]


@dataclass
class Lessons:
    """A packed batch of lessons (in the order of its branches), and how many had to be left out because their question
    cannot be shown. `in_part` counts those whose clip was not heard whole, of a student that cuts clips.
    """

    packed: Packed
    left_out: int = 0
    router: dict[str, float] = field(default_factory=dict)
    lessons: list[Material] = field(default_factory=list)
    in_part: dict[str, float] = field(default_factory=dict)

    def counts(self) -> dict[str, float]:
        """The number of trained tokens, of lessons left out, and of the choices of a router where there is one."""
        own = {"tokens": float(self.packed.weight.sum()), "left_out": float(self.left_out)}
        return {**own, **self.in_part, **self.router}


class Supervised:
    """The objective: cross-entropy over the trained tokens of the global batch."""

    def __init__(self, student: LocalModel) -> None:
        self.student = student
        self.weights = {"ce": 1.0, **router_weight(student.model)}
        self.why = ""  # the first reason why a question could not be shown
        self.spare: Tree | None = None  # context alone, for a batch of which nothing can be shown

    def prepare(self, model: Any, items: Sequence[Material], step: int) -> Lessons:
        """Pack lessons; lessons about one clip share it. Where none of them can be shown, the batch trains nothing.

        Raises StageError for a first batch of which nothing can be shown.
        """
        grown = grow(self.student, items)
        trees, failures = grown.trees, grown.failures
        self.why = self.why or next(iter(failures.values()), "")
        if trees and self.spare is None:
            self.spare = Tree(trees[0].root, ())
        if not trees and self.spare is not None:
            trees = [self.spare]  # processes that train together must all run a forward pass
        if not trees:
            raise StageError(f"no question of a training batch can be shown to the student: {self.why}")
        missing = sum(question.id in failures for question, _ in items)
        packed = pack(trees, self.student.pad).to(model.device)
        in_part = heard_in_part(self.student, (question.clip for question, _ in grown.lessons))
        return Lessons(packed, missing, router_counts(model, packed), grown.lessons, in_part)

    def terms(self, model: Any, batch: Lessons, totals: dict[str, float]) -> dict[str, Tensor]:
        """Return `ce` in nats per token, and `router` for mixtures of experts."""
        logprobs, router = with_router(model, batch.packed, totals, partial(token_logprobs, model, batch.packed))
        return {"ce": cross_entropy(logprobs, batch.packed.weight) / max(totals["tokens"], 1.0), **router}


def learn_lessons(job: TrainingJob) -> dict[str, Any]:
    """Run an sft job and leave its checkpoint. Returns what the deaf test measured and how much was trained on."""
    assert isinstance(job.settings, Sft)
    student = open_student(job)
    objective = Supervised(student.local)
    plan = Draw(job)
    first = objective.prepare(student.local.model, showable(student.local, plan(0), job.settings.micro_batch), 0)
    hearing = deaf_test(student.local.model, first.packed)
    fit(job, student, objective, plan, job.settings.batch)
    chosen = settle(job, student, prompt_of(job.material[0][1]))
    facts = {"deaf_test": hearing.facts(), "questions": len(plan.groups), "lessons": len(job.material), **chosen}
    return facts | {"left_out": left_out(job.folder), "why": objective.why}


def showable(student: LocalModel, items: Sequence[Material], count: int) -> list[Material]:
    """Return the first `count` (0: all) items whose question can be shown; all of them where none can."""
    failures = grow(student, items).failures
    good = [item for item in items if item[0].id not in failures]
    return (good or list(items))[: count or None]


class Draw:
    """Which lessons each step sees; a function of seed and step.

    Questions at random, one lesson of each; with `together` above 1 some more about the same clip beside it.
    """

    def __init__(self, job: TrainingJob) -> None:
        assert isinstance(job.settings, Sft | Distil)
        self.seed, self.batch, self.together = job.seed, job.settings.batch, job.settings.together
        groups: dict[str, list[Material]] = {}
        clips: dict[str, list[Material]] = {}
        for item in job.material:
            groups.setdefault(item[0].id, []).append(item)
            clips.setdefault(item[0].clip.id, []).append(item)
        self.groups, self.clips = list(groups.values()), clips

    def __call__(self, step: int) -> list[Material]:
        """Return the lessons of a step, counted from 0."""
        rng = generator(self.seed, "sft", step)
        chosen = [self.groups[i] for i in rng.integers(len(self.groups), size=self.batch)]
        drawn: list[Material] = []
        for first in [group[rng.integers(len(group))] for group in chosen]:
            if len(drawn) >= self.batch:
                break
            others = [item for item in self.clips[first[0].clip.id] if item is not first]
            count = min(self.together - 1, len(others))
            drawn += [first, *(others[i] for i in (rng.permutation(len(others))[:count] if count else ()))]
        return drawn[: self.batch]


@dataclass(frozen=True)
class Grown:
    """Lessons as trees: their branches are those of `lessons`, in this order.

    `failures` says, by question id, why a question cannot be shown to the student.
    """

    trees: list[Tree]
    lessons: list[Material]
    failures: dict[str, str]


def grow(student: LocalModel, items: Sequence[Material]) -> Grown:
    """Make one tree per clip: the questions about it as forks, their lessons as branches."""
    lessons: dict[tuple[str, str], list[Material]] = {}
    for item in items:
        lessons.setdefault((item[0].id, prompt_of(item[1])), []).append(item)
    questions = {key: about_it[0][0] for key, about_it in lessons.items()}
    texts = [question_prompt(student.manner, name, q.text, q.choices) for (_, name), q in questions.items()]
    roots = encode_each(student, [Prompt(text, q.clip) for text, q in zip(texts, questions.values(), strict=True)])
    clips: dict[str, list[tuple[str, str]]] = {}
    shown: dict[tuple[str, str], Tree] = {}
    for (key, question), root in zip(questions.items(), roots, strict=True):
        if not isinstance(root, Failed):
            said = [student.response_ids(spell(lesson)) for _, lesson in lessons[key]]
            shown[key] = Tree(root, tuple(map(Branch.trained, said)))
            clips.setdefault(question.clip.id, []).append(key)
    heard = student.tokenizer.convert_tokens_to_ids(student.family.placeholder)
    trees = [share([shown[key] for key in about_it], heard) for about_it in clips.values()]
    order = [item for about_it in clips.values() for key in about_it for item in lessons[key]]
    failures = {key[0]: r.why for key, r in zip(questions, roots, strict=True) if isinstance(r, Failed)}
    return Grown(trees, order, failures)
