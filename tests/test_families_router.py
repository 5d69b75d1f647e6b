"""The router loss of a mixture of experts: the library's own, and the same however a step is packed and cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import load_balancing_loss_func

from earwitness.learn.losses import hidden_states, token_logprobs
from earwitness.learn.router import (
    counts_of,
    has_router,
    routed,
    router_counts,
    router_loss,
    router_weight,
)
from earwitness.learn.tree import Branch, Fork, Root, Tree, branches_below, pack
from earwitness.stages.sft import Supervised
from tensors import gradients, relative_error
from test_families import adapted, open_family, separate, trees
from test_student import lessons
from tiny_families import write_family


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_family("qwen3_omni_moe", tmp_path_factory.mktemp("router") / "qwen3_omni_moe")


@pytest.fixture(scope="module")
def local(folder):
    return open_family(folder)


def loss_of(model, batch, totals=None) -> torch.Tensor:
    with routed(model) as logits:
        hidden_states(model, batch)
    return router_loss(logits, batch, totals or counts_of(model, logits, batch))


def test_an_unshared_batch_gives_the_librarys_own_loss(local):
    alone = [one for tree in trees(local) for one in separate(tree)]
    batch = pack(alone, local.pad)
    lengths = [len(t.root.ids) + len(t.branches[0].ids) for t in alone]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    text = local.model.config.text_config
    with torch.no_grad(), routed(local.model) as logits:
        hidden_states(local.model, batch)
        expected = load_balancing_loss_func(tuple(logits), text.num_experts, text.num_experts_per_tok, mask)
    assert len(logits) == text.num_hidden_layers
    assert loss_of(local.model, batch).item() == pytest.approx(float(expected), rel=1e-6)
    assert float(expected) != pytest.approx(text.num_experts_per_tok, rel=1e-3), "balanced already: this tests nothing"


def test_sharing_a_prefix_changes_neither_loss_nor_gradient(local):
    forest = trees(local)
    made = []
    for batch in (pack(forest, local.pad), pack([one for tree in forest for one in separate(tree)], local.pad)):
        local.model.zero_grad()
        loss = loss_of(local.model, batch)
        loss.backward()
        made.append((loss.item(), gradients(local.model)))
    local.model.zero_grad()
    assert made[0][0] == pytest.approx(made[1][0], rel=1e-6)
    assert any("mlp.gate" in name for name in made[0][1])
    assert relative_error(made[0][1], made[1][1]) < 2e-5


def test_a_step_cut_into_micro_batches_has_the_same_loss_and_gradient(local):
    forest = trees(local)
    made = []
    for cut in ([forest], [[tree] for tree in forest]):
        batches = [pack(part, local.pad) for part in cut]
        counts = [router_counts(local.model, batch) for batch in batches]
        totals = {name: sum(c[name] for c in counts) for name in counts[0]}
        local.model.zero_grad()
        losses = [loss_of(local.model, batch, totals) for batch in batches]
        sum(losses).backward()
        made.append((sum(losses).item(), gradients(local.model)))
    local.model.zero_grad()
    assert made[0][0] == pytest.approx(made[1][0], rel=1e-6)
    assert relative_error(made[0][1], made[1][1]) < 2e-5


@pytest.mark.parametrize("checkpointed", [False, True])
def test_it_goes_with_the_forward_that_scores_also_under_adapters(folder, checkpointed):
    fresh = open_family(folder)
    model = adapted(fresh).train()
    if checkpointed:
        fresh.model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = pack(trees(fresh), fresh.pad)
    with routed(model) as logits:
        logprobs = token_logprobs(model, batch)
    assert len(logits) == 2
    (router_loss(logits, batch, counts_of(model, logits, batch)) - logprobs.sum() * 0).backward()
    moved = {name for name, g in gradients(model).items() if g.abs().max() > 0}
    assert moved and all("layers.0" in name or "layers.1" in name for name in moved)


def test_models_without_routers_have_none(listener):
    assert not has_router(listener.model)
    assert router_weight(listener.model) == {}
    assert router_counts(listener.model, None) == {}


def test_the_weight_is_the_models_own(local):
    assert router_weight(local.model) == {"router": pytest.approx(0.001)}


bushes = st.recursive(
    st.integers(1, 3), lambda inner: st.tuples(st.integers(0, 2), st.lists(inner, min_size=1)), max_leaves=8
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.lists(bushes, min_size=1, max_size=3)), min_size=1, max_size=3))
def test_a_position_counts_as_often_as_branches_lie_below_it(shapes):
    def node(shape):
        if isinstance(shape, int):
            return Branch.trained((5,) * shape), 1, [1] * shape
        size, inner = shape
        made = [node(one) for one in inner]
        leaves = sum(count for _, count, _ in made)
        below = [w for *_, own in made for w in own]
        return Fork((4,) * size, tuple(n for n, _, _ in made)), leaves, [leaves] * size + below

    forest, expected = [], []
    for size, children in shapes:
        made = [node(child) for child in children]
        leaves = sum(count for _, count, _ in made)
        forest.append(Tree(Root((3,) * size), tuple(n for n, _, _ in made)))
        expected.append([leaves] * size + [w for *_, own in made for w in own])
    batch = pack(forest, pad_id=0)
    length = batch.input_ids.shape[1]
    assert branches_below(batch).tolist() == [row + [0] * (length - len(row)) for row in expected]


def test_a_balanced_router_has_the_least_loss():
    """E sum f P is top_k where every expert is chosen as often as any other, and no gradient is left."""
    logits = [torch.zeros(4, 4, requires_grad=True)]
    batch = pack([Tree(Root((1, 2)), (Branch.trained((3, 4)),))], 0)
    loss = router_loss(logits, batch, {"routings": 4.0, **{f"expert_{e}": 2.0 for e in range(4)}})
    loss.backward()
    assert loss.item() == pytest.approx(2.0)
    assert logits[0].grad.abs().max() < 1e-7


def test_supervised_training_adds_the_router_loss_for_mixtures_alone(listener, local):
    """Its terms in a step that is cut in two equal those of the whole step."""
    assert list(Supervised(listener).weights) == ["ce"]
    objective = Supervised(local)
    assert objective.weights["router"] > 0
    items = lessons(clips=2, questions=1, each=2)
    parts = [objective.prepare(local.model, part, 0) for part in (items[:2], items[2:])]
    totals = {name: sum(p.counts()[name] for p in parts) for name in parts[0].counts()}
    cut = [objective.terms(local.model, part, totals) for part in parts]
    whole = objective.terms(local.model, objective.prepare(local.model, items, 0), totals)
    assert set(whole) == {"ce", "router"}
    for name, term in whole.items():
        assert sum(float(c[name]) for c in cut) == pytest.approx(float(term), rel=1e-4)
