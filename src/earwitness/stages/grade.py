"""grade: right or wrong. The first place where a gold answer is read (the marked pools `gold` and `given` excepted)."""

from __future__ import annotations

from earwitness.answers import normalise, same
from earwitness.claims import listed
from earwitness.records import Grade, Question, Reply


def grade(question: Question, reply: Reply | None, lists: bool = True) -> Grade:
    """Grade a reply; None (the question could not be asked) is wrong and unparsed.

    A reply hallucinates when it claims a sound that is not in the clip, where the clip's sounds are known. `lists`
    says whether it was asked to list what it hears: of other reasoning it is not known what it claims.
    """
    if reply is None:
        return Grade(right=False, parsed=False, truncated=False, claims=(), hallucinated=None)
    claims = listed(reply.think)
    known = question.clip.sounds
    absent = None
    if lists and known is not None and reply.think is not None:
        truth = {normalise(sound, 2) for sound in known}
        absent = any(normalise(claim, 2) not in truth for claim in claims)
    right = reply.answer is not None and question.answer is not None and same(reply.answer, question.answer)
    return Grade(
        right=right,
        parsed=reply.answer is not None,
        truncated=reply.finish == "length",
        claims=claims,
        hallucinated=absent,
    )
