"""The budget of a run: what was spent, what is under way and may still be, and what is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from earwitness.config import Budget
from earwitness.ledger import Spent, Usage, spent
from earwitness.prices import Price, Prices
from earwitness.table import RunError

BESIDE = 30.0


class BudgetReached(RunError):  # noqa: N818 - named for what it is
    """The next request might cost more than the budget leaves."""


@dataclass(frozen=True)
class Hold:
    """The most that a request under way may use."""

    tokens: int
    usd: float


class Purse:
    """Gives out the budget, request by request; used from many threads.

    `own` is the ledger that this process writes: what it says was spent, also on attempts that failed, is gone already.
    So is what the ledgers `beside` it say, those of other shards of the run; these are read again every `BESIDE`
    seconds, so that together they may overspend by what they spend meanwhile.
    """

    def __init__(
        self,
        budget: Budget,
        prices: Prices,
        own: Path | None = None,
        beside: Callable[[], Iterable[Path]] = tuple,
    ) -> None:
        self.budget, self._prices, self._others = budget, prices, beside
        self._spent = spent([own] if own is not None and own.exists() else [])
        self._beside, self._read = Spent(), -BESIDE
        self._held_tokens, self._held_usd, self._under_way = 0, 0.0, 0
        self._lock = threading.Lock()

    @property
    def spent(self) -> Spent:
        """What the run has spent so far, earlier sittings and other shards included."""
        return Spent(self._spent.tokens + self._beside.tokens, self._spent.usd + self._beside.usd)

    def price(self, model: str) -> Price | None:
        """Return what is known of a model's price. Raises RunError where a budget in USD could not be kept."""
        price = self._prices.get(model)
        if price is None and self.budget.usd:
            raise RunError(
                f"budget.usd is set, and the price of {model} is not known: name it in the file of budget.prices, "
                f'{{"{model}": {{"text": USD, "completion": USD}}}} per million tokens (0 for your own server)'
            )
        return price

    def take(self, tokens: int, price: Price | None) -> Hold | None:
        """Hold what a request may use; None where it does not fit beside what is under way, which may leave enough.

        Raises BudgetReached where it does not fit and nothing is under way.
        """
        hold = Hold(tokens, price.most(tokens) if price else 0.0)
        with self._lock:
            if (self.budget.usd or self.budget.tokens) and time.monotonic() - self._read > BESIDE:
                self._beside, self._read = spent(self._others()), time.monotonic()
            if self._fits(hold):
                self._held_tokens += hold.tokens
                self._held_usd += hold.usd
                self._under_way += 1
                return hold
            if self._under_way:
                return None
            raise BudgetReached(self._said(hold))

    def settle(self, hold: Hold, usage: Usage, untold: int, usd: float | None) -> None:
        """Put what a request used in the place of what was held for it."""
        used = (usage.prompt or 0) + (usage.completion or 0) + untold
        with self._lock:
            self._under_way -= 1
            self._held_tokens -= hold.tokens
            self._held_usd = self._held_usd - hold.usd if self._under_way else 0.0  # no rest of rounding
            self._spent = Spent(self._spent.tokens + used, self._spent.usd + (usd or 0.0))

    def _fits(self, hold: Hold) -> bool:
        tokens = self.spent.tokens + self._held_tokens + hold.tokens
        usd = self.spent.usd + self._held_usd + hold.usd
        return not (self.budget.tokens and tokens > self.budget.tokens) and not (
            self.budget.usd and usd > self.budget.usd
        )

    def _said(self, hold: Hold) -> str:
        lines = []
        if self.budget.usd:
            lines.append(
                f"{self.spent.usd:.4f} of {self.budget.usd:g} USD are spent, the next request may cost {hold.usd:.4f}"
            )
        if self.budget.tokens:
            lines.append(
                f"{self.spent.tokens} of {self.budget.tokens} tokens are used, the next request may use {hold.tokens}"
            )
        return (
            f"the budget is reached: {'; '.join(lines)}. What was answered is kept: with a larger budget.usd or "
            "budget.tokens the same command continues"
        )
