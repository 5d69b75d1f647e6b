"""How good the embedded models are, on scenes that they were not made from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from earwitness.answers import read
from earwitness.learn.losses import token_logprobs
from earwitness.learn.sampling import Decoding, sample
from earwitness.learn.tree import Branch, Root, Tree, pack
from earwitness.pretrain.bodies import word_id
from earwitness.pretrain.school import School
from earwitness.pretrain.text_tasks import asked
from earwitness.pretrain.vocabulary import SPECIAL, vocabulary
from earwitness.prompts import fill, template
from earwitness.world.puzzles import KINDS, LOOKUPS, SPOKEN, draw_puzzle, listed
from earwitness.world.scenes import SOUNDS, Scene
from earwitness.world.speech import Utterance


def say(model: Any, roots: Sequence[Root], max_tokens: int = 90) -> list[str]:
    """Return greedy completions, 100 prompts at a time."""
    stop = word_id("<|im_end|>")
    forbidden = tuple(word_id(w) for w in SPECIAL if w != "<|im_end|>")
    decoding = Decoding(0.0, max_tokens, word_id("<|endoftext|>"), (stop,), forbidden)
    words = vocabulary()
    texts = []
    for start in range(0, len(roots), 100):
        part = roots[start : start + 100]
        for group in sample(model, part, 1, decoding, [()] * len(part)):
            texts.append(" ".join(words[i] for i in group[0].ids if i != stop))
    return texts


def score_teacher(model: Any, school: School) -> dict[str, float]:
    """Share of right answers to what a picture can tell, with and without blur, and per kind of question."""
    right: dict[str, list[bool]] = {}
    roots, asked_of = [], []
    for i in range(school.size):
        scene = school.scene(i)
        puzzle = draw_puzzle(scene, random.Random(f"teacher {i}"), LOOKUPS)
        roots.append(school.seen_root(i, asked("audio", puzzle)))
        asked_of.append((isinstance(scene, Scene) and bool(scene.blurred), puzzle))
    for text, (blurred, puzzle) in zip(say(model, roots), asked_of, strict=True):
        correct = read(text, puzzle.choices).answer == puzzle.answer
        for group in ("all", "blurred" if blurred else "unblurred", puzzle.kind):
            right.setdefault(group, []).append(correct)
    return _shares(right)


def _shares(right: dict[str, list[bool]]) -> dict[str, float]:
    return {group: round(sum(r) / len(r), 4) for group, r in sorted(right.items())}


@torch.no_grad()
def score_checker(model: Any, school: School) -> dict[str, float]:
    """Share of right verdicts per claim, from the checker's own yes and no: all eight sounds of every scene."""
    yes, no = word_id("yes"), word_id("no")
    claims = right = whole = 0
    text = template("world", "claim")
    for i in range(school.size):
        root = school.heard_root(i, fill(text, claim=SOUNDS[0]))
        trees = []
        for name in SOUNDS:
            root = school.heard_root(i, fill(text, claim=name))
            trees.append(Tree(root, (Branch.trained((yes,)), Branch.trained((no,)))))
        logprobs = token_logprobs(model, pack(trees, word_id("<|endoftext|>"))).view(-1, 2)
        verdicts = (logprobs[:, 0] > logprobs[:, 1]).tolist()
        correct = [v == (name in school.scene(i).heard) for v, name in zip(verdicts, SOUNDS, strict=True)]
        claims, right, whole = claims + len(correct), right + sum(correct), whole + all(correct)
    return {"per_claim": round(right / claims, 4), "whole_clip": round(whole / school.size, 4)}


def score_base(model: Any, school: School) -> dict[str, float]:
    """Share of exact lists (alone, and after a question), and of right direct answers per kind."""
    kinds = SPOKEN if isinstance(school.scene(0), Utterance) else KINDS
    puzzles = [draw_puzzle(school.scene(i), random.Random(f"base {i}"), kinds) for i in range(school.size)]
    after = [school.heard_root(i, f"{asked('direct', p)} list the sounds") for i, p in enumerate(puzzles)]
    scores = {"list": score_list(model, school), "list_after_question": _exact_lists(model, school, after)}
    direct = say(model, [school.heard_root(i, asked("direct", p)) for i, p in enumerate(puzzles)])
    right: dict[str, list[bool]] = {}
    for text, puzzle in zip(direct, puzzles, strict=True):
        right.setdefault(f"direct:{puzzle.kind}", []).append(read(text, puzzle.choices).answer == puzzle.answer)
    return scores | _shares(right)


def score_list(model: Any, school: School) -> float:
    """Share of clips whose sounds, or words with their voices, are listed without any error."""
    return _exact_lists(model, school, [school.heard_root(i, "list the sounds") for i in range(school.size)])


def _exact_lists(model: Any, school: School, roots: Sequence[Root]) -> float:
    truth = [listed(school.scene(i).heard) for i in range(school.size)]
    return round(sum(a == b for a, b in zip(say(model, roots), truth, strict=True)) / school.size, 4)


def score_mood(model: Any, school: School) -> dict[str, float]:
    """Share of right answers to how the speaker feels: at once and after thinking, by what the words say of it."""
    right: dict[str, list[bool]] = {}
    clips = [school.scene(i) for i in range(school.size)]
    puzzles = [draw_puzzle(clip, random.Random(f"mood {i}"), ("mood",)) for i, clip in enumerate(clips)]
    for prompt in ("direct", "think"):
        roots = [school.heard_root(i, asked(prompt, p)) for i, p in enumerate(puzzles)]
        for text, puzzle, clip in zip(say(model, roots), puzzles, clips, strict=True):
            words = "agree" if isinstance(clip, Utterance) and clip.theme == clip.mood else "conflict"
            correct = read(text, puzzle.choices).answer == puzzle.answer
            right.setdefault(f"{prompt}:mood:{words}", []).append(correct)
    return _shares(right)


def answers_of(model: Any, school: School, prompt: str) -> list[str]:
    """Return a model's greedy words on every scene of a school: to a puzzle, or (`claim`) to one claim."""
    roots = []
    for i in range(school.size):
        scene, rng = school.scene(i), random.Random(f"answers {i}")
        if prompt == "claim":
            roots.append(school.heard_root(i, fill(template("world", "claim"), claim=rng.choice(SOUNDS))))
            continue
        text = asked(prompt, draw_puzzle(scene, rng))
        roots.append(school.seen_root(i, text) if prompt == "audio" else school.heard_root(i, text))
    return say(model, roots)
