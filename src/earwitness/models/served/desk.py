"""What this process needs to ask served models: one ledger, one budget, and an engine per model and address."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from earwitness.config import Budget, Model, RunConfig
from earwitness.ledger import Ledger
from earwitness.models.exchange import Unanswered
from earwitness.models.served.call import Answer, Call, ServerError
from earwitness.models.served.engine import Engine
from earwitness.models.served.purse import Purse
from earwitness.models.served.reading import is_refusal
from earwitness.prices import load_prices

LEDGERS = "ledger*.sqlite"
OWN_LIMITS = {
    *("name", "revision", "base_url", "api_key_env", "concurrency"),
    *("requests_per_minute", "tokens_per_minute", "timeout", "attempts"),
}


class Desk:
    """The ledger (None: nothing is kept), the purse, and the engines, which are started when first asked for."""

    def __init__(self, ledger: Ledger | None, purse: Purse, first: Callable[[], None] | None = None) -> None:
        self.ledger, self.purse = ledger, purse
        self._first: Callable[[], None] | None = first
        self._refused: Exception | None = None
        self._engines: dict[str, Engine] = {}
        self._aside: list[Desk] = []
        self.closed = False
        self._lock, self._beginning = threading.Lock(), threading.Lock()

    def ask(self, spec: Model, calls: Iterable[Call]) -> list[list[Answer] | Unanswered]:
        """Ask a served model; each call is sent as it comes.

        Before the first request of all `first` is called, and what it raises keeps all back.
        """
        rest = iter(calls)
        some = list(islice(rest, 1))
        if not some:
            return []
        with self._beginning:
            self._begin()
        return self.engine(spec).ask(chain(some, rest))

    def _begin(self) -> None:
        if self._refused is not None:
            raise self._refused
        first, self._first = self._first, None
        try:
            if first is not None:
                first()
        except Exception as error:
            self._refused = error
            raise

    def engine(self, spec: Model) -> Engine:
        """Return the engine of a served model: one for all roles that name it alike.

        Raises ServerError where this was closed: whoever still asks was left behind by a run that stopped.
        """
        key = spec.model_dump_json(include=OWN_LIMITS)
        with self._lock:
            if self.closed:
                raise ServerError(f"the requests to {spec.name} were stopped")
            if key not in self._engines:
                self._engines[key] = Engine(spec, self.ledger, self.purse)
            return self._engines[key]

    def aside(self, purse: Purse) -> Desk:
        """Return a desk without a ledger, for tests; it is closed with this one at the latest."""
        desk = Desk(None, purse)
        with self._lock:
            self._aside.append(desk)
            desk.closed = self.closed
        return desk

    def close(self) -> None:
        """Stop the engines, then close the ledger."""
        with self._lock:
            self.closed = True
            while self._aside:
                self._aside.pop().close()
            while self._engines:
                self._engines.popitem()[1].close()
        if self.ledger is not None:
            self.ledger.close()


_open: list[Desk] = []
_plain = threading.Lock()


def current_desk() -> Desk:
    """Return this process's desk: the one opened last, or one without ledger and budget where none is open."""
    with _plain:
        if _open and _open[-1].closed:
            _open.pop()
        if not _open:
            _open.append(Desk(None, Purse(Budget(), load_prices())))
            atexit.register(_open[-1].close)
        return _open[-1]


@contextlib.contextmanager
def open_desk(
    config: RunConfig,
    root: Path,
    name: str,
    part: str = "",
    first: Callable[[], None] | None = None,
    again: bool = False,
) -> Iterator[Desk]:
    """Open the desk of a run, or of the shard whose files end in `part`, and make it the current one.

    The ledger is `ROOT/NAME/ledger{part}.sqlite`; what other runs below ROOT were answered is not asked again. A
    configuration without served models gets a desk without a ledger. `first` is called before the first request.
    `again`: what servers refused to answer is asked once more.
    """
    served = any(spec.base_url for spec in config.models.values())
    with _opened(root / name, config.budget, part, served, first) as desk:
        if again and desk.ledger is not None:
            desk.ledger.forget(is_refusal)
        yield desk


@contextlib.contextmanager
def desk_of_worker(run: Path, budget: Budget, part: str) -> Iterator[Desk]:
    """Open a desk with a ledger of its own for work that a run hands to this process; in the driver it is the run's."""
    if any(desk.ledger is not None for desk in _open):
        yield current_desk()
        return
    with _opened(run, budget, part, True, None) as desk:
        yield desk


@contextlib.contextmanager
def _opened(folder: Path, budget: Budget, part: str, keeps: bool, first: Callable[[], None] | None) -> Iterator[Desk]:
    own = folder / f"ledger{part}.sqlite"
    purse = Purse(budget, load_prices(budget.prices), own, lambda: [p for p in folder.glob(LEDGERS) if p != own])
    ledger = Ledger(own, folder.parent.glob(f"*/{LEDGERS}"), shared="-of-" in part) if keeps else None
    desk = Desk(ledger, purse, first)
    _open.append(desk)
    try:
        yield desk
    finally:
        _open.remove(desk)
        desk.close()
