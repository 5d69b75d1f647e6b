"""One thread that owns a model, and the queue before it: what waits and is alike is answered together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from earwitness.serve.asks import Ask, Reply
from earwitness.serve.refusals import Refused

MOST_WAITING = 256
MOST_TOGETHER = 64  # samples in a batch of several requests


@dataclass(frozen=True)
class Waiting:
    """A request, or something else to do with the model, and where its outcome goes."""

    what: Ask | Callable[[], Any]
    outcome: Future[Any]


class Engine:
    """Does in one thread, in their order, what requests ask of a model.

    `answer` takes requests that are alike and returns a reply or a reason for each. A request whose outcome was
    cancelled before its turn is dropped.
    """

    def __init__(self, answer: Callable[[Sequence[Ask]], list[Reply | Exception]]) -> None:
        self._answer = answer
        self._queue: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, ask: Ask) -> Future[Reply]:
        """Queue a request. Raises Refused (429) where too many are waiting."""
        return self._put(ask)

    def do(self, what: Callable[[], Any]) -> Future[Any]:
        """Queue something else to be done with the model, after all that is waiting."""
        return self._put(what)

    def close(self) -> None:
        """Do what is waiting, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _put(self, what: Ask | Callable[[], Any]) -> Future[Any]:
        with self._changed:
            if self._closing:
                raise Refused("the server is closing", 503)
            if len(self._queue) >= MOST_WAITING:  # whoever left does not count
                self._queue = deque(waiting for waiting in self._queue if not waiting.outcome.cancelled())
            if isinstance(what, Ask) and len(self._queue) >= MOST_WAITING:
                raise Refused(f"{MOST_WAITING} requests are waiting already: try again later", 429, "queue_full")
            waiting = Waiting(what, Future())
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.outcome

    def _work(self) -> None:
        while batch := self._next():
            asks = [waiting.what for waiting in batch if isinstance(waiting.what, Ask)]
            if asks:
                self._reply(batch, asks)
            else:
                self._do(batch[0])

    def _next(self) -> list[Waiting]:
        """Wait for work and return what is done next, all at once; nothing where the end has come."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return []
                if batch := [w for w in self._taken() if w.outcome.set_running_or_notify_cancel()]:
                    return batch

    def _taken(self) -> list[Waiting]:
        """Take the first in the queue, and behind a request those like it, up to anything that is no request."""
        first = self._queue.popleft()
        if not isinstance(first.what, Ask) or first.outcome.cancelled():
            return [first]
        batch, left, samples = [first], deque[Waiting](), first.what.how.samples
        while self._queue:
            waiting = self._queue.popleft()
            if not isinstance(waiting.what, Ask):
                left.append(waiting)
                break
            fits = samples + waiting.what.how.samples <= MOST_TOGETHER
            if fits and waiting.what.alike == first.what.alike:
                batch.append(waiting)
                samples += waiting.what.how.samples
            else:
                left.append(waiting)
        self._queue = left + self._queue
        return batch

    def _reply(self, batch: Sequence[Waiting], asks: Sequence[Ask]) -> None:
        try:
            replies = self._answer(asks)
        except Exception as error:
            if len(batch) == 1:
                batch[0].outcome.set_exception(error)
                return
            for waiting, ask in zip(batch, asks, strict=True):  # one of them is to blame: the others are served
                self._reply([waiting], [ask])
            return
        for waiting, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception):
                waiting.outcome.set_exception(reply)
            else:
                waiting.outcome.set_result(reply)

    def _do(self, waiting: Waiting) -> None:
        assert not isinstance(waiting.what, Ask)
        try:
            waiting.outcome.set_result(waiting.what())
        except Exception as error:
            waiting.outcome.set_exception(error)
