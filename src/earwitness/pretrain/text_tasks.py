"""Exercises for the text core: scenes spelled out as words in the places where perceptual tokens will stand.

Each exercise is dense: one list and several look-ups, every token weighted by whether it can be known.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from earwitness.pretrain.bodies import AUDIO_TOKENS, VIDEO_TOKENS
from earwitness.pretrain.vocabulary import WORDS
from earwitness.world.puzzles import ORDINALS, Puzzle, draw_puzzle, listed, puzzle_of, reason
from earwitness.world.scenes import CELLS, SOUNDS, Event, Scene, draw_events

Weighted = list[tuple[str, float]]
TEMPLATE, LIKELY, UNKNOWABLE, KNOWN = 0.05, 0.2, 0.0, 1.0
LEVELS = ("loud", "soft", "louder", "softer")
LOOKUP_MIX = ("after", "before", "after", "before", "count", "most", "most", "nth", "nth", "louder")


@dataclass(frozen=True)
class Exercise:
    """Words with the weight of predicting each, their positions, and the loudness (-1, 0, 1) that each carries."""

    words: list[str]
    weights: list[float]
    positions: list[int]
    levels: list[float]


def text_scene(rng: random.Random) -> Scene:
    """Draw a scene without traps: half like the world's, half freer (3 to 8 events of 2 to 4 sounds)."""
    if rng.random() < 0.5:
        count, kinds = rng.randint(4, 6), rng.choice([3, 3, 3, 4])
    else:
        count = rng.randint(3, 8)
        kinds = rng.randint(2, min(count, 4))
    events = draw_events(rng, kinds, count)
    names = list(dict.fromkeys(e.sound for e in events))
    cells = dict(zip(names, rng.sample(range(CELLS), len(names)), strict=True))
    return Scene(0, tuple(events), tuple((e.slot, e.sound) for e in events), (), cells, (), None, 1.0)


def heard_tokens(scene: Scene) -> tuple[list[str], list[float]]:
    """Return what each of the 16 audio tokens shows: its word and its loudness."""
    words, levels = ["silence"] * AUDIO_TOKENS, [0.0] * AUDIO_TOKENS
    for event in scene.events:
        for i in (2 * event.slot, 2 * event.slot + 1):
            words[i], levels[i] = event.sound, 1.0 if event.loud else -1.0
    return words, levels


def seen_tokens(scene: Scene) -> list[str]:
    """Return what each of the 32 video tokens shows: the word of the object that moves in its slot and cell."""
    words = ["silence"] * VIDEO_TOKENS
    for slot, name in scene.movers:
        words[CELLS * slot + scene.cells[name]] = name
    return words


def lookup(events: tuple[Event, ...], rng: random.Random, kind: str, given: bool) -> Weighted | None:
    """One look-up with weights; `given`: the operand stands in the question, so that every token can be known."""
    puzzle = puzzle_of(kind, Scene(0, events, (), (), {}, (), None, 1.0), rng)
    if puzzle is None:
        return None
    steps = reason(puzzle, events)[0].removeprefix(listed([e.sound for e in events])).split()
    return _weigh(steps, puzzle, given)


def _weigh(steps: list[str], puzzle: Puzzle, given: bool) -> Weighted:
    """Tell apart the words that follow from the scene, those that merely recur, and those nobody could know."""
    known = {*SOUNDS, *ORDINALS, *LEVELS, *"12345678.,"}
    weights = [KNOWN if w in known else LIKELY for w in steps]
    weights[0] = KNOWN if given else TEMPLATE
    weights[-1] = LIKELY
    if given:
        return list(zip(steps, weights, strict=True))
    if puzzle.kind in ("after", "before"):
        weights[1:3] = [TEMPLATE, UNKNOWABLE]
    elif puzzle.kind in ("count", "most"):  # which of the two it will be shows only now
        weights[1:3] = [UNKNOWABLE, LIKELY if puzzle.kind == "count" else KNOWN]
    elif puzzle.kind == "nth":  # how far to recite is up to the question
        stop = steps.index(".")
        weights[3 : stop + 1] = [
            0.1 if w in ORDINALS else x for w, x in zip(steps[3:stop], weights[3:stop], strict=True)
        ]
        weights.insert(stop, UNKNOWABLE)
    return list(zip(steps, weights, strict=True))


def _listing(scene: Scene) -> Weighted:
    words = listed(scene.heard).split()
    return [(w, LIKELY if i < 2 else KNOWN) for i, w in enumerate(words)]


def options(puzzle: Puzzle) -> str:
    """Return a puzzle as it is put to a model, with its choices."""
    return f"{puzzle.text} options {' , '.join(puzzle.choices)}"


def _describe(scene: Scene, rng: random.Random) -> tuple[str, Weighted]:
    user = "describe the sounds" if rng.random() < 0.6 else f"{options(draw_puzzle(scene, rng))} describe"
    response = _listing(scene)
    for _ in range(rng.randint(3, 5)):
        response += lookup(scene.events, rng, rng.choice(LOOKUP_MIX), given=False) or []
    return user, response


def _list(scene: Scene, rng: random.Random) -> tuple[str, Weighted]:
    user = "list the sounds" if rng.random() < 0.33 else f"{options(draw_puzzle(scene, rng))} list the sounds"
    return user, _listing(scene)


def _say(scene: Scene, rng: random.Random) -> tuple[str, Weighted]:
    puzzle = draw_puzzle(scene, rng, LOOKUP_MIX)
    steps = reason(puzzle, scene.events)[0].removeprefix(listed(scene.heard)).split()
    return f"{puzzle.text} say", _listing(scene) + _weigh(steps, puzzle, given=True)


def _claims(scene: Scene, rng: random.Random) -> tuple[str, Weighted]:
    """Several claims in one exercise; the checker is later asked one at a time."""
    response: Weighted = []
    for name in rng.sample(SOUNDS, rng.randint(2, 5)):
        response += [(name, UNKNOWABLE), ("yes" if name in scene.heard else "no", KNOWN), (",", UNKNOWABLE)]
    return "claim", response


TASKS: dict[str, Callable[[Scene, random.Random], tuple[str, Weighted]]] = {
    "describe": _describe,
    "list": _list,
    "say": _say,
    "claims": _claims,
}
MIX = (0.46, 0.16, 0.28, 0.10)


def exercise(rng: random.Random, sense: str | None = None, task: str | None = None) -> Exercise:
    """Draw one exercise. `sense` is `heard` or `seen`: whose token layout the scene is spelled in."""
    sense = sense or ("heard" if rng.random() < 0.6 else "seen")
    scene = text_scene(rng)
    user, response = TASKS[task or rng.choices(list(TASKS), MIX)[0]](scene, rng)
    if sense == "seen":  # a picture does not show how loud a sound is
        response = [(w, UNKNOWABLE if w in LEVELS else x) for w, x in response]
    return lay_out(scene, sense, user, response)


def lay_out(scene: Scene, sense: str, user: str, response: Weighted) -> Exercise:
    """Put a scene, what the user says and the weighted response into the positions that the models will use."""
    if sense == "heard":
        shown, loud = heard_tokens(scene)
        clip = ["<|audio_bos|>", *shown, "<|audio_eos|>"]
        levels = [0.0] * 3 + loud
    else:
        clip = ["<|vision_start|>", *seen_tokens(scene), "<|vision_end|>"]
        levels = [0.0] * 3
    prompt = ["<|im_start|>", "user", *clip, *user.split(), "<|im_end|>", "<|im_start|>", "assistant"]
    weighted = [(w, 0.0) for w in prompt] + response + [("<|im_end|>", 0.5)]
    n = len(weighted)
    positions = list(range(n))
    if sense == "seen":  # the tokens of one slot share a position, as M-RoPE's time axis will have it
        positions = [0, 1, 2] + [3 + i // CELLS for i in range(VIDEO_TOKENS)]
        positions += range(positions[-1] + 1, positions[-1] + 1 + n - len(positions))
    levels += [0.0] * (n - len(levels))
    return Exercise([w for w, _ in weighted], [x for _, x in weighted], positions, levels)


def gymnastics(rng: random.Random) -> Exercise:
    """Look-up without any scene: repeat, walk back, successor and predecessor over arbitrary words."""
    pool = SOUNDS if rng.random() < 0.4 else tuple(w for w in dict.fromkeys(WORDS) if w not in ".,:?")
    words = rng.sample(pool, rng.randint(3, 8))
    weighted: Weighted = [(w, 0.0) for w in words] + [(".", 0.0)]
    draw = rng.random()
    if draw < 0.2:
        weighted += [(words[0], 0.0)] + [(w, 1.0) for w in words[1:]]
    elif draw < 0.3:
        weighted += [("before", 0.0), (words[-1], 0.0)] + [(w, 1.0) for w in words[-2::-1]]
    else:
        for _ in range(rng.randint(4, 7)):
            i = rng.randrange(len(words) - 1)
            side, x, y = rng.choice([("after", words[i], words[i + 1]), ("before", words[i + 1], words[i])])
            weighted += [("right", 0.0), (side, 0.0), (x, 0.0), (y, 1.0), (".", 0.1)]
    n = len(weighted)
    return Exercise([w for w, _ in weighted], [x for _, x in weighted], list(range(n)), [0.0] * n)
