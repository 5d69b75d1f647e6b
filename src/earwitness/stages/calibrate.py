"""calibrate: how well the checker hears, measured without gold answers.

A known sound is mixed into the clip; claiming it is true, and claiming a sound foreign to the clip is false. What the
checker says to both gives its rates of false rejection and false acceptance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earwitness.config import Model, Verify
from earwitness.learn.noise import generator
from earwitness.media import MediaError
from earwitness.models import connected
from earwitness.models.exchange import OF_THE_QUESTION, Prompt, Voice
from earwitness.prompts import fill, template
from earwitness.records import Claim, Question
from earwitness.sources.bank import open_bank
from earwitness.sources.clips import load_sound
from earwitness.stages.asking import failure
from earwitness.stages.verify import noisy, yes_scores
from earwitness.table import Failed

MIXED, FOREIGN = 0, 1  # the places of the two claims in a row


@dataclass(frozen=True)
class CalibrateChecker:
    """Judges one true and one false claim about each clip of a block; `claimed` sounds are never mixed in."""

    checker: Model
    settings: Verify
    seed: int

    def __call__(self, block: Sequence[tuple[Question, tuple[str, ...]]]) -> list[list[Claim] | Failed]:
        """Return the claim of the mixed-in sound and the claim of a foreign one, in this order."""
        model = connected(self.checker, "checker")
        return [self._listen(model, question, claimed) for question, claimed in block]

    def _listen(self, model: Voice, question: Question, claimed: tuple[str, ...]) -> list[Claim] | Failed:
        bank = open_bank(self.settings.bank, question.clip)
        rng = generator(self.seed, "calibrate", question.id)
        present = set(claimed) | set(question.clip.sounds or ())
        names = [name for name in bank.names if name not in present]
        if len(names) < 2:
            return Failed("the bank holds no two sounds that are foreign to this clip")
        mixed, foreign = rng.permutation(names)[:2].tolist()
        try:
            wave = mix(load_sound(question.clip), bank.sound(mixed, rng), self.settings.level, rng)
            if self.settings.noise is not None:
                wave = noisy(wave, self.settings.noise, question.clip.id)
            text = template(model.manner, "claim")
            prompts = [Prompt(fill(text, claim=name), question.clip, wave=wave) for name in (mixed, foreign)]
            scores = yes_scores(model, prompts)
        except OF_THE_QUESTION as error:
            return failure(error, question.clip)
        threshold = self.settings.threshold
        return [Claim(text=n, score=s, heard=s >= threshold) for n, s in zip((mixed, foreign), scores, strict=True)]


def mix(
    wave: NDArray[np.float32], added: NDArray[np.float32], level: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add a sound to a waveform at a random place, `level` decibels below the waveform's root mean square."""
    if not len(wave) or not len(added):
        raise MediaError("an empty sound cannot be mixed")
    added = added[: len(wave)]
    loudness = float(np.sqrt((wave**2).mean())) or 0.05
    scaled = added / (float(np.sqrt((added**2).mean())) + 1e-9) * loudness * 10 ** (-level / 20)
    start = int(rng.integers(len(wave) - len(added) + 1))
    mixed = wave.copy()
    mixed[start : start + len(added)] += scaled
    return np.clip(mixed, -1, 1).astype(np.float32)


def rates(rows: Sequence[Sequence[Claim]]) -> dict[str, float | int | None]:
    """Return `false_accept`, `false_reject` and `n` over calibration rows (None without any)."""
    if not rows:
        return {"false_accept": None, "false_reject": None, "n": 0}
    return {
        "false_accept": sum(row[FOREIGN].heard for row in rows) / len(rows),
        "false_reject": sum(not row[MIXED].heard for row in rows) / len(rows),
        "n": len(rows),
    }
