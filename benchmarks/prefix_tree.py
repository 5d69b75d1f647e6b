"""The prefix tree against one row per completion: time and memory of the passes that training is made of.

python benchmarks/prefix_tree.py [--runs 3] [--tiny]
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch

from earwitness.learn.losses import token_logprobs
from earwitness.learn.tree import Branch, Fork, Tree, pack
from measure import fresh, gap, measured, median, ratio, say, take_turns
from naive import naive_logprobs
from shapes import MIDDLE, PAD, TINY, Shape, checkpoint_activations, clip, gradient_norm, listener, under_lora, words

WORKS = ("policy", "logprob", "sft", "lora")
GROUP = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="sizes for a test, all in this process")
    parser.add_argument("--work", choices=WORKS, help="of a single run")
    parser.add_argument("--arm", choices=("naive", "tree"), help="of a single run")
    options = parser.parse_args()
    if options.arm:
        return say(once(options.work, options.arm, options.tiny))
    results = {}
    for work in WORKS:
        arms = {
            arm: partial(once, work, arm, True) if options.tiny else fresh(__file__, "--work", work, "--arm", arm)
            for arm in ("naive", "tree")
        }
        results[work] = take_turns(arms, options.runs)
    say(summary(results, options.tiny))
    return None


def summary(results: dict[str, Any], tiny: bool) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for work, arms in results.items():
        made[f"{work}_time_ratio"] = ratio(arms, "naive", "tree", "seconds")
        if work != "logprob":
            made[f"{work}_memory_ratio"] = ratio(arms, "naive", "tree", "mebibytes")
    made["policy_share_of_limit"] = round(made["policy_time_ratio"] / limit(policy_tree(shape_of(tiny), tiny)), 3)
    pairs = [(arms, key) for arms in results.values() for key in ("loss", "gradient_norm")]
    made["largest_gap"] = max(gap(arms, "naive", "tree", key) for arms, key in pairs)
    made["medians"] = {
        work: {
            arm: {key: round(median(runs, key), 2) for key in ("seconds", "mebibytes")} for arm, runs in arms.items()
        }
        for work, arms in results.items()
    }
    return made


def limit(tree: Tree) -> float:
    """Return how many times fewer tokens the tree of a group has: G (P + C) / (P + G C)."""
    prompt, own = len(tree.root.ids), [len(node.ids) for node in tree.branches]
    return (prompt * len(own) + sum(own)) / (prompt + sum(own))


def once(work: str, arm: str, tiny: bool) -> dict[str, float]:
    """Do one pass and return its seconds, its memory, and what must be equal in both arms."""
    torch.set_num_threads(1)
    shape = shape_of(tiny)
    model = listener(shape).train()
    if work == "lora":
        model = under_lora(model)
        checkpoint_activations(model)
    tree = sft_tree(shape, tiny) if work == "sft" else policy_tree(shape, tiny)
    weight = 0.5 + torch.rand(100_000, generator=torch.Generator().manual_seed(9))  # all of one sign: no loss near 0

    def run() -> torch.Tensor:
        made = token_logprobs(model, pack([tree], PAD)) if arm == "tree" else naive_logprobs(model, [tree], PAD)
        loss = -(made * weight[: len(made)]).sum()
        if work != "logprob":
            loss.backward()
        return loss

    with torch.set_grad_enabled(work != "logprob"):
        loss, costs = measured(run)
    norm = 0.0 if work == "logprob" else gradient_norm(model)
    return {**costs, "loss": float(loss.detach()), "gradient_norm": norm}


def shape_of(tiny: bool) -> Shape:
    return TINY if tiny else MIDDLE


def policy_tree(shape: Shape, tiny: bool) -> Tree:
    """A group of completions of one question about a whole window of sound."""
    root = clip(shape, shape.seconds, words(shape, 5 if tiny else 57, 3))
    return Tree(root, tuple(Branch.trained(words(shape, 6 if tiny else 128, 100 + g)) for g in range(GROUP)))


def sft_tree(shape: Shape, tiny: bool) -> Tree:
    """Four questions about one clip, two traces of thought for each, of 128 to 256 tokens."""
    lengths = torch.randint(128, 257, (8,), generator=torch.Generator().manual_seed(7)).tolist()
    lengths = [length // 32 for length in lengths] if tiny else lengths
    traces = [Branch.trained(words(shape, length, 200 + n)) for n, length in enumerate(lengths)]
    forks = [Fork(words(shape, 4 if tiny else 40, 300 + q), tuple(traces[2 * q : 2 * q + 2])) for q in range(4)]
    return Tree(clip(shape, shape.seconds, words(shape, 2 if tiny else 12, 3)), tuple(forks))


if __name__ == "__main__":
    main()
