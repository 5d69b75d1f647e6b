"""What the tests of the trainer train for, in one process or several: lessons said, and answers practised."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from earwitness.config import Model, Sft
from earwitness.learn.losses import cross_entropy, token_logprobs
from earwitness.learn.policy import PolicySettings, Rollout, Task, policy_terms, roll_out
from earwitness.learn.sampling import Decoding
from earwitness.learn.trainer import Schedule
from earwitness.learn.tree import Branch, Packed, Tree, pack
from earwitness.records import Lesson, Question
from earwitness.stages.training import TrainingJob
from tensors import clip, random_ids, root

SCHEDULE = Schedule(
    steps=6, learning_rate=1e-2, warmup=0.34, schedule="cosine", weight_decay=0.01, clip=1.0, checkpoint_every=2,
    keep_all=False, accumulation=1, seed=1,
)  # fmt: skip
LENGTHS = (3, 1, 5, 2, 4, 6, 2, 3)
WORDS = (15, 20, 21, 22, 23)  # the tokens that may be practised with; the first ends a sample
POLICY = PolicySettings(
    group=4, temperature=1.0, max_tokens=3, beta=0.1, clip_low=0.2, clip_high=0.2, normalise="grpo", scale="group",
    keep_equal_groups=False,
)  # fmt: skip


@dataclass
class Batch:
    packed: Packed

    def counts(self):
        return {"tokens": float(self.packed.weight.sum())}


class Said:
    """Cross-entropy on given trees."""

    weights = {"ce": 1.0}

    def prepare(self, model, items, step):
        return Batch(pack(items, 0))

    def terms(self, model, batch, totals):
        return {"ce": cross_entropy(token_logprobs(model, batch.packed), batch.packed.weight) / totals["tokens"]}


@dataclass
class Tried:
    """A rollout, and the rows to be kept of it."""

    rollout: Rollout
    rows: list = field(default_factory=list)

    def counts(self):
        return self.rollout.counts()


class Practised:
    """The policy term on tasks whose reward tells apart what is sampled, several updates per rollout if asked."""

    weights = {"policy": 1.0, "kl_ref": POLICY.beta, "entropy": 0.0, "clipped": 0.0}

    def __init__(self, local, updates=1):
        vocabulary = range(local.model.config.get_text_config().vocab_size)
        forbidden = tuple(sorted(set(vocabulary) - set(WORDS)))
        self.decoding = Decoding(POLICY.temperature, POLICY.max_tokens, local.pad, WORDS[:1], forbidden)
        self.updates, self.held = updates, {}

    def prepare(self, model, items, step):
        at, update = divmod(step, self.updates)
        key = (at, tuple(task.key for task in items))
        if update == 0 or key not in self.held:
            made = roll_out(model, items, POLICY, self.decoding, at, None, remember_old=self.updates > 1)
            rows = [{"question": task.key[-1], "round": at} for task in items]
            self.held = {k: v for k, v in self.held.items() if k[0] == at} | {key: Tried(made, rows)}
        return self.held[key]

    def terms(self, model, batch, totals):
        return policy_terms(model, batch.rollout, totals, POLICY)


def lessons(local):
    return [Tree(root(local, seed), (Branch.trained(random_ids(n, seed)),)) for seed, n in enumerate(LENGTHS)]


def tasks(local, count=8):
    def reward(samples):
        return [float(ids[0] % 2) + 0.5 * (len(ids) == 1) for ids in samples]

    return [Task(root(local, seed), reward, ("practised", seed)) for seed in range(count)]


class KilledError(Exception):
    pass


def stage_job(student, folder):
    """An sft stage's whole job: an adapter that learns to answer questions about four scenes."""
    questions = [Question(id=f"world/{n}", clip=clip(n), text="which sound is heard ?") for n in range(4)]
    lesson = Lesson(think=None, answer="dog", index=None, pools=("all",), by="teacher")
    settings = Sft(steps=2, batch=5, learning_rate=1e-2, tuning="lora", checkpoint_every=1)
    base = Model(kind="local", name=str(student))
    return TrainingJob("sft", settings, base, None, tuple((q, lesson) for q in questions), 1, Path(folder), "key")


def plan_of(items, stop_at=None, updates=1):
    """Four items a step, the same ones for every update of a round; at step `stop_at` (from 0) the process dies."""

    def plan(step):
        if step == stop_at:
            raise KilledError
        return [items[(3 * (step // updates) + i) % len(items)] for i in range(4)]

    return plan
