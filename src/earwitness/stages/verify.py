"""verify: audio-grounded fact verification. The checker, which hears the sound, judges what the traces claim."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from earwitness.claims import MOST, WHOLE_TRACE, listed
from earwitness.config import Model, Verify
from earwitness.learn.noise import generator
from earwitness.models import connected
from earwitness.models.exchange import (
    OF_THE_QUESTION,
    Completion,
    Drawing,
    Prompt,
    PromptError,
    Unanswered,
    Unclear,
    Voice,
)
from earwitness.prompts import fill, template
from earwitness.records import Claim, Clip, Question, Trace, Verdict
from earwitness.sources.clips import load_sound
from earwitness.stages.asking import failure
from earwitness.table import Failed

YES_NO = ("yes", "no")
TOGETHER = 32  # claims that are put to the checker in one forward pass
EXTRACT = 512  # tokens of a list of claims
NO_CLAIMS = "claims no sound"
TOO_MANY = f"claims {MOST} sounds or more, which is no list of what is heard"  # and those beyond are not judged
NO_THINKING = "has no reasoning to verify"
NOT_HEARD = "claims what is not heard: "


Extracted = Mapping[tuple[object, ...], list[Completion] | Exception]
"""What was said of the claims of traces, by ("extract", question, trace)."""


@dataclass(frozen=True)
class VerifyTraces:
    """Judges the traces of each question of a block. With `extractor` the claims come from a call to that model."""

    checker: Model
    settings: Verify
    extractor: Model | None = None

    def __call__(self, block: Sequence[tuple[Question, list[Trace]]]) -> list[list[Verdict] | Failed]:
        """Return a verdict per trace, or why a question has none."""
        model = connected(self.checker, "checker")
        extracted = self._extracted(model, block)
        return [self._judge(model, question, traces, extracted) for question, traces in block]

    def _judge(
        self, model: Voice, question: Question, traces: list[Trace], extracted: Extracted
    ) -> list[Verdict] | Failed:
        try:
            sound = self._hearable(model, question)
            if self.settings.unit == "trace":
                return [self._whole(model, sound, trace) for trace in traces]
            claims = [self._claims(question, trace, extracted) for trace in traces]
            scores = score_claims(model, sound, sorted({c for cs in claims for c in cs}))
        except OF_THE_QUESTION as error:
            return failure(error, question.clip)
        return [self._verdict(trace, cs, scores, model.name) for trace, cs in zip(traces, claims, strict=True)]

    def _hearable(self, model: Voice, question: Question) -> Prompt:
        """Return what the checker hears. A clip that cannot be heard fails, whatever is claimed of it."""
        sound = heard_as(question.clip, self.settings.noise)
        model.check(replace(sound, text="?"))
        return sound

    def _extracted(self, model: Voice, block: Sequence[tuple[Question, list[Trace]]]) -> Extracted:
        """Ask for the claims of all traces of a block at once: one by one, a server would idle in between."""
        if self.extractor is None:
            return {}
        teller = connected(self.extractor, "textual_teacher")
        keys: list[tuple[object, ...]] = []
        prompts = []
        for question, traces in block:
            with contextlib.suppress(*OF_THE_QUESTION):  # nothing is paid for a clip that cannot be heard
                self._hearable(model, question)
                for trace in traces:
                    if trace.think is not None:
                        keys.append(("extract", question.id, trace.index))
                        prompts.append(Prompt(fill(template(teller.manner, "extract"), trace=trace.think)))
        told = teller.draw(prompts, Drawing(max_tokens=EXTRACT), keys) if prompts else []
        return dict(zip(keys, told, strict=True))

    def _claims(self, question: Question, trace: Trace, extracted: Extracted) -> tuple[str, ...]:
        if self.extractor is None or trace.think is None:
            return listed(trace.think)
        told = extracted["extract", question.id, trace.index]
        if isinstance(told, Exception):
            raise told
        if told[0].finish == "length":  # what was cut off would pass without being heard
            raise Unanswered(f"the claims of trace {trace.index} were cut off after {EXTRACT} tokens")
        return listed(told[0].text)

    def _whole(self, model: Voice, sound: Prompt, trace: Trace) -> Verdict:
        if trace.think is None:
            return Verdict(index=trace.index, claims=(), accepted=False, reason=NO_THINKING, by=model.name)
        prompt = replace(sound, text=fill(template(model.manner, "trace"), trace=trace.think))
        score = yes_scores(model, [prompt])[0]
        heard = score >= self.settings.threshold
        claim = Claim(text=WHOLE_TRACE, score=score, heard=heard)
        reason = "" if heard else NOT_HEARD + claim.text
        return Verdict(index=trace.index, claims=(claim,), accepted=heard, reason=reason, by=model.name)

    def _verdict(self, trace: Trace, texts: tuple[str, ...], scores: dict[str, float], by: str) -> Verdict:
        claims = tuple(Claim(text=t, score=scores[t], heard=scores[t] >= self.settings.threshold) for t in texts)
        unheard = [c.text for c in claims if not c.heard]
        if trace.think is None:
            reason = NO_THINKING
        elif not claims and not self.settings.accept_without_claims:
            reason = NO_CLAIMS
        elif len(claims) >= MOST:
            reason = TOO_MANY
        else:
            reason = NOT_HEARD + ", ".join(unheard) if unheard else ""
        return Verdict(index=trace.index, claims=claims, accepted=not reason, reason=reason, by=by)


class Listener:
    """The checker as it judges what a student claims in practice, where the same claims come again and again."""

    def __init__(self, checker: Model, settings: Verify) -> None:
        self.model, self.settings = connected(checker, "checker"), settings
        self._scores: dict[tuple[Clip, str], float] = {}

    def hears(self, question: Question) -> Failed | None:
        """Return why the checker cannot hear a question's clip, None where it can."""
        try:
            self.model.check(replace(self._sound(question), text="?"))
        except OF_THE_QUESTION as error:
            return failure(error, question.clip)
        return None

    def accepts(self, question: Question, thinks: Sequence[str | None]) -> list[bool]:
        """Return for each chain of thought whether all that it claims is heard, by the rules of `verify`."""
        claims = [listed(think) for think in thinks]
        clip = question.clip
        new = sorted({c for cs in claims for c in cs if (clip, c) not in self._scores})
        self._scores |= {(clip, claim): score for claim, score in self._judge(question, new).items()}
        heard = [[self._scores[clip, c] >= self.settings.threshold for c in cs] for cs in claims]
        silent = self.settings.accept_without_claims
        return [
            think is not None and all(known) and (bool(known) or silent) and len(known) < MOST
            for think, known in zip(thinks, heard, strict=True)
        ]

    def _judge(self, question: Question, claims: list[str]) -> dict[str, float]:
        """Score claims; one that cannot be put to the checker, or that it says neither yes nor no to, is not heard.

        Practice draws the same samples whenever it goes on: it would not get past such a claim.
        """
        if not claims:
            return {}
        askable = [claim for claim in claims if self._can_be_asked(claim)]
        sound, scores = self._sound(question), dict.fromkeys(claims, 0.0)
        try:
            return scores | score_claims(self.model, sound, askable)
        except Unclear:
            for claim in askable:
                with contextlib.suppress(Unclear):
                    scores |= score_claims(self.model, sound, [claim])
        return scores

    def _can_be_asked(self, claim: str) -> bool:
        try:
            self.model.check(Prompt(claim))
        except PromptError:
            return False
        return True

    def _sound(self, question: Question) -> Prompt:
        return heard_as(question.clip, self.settings.noise)


def heard_as(clip: Clip, noise: float | None) -> Prompt:
    """Return a prompt, still without words, of what a checker hears of a clip: itself, or as much noise above it."""
    if noise is None:
        return Prompt("", clip)
    return Prompt("", clip, wave=noisy(load_sound(clip), noise, clip.id))


def noisy(wave: NDArray[np.float32], level: float, key: str) -> NDArray[np.float32]:
    """Add white noise to a waveform, `level` decibels above its root mean square: the same for the same key."""
    loudness = float(np.sqrt((wave**2).mean())) * 10 ** (level / 20)
    drawn = generator("noise", key).standard_normal(len(wave))
    return np.clip(wave + loudness * drawn, -1, 1).astype(np.float32)


def score_claims(model: Voice, sound: Prompt, claims: Sequence[str]) -> dict[str, float]:
    """Return the checker's score of each claim about what it hears."""
    text = template(model.manner, "claim")
    prompts = [replace(sound, text=fill(text, claim=claim)) for claim in claims]
    return dict(zip(claims, yes_scores(model, prompts), strict=True))


def yes_scores(model: Voice, prompts: Sequence[Prompt]) -> list[float]:
    """Return p(yes) / (p(yes) + p(no)) of each prompt, rounded to four digits."""
    parts = [prompts[start : start + TOGETHER] for start in range(0, len(prompts), TOGETHER)]
    scores = [score for part in parts for score in model.choose(part, YES_NO)]
    return [round(1 / (1 + math.exp(min(no - yes, 700.0))), 4) for yes, no in scores]
