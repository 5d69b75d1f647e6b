"""Several questions about a clip, answered below one reading of it, against one by one.

python benchmarks/exam.py [--runs 3] [--tiny]
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch

from earwitness.learn.sampling import LEAF, Decoding, sample_trees
from earwitness.learn.tree import Root, Tree, share
from measure import fresh, measured, median, ratio, say, take_turns
from shapes import AUDIO, MIDDLE, PAD, STOP, TINY, Shape, clip, listener, words

QUESTIONS = 4
ANSWER = 16  # tokens of an answer given at once: a random model does not stop by itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="sizes for a test, all in this process")
    parser.add_argument("--arm", choices=("alone", "batch", "shared"), help="of a single run")
    options = parser.parse_args()
    if options.arm:
        return say(once(options.arm, options.tiny))
    arms = {
        arm: partial(once, arm, True) if options.tiny else fresh(__file__, "--arm", arm)
        for arm in ("alone", "batch", "shared")
    }
    results = take_turns(arms, options.runs)
    say(summary(results))
    return None


def summary(results: dict[str, Any]) -> dict[str, Any]:
    said = {arm: {run["words"] for run in runs} for arm, runs in results.items()}
    return {
        "time_ratio": ratio(results, "alone", "shared", "seconds"),
        "batch_time_ratio": ratio(results, "batch", "shared", "seconds"),
        "batch_memory_ratio": ratio(results, "batch", "shared", "mebibytes"),
        "same_answers": len(set.union(*said.values())) == 1,
        "medians": {
            arm: {key: round(median(runs, key), 2) for key in ("seconds", "mebibytes")} for arm, runs in results.items()
        },
    }


def once(arm: str, tiny: bool) -> dict[str, float]:
    """Answer all questions: each in a pass of its own, all in one pass with a row each, or below one clip."""
    torch.set_num_threads(1)
    shape = TINY if tiny else MIDDLE
    model = listener(shape).eval()
    trees = [Tree(root, (LEAF,)) for root in prompts(shape)]
    keys = [(number,) for number in range(QUESTIONS)]
    decoding = Decoding(0.0, ANSWER, PAD, (STOP,), (PAD, AUDIO))

    def work() -> list[Any]:
        if arm == "alone":
            return [sample_trees(model, [tree], 1, decoding, [key])[0] for tree, key in zip(trees, keys, strict=True)]
        return sample_trees(model, [share(trees, AUDIO)] if arm == "shared" else trees, 1, decoding, keys)

    drawn, costs = measured(work)
    said = [token for (one,) in drawn for token in one.ids]
    return {**costs, "words": float(sum(place * token for place, token in enumerate(said, 1)))}


def prompts(shape: Shape) -> list[Root]:
    """Questions of 40 to 70 tokens, choices among them, about one whole window of sound."""
    lengths = [4 + n if shape is TINY else 40 + 10 * n for n in range(QUESTIONS)]
    root = clip(shape, shape.seconds, words(shape, 4, 3))
    return [Root((*root.ids, *words(shape, n, 40 + number)), None, root.media) for number, n in enumerate(lengths)]


if __name__ == "__main__":
    main()
