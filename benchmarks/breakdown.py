"""Where the time of a policy pass goes, in a row per completion and in the prefix tree.

python benchmarks/breakdown.py [--tiny]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from earwitness.learn.losses import token_logprobs
from earwitness.learn.tree import pack
from measure import fresh, say, take_turns
from naive import naive_logprobs
from prefix_tree import GROUP, policy_tree, shape_of
from shapes import PAD, listener

KINDS = {"attention": ("scaled_dot_product",), "products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn_linear")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="sizes for a test, in this process")
    parser.add_argument("--arm", choices=("naive", "tree"), help="of a single run")
    options = parser.parse_args()
    if options.arm or options.tiny:
        return say(parts(options.arm or "tree", options.tiny))
    results = take_turns({arm: fresh(__file__, "--arm", arm) for arm in ("naive", "tree")}, 1)
    return say({arm: runs[0] for arm, runs in results.items()})


def parts(arm: str, tiny: bool) -> dict[str, float]:
    """Return the seconds of one pass by part; the language model's by kind of operation."""
    torch.set_num_threads(1)
    shape = shape_of(tiny)
    model, tree = listener(shape).train(), policy_tree(shape_of(tiny), tiny)
    rows = 1 if arm == "tree" else GROUP

    def whole() -> None:
        made = token_logprobs(model, pack([tree], PAD)) if arm == "tree" else naive_logprobs(model, [tree], PAD)
        made.sum().backward()

    def hear() -> None:
        features = tree.root.media["input_features"].expand(rows, -1, -1)
        tower = model.model.audio_tower(features).last_hidden_state
        model.model.multi_modal_projector(tower).sum().backward()

    def say_words() -> None:
        states = torch.randn(sum(len(b.ids) for b in tree.branches), shape.width, requires_grad=True)
        model.lm_head(states).float().log_softmax(-1)[:, 0].sum().backward()

    work = {name: spent(part) for name, part in (("all", whole), ("encoder", hear), ("head", say_words))}
    made = {name: sum(kinds.values()) for name, kinds in work.items()}
    made |= {kind: work["all"][kind] - work["encoder"][kind] - work["head"][kind] for kind in (*KINDS, "other")}
    return {name: round(seconds, 3) for name, seconds in made.items()}


def spent(work: Callable[[], Any]) -> dict[str, float]:
    """Return the CPU seconds of some work by kind of operation, as the profiler sees them, the second time over."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    seconds = dict.fromkeys((*KINDS, "other"), 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(n in event.key for n in names)), "other")
        seconds[kind] += event.self_cpu_time_total / 1e6
    return seconds


if __name__ == "__main__":
    main()
