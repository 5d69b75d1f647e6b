"""A whole step of practice, from the question to the changed weights, against TRL's GRPOTrainer.

Same model, adapter, sound, rewards and loss. Times are taken with samples of equal, fixed length, each trainer
sampling for itself; rewards, loss and gradient are compared on the same completions.

python benchmarks/grpo_step.py [--runs 3] [--tiny]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from earwitness.config import Model
from earwitness.learn.losses import token_logprobs
from earwitness.learn.policy import PolicySettings, Rollout, Task, policy_terms, roll_out
from earwitness.learn.sampling import Decoding
from earwitness.learn.trainer import Schedule, Trainer
from earwitness.learn.tree import Packed
from earwitness.models import connect
from earwitness.models.exchange import Prompt
from earwitness.models.local import LocalModel
from measure import fresh, measured, median, ratio, say, take_turns
from release import write
from shapes import MIDDLE, TINY, Shape, gradient_norm, under_lora, words

BETA, CLIP, TEMPERATURE, RATE, STEPS = 0.04, 0.2, 1.0, 1e-4, 2


@dataclass(frozen=True)
class Size:
    """How much is asked: G samples of C tokens about one window of sound."""

    shape: Shape
    group: int
    tokens: int
    words: int


SIZES = {False: Size(MIDDLE, 8, 128, 56), True: Size(TINY, 4, 6, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="sizes for a test, all in this process")
    parser.add_argument("--arm", choices=("trl", "ours"), help="of a single run")
    parser.add_argument("--place", type=Path, help="of a single run: the model's folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    size = SIZES[options.tiny]
    if options.arm:
        return say(timed(options.arm, size, options.place))
    with tempfile.TemporaryDirectory() as folder:
        place = write(size.shape, Path(folder) / "model")
        arms = {
            arm: partial(timed, arm, size, place)
            if options.tiny
            else fresh(__file__, "--arm", arm, "--place", str(place))
            for arm in ("trl", "ours")
        }
        results = take_turns(arms, options.runs)
        gaps = compared(size, place, Path(folder))
    keys = ("step", "sampling", "update")
    medians = {arm: {key: round(median(runs, key), 2) for key in (*keys, "mebibytes")} for arm, runs in results.items()}
    times = {f"{key}_time_ratio": ratio(results, "trl", "ours", key) for key in keys}
    memory = {"memory_ratio": ratio(results, "trl", "ours", "mebibytes")}
    return say({**times, **memory, **gaps, "medians": medians})


def wave(size: Size) -> np.ndarray:
    """A whole window of noise, (N,) at 16 kHz."""
    return np.random.default_rng(3).standard_normal(size.shape.seconds * 16000).astype(np.float32) * 0.1


def question(size: Size) -> str:
    return " ".join(f"w{i}" for i in words(size.shape, size.words, 3))


def reward(text: str) -> float:
    """The share of even words, and a point for brevity: something that differs from sample to sample."""
    said = [int(word[1:]) for word in text.split() if word.startswith("w")]
    return sum(number % 2 == 0 for number in said) / max(len(said), 1) + 1 / (1 + len(said))


def settings(size: Size) -> PolicySettings:
    return PolicySettings(size.group, TEMPERATURE, size.tokens, BETA, CLIP, CLIP, "dapo", "group", True)


class Ours:
    """What is practised: one question, with the base as reference."""

    weights = {"policy": 1.0, "kl_ref": BETA, "entropy": 0.0, "clipped": 0.0}

    def __init__(self, size: Size, place: Path, stop: bool) -> None:
        self.local: LocalModel = connect(Model(kind="local", name=str(place)), "student")
        self.local.model = under_lora(self.local.model).train()
        self.size, self.settings, self.sampling = size, settings(size), 0.0
        allowed = self.local.stop if stop else ()
        forbidden = (*self.local.forbidden, *(() if stop else self.local.stop))
        self.decoding = Decoding(TEMPERATURE, size.tokens, self.local.pad, allowed, forbidden)

    def prepare(self, model: Any, items: Sequence[Any], step: int) -> Rollout:
        """Hear the clip, sample a group and score it."""
        started = time.process_time()
        root = self.local.encode(Prompt(question(self.size), wave=wave(self.size)))
        task = Task(root, self.rewards, ("benchmark",))
        rollout = roll_out(self.local.model, [task], self.settings, self.decoding, step, self.reference, False)
        self.sampling = time.process_time() - started - self.referring
        return rollout

    def reference(self, batch: Packed) -> torch.Tensor:
        """The log-probabilities of the base; their time belongs to the update, as in TRL's account."""
        started = time.process_time()
        with self.local.model.disable_adapter():
            made = token_logprobs(self.local.model, batch, TEMPERATURE)
        self.referring = time.process_time() - started
        return made

    def terms(self, model: Any, batch: Rollout, totals: dict[str, float]) -> dict[str, torch.Tensor]:
        """As in practice."""
        return policy_terms(model, batch, totals, self.settings)

    def rewards(self, samples: Sequence[tuple[int, ...]]) -> list[float]:
        """Score a group's texts."""
        return [reward(self.local.tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in samples]


class Clock(transformers.TrainerCallback):  # type: ignore[misc]
    """Notes the CPU time at which each step is over."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Look at the clock."""
        self.ends.append(time.process_time())


def timed(arm: str, size: Size, place: Path) -> dict[str, float]:
    """Train for two steps and return the CPU seconds of the second: the whole, its sampling, and the rest."""
    with tempfile.TemporaryDirectory() as out:
        clock = Clock()
        run, sampling = {"ours": our_training, "trl": trls_training}[arm](size, place, Path(out), clock)
        _, costs = measured(run)
    step = clock.ends[-1] - clock.ends[-2]
    return {"step": step, "sampling": sampling(), "update": step - sampling(), "mebibytes": costs["mebibytes"]}


Training = tuple[Callable[[], Any], Callable[[], float]]


def our_training(size: Size, place: Path, out: Path, clock: Clock) -> Training:
    objective = Ours(size, place, stop=False)
    schedule = Schedule(STEPS, RATE, 0.0, "constant", 0.0, 1.0, STEPS + 1, False, 1, 1)
    trainer = Trainer(objective.local.model, objective, lambda step: [0], schedule, out)
    trainer.add_callback(clock)
    return trainer.fit, lambda: objective.sampling


def trls_training(size: Size, place: Path, out: Path, clock: Clock) -> Training:
    trainer = trls(size, place, out, max_steps=STEPS, generation_kwargs={"min_new_tokens": size.tokens})
    trainer.add_callback(clock)
    seconds: list[float] = []
    generate = trainer._generate_single_turn

    def watched(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        made = generate(*args, **kwargs)
        seconds.append(time.process_time() - started)
        assert {len(ids) for ids in made[0]} == {size.tokens}
        return made

    trainer._generate_single_turn = watched
    return trainer.train, lambda: seconds[-1]


def trls(size: Size, place: Path, out: Path, **others: Any) -> Any:
    from trl_peer import peer

    return peer(
        place,
        {"clip": wave(size)},
        [("clip", question(size))],
        reward,
        size.group,
        size.tokens,
        out,
        beta=BETA,
        epsilon=CLIP,
        temperature=TEMPERATURE,
        loss_type="dapo",
        use_bias_correction_kl=False,
        learning_rate=RATE,
        **others,
    )


def compared(size: Size, place: Path, out: Path) -> dict[str, float]:
    """Return how far rewards, loss and gradient are apart on our completions, some of which end early."""
    ours = Ours(size, place, stop=True)
    rollout = ours.prepare(ours.local.model, [0], 0)
    terms = ours.terms(ours.local.model, rollout, rollout.counts())
    loss = terms["policy"] + BETA * terms["kl_ref"]
    loss.backward()
    own = rollout.counts()["reward"] / size.group, float(loss.detach()), gradient_norm(ours.local.model)
    other = their_step(ours, rollout, trls(size, place, out))
    return {
        "reward_gap": abs(own[0] - other[0]),
        "loss_gap": abs(own[1] - other[1]),
        "gradient_norm_gap": abs(own[2] - other[2]) / own[2],
        "gradient_norm": own[2],
    }


def their_step(ours: Ours, rollout: Rollout, trainer: Any) -> tuple[float, float, float]:
    """Let TRL's trainer score our completions with our adapter: mean reward, loss, norm of the gradient."""
    assert rollout.batch is not None
    trainer.model.load_state_dict(ours.local.model.state_dict())
    trainer.model.train()
    said: list[list[int]] = [[] for _ in rollout.copies]
    for branch, token in zip(rollout.batch.branch.tolist(), rollout.batch.target.tolist(), strict=True):
        said[branch].append(token)
    trainer.said = [ids for ids, n in zip(said, rollout.copies.tolist(), strict=True) for _ in range(int(n))]
    trainer.current_gradient_accumulation_steps = 1  # what its training loop sets
    inputs = trainer._prepare_inputs([trainer.train_dataset[0]] * ours.size.group)
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return trainer._metrics["train"]["reward"][-1], float(loss.detach()), gradient_norm(trainer.model)


if __name__ == "__main__":
    main()
