"""Utterances of the embedded world: who says which words, and in what mood.

An utterance lasts four seconds in eight slots of one word at most. The mood lives in the prosody alone (pitch, its
slope, rate and loudness: `voices.py`), while every word has a mood of its own by its meaning: in a *themed* utterance
the words share one, which agrees with the prosody or contradicts it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SLOTS = 8
VOICES = ("ann", "bob", "kim")
MOODS = ("happy", "sad", "angry", "calm")
MEANING = {
    "party": "happy",
    "smile": "happy",
    "tears": "sad",
    "alone": "sad",
    "fight": "angry",
    "shout": "angry",
    "sleep": "calm",
    "quiet": "calm",
}
SAYINGS = tuple(MEANING)  # the words that can be said


@dataclass(frozen=True)
class Talk:
    """How an utterance is drawn: ranges of words and of voices, and what multiplies the noise of the recording.

    `themed` is the probability that the words share a mood by their meaning, `agree` that it is then the prosody's.
    """

    name: str
    words: tuple[int, int] = (2, 6)
    voices: tuple[int, int] = (1, 2)
    noise: float = 1.0
    themed: float = 0.0
    agree: float = 0.5


@dataclass(frozen=True)
class Said:
    """One word (`sound`) in one slot, said by a voice."""

    slot: int
    sound: str
    voice: str

    @property
    def name(self) -> str:
        """What a listener lists: the voice and the word, `ann party`."""
        return f"{self.voice} {self.sound}"


@dataclass(frozen=True)
class Utterance:
    """Everything there is to know about a clip of speech. `theme` is the mood that its words share, if they do."""

    seed: int
    events: tuple[Said, ...]
    mood: str
    theme: str | None
    noise: float

    @property
    def heard(self) -> list[str]:
        """Voices and words in order of time: `["ann party", "bob tears"]`."""
        return [said.name for said in self.events]


def draw_utterance(seed: int, talk: Talk) -> Utterance:
    """Draw the utterance of a seed. The same seed and talk always give the same utterance."""
    rng = random.Random(f"utterance {talk.name} {seed}")
    mood = rng.choice(MOODS)
    theme = _theme(rng, mood, talk.agree) if rng.random() < talk.themed else None
    count = rng.randint(*talk.words)
    events = draw_words(rng, count, rng.randint(*talk.voices), theme)
    return Utterance(seed, tuple(events), mood, theme, talk.noise)


def draw_words(rng: random.Random, count: int, voices: int, theme: str | None = None) -> list[Said]:
    """Draw `count` words, some of them twice, said by at most `voices` voices; all of one meaning under a `theme`."""
    pool = [word for word, mood in MEANING.items() if theme in (None, mood)]
    words = rng.sample(pool, min(count // 2 + 1, len(pool)))
    words += [rng.choice(words) for _ in range(count - len(words))]
    if theme is not None and count > 3 and rng.random() < 0.5:  # one word may stray from the theme
        words[-1] = rng.choice(SAYINGS)
    rng.shuffle(words)
    speakers = rng.sample(VOICES, voices)
    slots = sorted(rng.sample(range(SLOTS), count))
    return [Said(slot, word, rng.choice(speakers)) for slot, word in zip(slots, words, strict=True)]


def _theme(rng: random.Random, mood: str, agree: float) -> str:
    return mood if rng.random() < agree else rng.choice([m for m in MOODS if m != mood])
