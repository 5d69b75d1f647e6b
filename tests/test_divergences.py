"""Divergences in closed form against autograd in 64 bits, over the whole vocabulary and over parts of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import earwitness.learn.divergences as divergences
from earwitness.learn.divergences import Divergence, Target, compare, remainder, surprise, through_head

KINDS = ["jsd", "forward", "reverse"]
WAYS = ["all", "first", "shared", "own", "likeliest", "all but one"]
WIDTH, TOKENS = 6, 13

cases = st.fixed_dictionaries(
    {
        "divergence": st.builds(
            Divergence, st.sampled_from(KINDS), st.floats(0.05, 0.95), st.sampled_from([1.0, 0.5, 2.0, 3.7])
        ),
        "way": st.sampled_from(WAYS),
        "count": st.integers(1, 9),
        "sharpness": st.sampled_from([0.3, 1.0, 4.0]),
        "seed": st.integers(0, 2**16),
        "at_once": st.sampled_from([1, 2 * TOKENS, 5 * TOKENS + 1, 10**6]),
    }
)


def drawn(seed: int, *sizes: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def target_of(logprobs: torch.Tensor, way: str, seed: int = 0) -> Target:
    """What a teacher's distribution becomes in each of the ways that a target can name its tokens."""
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(seed))
    if way == "all":
        return Target(logprobs)
    if way == "first":
        return Target(logprobs[:, :7], 7, remainder(logprobs[:, :7]))
    if way == "shared":
        kept = logprobs[:, order[:5]]
        return Target(kept, order[:5], remainder(kept))
    if way == "own":
        columns = torch.stack([order.roll(n)[:4] for n in range(len(logprobs))])
        kept = logprobs.gather(-1, columns)
        return Target(kept, columns, remainder(kept))
    return Target.likeliest(logprobs, 3 if way == "likeliest" else TOKENS - 1)


def direct(divergence: Divergence, target: Target, logits: torch.Tensor) -> torch.Tensor:
    """The divergence as it is defined, for autograd: every token that is named, and the rest of them added up."""
    q = (logits / divergence.softness).softmax(-1)
    p = target.logprobs.exp()
    if target.columns is not None:
        named = torch.zeros_like(q)
        first = target.columns if isinstance(target.columns, int) else None
        columns = torch.arange(first) if first is not None else target.columns
        named = named.scatter(-1, columns.expand(len(q), -1), 1.0)
        own = q.gather(-1, columns.expand(len(q), -1))
        q = torch.cat([own, (q * (1 - named)).sum(-1, keepdim=True)], -1)
        p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)
    if divergence.kind == "forward":
        return (p * (p.log() - q.log())).sum(-1)
    if divergence.kind == "reverse":
        return (q * (q.log() - p.log())).sum(-1)
    b, mean = divergence.mixture, (divergence.mixture * p + (1 - divergence.mixture) * q).log()
    return b * (p * (p.log() - mean)).sum(-1) + (1 - b) * (q * (q.log() - mean)).sum(-1)


def both(loss: torch.Tensor, states: torch.Tensor, head: torch.nn.Linear) -> list[torch.Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, [states, head.weight])]


def part(target: Target, some: slice) -> Target:
    columns = target.columns
    if isinstance(columns, torch.Tensor) and columns.dim() == 2:
        columns = columns[some]
    return Target(target.logprobs[some], columns, None if target.rest is None else target.rest[some])


def through(case: dict, dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A case computed by us and directly: the weighted sum, its gradient by states and by the head."""
    count, seed, divergence = case["count"], case["seed"], case["divergence"]
    states = drawn(seed, count, WIDTH, scale=case["sharpness"]).to(dtype).requires_grad_()
    head = torch.nn.Linear(WIDTH, TOKENS, bias=False, dtype=dtype)
    head.weight.data = drawn(seed + 1, TOKENS, WIDTH).to(dtype)
    weight = drawn(seed + 2, count).abs()
    target = target_of(drawn(seed + 3, count, TOKENS, scale=case["sharpness"]).log_softmax(-1), case["way"], seed)
    low = Target(target.logprobs.to(dtype), target.columns, None if target.rest is None else target.rest.to(dtype))
    before, divergences.AT_ONCE = divergences.AT_ONCE, case["at_once"]
    try:
        ours = through_head(states, head, weight.to(dtype), lambda z, some: compare(divergence, part(low, some), z))
    finally:
        divergences.AT_ONCE = before
    exact = states.detach().double().requires_grad_()
    wide = torch.nn.Linear(WIDTH, TOKENS, bias=False, dtype=torch.float64)
    wide.weight.data = head.weight.detach().double()
    theirs = (direct(divergence, target, wide(exact)) * weight).sum()
    return both(ours * 1.7, states, head), both(theirs * 1.7, exact, wide)


@settings(max_examples=150, deadline=None)
@given(cases)
def test_values_and_gradients_are_those_of_the_definition(case):
    for ours, theirs in zip(*through(case), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-10)


@settings(max_examples=80, deadline=None)
@given(cases)
def test_in_32_bits_they_are_nearly(case):
    for ours, theirs in zip(*through(case, torch.float32), strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        assert float((ours.double() - theirs).abs().max()) < 3e-5 * scale


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.floats(0.05, 0.95), st.sampled_from(WAYS), st.integers(0, 999))
def test_what_is_alike_has_neither_loss_nor_gradient(kind, mixture, way, seed):
    logits = drawn(seed, 5, TOKENS, scale=2)
    loss, gradient = compare(Divergence(kind, mixture), target_of(logits.log_softmax(-1), way, seed), logits)
    assert loss.abs().max() < 1e-13 and gradient.abs().max() < 1e-13
    loss, gradient = compare(
        Divergence(kind, mixture), target_of(logits.float().log_softmax(-1), way, seed), logits.float()
    )
    assert loss.abs().max() < 1e-6 and gradient.abs().max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.floats(0.05, 0.95), st.sampled_from(WAYS), st.integers(0, 999))
def test_it_is_never_negative_and_its_gradient_sums_to_nothing(kind, mixture, way, seed):
    """Adding a number to all logits changes nothing."""
    target = target_of(drawn(seed, 4, TOKENS, scale=5).log_softmax(-1), way, seed)
    loss, gradient = compare(Divergence(kind, mixture), target, drawn(seed + 1, 4, TOKENS, scale=5))
    assert loss.min() >= 0
    assert gradient.sum(-1).abs().max() < 1e-9 * max(1.0, float(gradient.abs().max()))


@given(st.integers(0, 999), st.floats(0.1, 30))
def test_the_even_mixture_is_symmetric_and_bounded(seed, scale):
    p, q = (drawn(seed + n, 6, TOKENS, scale=scale) for n in (0, 1))
    there, _ = compare(Divergence(), Target(p.log_softmax(-1)), q)
    back, _ = compare(Divergence(), Target(q.log_softmax(-1)), p)
    assert torch.allclose(there, back, rtol=1e-9, atol=1e-15)
    assert there.max() <= math.log(2) + 1e-12


def test_an_extreme_mixture_is_a_kl_of_one_side():
    """JSD_b / b tends to forward KL as b goes to 0, JSD_b / (1 - b) to reverse KL as b goes to 1."""
    target, logits = Target(drawn(0, 5, TOKENS).log_softmax(-1)), drawn(1, 5, TOKENS)
    for kind, mixture, share in (("forward", 1e-6, 1e-6), ("reverse", 1 - 1e-6, 1e-6)):
        expected, by_logits = compare(Divergence(kind), target, logits)
        found, gradient = compare(Divergence("jsd", mixture), target, logits)
        assert torch.allclose(found / share, expected, rtol=1e-4)
        assert torch.allclose(gradient / share, by_logits, rtol=1e-3, atol=1e-5)


def test_all_but_one_token_are_all_tokens():
    """The rest is then one token: nothing is lumped together."""
    logprobs, logits = drawn(0, 5, TOKENS).log_softmax(-1), drawn(1, 5, TOKENS)
    for kind in KINDS:
        whole = compare(Divergence(kind), Target(logprobs), logits)
        found = compare(Divergence(kind), Target.likeliest(logprobs, TOKENS - 1), logits)
        for a, b in zip(found, whole, strict=True):
            assert torch.allclose(a, b, atol=1e-12)


def test_every_token_is_one_too_many_for_a_rest_and_still_the_same():
    logprobs, logits = drawn(0, 5, TOKENS).log_softmax(-1).float(), drawn(1, 5, TOKENS).float()
    for kind in KINDS:
        whole = compare(Divergence(kind), Target(logprobs), logits)
        for target in (
            Target.likeliest(logprobs, TOKENS),
            Target(logprobs, TOKENS, remainder(logprobs)),
        ):
            for a, b in zip(compare(Divergence(kind), target, logits), whole, strict=True):
                assert torch.allclose(a, b, atol=2e-5)


@given(st.sampled_from(KINDS), st.integers(1, TOKENS - 1), st.integers(0, 999))
def test_lumping_never_shows_more_than_there_is(kind, count, seed):
    """The data-processing inequality: the rest as one is a lower bound."""
    logprobs, logits = drawn(seed, 5, TOKENS, scale=3).log_softmax(-1), drawn(seed + 1, 5, TOKENS, scale=3)
    whole, _ = compare(Divergence(kind), Target(logprobs), logits)
    found, _ = compare(Divergence(kind), Target.likeliest(logprobs, count), logits)
    assert (found <= whole + 1e-9).all()


def test_a_target_sees_what_renormalising_its_likeliest_tokens_would_not():
    """Reverse KL of the two likeliest tokens alone is 0 though a third of the third token's mass is astray."""
    student, teacher = (torch.tensor([p], dtype=torch.float64) for p in ((0.5, 0.3, 0.2), (0.45, 0.27, 0.28)))
    renormalised = [p[:, :2] / p[:, :2].sum(-1, keepdim=True) for p in (student, teacher)]
    blind = (renormalised[0] * (renormalised[0] / renormalised[1]).log()).sum()
    assert abs(float(blind)) < 1e-12
    loss, gradient = compare(Divergence("reverse"), Target.likeliest(teacher.log(), 2), student.log())
    assert float(loss) == pytest.approx(0.0170, abs=5e-5)
    assert gradient[0, 2] < -0.05 < 0 < gradient[0, 0]  # a larger third logit would mend it


def test_a_sure_student_feels_what_it_leaves_out():
    """In 32 bits, too: what is left beside its likeliest tokens is not the difference of two numbers near 1."""
    logits = torch.tensor([[25.0, 0.0, -1.0, -2.0, 3.0]])
    target = Target.likeliest(torch.tensor([[0.6, 0.1, 0.1, 0.1, 0.1]]).log(), 1)
    for kind in KINDS:
        loss, gradient = compare(Divergence(kind), target, logits)
        wide = logits.double().requires_grad_()
        expected = direct(Divergence(kind), Target(target.logprobs.double(), target.columns), wide)
        (by_logits,) = torch.autograd.grad(expected.sum(), wide)
        assert torch.allclose(loss.double(), expected, rtol=1e-4)
        assert torch.allclose(gradient[:, 1:].double(), by_logits[:, 1:], rtol=1e-4, atol=0)
        assert torch.allclose(gradient.double(), by_logits, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_extreme_logits_have_finite_losses_and_gradients(kind, way):
    extreme = drawn(3, 8, TOKENS).sign().float() * 1e4
    masked = drawn(4, 8, TOKENS).float()
    masked[:, 2:6] = -1e30  # as masked columns are
    pairs = [(extreme, masked), (masked, extreme), (extreme, extreme), (masked, masked), (extreme, -extreme)]
    for theirs, own in pairs:
        for softness in (0.1, 1.0):
            target = target_of((theirs / softness).log_softmax(-1), way)
            loss, gradient = compare(Divergence(kind, softness=softness), target, own)
            assert loss.isfinite().all() and gradient.isfinite().all()
            assert loss.min() > -1e-5


def test_surprise_is_cross_entropy():
    logits, said = drawn(0, 7, TOKENS).requires_grad_(), torch.arange(7)
    loss, gradient = surprise(said, logits.detach())
    expected = torch.nn.functional.cross_entropy(logits, said, reduction="none")
    assert torch.allclose(loss, expected)
    assert torch.allclose(gradient, torch.autograd.grad(expected.sum(), logits)[0])


def test_weights_that_are_nothing_hide_a_prediction():
    divergence, head = Divergence(), torch.nn.Linear(WIDTH, TOKENS, bias=False, dtype=torch.float64)
    target = Target(drawn(0, 4, TOKENS).log_softmax(-1))
    states, weight = drawn(1, 4, WIDTH).requires_grad_(), torch.tensor([1.0, 0.0, 2.0, 0.0])
    loss = through_head(states, head, weight, lambda z, some: compare(divergence, part(target, some), z))
    (by_states,) = torch.autograd.grad(loss, states)
    assert by_states[1].abs().max() == by_states[3].abs().max() == 0 < by_states[0].abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_only_the_products_are_rounded(kind):
    states, head = drawn(0, 40, 32).float().requires_grad_(), torch.nn.Linear(32, TOKENS, bias=False)
    target, weight = Target(drawn(1, 40, TOKENS).log_softmax(-1).float()), torch.ones(40)
    made = []
    for on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            loss = through_head(states, head, weight, lambda z, some: compare(Divergence(kind), part(target, some), z))
        made.append(both(loss, states, head))
    assert all(t.dtype == torch.float32 for t in made[1])
    for exact, low in zip(*made, strict=True):
        assert float((low - exact).norm() / exact.norm()) < 0.02


def test_only_what_is_trained_gets_a_gradient():
    head = torch.nn.Linear(WIDTH, TOKENS, bias=False).requires_grad_(False)
    states = drawn(1, 4, WIDTH).float().requires_grad_()
    through_head(states, head, torch.ones(4), lambda z, some: surprise(torch.arange(4)[some], z)).backward()
    assert head.weight.grad is None and states.grad is not None
    head.requires_grad_()
    through_head(states.detach(), head, torch.ones(4), lambda z, some: surprise(torch.arange(4)[some], z)).backward()
    assert head.weight.grad.abs().max() > 0


def test_no_predictions_are_nothing_and_a_bias_is_refused():
    head, states = torch.nn.Linear(WIDTH, TOKENS, bias=False), torch.zeros(0, WIDTH, requires_grad=True)
    loss = through_head(states, head, torch.ones(0), lambda z, some: surprise(torch.arange(0), z))
    loss.backward()
    assert loss == 0 and not head.weight.grad.any()
    with pytest.raises(ValueError, match="a head with a bias"):
        through_head(states, torch.nn.Linear(WIDTH, TOKENS), torch.ones(0), lambda z, some: (z, z))
