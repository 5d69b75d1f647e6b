"""Scenes of the embedded world: what sounds when, what is on screen, and the traps between the two.

A scene lasts four seconds in eight slots. Four cells of the screen hold one object each. The traps are the point: a
*silent mover* moves like a sounding object and makes no sound; a *blurred* object could be itself or its twin; an
*off-screen* sound has no object; a *still* object is there and does nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SECONDS = 4
SLOTS = 8
SOUNDS = ("bell", "whistle", "drum", "clap", "siren", "horn", "dog", "engine")
TWIN = {name: SOUNDS[i ^ 1] for i, name in enumerate(SOUNDS)}
# After the first has sounded, the second (silent, elsewhere on screen) moves in the next free slot.
COMPANION = {"engine": "clap", "drum": "horn", "siren": "dog", "bell": "engine"}
CELLS = 4
ENDS_DIFFER = 0.85  # probability that the last event is louder or softer than the first, so that it can be asked


@dataclass(frozen=True)
class Difficulty:
    """How a scene is drawn: probabilities of the traps, and the ranges of what sounds.

    `blurred` is the probability that one sounding object is grey (its class known only up to its twin), and
    `blurred_again` that a second one is; `noise` multiplies the noise of the recording.
    """

    name: str
    silent_movers: float = 0.95
    blurred: float = 0.25
    blurred_again: float = 0.0
    off_screen: float = 0.10
    still: float = 0.5
    noise: float = 1.0
    kinds: tuple[int, ...] = (3, 3, 3, 3, 3, 4)
    events: tuple[int, int] = (4, 6)


@dataclass(frozen=True)
class Event:
    """One sound in one slot, loud or soft."""

    slot: int
    sound: str
    loud: bool

    @property
    def name(self) -> str:
        """What a listener lists."""
        return self.sound


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about a clip.

    `movers` lists (slot, object) of all that moves on screen, silent movers included; `cells` maps each object on
    screen to its cell; `off_screen` sounds without being seen.
    """

    seed: int
    events: tuple[Event, ...]
    movers: tuple[tuple[int, str], ...]
    silent_movers: tuple[str, ...]
    cells: dict[str, int]
    blurred: tuple[str, ...]
    off_screen: str | None
    noise: float

    @property
    def heard(self) -> list[str]:
        """The sounds in order of time."""
        return [event.sound for event in self.events]

    @property
    def seen(self) -> list[str]:
        """What a viewer who takes all motion for sound would list, in order of time."""
        return [name for _, name in self.movers]


def draw_scene(seed: int, difficulty: Difficulty) -> Scene:
    """Draw the scene of a seed. The same seed and difficulty always give the same scene."""
    rng = random.Random(f"scene {difficulty.name} {seed}")
    events = draw_events(rng, rng.choice(difficulty.kinds), rng.randint(*difficulty.events))
    sounding = list(dict.fromkeys(e.sound for e in events))
    hide = len(sounding) > 2 and rng.random() < difficulty.off_screen
    off_screen = rng.choice(sounding) if hide else None
    on_screen = [name for name in sounding if name != off_screen]
    movers = [(e.slot, e.sound) for e in events if e.sound != off_screen]
    silent = _silent_movers(rng, events, on_screen, difficulty.silent_movers)
    on_screen += list(dict.fromkeys(name for _, name in silent if name not in on_screen))
    while len(on_screen) < CELLS and rng.random() < difficulty.still:
        on_screen.append(rng.choice([s for s in SOUNDS if s not in on_screen and s not in sounding]))
    return Scene(
        seed=seed,
        events=tuple(events),
        movers=tuple(sorted(movers + silent)),
        silent_movers=tuple(dict.fromkeys(name for _, name in silent)),
        cells=dict(zip(on_screen, rng.sample(range(CELLS), len(on_screen)), strict=True)),
        blurred=_blurred(rng, [s for s in sounding if s != off_screen], difficulty),
        off_screen=off_screen,
        noise=difficulty.noise,
    )


def draw_events(rng: random.Random, kinds: int, count: int) -> list[Event]:
    """Draw `count` events of `kinds` different sounds, at most one per slot."""
    classes = rng.sample(SOUNDS, kinds)
    sequence = classes + [rng.choice(classes) for _ in range(count - kinds)]
    rng.shuffle(sequence)
    slots = sorted(rng.sample(range(SLOTS), count))
    loud = [rng.random() < 0.5 for _ in slots]
    loud[-1] = loud[0] ^ (rng.random() < ENDS_DIFFER)
    return [Event(*event) for event in zip(slots, sequence, loud, strict=True)]


def _silent_movers(
    rng: random.Random, events: list[Event], on_screen: list[str], probability: float
) -> list[tuple[int, str]]:
    sounding = {e.sound for e in events}
    used = {e.slot for e in events}
    present = set(on_screen)
    movers: list[tuple[int, str]] = []
    for cause, companion in COMPANION.items():
        fits = cause in on_screen and companion not in sounding | present and len(present) < CELLS
        if not fits or rng.random() >= probability:
            continue
        for slot in (e.slot + 1 for e in events if e.sound == cause):
            if slot < SLOTS and slot not in used:
                movers.append((slot, companion))
                used.add(slot)
                present.add(companion)
    return movers


def _blurred(rng: random.Random, visible: list[str], difficulty: Difficulty) -> tuple[str, ...]:
    if not visible or rng.random() >= difficulty.blurred:
        return ()
    rng.shuffle(visible)
    return tuple(visible[: 2 if rng.random() < difficulty.blurred_again else 1])
