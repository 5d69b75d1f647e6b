"""How well the checker hears: calibrated on sounds that were mixed in, and on what the traces themselves claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from earwitness.claims import WHOLE_TRACE
from earwitness.records import Question, Verdict
from earwitness.report.wording import escaped, markdown_table, percent


def judged(
    variant: str, questions: Sequence[Question], verdicts_of: Callable[[Question], Sequence[Verdict]]
) -> list[dict[str, Any]]:
    """Return one entry on the claims that the checker judged, each once a clip; none where the truth is not known.

    `false_accept` is the share heard of those that claim an absent sound, `false_reject` the share not heard of the
    others. Used for measuring only.
    """
    verdicts = {
        (question.clip.id, claim.text): (claim.text in question.clip.sounds, claim.heard)
        for question in questions
        if question.clip.sounds is not None
        for verdict in verdicts_of(question)
        for claim in verdict.claims
        if claim.text != WHOLE_TRACE
    }
    absent = [heard for there, heard in verdicts.values() if not there]
    present = [heard for there, heard in verdicts.values() if there]
    if not verdicts:
        return []
    return [
        {
            "variant": variant,
            "claims": len(verdicts),
            "false_accept": sum(absent) / len(absent) if absent else None,
            "false_reject": 1 - sum(present) / len(present) if present else None,
        }
    ]


def section(checker: Mapping[str, Any], claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the report's section about the checker."""
    lines = ["## The checker", ""]
    if checker["n"]:
        lines += [
            f"A known sound was mixed into {checker['n']} clips, as loud as `verify.level` says: asked about it, the "
            f"checker missed {percent(checker['false_reject'])}. Asked about a sound that is foreign to the clip, it "
            f"heard {percent(checker['false_accept'])}.",
            "",
        ]
    else:
        lines += ["Not calibrated in this run.", ""]
    if not claims:
        return lines
    head = ["variant", "claims judged", "absent sounds that it heard", "sounds that it missed"]
    table = [
        [escaped(c["variant"]), str(c["claims"]), percent(c["false_accept"]), percent(c["false_reject"])]
        for c in claims
    ]
    told = "On what the traces claim, measured against the truth where it is known; nothing was chosen by it."
    return [*lines, told, "", *markdown_table(head, table), ""]
