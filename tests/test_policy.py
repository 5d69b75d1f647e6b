"""The policy loss: against numbers worked out by hand, against separate samples, and its reference at step 0."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import open_model
from earwitness.config import Grpo, Model
from earwitness.learn.losses import hidden_states, token_logprobs
from earwitness.learn.policy import (
    PolicySettings,
    Rollout,
    Task,
    advantages,
    divergence,
    policy_terms,
    roll_out,
    surrogate,
)
from earwitness.learn.sampling import Decoding, sample
from earwitness.learn.tree import Branch, Tree, pack
from earwitness.records import Checkpoint
from earwitness.stages.student import open_student
from earwitness.stages.training import TrainingJob
from tensors import gradients, relative_error, root

USUAL = PolicySettings(
    group=8,
    temperature=0.8,
    max_tokens=2,
    beta=0.1,
    clip_low=0.2,
    clip_high=0.2,
    normalise="grpo",
    scale="group",
    keep_equal_groups=False,
)


def settings(**changes) -> PolicySettings:
    return replace(USUAL, **changes)


def decoding(local) -> Decoding:
    """Few words may be said, and briefly: so that some samples are equal, and others differ."""
    words = {15, 20, 21, 22, 23}
    forbidden = tuple(set(range(local.model.config.get_text_config().vocab_size)) - words)
    return Decoding(USUAL.temperature, USUAL.max_tokens, local.pad, (15,), forbidden)


def tasks(local, count=3) -> list[Task]:
    def reward(samples):
        return [float(ids[0] % 2) + 0.5 * (len(ids) == 1) for ids in samples]

    return [Task(root(local, seed), reward, ("k", seed)) for seed in range(count)]


def rolled(local, reference=None, remember_old=False, these=None, **changes) -> Rollout:
    chosen = settings(**changes)
    return roll_out(local.model, these or tasks(local), chosen, decoding(local), 0, reference, remember_old)


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    a = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    b = 1 / (1.0 + 1e-4)  # deviations 1.5, -0.5 three times: variance 3 / 3
    expected = torch.tensor([[a, -a, -a, a], [1.5 * b, -0.5 * b, -0.5 * b, -0.5 * b], [0.0] * 4])
    assert torch.allclose(advantages(rewards, "group"), expected)
    assert torch.equal(advantages(rewards, "none")[1], torch.tensor([1.5, -0.5, -0.5, -0.5]))


def test_the_clipped_surrogate_by_hand():
    """Ratios 1, 2, 1/2 under a gain and under a loss: clipping never hides a step in the wrong direction."""
    logprobs = torch.log(torch.tensor([0.2, 0.4, 0.1, 0.4, 0.1]))
    old = torch.log(torch.tensor(0.2)).expand(5)
    advantage = torch.tensor([3.0, 1.0, 1.0, -1.0, -1.0])
    expected = torch.tensor([-3.0, -1.3, -0.5, 2.0, 0.8])
    loss, bound = surrogate(logprobs, old, advantage, settings(clip_high=0.3))
    assert torch.allclose(loss, expected, atol=1e-6)
    assert bound.tolist() == [False, True, False, False, True]


def test_without_old_log_probabilities_the_ratio_is_one_and_the_gradient_is_that_of_the_log_probability():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss, _ = surrogate(logprobs, None, torch.tensor([2.0, -3.0]), settings())
    assert loss.tolist() == [-2.0, 3.0]
    loss.sum().backward()
    assert logprobs.grad.tolist() == [-2.0, 3.0]


def test_the_divergence_by_hand():
    made = divergence(torch.log(torch.tensor([0.5, 0.2, 0.1])), torch.log(torch.tensor([0.5, 0.1, 0.2])))
    expected = torch.tensor([0.0, 2 - math.log(2) - 1, 0.5 + math.log(2) - 1])
    assert torch.allclose(made, expected, atol=1e-6)
    assert (made >= 0).all()


def naive_terms(local, chosen, reference=None):
    """Every sample by itself, without merging, by the formulas as they are written down."""
    model, these = local.model, tasks(local)
    groups = sample(model, [t.root for t in these], chosen.group, decoding(local), [(*t.key, 0) for t in these])
    per_sample = []
    for task, group in zip(these, groups, strict=True):
        rewards = torch.tensor(task.reward([s.ids for s in group]))
        if not chosen.keep_equal_groups and rewards.max() == rewards.min():
            continue
        worth = advantages(rewards[None], chosen.scale)[0]
        for s, a in zip(group, worth, strict=True):
            batch = pack([Tree(task.root, (Branch.trained(s.ids),))], local.pad)
            logprobs = token_logprobs(model, batch, chosen.temperature)
            ratio = torch.exp(logprobs - logprobs.detach())
            kl = divergence(reference(batch), logprobs) if reference else torch.zeros_like(logprobs)
            per_sample.append((-ratio * a, kl))
    count, tokens = len(per_sample), sum(len(p) for p, _ in per_sample)
    made = []
    for which in (0, 1):
        if chosen.normalise == "grpo":
            made.append(sum(x[which].mean() for x in per_sample) / count)
        elif chosen.normalise == "dapo":
            made.append(sum(x[which].sum() for x in per_sample) / tokens)
        else:
            made.append(sum(x[which].sum() for x in per_sample) / (count * chosen.max_tokens))
    return made, count, tokens


def shifted_reference(local):
    """A reference that differs from the policy, so that the divergence is not 0."""

    def score(batch):
        with torch.no_grad():
            return token_logprobs(local.model, batch, USUAL.temperature) * 1.1

    return score


@pytest.mark.parametrize("normalise", ["grpo", "dapo", "dr_grpo"])
def test_merged_samples_equal_separate_ones(listener, normalise):
    """Equal completions become one branch: same terms, same gradient, same counts, for every normaliser."""
    chosen, reference = settings(normalise=normalise, scale="none"), shifted_reference(listener)
    rollout = rolled(listener, reference, normalise=normalise, scale="none")
    assert rollout.copies.max() > 1, "no two completions were equal: merging is not tested"
    assert rollout.facts["equal_groups"] < rollout.facts["groups"]
    made = []
    model = listener.model
    for terms in (
        lambda: [policy_terms(model, rollout, rollout.counts(), chosen)[name] for name in ("policy", "kl_ref")],
        lambda: naive_terms(listener, chosen, reference)[0],
    ):
        model.zero_grad()
        policy, kl = terms()
        (policy + 0.1 * kl).backward()
        made.append((policy.item(), kl.item(), gradients(model)))
    model.zero_grad()
    assert made[0][0] == pytest.approx(made[1][0], abs=1e-5)
    assert made[0][1] == pytest.approx(made[1][1], rel=1e-4)
    assert made[0][1] > 1e-4
    assert relative_error(made[0][2], made[1][2]) < 1e-4
    _, sequences, tokens = naive_terms(listener, chosen)
    assert rollout.counts()["sequences"] == sequences
    assert rollout.counts()["tokens"] == tokens


@pytest.mark.parametrize("normalise", ["grpo", "dapo", "dr_grpo"])
def test_terms_do_not_depend_on_how_a_step_is_cut(listener, normalise):
    chosen, reference = settings(normalise=normalise), shifted_reference(listener)
    whole = rolled(listener, reference, normalise=normalise)
    parts = [rolled(listener, reference, these=[task], normalise=normalise) for task in tasks(listener)]
    totals = {name: sum(p.counts()[name] for p in parts) for name in whole.counts()}
    assert totals == pytest.approx(whole.counts())
    together = policy_terms(listener.model, whole, totals, chosen)
    apart = [policy_terms(listener.model, p, totals, chosen) for p in parts]
    for name, value in together.items():
        assert sum(a[name].item() for a in apart) == pytest.approx(value.item(), abs=1e-5)


def test_groups_without_a_signal_are_counted_and_left_out(listener):
    flat = Task(root(listener, 9), lambda samples: [1.0] * len(samples), ("flat",))
    mixed = [flat, *tasks(listener)]
    without = rolled(listener)
    filtered = rolled(listener, these=mixed)
    assert filtered.facts["equal_groups"] == without.facts["equal_groups"] + 1
    assert filtered.facts["reward"] == without.facts["reward"] + USUAL.group
    assert torch.equal(filtered.advantage, without.advantage)
    kept = rolled(listener, these=mixed, keep_equal_groups=True)
    assert kept.counts()["sequences"] == 4 * USUAL.group


def test_a_step_without_any_signal_has_a_loss_of_zero_and_zero_gradients(listener):
    rollout = rolled(listener, these=[Task(root(listener, 9), lambda samples: [1.0] * len(samples), ("flat",))])
    assert rollout.batch is None
    terms = policy_terms(listener.model, rollout, rollout.counts(), settings())
    listener.model.zero_grad()
    terms["policy"].backward()
    made = gradients(listener.model)
    listener.model.zero_grad()
    assert made
    assert all(not g.any() for g in made.values())
    assert float(terms["kl_ref"]) == 0


def test_entropy_and_clipped_share_are_watched_and_not_trained(listener):
    chosen = settings(clip_low=0.2, clip_high=0.2)
    rollout = rolled(listener, remember_old=True)
    rollout.old = rollout.old - 1.0  # every ratio is e: clipped wherever the advantage is a gain
    terms = policy_terms(listener.model, rollout, rollout.counts(), chosen)
    assert not terms["entropy"].requires_grad
    weight = (rollout.copies / rollout.counts()["tokens"])[rollout.batch.branch]
    gains = (rollout.advantage[rollout.batch.branch] > 0).float()
    assert float(terms["clipped"]) == pytest.approx(float((gains * weight).sum()), abs=1e-6)
    hidden = hidden_states(listener.model, rollout.batch)[rollout.batch.row, rollout.batch.source]
    every = (listener.model.lm_head(hidden) / chosen.temperature).log_softmax(-1)
    expected = (torch.distributions.Categorical(logits=every).entropy() * weight).sum()
    assert float(terms["entropy"]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("bad", [[1.0], [math.nan] * 8, [math.inf] + [0.0] * 7])
def test_a_reward_that_is_no_number_or_of_the_wrong_length_stops_at_once(listener, bad):
    with pytest.raises(ValueError, match=r"reward of flat returned .* for 8 samples: it must return one finite"):
        rolled(listener, these=[Task(root(listener, 9), lambda samples: bad, ("flat",))])


def test_old_log_probabilities_are_those_of_the_sampling_policy(listener):
    rollout = rolled(listener, remember_old=True)
    with torch.no_grad():
        assert torch.equal(rollout.old, token_logprobs(listener.model, rollout.batch, USUAL.temperature))


def job(base: Path, tuning: str, parent: Checkpoint | None = None) -> TrainingJob:
    model = Model(kind="local", name=str(base))
    return TrainingJob("grpo", Grpo(tuning=tuning, lora_rank=4), model, parent, (), 1, base, "key")


@pytest.fixture(scope="module")
def parents(tiny_adapter, tiny_student, tmp_path_factory):
    """The checkpoints that a grpo step may start from."""
    full = tmp_path_factory.mktemp("parents") / "full"
    local = open_model(tiny_student, "student")
    torch.manual_seed(3)
    for parameter in local.model.model.language_model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    for part in (local.model, local.tokenizer, local.extractor):
        part.save_pretrained(full)
    return {
        "base": None,
        "full": Checkpoint(key="f", path=str(full), kind="full", parent="base"),
        "adapter": Checkpoint(key="a", path=str(tiny_adapter), kind="adapter", parent="base"),
    }


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("start", ["base", "full", "adapter"])
def test_the_reference_is_the_parent_checkpoint(tiny_student, parents, start, tuning):
    """At step 0 the divergence is 0: the base as reference of an adapter would be wrong without an error."""
    parent = parents[start]
    student = open_student(job(tiny_student, tuning, parent), with_parent=True)
    model = student.local.model

    def reference(batch):
        return student.parent(lambda of: token_logprobs(of, batch, USUAL.temperature))

    rollout = rolled(student.local, reference, keep_equal_groups=True)
    terms = policy_terms(model, rollout, rollout.counts(), settings())
    assert float(terms["kl_ref"].detach()) == pytest.approx(0, abs=1e-9)
    base = open_model(tiny_student, "student")
    with torch.no_grad():
        of_the_base = token_logprobs(base.model, rollout.batch, USUAL.temperature)
    if parent is not None:
        assert (of_the_base - rollout.reference).abs().max() > 1e-2
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02
    again = reference(rollout.batch)
    assert torch.equal(again, rollout.reference), "the reference must not move when the student does"
    moved = policy_terms(model, rollout, rollout.counts(), settings())
    assert float(moved["kl_ref"].detach()) > 1e-4
    moved["kl_ref"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert not any(".reference." in name for name in trained)
    if tuning == "lora":
        assert all("lora_" in name for name in trained)


def test_a_merged_adapter_can_be_trained_in_full(tiny_student, tiny_adapter):
    from earwitness.models.loading import attach_adapter, merge_adapter

    fresh, other = open_model(tiny_student, "student"), open_model(tiny_student, "student")
    before = {name for name, p in fresh.model.named_parameters() if p.requires_grad}
    merged = merge_adapter(fresh.model, str(tiny_adapter))
    assert {name for name, p in merged.named_parameters() if p.requires_grad} == before
    beside = attach_adapter(other.model, str(tiny_adapter))
    batch = pack([Tree(root(other, 1), (Branch.trained((20, 30, 40)),))], other.pad)
    with torch.no_grad():
        assert torch.allclose(token_logprobs(merged, batch), token_logprobs(beside, batch), atol=1e-5)
