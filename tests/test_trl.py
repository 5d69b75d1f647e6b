"""Our policy loss against TRL's own GRPOTrainer: its code, on the same completions, rewards and log-probabilities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import open_model
from earwitness.learn.losses import token_logprobs
from earwitness.learn.policy import PolicySettings, Rollout, advantages, policy_terms
from earwitness.learn.tree import Branch, Root, Tree, pack
from tensors import gradients, random_ids, relative_error

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # between two libraries, neither ours

GROUP, TEMPERATURE, LONGEST = 4, 0.8, 12
# Two prompts of different length; lengths differ, two completions of the first group are equal.
PROMPTS = (random_ids(7, 1), random_ids(5, 2))
COMPLETIONS = (
    (random_ids(12, 3), random_ids(4, 4), random_ids(4, 4), random_ids(1, 5)),
    (random_ids(6, 6), random_ids(9, 7), random_ids(2, 8), random_ids(5, 9)),
)
VARIED = ((1.5, 0.0, 0.0, 0.5), (0.0, 1.0, 1.0, 1.0))
EQUAL = ((1.5, 0.0, 0.0, 0.5), (0.3, 0.3, 0.3, 0.3))  # the second group says nothing, with a mean that is not exact


@pytest.fixture(scope="module")
def reader(tiny_reader):
    """Our copy of the model."""
    return open_model(tiny_reader, "textual_teacher")


@pytest.fixture(scope="module")
def trainer(tiny_reader, tmp_path_factory):
    """TRL's trainer on another copy, sampling replaced by the given completions and scoring by the given rewards."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    class Given(GRPOTrainer):
        rewards = VARIED

        def _tokenize_prompts(self, prompts):
            return [list(PROMPTS[int(prompt)]) for prompt in prompts], None, {}

        def _generate_single_turn(self, prompt_ids, *_, **__):
            return [list(ids) for group in COMPLETIONS for ids in group], None

    def reward(prompts, completions, **_):
        return [value for group in made.rewards for value in group]

    local = open_model(tiny_reader, "textual_teacher")
    made = Given(
        model=local.model,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            num_generations=GROUP,
            per_device_train_batch_size=2 * GROUP,
            temperature=TEMPERATURE,
            max_completion_length=LONGEST,
            use_bias_correction_kl=False,  # DeepSeekMath's divergence; see the last test for TRL's own default
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_dict({"prompt": ["0", "1"]}),
        processing_class=local.tokenizer,
    )
    made.current_gradient_accumulation_steps = 1  # what its training loop sets
    made.model.train()
    return made


def scored(trainer, rewards, scale="group") -> dict:
    """TRL's own batch: padded completions and its advantages."""
    trainer.rewards, trainer.scale_rewards, trainer.beta = rewards, scale, 0.0  # no reference model is asked
    rows = [{"prompt": prompt} for prompt in "01" for _ in range(GROUP)]
    return trainer._generate_and_score_completions(rows)


def theirs(trainer, inputs, old, reference, chosen, weighted_kl=False) -> tuple[float, dict, dict]:
    """TRL's loss, its gradient, and what it notes beside it."""
    trainer.beta, trainer.loss_type = chosen.beta, chosen.normalise
    trainer.epsilon_low, trainer.epsilon_high = chosen.clip_low, chosen.clip_high
    trainer.args.use_bias_correction_kl = weighted_kl
    given = {"old_per_token_logps": old, "ref_per_token_logps": reference}
    inputs = {**inputs, **{name: padded(value) for name, value in given.items() if value is not None}}
    trainer._metrics["train"].clear()
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), gradients(trainer.model), {k: v[0] for k, v in trainer._metrics["train"].items()}


def ours(reader, rewards, old, reference, chosen) -> tuple[float, dict, dict]:
    """The same from our side: equal completions are one branch, and groups without a signal are left out if asked."""
    trees, worth, length, copies, kept = [], [], [], [], []
    for which, (prompt, group) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        values = advantages(torch.tensor([rewards[which]]), chosen.scale)[0].tolist()
        if len(set(rewards[which])) == 1 and not chosen.keep_equal_groups:
            continue
        distinct = list(dict.fromkeys(group))
        trees.append(Tree(Root(prompt), tuple(Branch.trained(ids) for ids in distinct)))
        worth += [values[group.index(ids)] for ids in distinct]
        length += [len(ids) for ids in distinct]
        copies += [group.count(ids) for ids in distinct]
        kept += [GROUP * which + group.index(ids) for ids in distinct]
    rollout = Rollout(
        pack(trees, reader.pad),
        *(torch.tensor(x, dtype=torch.float32) for x in (worth, length, copies)),
        old=None if old is None else torch.cat([old[row] for row in kept]),
        reference=None if reference is None else torch.cat([reference[row] for row in kept]),
        facts={},
    )
    reader.model.zero_grad()
    terms = policy_terms(reader.model, rollout, rollout.counts(), chosen)
    loss = terms["policy"] + chosen.beta * terms["kl_ref"]
    loss.backward()
    return loss.item(), gradients(reader.model), {name: float(term.detach()) for name, term in terms.items()}


def padded(rows) -> torch.Tensor:
    """(B) rows of log-probabilities as TRL's (B, C) tensor; what stands in the padding must not count."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=3.0)


def moved(reader, by: float, seed: int) -> list[torch.Tensor]:
    """Log-probabilities of every completion under a policy that differs from the model's; equal for equal ones."""
    rows = {}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for prompt, group in zip(PROMPTS, COMPLETIONS, strict=True):
            for ids in dict.fromkeys(group):
                batch = pack([Tree(Root(prompt), (Branch.trained(ids),))], reader.pad)
                exact = token_logprobs(reader.model, batch, TEMPERATURE)
                rows[ids] = exact + by * torch.randn(len(exact), generator=generator)
    return [rows[ids] for group in COMPLETIONS for ids in group]


USUAL = PolicySettings(
    group=GROUP,
    temperature=TEMPERATURE,
    max_tokens=LONGEST,
    beta=0.04,
    clip_low=0.1,
    clip_high=0.3,
    normalise="grpo",
    scale="group",
    keep_equal_groups=True,
)


@pytest.mark.parametrize("normalise", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize(("remembered", "beta"), [(False, 0.0), (False, 0.04), (True, 0.0), (True, 0.04)])
def test_the_loss_is_trls(trainer, reader, normalise, remembered, beta):
    chosen = replace(USUAL, normalise=normalise, beta=beta)
    old = moved(reader, 0.4, seed=1) if remembered else None
    reference = moved(reader, 0.5, seed=2) if beta else None
    loss, gradient, noted = theirs(trainer, scored(trainer, VARIED), old, reference, chosen)
    own_loss, own_gradient, terms = ours(reader, VARIED, old, reference, chosen)
    assert own_loss == pytest.approx(loss, abs=1e-6)
    assert relative_error(own_gradient, gradient) < 1e-5
    assert sum(g.abs().sum() for g in gradient.values()) > 1e-2
    clipped = noted["clip_ratio/region_mean"]
    assert terms["clipped"] == pytest.approx(clipped, abs=1e-6)
    assert terms["entropy"] == pytest.approx(noted["entropy"], abs=1e-5)
    assert (0.2 < clipped < 0.8) if remembered else clipped == 0
    if beta and normalise == "dapo":
        assert terms["kl_ref"] == pytest.approx(noted["kl"], rel=1e-5)
        assert noted["kl"] > 0.05


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("rewards", [VARIED, EQUAL])
def test_the_advantages_are_trls(trainer, rewards, scale):
    own = advantages(torch.tensor(rewards), scale).flatten()
    assert torch.allclose(own, scored(trainer, rewards, scale)["advantages"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalise", ["grpo", "dapo", "dr_grpo"])
def test_groups_without_a_signal_can_be_kept_as_trl_keeps_them(trainer, reader, normalise):
    """They count in every normaliser, and are held to the reference."""
    kept = replace(USUAL, normalise=normalise)
    reference = moved(reader, 0.5, seed=2)
    loss, gradient, _ = theirs(trainer, scored(trainer, EQUAL), None, reference, kept)
    own_loss, own_gradient, _ = ours(reader, EQUAL, None, reference, kept)
    assert own_loss == pytest.approx(loss, abs=1e-6)
    assert relative_error(own_gradient, gradient) < 1e-5
    filtered, *_ = ours(reader, EQUAL, None, reference, replace(kept, keep_equal_groups=False))
    assert abs(filtered - loss) > 1e-4


def test_trl_weighs_the_divergence_by_the_ratio_unless_told_not_to(trainer, reader):
    """A difference of defaults: TRL's also follows the gradient of the ratio, even where that is exactly 1."""
    reference, inputs = moved(reader, 0.5, seed=2), scored(trainer, VARIED)
    plain, plain_gradient, _ = theirs(trainer, inputs, None, reference, USUAL)
    weighted, weighted_gradient, _ = theirs(trainer, inputs, None, reference, USUAL, weighted_kl=True)
    assert weighted == pytest.approx(plain, abs=1e-6)
    assert relative_error(weighted_gradient, plain_gradient) > 1e-3
