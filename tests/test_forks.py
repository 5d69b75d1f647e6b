"""Nested trees: a clip, the questions about it, the answers to each; and the block mask, equal to the dense one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.learn.attention import BLOCKS, block_mask, dense, kind, prefer_blocks
from earwitness.learn.losses import token_logprobs
from earwitness.learn.tree import Branch, Fork, Root, Tree, pack, share
from tensors import gradients, random_ids, relative_error, root

PAD = 0
TEXTS = ("which sound is the first one ?", "which sound is the last one ?", "is the bell heard ?")


def answers(seed: int, count: int) -> tuple[Branch, ...]:
    return tuple(Branch.trained(random_ids(3 + n, 10 * seed + n)) for n in range(count))


def about_one_clip(local) -> list[Tree]:
    return [Tree(root(local, 4, text), answers(n, 2)) for n, text in enumerate(TEXTS)]


def placeholder(local) -> int:
    return local.tokenizer.convert_tokens_to_ids("<|AUDIO|>")


def test_questions_about_one_clip_share_it_and_change_nothing(listener):
    apart = about_one_clip(listener)
    together = share(apart, placeholder(listener))
    sizes = [pack(trees, PAD).input_ids.numel() for trees in ([together], apart)]
    assert sizes[0] < 0.7 * sizes[1]
    found = []
    for trees in ([together], apart):
        listener.model.zero_grad()
        logprobs = token_logprobs(listener.model, pack(trees, PAD))
        logprobs.sum().backward()
        found.append((logprobs.detach(), gradients(listener.model)))
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-5, rtol=0)
    assert relative_error(found[0][1], found[1][1]) < 1e-5


def test_the_clip_is_encoded_once_for_all_its_questions(listener):
    together = share(about_one_clip(listener), placeholder(listener))
    assert pack([together], PAD).media["input_features"].shape[0] == 1


def test_equal_prompts_need_no_fork_and_branches_keep_their_order(listener):
    one = root(listener, 4)
    first, second = answers(1, 2), answers(2, 1)
    assert share([Tree(one, first), Tree(one, second)], placeholder(listener)) == Tree(one, first + second)


def test_prompts_that_differ_before_their_clip_cannot_share_it(listener):
    one = root(listener, 4)
    other = Root((one.ids[0] + 1, *one.ids[1:]), None, one.media)
    with pytest.raises(ValueError, match="put the clip first"):
        share([Tree(one, answers(1, 1)), Tree(other, answers(1, 1))], placeholder(listener))


def nodes(depth: int) -> st.SearchStrategy:
    leaf = st.lists(st.sampled_from([0.0, 1.0]), max_size=3).map(lambda w: Branch(tuple(range(len(w))), tuple(w)))
    if not depth:
        return leaf
    fork = st.tuples(st.integers(0, 3), st.lists(nodes(depth - 1), max_size=3))
    return leaf | fork.map(lambda f: Fork(tuple(range(f[0])), tuple(f[1])))


def paths(tree: Tree) -> list[tuple[list[int], list[int], list[float]]]:
    """Every way from the root to a branch: its tokens' indexes in the row, its context's length, its weights."""
    found, at = [], len(tree.root.ids)

    def walk(node, above):
        nonlocal at
        mine = list(range(at, at + len(node.ids)))
        at += len(mine)
        if isinstance(node, Branch):
            found.append((above + mine, len(above), list(node.weights)))
        else:
            for child in node.branches:
                walk(child, above + mine)

    for node in tree.branches:
        walk(node, list(range(len(tree.root.ids))))
    return found


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.lists(nodes(2), max_size=3)), min_size=1, max_size=3))
def test_every_path_stands_as_if_alone(shapes):
    trees = [Tree(Root(tuple(range(p))), tuple(below)) for p, below in shapes]
    batch = pack(trees, PAD)
    predictions, counted = [], 0
    for r, tree in enumerate(trees):
        for indexes, context, weights in paths(tree):
            for n, index in enumerate(indexes):
                seen = batch.mask[r, 0, index].nonzero()[:, 0].tolist()
                assert seen == indexes[: n + 1]
                assert int(batch.position_ids[r, index]) == n
            for i, weight in enumerate(weights):
                if weight:
                    predictions.append((r, indexes[context + i - 1], counted, weight))
            counted += 1
    columns = (batch.row, batch.source, batch.branch, batch.weight)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == predictions


def test_the_block_mask_looks_where_the_dense_one_does(listener):
    from torch.nn.attention.flex_attention import create_mask

    batch = pack([share(about_one_clip(listener), placeholder(listener)), Tree(root(listener, 5), answers(3, 3))], PAD)
    blocks = block_mask(batch)
    rows, length = batch.input_ids.shape
    assert torch.equal(create_mask(blocks.mask_mod, rows, 1, length, length, device="cpu"), batch.mask)


def test_attention_with_blocks_is_for_gpus_and_sampling_stays_dense(listener):
    assert "dense mask" in prefer_blocks(listener.model)
    text = listener.model.config.get_text_config()
    text._attn_implementation = BLOCKS
    try:
        with dense(listener.model):
            assert kind(listener.model) == "sdpa"
        assert kind(listener.model) == BLOCKS
    finally:
        text._attn_implementation = "sdpa"
