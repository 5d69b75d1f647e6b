"""The text core: reasoning over spelled-out scenes, learnt before any sound or picture is."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from earwitness.learn.attention import unwrapped
from earwitness.learn.losses import cross_entropy
from earwitness.learn.tree import Branch, Packed, Root, Tree, pack
from earwitness.pretrain.bodies import fixed_embeddings, new_text_core, shades_of, word_id
from earwitness.pretrain.optimise import optimise
from earwitness.pretrain.text_tasks import (
    Domain,
    Exercise,
    Sense,
    exercise,
    gymnastics,
    lay_out,
    lookup,
    text_clip,
)
from earwitness.pretrain.vocabulary import Words
from earwitness.world.puzzles import listed

WORDS = Words()
GYMNASTICS = 0.15


def train_text_core(steps: int = 4000, batch: int = 32, learning_rate: float = 2e-3) -> Any:
    """Train the text core from scratch with fixed seeds and return it (input embeddings stay as they are)."""
    torch.manual_seed(0)
    model = new_text_core()
    model.model.embed_tokens.weight.requires_grad_(False)
    batches = bucketed(curriculum(random.Random(0), steps * batch), batch)
    optimise(model, lambda: text_loss(model, next(batches)), steps, learning_rate, "text core")
    model.model.embed_tokens.weight.requires_grad_(True)
    return model


def curriculum(rng: random.Random, count: int, sense: Sense | None = None) -> Iterator[Exercise]:
    """Yield exercises (of one sense, if told); gymnastics fade to a quarter of their share over the first 70 %."""
    done = 0
    while True:
        share = GYMNASTICS * max(0.25, 1 - done / (0.7 * count))
        done += 1
        yield gymnastics(rng) if rng.random() < share else exercise(rng, sense)


def bucketed(items: Iterable[Exercise], batch: int, window: int = 6) -> Iterator[list[Exercise]]:
    """Yield batches of items of similar length: padding would nearly double the work."""
    rng = random.Random(5)
    source = iter(items)
    while True:
        pool = sorted((next(source) for _ in range(batch * window)), key=lambda item: len(item.words))
        batches = [pool[i * batch : (i + 1) * batch] for i in range(window)]
        rng.shuffle(batches)
        yield from batches


def text_loss(model: Any, items: list[Exercise]) -> torch.Tensor:
    """Weighted mean cross-entropy of exercises."""
    batch = pack_text(items)
    logits = text_logits(model, batch, items)
    logprobs = logits.log_softmax(-1).gather(-1, batch.target[:, None])[:, 0]
    return cross_entropy(logprobs, batch.weight) / batch.weight.sum()


def pack_text(items: list[Exercise]) -> Packed:
    """Pack exercises as trees of one branch, rooted at their first token."""
    trees = []
    for item in items:
        ids = WORDS(" ".join(item.words))
        trees.append(Tree(Root(ids[:1]), (Branch(ids[1:], tuple(item.weights[1:])),)))
    batch = pack(trees, word_id("<|endoftext|>"))
    for row, item in enumerate(items):
        batch.position_ids[row, : len(item.positions)] = torch.tensor(item.positions)
    return batch


def text_logits(model: Any, batch: Packed, items: list[Exercise]) -> torch.Tensor:
    """Return the (N, V) logits of a packed batch, each input embedding moved by its token's shade."""
    shades = shades_of([item.shades for item in items], batch.input_ids.shape[1])
    embeddings = fixed_embeddings()[batch.input_ids] + shades
    body = unwrapped(model).model
    hidden = body(
        inputs_embeds=embeddings, attention_mask=batch.mask, position_ids=batch.position_ids, use_cache=False
    ).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[batch.row, batch.source])
    return logits


@torch.no_grad()
def score_text_core(model: Any, count: int = 400) -> dict[str, float]:
    """Return the share of exercises with every determined token right, per kind of look-up and per task.

    Teacher-forced, which for exactness equals greedy decoding. Clips come from their own seed, never trained on.
    """
    scores = {}
    for kind in ("after", "before", "nth", "count", "most", "louder"):
        senses: tuple[Sense, ...] = ("heard",) if kind == "louder" else ("heard", "seen")
        scores[kind] = sum(_exact(model, _lookups(kind, s, "sound", count)) for s in senses) / len(senses)
    for kind in ("after", "count", "voice", "mood"):
        scores[f"speech:{kind}"] = _exact(model, _lookups(kind, "heard", "speech", count))
    tasks: list[tuple[str, Sense, str, Domain]] = [(task, "heard", task, "sound") for task in ("list", "say", "claims")]
    tasks += [("speech:list", "heard", "list", "speech"), ("speech:say", "heard", "say", "speech")]
    tasks += [("read", "read", "answer", "sound"), ("speech:read", "read", "answer", "speech")]
    for name, sense, task, domain in tasks:
        items = [exercise(random.Random(f"score {i}"), sense, task, domain) for i in range(count)]
        scores[name] = _exact(model, items)
    return {name: round(value, 4) for name, value in scores.items()}


def _lookups(kind: str, sense: Sense, domain: Domain, count: int) -> list[Exercise]:
    rng = random.Random(f"score {kind} {sense}")
    items: list[Exercise] = []
    while len(items) < count:
        scene = text_clip(domain, rng)
        steps = lookup(scene, rng, kind, sense)
        if steps:
            heard = [(w, 0.0) for w in listed(scene.heard).split()]
            items.append(lay_out(scene, sense, "describe the sounds", heard + [(w, float(x >= 0.5)) for w, x in steps]))
    return items


def _exact(model: Any, items: list[Exercise]) -> float:
    exact = 0
    for start in range(0, len(items), 100):
        chunk = items[start : start + 100]
        batch = pack_text(chunk)
        unsure = batch.weight <= 0.5  # where an exercise ends, nobody could know
        right = (text_logits(model, batch, chunk).argmax(-1) == batch.target) | unsure
        wrong_rows = set(batch.row[~right].tolist())
        exact += len(chunk) - len(wrong_rows)
    return exact / len(items)
