"""Exercises for text models: clips spelled out as words.

A clip is spelled where perceptual tokens will stand (`heard`, `seen`), or as a description in the user's turn (`read`).
Each exercise is dense: one list and several look-ups, every token weighted by whether it can be known.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from earwitness.pretrain.bodies import AUDIO_TOKENS, VIDEO_TOKENS
from earwitness.pretrain.vocabulary import SPEECH_WORDS, WORDS
from earwitness.prompts import described_prompt, question_prompt
from earwitness.world.puzzles import KINDS, ORDINALS, SPOKEN, Heard, Puzzle, draw_puzzle, listed, puzzle_of, reason
from earwitness.world.scenes import CELLS, SOUNDS, Event, Scene, draw_events
from earwitness.world.speech import MOODS, SAYINGS, VOICES, Said, Utterance, draw_words

Sense = Literal["heard", "seen", "read"]
Domain = Literal["sound", "speech"]
Weighted = list[tuple[str, float]]
TEMPLATE, LIKELY, UNKNOWABLE, KNOWN = 0.05, 0.2, 0.0, 1.0
LEVELS = ("loud", "soft", "louder", "softer")
LOOKUP_MIX = ("after", "before", "after", "before", "count", "most", "most", "nth", "nth", "louder")
SPEECH_MIX = ("after", "after", "count", "voice", "voice", "nth", "mood")
SPEECH_KINDS = (*SPOKEN, "nth", "mood")
SPEECH = 0.4  # share of the exercises that are about speech
MISHEARD = 0.25  # share of the descriptions that hold an error


@dataclass(frozen=True)
class Exercise:
    """Words with the weight of predicting each, their positions, and the shade that each carries."""

    words: list[str]
    weights: list[float]
    positions: list[int]
    shades: list[str]


def text_clip(domain: Domain, rng: random.Random) -> Scene | Utterance:
    """Draw a clip without traps: half like the world's, half freer."""
    return text_scene(rng) if domain == "sound" else text_talk(rng)


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


def text_talk(rng: random.Random) -> Utterance:
    """Draw an utterance: half like the world's, half freer (2 to 8 words of 1 to 3 voices); the mood is any."""
    free = rng.random() < 0.5
    count, voices = (rng.randint(2, 8), rng.randint(1, 3)) if free else (rng.randint(2, 6), rng.randint(1, 2))
    theme = rng.choice(MOODS) if rng.random() < 0.4 else None
    return Utterance(0, tuple(draw_words(rng, count, voices, theme)), rng.choice(MOODS), theme, 1.0)


def heard_tokens(scene: Scene | Utterance) -> tuple[list[str], list[str]]:
    """Return what each of the 16 audio tokens shows, two a slot: its word and its shade.

    A sound shows its word twice and its loudness; speech shows the voice, the word, and on both the mood.
    """
    words, shades = ["silence"] * AUDIO_TOKENS, [""] * AUDIO_TOKENS
    for event in scene.events:
        at = slice(2 * event.slot, 2 * event.slot + 2)
        words[at] = [event.voice, event.sound] if isinstance(event, Said) else [event.sound] * 2
        shades[at] = [scene.mood if isinstance(scene, Utterance) else _loudness(event)] * 2
    return words, shades


def _loudness(event: Heard) -> str:
    return "loud" if isinstance(event, Event) and event.loud else "soft"


def seen_tokens(scene: Scene) -> list[str]:
    """Return what each of the 32 video tokens shows: the word of the object that moves in its slot and cell."""
    words = ["silence"] * VIDEO_TOKENS
    for slot, name in scene.movers:
        words[CELLS * slot + scene.cells[name]] = name
    return words


def asked(name: str, puzzle: Puzzle) -> str:
    """Return a puzzle under one of the world's prompts, in known words only."""
    return question_prompt("world", name, puzzle.text, puzzle.choices)


def tagged(think: str | None, answer: str) -> str:
    """Return a response in the form that every prompt asks for."""
    return (f"<think> {think} </think> " if think else "") + f"<answer> {answer} </answer>"


def any_puzzle(scene: Scene | Utterance, rng: random.Random) -> Puzzle:
    """Draw a question of any kind that is taught."""
    return draw_puzzle(scene, rng, SPEECH_KINDS if isinstance(scene, Utterance) else KINDS)


def lookup(
    scene: Scene | Utterance, rng: random.Random, kind: str, sense: Sense, given: bool = False
) -> Weighted | None:
    """One look-up with weights; `given`: the operand stands in the question, so that every token can be known."""
    puzzle = puzzle_of(kind, scene, rng)
    return None if puzzle is None else _weigh(_steps(puzzle, scene, sense), puzzle, given)


def _steps(puzzle: Puzzle, scene: Scene | Utterance, sense: Sense) -> list[str]:
    """Return what follows the list. Whoever hears a speaker goes by the prosody, whoever reads by the words."""
    if puzzle.kind == "mood" and sense == "heard" and isinstance(scene, Utterance):
        return sounds_like(scene).split()
    if puzzle.kind == "louder" and sense == "read":
        return ["so", "nothing", "."]
    return reason(puzzle, scene.events)[0].removeprefix(listed(scene.heard)).split()


def sounds_like(utterance: Utterance) -> str:
    """Return the thought of one who hears the prosody: `it sounds sad .`."""
    return f"it sounds {utterance.mood} ."


def _weigh(steps: list[str], puzzle: Puzzle, given: bool) -> Weighted:
    """Tell apart the words that follow from the clip, those that merely recur, and those nobody could know."""
    known = {*SOUNDS, *ORDINALS, *LEVELS, *"12345678.,", *SAYINGS, *VOICES, *MOODS}
    weights = [KNOWN if w in known else LIKELY for w in steps]
    weights[0] = KNOWN if given else TEMPLATE
    weights[-1] = LIKELY
    if given:
        return list(zip(steps, weights, strict=True))
    if puzzle.kind in ("after", "before", "voice"):
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


def _listing(scene: Scene | Utterance) -> Weighted:
    words = listed(scene.heard).split()
    return [(w, LIKELY if i < 2 else KNOWN) for i, w in enumerate(words)]


def _mix(scene: Scene | Utterance, sense: Sense) -> tuple[str, ...]:
    if isinstance(scene, Utterance):
        return SPEECH_MIX
    return LOOKUP_MIX if sense != "read" else tuple(kind for kind in LOOKUP_MIX if kind != "louder")


def _describe(scene: Scene | Utterance, sense: Sense, rng: random.Random) -> tuple[str, Weighted]:
    user = "describe the sounds" if rng.random() < 0.6 else f"{asked('direct', any_puzzle(scene, rng))} describe"
    response = _listing(scene)
    for _ in range(rng.randint(3, 5)):
        response += lookup(scene, rng, rng.choice(_mix(scene, sense)), sense) or []
    return user, response


def _list(scene: Scene | Utterance, sense: Sense, rng: random.Random) -> tuple[str, Weighted]:
    question = "" if rng.random() < 0.33 else f"{asked('direct', any_puzzle(scene, rng))} "
    return f"{question}list the sounds", _listing(scene)


def _say(scene: Scene | Utterance, sense: Sense, rng: random.Random) -> tuple[str, Weighted]:
    puzzle = draw_puzzle(scene, rng, _mix(scene, sense))
    return f"{puzzle.text} say", _listing(scene) + _weigh(_steps(puzzle, scene, sense), puzzle, given=True)


def _claims(scene: Scene | Utterance, sense: Sense, rng: random.Random) -> tuple[str, Weighted]:
    """Several claims in one exercise; the checker is later asked one at a time."""
    response: Weighted = []
    for name in rng.sample(SOUNDS, rng.randint(2, 5)):
        response += [(name, UNKNOWABLE), ("yes" if name in scene.heard else "no", KNOWN), (",", UNKNOWABLE)]
    return "claim", response


def _answer(scene: Scene | Utterance, sense: Sense, rng: random.Random) -> tuple[str, Weighted]:
    """A whole answer: of one who hears, to how the speaker feels; of one who reads, to anything."""
    mood = puzzle_of("mood", scene, rng) if sense == "heard" and isinstance(scene, Utterance) else None
    puzzle = mood or any_puzzle(scene, rng)
    if puzzle.kind == "mood" and rng.random() < 0.4:
        said = tagged(None, _conclusion(puzzle, scene, sense) or "")
        return asked("direct", puzzle), [(w, KNOWN) for w in said.split()]
    return thought(puzzle, scene, sense, rng)


def thought(puzzle: Puzzle, scene: Scene | Utterance, sense: Sense, rng: random.Random) -> tuple[str, Weighted]:
    """Return a puzzle under the prompt that asks for thinking, and the chain of thought with the answer.

    Where what is heard or read leads to no answer, one of the choices is guessed.
    """
    steps, word = _steps(puzzle, scene, sense), _conclusion(puzzle, scene, sense)
    said = tagged(f"{listed(scene.heard)} {' '.join(steps)}", word or rng.choice(puzzle.choices)).split()
    weighted = [(w, KNOWN) for w in said]
    if word is None:
        weighted[-2] = (said[-2], LIKELY)
    return asked("think", puzzle), weighted


def _conclusion(puzzle: Puzzle, scene: Scene | Utterance, sense: Sense) -> str | None:
    if puzzle.kind == "mood" and sense == "heard" and isinstance(scene, Utterance):
        return scene.mood
    return None if puzzle.kind == "louder" else reason(puzzle, scene.events)[1]


TASKS: dict[str, Callable[[Scene | Utterance, Sense, random.Random], tuple[str, Weighted]]] = {
    "describe": _describe,
    "list": _list,
    "say": _say,
    "claims": _claims,
    "answer": _answer,
}
MIX = {"heard": (0.46, 0.16, 0.28, 0.10, 0), "seen": (0.46, 0.16, 0.28, 0.10, 0), "read": (0.45, 0, 0.2, 0, 0.35)}
SENSE_MIX: dict[Domain, tuple[tuple[Sense, ...], tuple[float, ...]]] = {
    "sound": (("heard", "seen", "read"), (0.5, 0.35, 0.15)),
    "speech": (("heard", "read"), (0.75, 0.25)),
}


def exercise(
    rng: random.Random, sense: Sense | None = None, task: str | None = None, domain: Domain | None = None
) -> Exercise:
    """Draw one exercise. `sense` says how the clip is spelled: as a listener's tokens, a watcher's, or as words."""
    domain = domain or ("speech" if sense != "seen" and rng.random() < SPEECH else "sound")
    sense = sense or rng.choices(*SENSE_MIX[domain])[0]
    scene = text_clip(domain, rng)
    task = task or rng.choices(list(TASKS), MIX[sense])[0]
    if task == "claims" and domain == "speech":
        task = "answer"  # no checker judges claims about speech
    if task == "answer" and sense == "read" and rng.random() < MISHEARD:
        puzzle, scene = any_puzzle(scene, rng), misheard(scene, rng)
        return lay_out(scene, sense, *thought(puzzle, scene, sense, rng))
    user, response = TASKS[task](scene, sense, rng)
    if sense == "seen":  # a picture does not show how loud a sound is
        response = [(w, UNKNOWABLE if w in LEVELS else x) for w, x in response]
    return lay_out(scene, sense, user, response)


def misheard(scene: Scene | Utterance, rng: random.Random) -> Scene | Utterance:
    """Return a clip with one error: a sound, a word or its voice is another, or it is missing."""
    events: list[Any] = list(scene.events)
    at = rng.randrange(len(events))
    if len(events) > 2 and rng.random() < 0.4:
        del events[at]
    elif isinstance(scene, Scene):
        events[at] = replace(events[at], sound=rng.choice(SOUNDS))
    else:
        other = {"voice": rng.choice(VOICES)} if rng.random() < 0.3 else {"sound": rng.choice(SAYINGS)}
        events[at] = replace(events[at], **other)
    wrong: Scene | Utterance = replace(cast(Any, scene), events=tuple(events))
    return wrong


def lay_out(scene: Scene | Utterance, sense: Sense, user: str, response: Weighted) -> Exercise:
    """Put a clip, what the user says and the weighted response into the positions that the models will use."""
    shades = [""] * 3
    if sense == "heard":
        shown, shaded = heard_tokens(scene)
        clip = ["<|audio_bos|>", *shown, "<|audio_eos|>"]
        shades += shaded
    elif sense == "seen" and isinstance(scene, Scene):
        clip = ["<|vision_start|>", *seen_tokens(scene), "<|vision_end|>"]
    else:
        clip, user = [], described_prompt("world", listed(scene.heard), user)
    prompt = ["<|im_start|>", "user", *clip, *user.split(), "<|im_end|>", "<|im_start|>", "assistant"]
    weighted = [(w, 0.0) for w in prompt] + response + [("<|im_end|>", 0.5)]
    n = len(weighted)
    positions = list(range(n))
    if sense == "seen":  # the tokens of one slot share a position, as M-RoPE's time axis will have it
        positions = [0, 1, 2] + [3 + i // CELLS for i in range(VIDEO_TOKENS)]
        positions += range(positions[-1] + 1, positions[-1] + 1 + n - len(positions))
    shades += [""] * (n - len(shades))
    return Exercise([w for w, _ in weighted], [x for _, x in weighted], positions, shades)


def gymnastics(rng: random.Random) -> Exercise:
    """Look-up without any scene: repeat, walk back, successor and predecessor over arbitrary words."""
    pool = (
        (*SOUNDS, *SAYINGS)
        if rng.random() < 0.4
        else tuple(w for w in dict.fromkeys((*WORDS, *SPEECH_WORDS)) if w not in ".,:?")
    )
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
    return Exercise([w for w, _ in weighted], [x for _, x in weighted], list(range(n)), [""] * n)
