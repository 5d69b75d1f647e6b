"""Distillation layer by layer against SFT on the same lesson: time and memory of a step, forward and backward.

The models are Qwen2.5-7B with a small encoder of sound, and Qwen3-8B as its textual teacher, an eighth as wide: all
their layers, random weights. A lesson is one response of 128 tokens below a whole window of sound.

python benchmarks/layer_kd.py [--runs 3] [--tiny]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from earwitness.learn.attention import unwrapped
from earwitness.learn.distillation import Comparison, joint_terms
from earwitness.learn.divergences import Divergence, Target, compare
from earwitness.learn.layers import Projections, choose_layers, decoder, paired
from earwitness.learn.losses import cross_entropy, headless, token_logprobs
from earwitness.learn.teachers import Reading, listen_to
from earwitness.learn.tree import Branch, Packed, Root, Tree, pack
from earwitness.learn.vocabularies import SharedVocabulary
from measure import fresh, gap, measured, median, ratio, say, take_turns
from shapes import AUDIO, PAD, Shape, clip, gradient_norm, listener, words

WEIGHTS = {"ce": 0.5, "text_kd": 1.0, "layer_kd": 0.05}
ARMS = {  # match, layers, top_k of ours
    "representation": ("representation", "all", 0),
    "distribution": ("distribution", "all", 0),
    "skip": ("distribution", "1 in 7", 0),
    "top_k": ("distribution", "all", 64),
}
EVERY = ("sft", *ARMS, "plain")
ENTROPIES = (0.75, 3.0)  # nats: of a trained model's last layer, and of what its lower layers seem to say
EIGHTH = Shape(30, 128, 256, 4, 4, width=448, layers=28, inner=2368, heads=7, words=19008, pairs=1)
TEACHER = Shape(30, 128, 256, 4, 4, width=512, layers=36, inner=1536, heads=8, words=18992, pairs=2)
SHARED = 18958  # tokens that both have, the first of either table
SMALL = Shape(4, 32, 64, 2, 4, width=56, layers=14, inner=148, heads=7, words=400, pairs=1)
SMALL_TEACHER = Shape(4, 32, 64, 2, 4, width=64, layers=18, inner=96, heads=8, words=396, pairs=2)
SMALL_SHARED = 390


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="sizes for a test, all in this process")
    parser.add_argument("--arm", choices=EVERY, help="of a single run")
    options = parser.parse_args()
    if options.arm:
        return say(once(options.arm, options.tiny))
    arms = {arm: partial(once, arm, True) if options.tiny else fresh(__file__, "--arm", arm) for arm in EVERY}
    say(summary(take_turns(arms, options.runs), options.tiny))
    return None


def summary(results: dict[str, Any], tiny: bool) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for arm in EVERY[1:]:
        made[f"{arm}_time_ratio"] = ratio(results, arm, "sft", "seconds")
        made[f"{arm}_memory_ratio"] = ratio(results, arm, "sft", "mebibytes")
    made["counted_limits"], made["counted_limits_at_full_width"] = limits(EIGHTH.width), limits(8 * EIGHTH.width)
    made["largest_gap"] = max(gap(results, "distribution", "plain", key) for key in ("loss", "gradient_norm"))
    errors = {entropy: top_k_errors(entropy, tiny) for entropy in ENTROPIES}
    made["top_k_error"], made["top_k_gradient_error"] = errors[ENTROPIES[0]]
    made["top_k_error_flat"], made["top_k_gradient_error_flat"] = errors[ENTROPIES[1]]
    made["medians"] = {
        arm: {key: round(median(runs, key), 2) for key in ("seconds", "mebibytes")} for arm, runs in results.items()
    }
    return made


def once(arm: str, tiny: bool) -> dict[str, float]:
    """Do one step of an arm and return its seconds, its memory, its loss, and the norm of the student's gradients."""
    torch.set_num_threads(1)
    shape, teacher_shape, shared = sizes(tiny)
    student, batch = listener(shape).train(), lesson(shape, tiny)
    if arm == "sft":
        work = partial(supervised, student, batch)
    else:
        way = plain if arm == "plain" else partial(ours, *ARMS[arm])
        work = way(student, batch, reader(teacher_shape), read(shape, tiny), shared)

    def step() -> Tensor:
        loss = work()
        loss.backward()
        return loss

    loss, costs = measured(step)
    return {**costs, "loss": float(loss.detach()), "gradient_norm": gradient_norm(student)}


def supervised(student: Any, batch: Packed) -> Tensor:
    """Return the loss of SFT."""
    return cross_entropy(token_logprobs(student, batch), batch.weight) / len(batch.target)


def ours(
    match: Any, choice: str, top_k: int, student: Any, batch: Packed, teacher: Any, reading: Packed, shared: int
) -> Callable[[], Tensor]:
    """Return a step of method two's textual side."""
    depth, teacher_depth = len(decoder(student).layers), len(decoder(teacher).layers)
    layers = choose_layers(choice, depth)
    if match == "distribution":
        layers = tuple(layer for layer in layers if layer < depth)  # the last one's is the top term
    comparison = Comparison(frozenset(WEIGHTS), Divergence(), layers, (), "cosine", (), AUDIO)
    both = torch.arange(shared)
    common = SharedVocabulary(both, both, student.config.text_config.vocab_size - shared, ("student", "teacher"))
    how = Reading(paired(layers, depth, teacher_depth), match, top_k, 1.0, common)
    projections = None
    if match == "representation":
        projections = Projections(layers, student.config.text_config.hidden_size, teacher.config.hidden_size)

    def work() -> Tensor:
        signals = listen_to(teacher, reading, how)
        totals = {"tokens": float(len(batch.target)), "sound": 0.0}
        terms = joint_terms(student, batch, comparison, totals, signals, [], projections)
        return torch.stack([weight * terms[name] for name, weight in WEIGHTS.items()]).sum()

    return work


def plain(student: Any, batch: Packed, teacher: Any, reading: Packed, shared: int) -> Callable[[], Tensor]:
    """Return a step as one would write it down: every layer's logits at once, PyTorch's own losses, autograd."""
    depth, teacher_depth = len(decoder(student).layers), len(decoder(teacher).layers)
    partners = paired(range(1, depth), depth, teacher_depth)

    def work() -> Tensor:
        own = every_layer(student, batch, range(1, depth))
        with torch.no_grad():
            theirs = lumped(every_layer(teacher, reading, partners), shared)
        ce = F.cross_entropy(own[-1], batch.target)
        mine = lumped(own, shared)
        mean = torch.logaddexp(mine, theirs) - torch.log(torch.tensor(2.0))
        apart = [F.kl_div(mean, p, reduction="none", log_target=True).sum(-1).mean(-1) for p in (mine, theirs)]
        divergence = (apart[0] + apart[1]) / 2
        terms = {"ce": ce, "text_kd": divergence[-1], "layer_kd": divergence[:-1].mean()}
        return torch.stack([weight * terms[name] for name, weight in WEIGHTS.items()]).sum()

    return work


def every_layer(model: Any, batch: Packed, layers: Sequence[int]) -> Tensor:
    """Return (n_L + 1, N, V) logits at a batch's predictions: what some layers would say, and the last one says."""
    with headless(model):
        made = model(
            input_ids=batch.input_ids,
            attention_mask=torch.ones_like(batch.input_ids),
            use_cache=False,
            output_hidden_states=True,
            **batch.media,
        )
    states = [decoder(model).norm(made.hidden_states[layer][0, batch.source]) for layer in layers]
    logits: Tensor = unwrapped(model).lm_head(torch.stack([*states, made.logits[0, batch.source]]))
    return logits


def lumped(logits: Tensor, shared: int) -> Tensor:
    """Return log-probabilities of the tokens that are shared, and of all others together."""
    logprobs = logits.log_softmax(-1)
    return torch.cat([logprobs[..., :shared], logprobs[..., shared:].logsumexp(-1, keepdim=True)], -1)


def top_k_errors(entropy: float, tiny: bool) -> tuple[float, float]:
    """Return the relative errors of the loss of 64 tokens and a rest, and of its gradient, against all tokens.

    Random models say nothing in particular. So the teacher's logits are drawn at random and scaled to a mean `entropy`
    (nats), and the student's are the teacher's with a tenth of their variance replaced by its own.
    """
    chance = torch.Generator().manual_seed(13)
    drawn, own = torch.randn(2, 128, sizes(tiny)[2], generator=chance)
    low, high = 0.0, 100.0
    for _ in range(40):
        scale = (low + high) / 2
        logprobs = (scale * drawn).log_softmax(-1)
        found = -float((logprobs.exp() * logprobs).sum(-1).mean())
        low, high = (scale, high) if found > entropy else (low, scale)
    student = scale * (0.9**0.5 * drawn + 0.1**0.5 * own)
    exact, gradient = compare(Divergence(), Target(logprobs), student)
    kept, near = compare(Divergence(), Target.likeliest(logprobs, 64), student)
    errors = (kept.sum() - exact.sum()).abs() / exact.sum(), (near - gradient).norm() / gradient.norm()
    return float(errors[0]), float(errors[1])


def limits(width: int) -> dict[str, float]:
    """Return the multiplications of a step as a multiple of SFT's for a student of a width, its encoder left out.

    In units of its squared width: what a token costs in the student's blocks and head and in the teacher's, and what
    attention costs in all. Forward and backward is three times forward. A response has 128 tokens, below 811 and 150.
    """
    blocks, head = 28 * (2 + 2 / 7 + 3 * 2368 / 448), 19008 / 448
    theirs, wider = 36 * (2.5 + 9) * (512 / 448) ** 2, 18992 / 448 * 512 / 448
    attention, their_attention = 28 * 2 * 939**2 / width, 36 * 2 * 278**2 * 512 / 448 / width
    sft = 3 * (939 * blocks + 128 * head + attention)
    top = 278 * theirs + their_attention + 128 * (3 * head + wider)  # the teacher's word on the last layer
    found = {"representation": 3 * 28 * 128 * 512 / 448}
    found |= {name: 128 * (n - 1) * (3 * head + wider) for name, n in (("distribution", 28), ("skip", 4))}
    return {name: round(1 + (top + extra) / sft, 3) for name, extra in found.items()}


def sizes(tiny: bool) -> tuple[Shape, Shape, int]:
    return (SMALL, SMALL_TEACHER, SMALL_SHARED) if tiny else (EIGHTH, TEACHER, SHARED)


def lesson(shape: Shape, tiny: bool) -> Packed:
    """One response below the sound and the question, 811 tokens."""
    root = clip(shape, shape.seconds, words(shape, 5 if tiny else 57, 3))
    return pack([Tree(root, (response(tiny),))], PAD)


def read(shape: Shape, tiny: bool) -> Packed:
    """The same response below what the teacher reads."""
    return pack([Tree(Root(words(shape, 12 if tiny else 150, 4)), (response(tiny),))], PAD)


def response(tiny: bool) -> Branch:
    shape, _, shared = sizes(tiny)
    return Branch.trained([min(word, shared - 1) for word in words(shape, 6 if tiny else 128, 100)])


def reader(shape: Shape) -> Any:
    """Return a textual teacher of this shape with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(2)
    config = Qwen3Config(
        vocab_size=shape.words,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.pairs,
        head_dim=shape.width // shape.heads,
        max_position_embeddings=shape.positions,
        attn_implementation="sdpa",
    )
    return Qwen3ForCausalLM(config).requires_grad_(False).eval()


if __name__ == "__main__":
    main()
