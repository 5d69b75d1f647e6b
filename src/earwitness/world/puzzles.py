"""Questions about scenes and utterances, and the chain of thought that answers each from a list of what is heard.

Eight kinds about sounds. Six can be answered by an eye that is not fooled; `louder` only by an ear; `last` is asked in
the out-of-domain exams and nowhere else. Of speech `after`, `count` and `last` are asked alike, and who said a word
(`voice`); in the exam of moods alone, how the speaker feels (`mood`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from earwitness.world.scenes import SOUNDS, Event, Scene
from earwitness.world.speech import MEANING, MOODS, SAYINGS, VOICES, Said, Utterance

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
LOOKUPS = ("after", "before", "count", "most", "nth", "exist")
KINDS = (*LOOKUPS, "louder")
GLANCES = ("most", "exist")  # of the clip as a whole: what a listener may know without going through it
SPOKEN = ("after", "count", "voice")
MOST_COUNTED = 4
SOUND_TEXT = {
    "after": "what is heard right after the {x} ?",
    "before": "what is heard right before the {x} ?",
    "count": "how many times is the {x} heard ?",
    "most": "which sound is heard most often ?",
    "nth": "which sound is the {x} one ?",
    "exist": "which of these sounds is heard ?",
    "last": "which sound is the last one ?",
    "louder": "is the last sound louder or softer than the first ?",
}
SPEECH_TEXT = {
    "after": "which word is said right after {x} ?",
    "count": "how many times is {x} said ?",
    "nth": "which word is the {x} one ?",
    "last": "which word is the last one ?",
    "voice": "who said {x} ?",
    "mood": "how does the speaker feel ?",
}

Heard = Event | Said


@dataclass(frozen=True)
class Puzzle:
    """A question of one kind about one clip. `operand` is the sound, word or ordinal that it names, if any."""

    kind: str
    operand: str | None
    text: str
    choices: tuple[str, ...]
    answer: str


def draw_puzzle(scene: Scene | Utterance, rng: random.Random, kinds: Sequence[str] = KINDS, deepest: int = 4) -> Puzzle:
    """Draw a question that the clip can be asked; `deepest` bounds the ordinals asked for (4: up to the fourth)."""
    kinds = list(kinds)
    while kinds:
        kind = rng.choice(kinds)
        puzzle = puzzle_of(kind, scene, rng, deepest)
        if puzzle is not None:
            return puzzle
        kinds = [k for k in kinds if k != kind]
    raise ValueError(f"scene {scene.seed} can be asked none of these kinds")


def puzzle_of(kind: str, scene: Scene | Utterance, rng: random.Random, deepest: int = 4) -> Puzzle | None:
    """Draw a question of one kind, or return None where the clip cannot be asked it."""
    if isinstance(scene, Utterance):
        drawn = (None, scene.mood) if kind == "mood" else _draw(kind, scene.events, rng, deepest)
    else:
        drawn = _draw(kind, scene.events, rng, deepest)
    if drawn is None:
        return None
    operand, answer = drawn
    if isinstance(scene, Utterance):
        text, choices = SPEECH_TEXT[kind], _spoken_choices(kind, answer, scene, rng)
    else:
        text, choices = SOUND_TEXT[kind], _choices(kind, answer, scene, rng)
    return Puzzle(kind, operand, text.replace("{x}", operand or ""), choices, answer)


def _draw(kind: str, events: Sequence[Heard], rng: random.Random, deepest: int) -> tuple[str | None, str] | None:
    """Return (operand, answer), or None where these events cannot be asked this."""
    order = [e.sound for e in events]
    counts = {name: order.count(name) for name in dict.fromkeys(order)}
    once = [name for name, n in counts.items() if n == 1]
    if kind in ("after", "before"):
        step = 1 if kind == "after" else -1
        fits = [x for x in once if 0 <= order.index(x) + step < len(order)]
        x = rng.choice(fits) if fits else None
        return (x, order[order.index(x) + step]) if x else None
    if kind == "count":
        x = rng.choice(list(counts))
        return (x, str(counts[x])) if counts[x] <= MOST_COUNTED else None
    if kind == "most":
        top = [name for name, n in counts.items() if n == max(counts.values())]
        return (None, top[0]) if len(top) == 1 else None
    if kind == "nth":
        i = rng.randint(1, min(deepest - 1, len(order) - 1))
        return ORDINALS[i], order[i]
    if kind == "exist":
        return None, rng.choice(list(counts))
    if kind == "last":
        return None, order[-1]
    return _draw_who(events, once, rng) if kind == "voice" else _draw_louder(events)


def _draw_who(events: Sequence[Heard], once: list[str], rng: random.Random) -> tuple[str, str] | None:
    by = {e.sound: e.voice for e in events if isinstance(e, Said)}
    x = rng.choice(once) if once else None
    return (x, by[x]) if x else None


def _draw_louder(events: Sequence[Heard]) -> tuple[None, str] | None:
    first, last = (is_loud(events[i]) for i in (0, -1))
    return None if first == last else (None, "louder" if last else "softer")


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
        options = _near(answer, [*heard, *scene.silent_movers], SOUNDS, rng)
    rng.shuffle(options)
    return tuple(options)


def _spoken_choices(kind: str, answer: str, utterance: Utterance, rng: random.Random) -> tuple[str, ...]:
    fixed = {"count": [str(n + 1) for n in range(MOST_COUNTED)], "voice": list(VOICES), "mood": list(MOODS)}
    options = fixed.get(kind) or _near(answer, [said.sound for said in utterance.events], SAYINGS, rng)
    rng.shuffle(options)
    return tuple(options)


def _near(answer: str, tempting: Sequence[str], words: Sequence[str], rng: random.Random) -> list[str]:
    """Return the answer and three others, those that tempt before the rest."""
    wrong = [s for s in dict.fromkeys(tempting) if s != answer]
    rng.shuffle(wrong)
    rest = [s for s in words if s not in wrong and s != answer]
    rng.shuffle(rest)
    return [answer, *(wrong + rest)[:3]]


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
    """Return the list that opens every chain of thought: `i hear dog , bell .`, `i hear ann party , bob tears .`."""
    return f"i hear {' , '.join(order)} ."


def reason(puzzle: Puzzle, events: Sequence[Heard]) -> tuple[str, str | None]:
    """Return the chain of thought for a puzzle if these events were heard, and the word that it ends in.

    The word is None where the events do not lead to one of the choices. Of a mood only the meaning of the words is
    known here: the prosody is no event.
    """
    steps, word = _steps(puzzle, events, [e.sound for e in events])
    return f"{listed([e.name for e in events])} {steps}", word if word in puzzle.choices else None


def _steps(puzzle: Puzzle, events: Sequence[Heard], order: list[str]) -> tuple[str, str | None]:
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
        word = str(order.count(x)) if x in order else None
        return f"count {x} : {tally(x, order)} . so {word or 'nothing'} times .".replace(" :  .", " : ."), word
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
    if puzzle.kind == "voice":
        return _who(x, [e for e in events if isinstance(e, Said)])
    return _mood(order) if puzzle.kind == "mood" else _compare(events)


def _who(x: str, said: Sequence[Said]) -> tuple[str, str | None]:
    at = next((i for i, s in enumerate(said) if s.sound == x), None)
    word = said[at].voice if at is not None else None
    told = recite([s.name for s in (said if at is None else said[: at + 1])])
    return f"who said {x} : {told} . so {word or 'nothing'} .", word


def _mood(order: list[str]) -> tuple[str, str | None]:
    moods = [MEANING[word] for word in order]
    word = max(dict.fromkeys(moods), key=moods.count, default=None)
    told = " ".join(f"{word} {mood}" for word, mood in zip(order, moods, strict=True))
    return f"{told} . so {word or 'nothing'} .", word


def _compare(events: Sequence[Heard]) -> tuple[str, str | None]:
    if not events:
        return "so nothing .", None
    first, last = (is_loud(events[i]) for i in (0, -1))
    word = "louder" if last else "softer"
    return f"first {level(first)} last {level(last)} . so {word} .", word if first != last else None


def is_loud(event: Heard) -> bool:
    """Return whether a sound is loud; of words, which are said alike throughout, this is not known."""
    return isinstance(event, Event) and event.loud


def level(loud: bool) -> str:
    """Return the word for an event's level."""
    return "loud" if loud else "soft"


def numbered(name: str, order: Sequence[str]) -> str:
    """Return the events of one sound with their numbers first, so that a number leads to its sound: `1 dog 2 dog`."""
    return " ".join(f"{i + 1} {name}" for i in range(order.count(name)))


def tally(name: str, order: Sequence[str]) -> str:
    """Return the events of one sound counted out: `dog 1 dog 2`."""
    return " ".join(f"{name} {i + 1}" for i in range(order.count(name)))
