"""The prefix tree equals separate rows: in what may be seen, in log-probabilities and in gradients."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import open_model, under_lora
from earwitness.learn import losses
from earwitness.learn.families import mrope_positions
from earwitness.learn.losses import cross_entropy, token_logprobs
from earwitness.learn.tree import Branch, Root, Tree, pack
from tensors import gradients, random_ids, relative_error, root, tree

PAD = 0
SHAPES = ((3, 1, 5), (2, 4), (6,))  # ragged, and the rows of unequal length


def grow(local):
    texts = ("which sound is the first one ?", "list the sounds", "is the dog heard ? yes or no")
    return [tree(local, seed, lengths, text) for seed, (lengths, text) in enumerate(zip(SHAPES, texts, strict=True))]


def naive_logprobs(model, trees):
    """Every branch as a row of its own, through the model's ordinary forward and its full logits."""
    found = []
    for one in trees:
        for branch in one.branches:
            ids = torch.tensor([[*one.root.ids, *branch.ids]])
            place = {}
            if one.root.positions is not None:
                start = int(one.root.positions.max()) + 1
                after = torch.arange(start, start + len(branch.ids)).expand(3, -1)
                place = {"position_ids": torch.cat([one.root.positions, after], 1)[:, None]}
            logits = model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **place, **one.root.media
            ).logits
            scores = logits[0, len(one.root.ids) - 1 : -1].float().log_softmax(-1)
            chosen = scores.gather(-1, torch.tensor(branch.ids)[:, None])[:, 0]
            found += [chosen[i] for i, weight in enumerate(branch.weights) if weight]
    return torch.stack(found)


def both_ways(model, trees):
    """(log-probabilities, gradients) of the tree and of separate rows."""
    batch = pack(trees, PAD)
    made = []
    for score in (lambda: token_logprobs(model, batch), lambda: naive_logprobs(model, trees)):
        model.zero_grad()
        logprobs = score()
        cross_entropy(logprobs, batch.weight).backward()
        made.append((logprobs.detach(), gradients(model)))
    model.zero_grad()
    return made


@pytest.mark.parametrize("kind", ["listener", "watcher"])
def test_tree_equals_separate_rows(kind, request):
    local = request.getfixturevalue(kind)
    packed, separate = both_ways(local.model, grow(local))
    assert len(packed[0]) == 2 + 1 + 4 + 1 + 3 + 5
    assert (packed[0] - separate[0]).abs().max() < 2e-5
    assert relative_error(packed[1], separate[1]) < 2e-5


def test_tree_equals_separate_rows_under_lora(tiny_student):
    local = open_model(tiny_student, "student")
    local.model = under_lora(local.model)
    for name, parameter in local.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    packed, separate = both_ways(local.model, grow(local))
    assert all("lora" in name for name in packed[1])
    assert (packed[0] - separate[0]).abs().max() < 2e-5
    assert relative_error(packed[1], separate[1]) < 2e-5


@pytest.mark.parametrize("lora", [False, True])
def test_s5_activation_checkpointing_changes_nothing(tiny_student, lora):
    local = open_model(tiny_student, "student")
    model = under_lora(local.model) if lora else local.model
    model.train()
    batch = pack(grow(local), PAD)

    calls = []
    local.model.model.language_model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))

    def run():
        model.zero_grad()
        logprobs = token_logprobs(model, batch)
        cross_entropy(logprobs, batch.weight).backward()
        return logprobs.detach(), gradients(model)

    plain = run()
    assert len(calls) == 1
    local.model.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed = run()
    assert len(calls) == 3  # the layer really was computed again
    assert torch.equal(plain[0], checkpointed[0])
    assert relative_error(plain[1], checkpointed[1]) < 1e-6


def test_the_gradient_reaches_the_sound_and_every_clip_is_encoded_once(listener):
    calls = []
    hook = listener.model.model.audio_tower.register_forward_hook(lambda m, i, o: calls.append(o[0].shape[0]))
    try:
        both_ways_batch = pack(grow(listener), PAD)
        token_logprobs(listener.model, both_ways_batch)
    finally:
        hook.remove()
    assert calls == [3]


def test_chunked_scoring_equals_scoring_at_once(listener, monkeypatch):
    batch = pack(grow(listener), PAD)
    model = listener.model
    made = []
    for chunk in (2048, 5):
        monkeypatch.setattr(losses, "CHUNK", chunk)
        model.zero_grad()
        logprobs = token_logprobs(model, batch, temperature=0.7)
        logprobs.sum().backward()
        made.append((logprobs.detach(), gradients(model)))
    model.zero_grad()
    assert torch.allclose(made[0][0], made[1][0], atol=1e-6)
    assert relative_error(made[1][1], made[0][1]) < 1e-5


def test_temperature_divides_the_logits(listener):
    batch = pack([tree(listener, 4, (3,))], PAD)
    with torch.no_grad():
        logits = listener.model.lm_head(losses.hidden_states(listener.model, batch)[batch.row, batch.source])
        expected = (logits / 0.5).log_softmax(-1).gather(-1, batch.target[:, None])[:, 0]
        assert torch.allclose(token_logprobs(listener.model, batch, 0.5), expected, atol=1e-6)


def test_what_stands_in_the_padding_changes_nothing(listener):
    trees = grow(listener)
    with torch.no_grad():
        a, b = (token_logprobs(listener.model, pack(trees, pad)) for pad in (0, 50))
    assert torch.equal(a, b)


def test_a_row_does_not_depend_on_its_neighbours(listener):
    trees = grow(listener)
    with torch.no_grad():
        together = token_logprobs(listener.model, pack(trees, PAD))
        alone = torch.cat([token_logprobs(listener.model, pack([one], PAD)) for one in trees])
    assert (together - alone).abs().max() < 2e-5


def test_the_head_is_put_back_also_after_an_error(listener):
    head = listener.model.lm_head
    own = head.forward
    head.forward = wrapped = lambda hidden: own(hidden)
    try:
        batch = pack([tree(listener, 0, (2,))], PAD)
        token_logprobs(listener.model, batch)
        assert head.__dict__["forward"] is wrapped
        broken = replace(
            batch, media={"input_features": torch.zeros(1, 2, 3), "feature_attention_mask": torch.ones(1, 3)}
        )
        with pytest.raises(Exception, match=r".+"):
            token_logprobs(listener.model, broken)
        assert head.__dict__["forward"] is wrapped
    finally:
        del head.forward


def test_attention_that_would_misread_the_mask_is_refused(listener):
    """Eager attention adds a boolean mask to the scores: no error, and every branch sees its neighbours."""
    batch = pack([tree(listener, 0, (2, 3))], PAD)
    text = listener.model.config.get_text_config()
    text._attn_implementation = "eager"
    try:
        with pytest.raises(ValueError, match=r"sdpa.*eager"):
            token_logprobs(listener.model, batch)
    finally:
        text._attn_implementation = "sdpa"


def test_what_does_not_fit_the_window_is_refused(listener):
    long = Tree(root(listener, 0), (Branch.trained(random_ids(600, 0)),))
    with pytest.raises(ValueError, match="window ends at 512"):
        token_logprobs(listener.model, pack([long], PAD))


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="at least one tree"):
        pack([], PAD)
    with pytest.raises(ValueError, match="root of at least one token"):
        pack([Tree(Root(()), (Branch.trained((1, 2)),))], PAD)
    with_sound = Root((1, 2), None, {"input_features": torch.zeros(1, 2, 3)})
    with pytest.raises(ValueError, match="some rows of a batch have input_features"):
        pack([Tree(with_sound, ()), Tree(Root((1,)), ())], PAD)
    with pytest.raises(ValueError, match="argument"):
        pack([Tree(Root((1,)), (Branch((1, 2), (1.0,)),))], PAD)


branch_shapes = st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=0, max_size=4), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), branch_shapes), min_size=1, max_size=4))
def test_pack_layout(shapes):
    """Every token sees its own branch up to itself, and the root; padding sees itself; positions restart."""
    trees, at = [], 0
    for p, branches in shapes:
        made = []
        for weights in branches:
            made.append(Branch(tuple(range(at, at + len(weights))), tuple(weights)))
            at += len(weights)
        trees.append(Tree(Root(tuple(range(500, 500 + p))), tuple(made)))
    batch = pack(trees, pad_id=7)
    predictions = []
    counted = 0
    for r, one in enumerate(trees):
        owner = [-1] * len(one.root.ids) + [b for b, branch in enumerate(one.branches) for _ in branch.ids]
        tokens = [*one.root.ids, *(i for b in one.branches for i in b.ids)]
        assert batch.input_ids[r].tolist() == tokens + [7] * (batch.input_ids.shape[1] - len(tokens))
        for i in range(batch.input_ids.shape[1]):
            sees = {j for j in range(len(tokens)) if i < len(tokens) and j <= i and owner[j] in (-1, owner[i])}
            assert set(batch.mask[r, 0, i].nonzero()[:, 0].tolist()) == (sees or {i})
            if i < len(tokens):
                assert int(batch.position_ids[r, i]) == len(sees) - 1
        start = len(one.root.ids)
        for b, branch in enumerate(one.branches):
            for i, (token, weight) in enumerate(zip(branch.ids, branch.weights, strict=True)):
                if weight:
                    source = start + i - 1 if i else len(one.root.ids) - 1
                    predictions.append((r, source, token, counted + b, weight))
            start += len(branch.ids)
        counted += len(one.branches)
    columns = (batch.row, batch.source, batch.target, batch.branch, batch.weight)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == predictions


def original_positions(ids, config, grid, seconds_per_step):
    """The rule of Qwen2.5-VL as first released, token by token."""
    t, h, w = grid[0], grid[1] // 2, grid[2] // 2
    positions, following, seen = [], 0, 0
    for token in ids:
        if token != config.video_token_id:
            positions.append((following,) * 3)
            following += 1
            continue
        if seen == 0:
            start = following
        time = float(
            torch.tensor(seen // (h * w)) * torch.tensor(seconds_per_step) * config.vision_config.tokens_per_second
        )
        positions.append((start + int(time), start + seen // w % h, start + seen % w))
        seen += 1
        if seen == t * h * w:
            following = max(max(p) for p in positions) + 1
    return torch.tensor(positions).T


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 5), st.integers(0, 5), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3),
    st.integers(1, 1600).map(lambda n: n / 400), st.sampled_from([1, 2, 25]),
)  # fmt: skip
def test_mrope_positions_follow_the_original_rule(before, after, t, h, w, spacing, per_second):
    vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=per_second)
    config = SimpleNamespace(video_token_id=9, vision_config=vision)
    ids = [1] * before + [9] * (t * h * w) + [1] * after
    media = {"video_grid_thw": torch.tensor([[t, 2 * h, 2 * w]]), "second_per_grid_ts": torch.tensor([spacing])}
    made = mrope_positions(torch.tensor(ids), config, media)
    assert torch.equal(made, original_positions(ids, config, (t, 2 * h, 2 * w), spacing))


def test_mrope_positions_without_a_video_count_up(watcher):
    made = mrope_positions(torch.arange(20, 25), watcher.model.config, {})
    assert torch.equal(made, torch.arange(5).expand(3, -1))
