"""Answers from a list: the likeliest, or drawn by how likely each is, with the log-probabilities they are drawn by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from earwitness.learn.noise import uniforms
from earwitness.models.exchange import Completion, Prompt
from earwitness.models.local import LocalModel
from earwitness.models.scoring import Scored, Scores
from earwitness.serve.asks import Ask
from earwitness.serve.refusals import Refused

Said = tuple[tuple[Completion, ...], tuple[Scores, ...]]
"""A request's completions, and the scores of each one's tokens."""
Path = tuple[int, ...]


def choose(local: LocalModel, asks: Sequence[Ask]) -> list[Said]:
    """Answer requests that have the same choices."""
    choices = asks[0].choices
    paths = [local.response_ids(choice) for choice in choices]
    if len(set(paths)) < len(paths) or any(len(path) < 2 for path in paths):
        raise Refused("choices must differ, and each must hold a word that the model knows")
    prompts = [ask.prompt for ask in asks if isinstance(ask.prompt, Prompt)]
    scores = local.choose(prompts, choices)
    return [_said(ask, paths, np.array(found)) for ask, found in zip(asks, scores, strict=True)]


def _said(ask: Ask, paths: Sequence[Path], scores: NDArray[np.float64]) -> Said:
    completions, scored = [], []
    for sample in range(ask.how.samples):
        number = drawn(scores, ask.how.temperature, uniforms(1, ask.seed, sample)[0])
        path = paths[number][: ask.how.max_tokens]
        whole = len(path) >= len(paths[number]) - 1  # the token that ends a turn is no part of the text
        text = ask.choices[number] if whole else ""
        completions.append(Completion(text, path, "stop" if path == paths[number] else "length"))
        if ask.likeliest is not None:
            scored.append(along(paths, scores, path, ask.likeliest))
    return tuple(completions), tuple(scored)


def drawn(scores: NDArray[np.float64], temperature: float, noise: float) -> int:
    """Return which of some choices is taken: the likeliest (temperature 0), or by inverting their distribution."""
    if not temperature:
        return int(scores.argmax())
    softened = scores / temperature
    shares = np.exp(softened - softened.max()).cumsum()
    return int(np.searchsorted(shares, min(noise, 1 - 1e-12) * shares[-1], side="right"))


def along(paths: Sequence[Path], scores: NDArray[np.float64], path: Path, likeliest: int) -> Scores:
    """Return the scores of a path's tokens among all paths: each given what was said before it.

    The log-probabilities of a whole path's tokens add up to its choice's own among the choices.
    """
    found = []
    for depth, token in enumerate(path):
        open_here = [n for n, other in enumerate(paths) if other[:depth] == path[:depth]]
        whole = np.logaddexp.reduce(scores[open_here])
        by_token: dict[int, list[int]] = {}
        for n in open_here:
            by_token.setdefault(paths[n][depth], []).append(n)
        logprobs = {t: float(np.logaddexp.reduce(scores[ns]) - whole) for t, ns in by_token.items()}
        ranked = sorted(logprobs.items(), key=lambda item: (-item[1], item[0]))
        rank = 1 + sum(logprob > logprobs[token] for logprob in logprobs.values())
        found.append(Scored(token, logprobs[token], rank, tuple(ranked[:likeliest])))
    return tuple(found)
