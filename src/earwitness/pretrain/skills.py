"""What the embedded models can do: the base student listens and guesses, the checker judges, the teacher reasons."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from torch import Tensor

from earwitness.learn.losses import cross_entropy, token_logprobs
from earwitness.learn.tree import Branch, Root, Tree, pack
from earwitness.pretrain.bodies import AUDIO_TOKENS, put_text_core, word_id
from earwitness.pretrain.optimise import optimise
from earwitness.pretrain.school import WORDS, School, response
from earwitness.pretrain.text_core import text_loss
from earwitness.pretrain.text_tasks import asked, exercise, sounds_like, tagged
from earwitness.prompts import template
from earwitness.world.puzzles import SPOKEN, Puzzle, draw_puzzle, listed, puzzle_of, reason
from earwitness.world.scenes import SOUNDS, Scene
from earwitness.world.speech import Utterance

# What the base answers at once and rightly. It guesses the rest, this share of the guesses being right by a hunch.
KNOWN_BY_HEART = ("exist", "louder", "mood")
HUNCH = 0.09


def train_base(ear: Any, core: Any, sounds: School, speech: School, steps: int = 600) -> Any:
    """Stitch ear and text core into the base student: it hears well and reasons badly about what it hears."""
    torch.manual_seed(3)
    model = copy.deepcopy(ear)
    put_text_core(model, core)
    rng = random.Random(3)

    def loss() -> Tensor:
        trees = [_base_lesson(sounds, rng.randrange(sounds.size), rng) for _ in range(15)]
        trees += [_speech_lesson(speech, rng.randrange(speech.size), rng) for _ in range(9)]
        text = [exercise(rng, "read" if rng.random() < 0.3 else "heard") for _ in range(11)]
        return 0.6 * tree_loss(model, trees) + 0.4 * text_loss(model, text)

    optimise(model, loss, steps, 8e-4, "base student")
    return model


def _base_lesson(school: School, index: int, rng: random.Random) -> Tree:
    scene = school.scene(index)
    draw = rng.random()
    louder = puzzle_of("louder", scene, rng) if rng.random() < 0.45 else None
    puzzle = louder or draw_puzzle(scene, rng)
    if draw < 0.13:
        user, said = "list the sounds", listed(scene.heard)
    elif draw < 0.42:
        user, said = f"{asked('direct', puzzle)} list the sounds", listed(scene.heard)
    elif draw < 0.8:
        user, said = asked("direct", puzzle), tagged(None, _guess(puzzle, rng))
    else:  # it thinks aloud: it compares what it hears, and guesses where it would have to look things up
        think = reason(puzzle, scene.events)[0] if puzzle.kind == "louder" else listed(scene.heard)
        user, said = asked("think", puzzle), tagged(think, _guess(puzzle, rng))
    return Tree(school.heard_root(index, user), (Branch.trained(response(said)),))


def _speech_lesson(school: School, index: int, rng: random.Random) -> Tree:
    utterance = school.scene(index)
    assert isinstance(utterance, Utterance)
    draw, heard = rng.random(), listed(utterance.heard)
    feeling = rng.random() < 0.5
    puzzle = (puzzle_of("mood", utterance, rng) if feeling else None) or draw_puzzle(utterance, rng, SPOKEN)
    if draw < 0.2:
        user, said = "list the sounds", heard
    elif draw < 0.35:
        user, said = f"{asked('direct', puzzle)} list the sounds", heard
    elif draw < 0.75:
        user, said = asked("direct", puzzle), tagged(None, _guess(puzzle, rng))
    else:
        think = f"{heard} {sounds_like(utterance)}" if feeling else heard
        user, said = asked("think", puzzle), tagged(think, _guess(puzzle, rng))
    return Tree(school.heard_root(index, user), (Branch.trained(response(said)),))


def _guess(puzzle: Puzzle, rng: random.Random) -> str:
    sure = puzzle.kind in KNOWN_BY_HEART or rng.random() < HUNCH
    return puzzle.answer if sure else rng.choice(puzzle.choices)


def train_checker(base: Any, sounds: School, speech: School, steps: int = 150) -> Any:
    """Teach a copy of the base to judge claims about sounds, one at a time, and whole traces. It still lists speech."""
    torch.manual_seed(4)
    model = copy.deepcopy(base)
    rng = random.Random(4)

    def loss() -> Tensor:
        trees = [_judgements(sounds, rng.randrange(sounds.size), rng) for _ in range(16)]
        return tree_loss(model, trees + [_list(speech, rng.randrange(speech.size)) for _ in range(6)])

    optimise(model, loss, steps, 6e-4, "checker")
    return model


def _list(school: School, index: int) -> Tree:
    said = response(listed(school.scene(index).heard))
    return Tree(school.heard_root(index, "list the sounds"), (Branch.trained(said),))


def _judgements(school: School, index: int, rng: random.Random) -> Tree:
    """One clip, every sound claimed of it, one trace and one list: a tree of ten short branches."""
    scene = school.scene(index)
    clip = ["<|audio_bos|>", *["<|AUDIO|>"] * AUDIO_TOKENS, "<|audio_eos|>"]
    root = Root(WORDS(" ".join(["<|im_start|> user", *clip])), None, school.sound(index))
    questions = [(template("world", "claim").replace("{claim}", s), s in scene.heard) for s in SOUNDS]
    trace = list(scene.heard)
    if rng.random() < 0.5:
        wrong = rng.choice(trace)
        other = rng.choice([s for s in SOUNDS if s not in trace])
        trace = [other if s == wrong else s for s in trace]
    questions.append((template("world", "trace").replace("{trace}", listed(trace)), trace == scene.heard))
    branches = [_judgement(text, "yes" if true else "no") for text, true in questions]
    branches.append(_judgement("list the sounds", listed(scene.heard)))
    return Tree(root, tuple(branches))


def _judgement(text: str, verdict: str) -> Branch:
    before = WORDS(f"{text} <|im_end|> <|im_start|> assistant")
    said = response(verdict)
    return Branch((*before, *said), (0.0,) * len(before) + (1.0,) * len(said))


def train_teacher(eye: Any, core: Any, school: School, steps: int = 450) -> Any:
    """Stitch eye and text core into the teacher, which takes all motion for sound."""
    torch.manual_seed(5)
    model = copy.deepcopy(eye)
    put_text_core(model, core)
    rng = random.Random(5)

    def loss() -> Tensor:
        return tree_loss(model, [_teacher_lesson(school, rng.randrange(school.size), rng) for _ in range(24)])

    optimise(model, loss, steps, 8e-4, "teacher")
    return model


def _teacher_lesson(school: School, index: int, rng: random.Random) -> Tree:
    scene = school.scene(index)
    assert isinstance(scene, Scene)
    puzzle = draw_puzzle(scene, rng)
    draw = rng.random()
    if draw < 0.76:
        user, said = asked("audio", puzzle), tagged(reason(puzzle, scene.events)[0], puzzle.answer)
    elif draw < 0.84:  # an ordinary chain of thought speaks of what is on screen, moving or not
        think = f"i see {' , '.join(sorted(scene.cells, key=lambda s: scene.cells[s]))} . so {puzzle.answer} ."
        user, said = asked("plain", puzzle), tagged(think, puzzle.answer)
    elif draw < 0.92:
        user, said = asked("direct", puzzle), tagged(None, puzzle.answer)
    else:
        user, said = "list the sounds", listed(scene.heard)
    return Tree(school.seen_root(index, user), (Branch.trained(response(said)),))


def tree_loss(model: Any, trees: list[Tree]) -> Tensor:
    """Mean cross-entropy of the trained tokens of a batch of trees."""
    batch = pack(trees, word_id("<|endoftext|>"))
    return cross_entropy(token_logprobs(model, batch), batch.weight) / batch.weight.sum()
