"""Questions about scenes, and the chain of thought that answers each from a list of sounds.

Eight kinds. Six can be answered by an eye that is not fooled; `louder` only by an ear; `last` is asked in the
out-of-domain exam and nowhere else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from earwitness.world.scenes import SOUNDS, Event, Scene

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
LOOKUPS = ("after", "before", "count", "most", "nth", "exist")
KINDS = (*LOOKUPS, "louder")
MOST_COUNTED = 4


@dataclass(frozen=True)
class Puzzle:
    """A question of one kind about one scene. `operand` is the sound or ordinal that it names, if any."""

    kind: str
    operand: str | None
    text: str
    choices: tuple[str, ...]
    answer: str


def draw_puzzle(scene: Scene, rng: random.Random, kinds: Sequence[str] = KINDS, deepest: int = 4) -> Puzzle:
    """Draw a question that the scene can be asked; `deepest` bounds the ordinals asked for (4: up to the fourth)."""
    kinds = list(kinds)
    while kinds:
        kind = rng.choice(kinds)
        puzzle = puzzle_of(kind, scene, rng, deepest)
        if puzzle is not None:
            return puzzle
        kinds = [k for k in kinds if k != kind]
    raise ValueError(f"scene {scene.seed} can be asked none of these kinds")


def puzzle_of(kind: str, scene: Scene, rng: random.Random, deepest: int = 4) -> Puzzle | None:
    """Draw a question of one kind, or return None where the scene cannot be asked it."""
    drawn = _draw(kind, scene.events, rng, deepest)
    if drawn is None:
        return None
    operand, text, answer = drawn
    return Puzzle(kind, operand, text, _choices(kind, answer, scene, rng), answer)


def _draw(kind: str, events: Sequence[Event], rng: random.Random, deepest: int) -> tuple[str | None, str, str] | None:
    """Return (operand, text, answer), or None where this scene cannot be asked this."""
    order = [e.sound for e in events]
    counts = {name: order.count(name) for name in dict.fromkeys(order)}
    once = [name for name, n in counts.items() if n == 1]
    if kind in ("after", "before"):
        step = 1 if kind == "after" else -1
        fits = [x for x in once if 0 <= order.index(x) + step < len(order)]
        if not fits:
            return None
        x = rng.choice(fits)
        return x, f"what is heard right {kind} the {x} ?", order[order.index(x) + step]
    if kind == "count":
        x = rng.choice(list(counts))
        return (x, f"how many times is the {x} heard ?", str(counts[x])) if counts[x] <= MOST_COUNTED else None
    if kind == "most":
        top = [name for name, n in counts.items() if n == max(counts.values())]
        return (None, "which sound is heard most often ?", top[0]) if len(top) == 1 else None
    if kind == "nth":
        i = rng.randint(1, min(deepest - 1, len(order) - 1))
        return ORDINALS[i], f"which sound is the {ORDINALS[i]} one ?", order[i]
    if kind == "exist":
        return None, "which of these sounds is heard ?", rng.choice(list(counts))
    if kind == "last":
        return None, "which sound is the last one ?", order[-1]
    first, last = events[0].loud, events[-1].loud
    if first == last:
        return None
    return None, "is the last sound louder or softer than the first ?", "louder" if last else "softer"


def _choices(kind: str, answer: str, scene: Scene, rng: random.Random) -> tuple[str, ...]:
    """Return the options, shuffled. Distractors are sounds of the clip, else 'pick what you hear' would do."""
    heard = list(dict.fromkeys(scene.heard))
    if kind == "louder":
        options = ["louder", "softer"]
    elif kind == "count":
        options = [str(n + 1) for n in range(MOST_COUNTED)]
    elif kind == "exist":
        absent = [s for s in SOUNDS if s not in heard]
        wrong = rng.sample(absent, 3)
        tempting = [s for s in scene.cells if s in absent]
        if tempting and not set(tempting) & set(wrong):
            wrong[0] = rng.choice(tempting)
        options = [answer, *wrong]
    else:
        wrong = [s for s in dict.fromkeys([*heard, *scene.silent_movers]) if s != answer]
        rng.shuffle(wrong)
        rest = [s for s in SOUNDS if s not in wrong and s != answer]
        rng.shuffle(rest)
        options = [answer, *(wrong + rest)[:3]]
    rng.shuffle(options)
    return tuple(options)


def seen_tag(puzzle: Puzzle, scene: Scene) -> str:
    """Return `audible-only`, `off-screen` (the answer changes when the unseen sound is left out) or `visible`."""
    if puzzle.kind == "louder":
        return "audible-only"
    visible = [e for e in scene.events if e.sound != scene.off_screen]
    return "visible" if reason(puzzle, visible)[1] == puzzle.answer else "off-screen"


def recite(order: Sequence[str]) -> str:
    """Return the sounds with their ordinals: `first dog second bell`."""
    return " ".join(f"{ordinal} {name}" for ordinal, name in zip(ORDINALS, order, strict=False))


def listed(order: Sequence[str]) -> str:
    """Return the list that opens every chain of thought: `i hear dog , bell .`."""
    return f"i hear {' , '.join(order)} ."


def reason(puzzle: Puzzle, events: Sequence[Event]) -> tuple[str, str | None]:
    """Return the chain of thought for a puzzle if these events were heard, and the word that it ends in.

    The word is None where the events do not lead to one of the choices.
    """
    order = [e.sound for e in events]
    steps, word = _steps(puzzle, events, order)
    return f"{listed(order)} {steps}", word if word in puzzle.choices else None


def _steps(puzzle: Puzzle, events: Sequence[Event], order: list[str]) -> tuple[str, str | None]:
    x = puzzle.operand or ""
    word: str | None = None
    if puzzle.kind in ("after", "before"):
        at = order.index(x) if x in order else None
        if puzzle.kind == "after":
            word = order[at + 1] if at is not None and at + 1 < len(order) else None
            # The comma says "there it is: one more", so that stopping takes no second look back.
            found = at is not None and word is not None
            told = f"{recite(order[: at + 1])} , {ORDINALS[at + 1]} {word}" if found else recite(order)  # type: ignore[operator]
        else:
            word = order[at - 1] if at else None
            told = recite(order if at is None else order[: at + 1])
        return f"right {puzzle.kind} {x} : {told} . so {word or 'nothing'} .", word
    if puzzle.kind == "count":
        word = str(order.count(x))
        return f"count {x} : {tally(x, order)} . so {word} times .".replace(" :  .", " : ."), word
    if puzzle.kind == "most":
        counts = {name: order.count(name) for name in dict.fromkeys(order)}
        word = max(counts, key=lambda name: counts[name]) if counts else None
        most = f"{counts[word]} {word}" if word else "nothing"
        return f"count {' , '.join(numbered(n, order) for n in counts)} . the most is {most} .", word
    if puzzle.kind in ("nth", "last"):
        i = ORDINALS.index(x) if x else len(order) - 1
        word = order[i] if 0 <= i < len(order) else None
        return f"in order {recite(order[: i + 1])} . so {word or 'nothing'} .", word
    if puzzle.kind == "exist":
        word = next((c for c in puzzle.choices if c in order), None)
        return f"{word or 'nothing'} is heard .", word
    return _compare(events)


def _compare(events: Sequence[Event]) -> tuple[str, str | None]:
    if not events:
        return "so nothing .", None
    first, last = events[0].loud, events[-1].loud
    word = "louder" if last else "softer"
    return f"first {level(first)} last {level(last)} . so {word} .", word if first != last else None


def level(loud: bool) -> str:
    """Return the word for an event's level."""
    return "loud" if loud else "soft"


def numbered(name: str, order: Sequence[str]) -> str:
    """Return the events of one sound with their numbers first, so that a number leads to its sound: `1 dog 2 dog`."""
    return " ".join(f"{i + 1} {name}" for i in range(order.count(name)))


def tally(name: str, order: Sequence[str]) -> str:
    """Return the events of one sound counted out: `dog 1 dog 2`."""
    return " ".join(f"{name} {i + 1}" for i in range(order.count(name)))
