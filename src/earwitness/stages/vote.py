"""vote: self-consistency over a question's traces."""

from __future__ import annotations

from collections.abc import Sequence

from earwitness.answers import normalise
from earwitness.config import Vote
from earwitness.records import Ballot, Trace


def vote(traces: Sequence[Trace], settings: Vote) -> Ballot:
    """Return the answer with most votes and whether its share reaches the one asked for.

    Every trace counts in the denominator: one that was cut off or cannot be read disagrees with all. A tie goes to
    the answer that was given first.
    """
    cast = list(traces)[: settings.traces]
    behind: dict[str, list[int]] = {}
    spelled: dict[str, str] = {}
    for trace in cast:
        if trace.answer is not None:
            key = normalise(trace.answer, 2)
            behind.setdefault(key, []).append(trace.index)
            spelled.setdefault(key, trace.answer)
    if not behind:
        return Ballot(answer=None, share=0.0, indexes=(), agreed=False)
    winner = max(behind, key=lambda key: len(behind[key]))
    share = len(behind[winner]) / len(cast)
    return Ballot(
        answer=spelled[winner],
        share=round(share, 6),
        indexes=tuple(behind[winner]),
        agreed=share >= settings.share - 1e-9,
    )
