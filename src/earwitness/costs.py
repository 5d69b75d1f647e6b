"""What a run asked of served models and what that cost, from all ledgers in its folder: every sitting, every shard."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from earwitness.ledger import read
from earwitness.table import RunError
from earwitness.terminal import clean

ATTEMPTS = """
SELECT model, outcome, count(*), sum(seconds), sum(prompt), sum(completion), sum(audio), sum(cached),
    sum(untold), sum(untold > 0), sum(usd), sum(usd IS NULL)
FROM attempts GROUP BY model, outcome"""
ANSWERS = "SELECT model, count(*) FROM answers JOIN attempts ON attempts.id = answers.attempt GROUP BY model"


@dataclass
class Cost:
    """What one model was asked: attempts by how they ended, tokens and seconds by name, USD where known."""

    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    answers: int = 0
    seconds: float = 0.0
    usd: float = 0.0


def costs(folder: Path) -> dict[str, Cost]:
    """Return the costs of a run by model. Raises RunError for a folder without a ledger."""
    ledgers = sorted(folder.glob("ledger*.sqlite"))
    if not ledgers:
        raise RunError(f"{folder} holds no ledger: it is no run's folder, or the run has asked no served model yet")
    found: dict[str, Cost] = defaultdict(Cost)
    names = ("prompt", "completion", "audio", "cached", "untold", "silent")
    for model, outcome, number, seconds, *tokens, usd, unpriced in read(ledgers, ATTEMPTS):
        cost = found[model]
        cost.outcomes[outcome] += number
        cost.seconds += seconds
        cost.usd += usd or 0.0
        cost.counts["unpriced"] += unpriced
        for name, count in zip(names, tokens, strict=True):
            cost.counts[name] += count or 0
    for model, answers in read(ledgers, ANSWERS):
        found[model].answers += answers
    return dict(sorted(found.items()))


def costs_text(folder: Path) -> str:
    """Return the costs of a run for people."""
    parts = ["\n  ".join([clean(model), *_lines(cost)]) for model, cost in costs(folder).items()]
    return "\n\n".join(parts) or "nothing was asked of served models yet"


def _lines(cost: Cost) -> list[str]:
    counts, attempts = cost.counts, sum(cost.outcomes.values())
    calls = cost.outcomes.get("answered", 0)
    ends = sorted(cost.outcomes.items(), key=lambda item: (item[0] != "answered", -item[1], item[0]))
    tokens = f"{counts['prompt']} of prompts ({counts['audio']} sound, {counts['cached']} cached), "
    tokens += f"{counts['completion']} of completions"
    if counts["silent"]:
        tokens += f", and at most {counts['untold']} in {counts['silent']} attempts whose usage the server did not tell"
    return [
        f"calls     {calls} answered, with {cost.answers} answers",
        f"attempts  {attempts}: " + ", ".join(f"{number} {clean(outcome)}" for outcome, number in ends),
        f"tokens    {tokens}",
        f"USD       {_usd(cost, attempts)}",
        f"seconds   {cost.seconds:.1f} of waiting for the server, {cost.seconds / attempts:.2f} an attempt",
    ]


def _usd(cost: Cost, attempts: int) -> str:
    unpriced = cost.counts["unpriced"]
    if unpriced == attempts:
        return "no price known (a file named by budget.prices can tell)"
    said = f"{cost.usd:.4f}" + (", what was not told counted at its most" if cost.counts["silent"] else "")
    return said + (f"; {unpriced} attempts were made without a known price" if unpriced else "")
