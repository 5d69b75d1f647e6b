"""Asks a served model, many requests at a time: each is tried until it is answered, and paid once.

Callers wait in their own threads; one background thread runs the requests on an event loop. What is asked twice at the
same time is sent once, and what the ledger knows is not sent at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from earwitness.config import Model
from earwitness.ledger import Attempt, Ledger
from earwitness.models.exchange import Unanswered
from earwitness.models.served.call import Answer, Call, ServerError
from earwitness.models.served.endpoint import Endpoint, backoff
from earwitness.models.served.post import ON, Post
from earwitness.models.served.purse import Hold, Purse
from earwitness.models.served.reply import Ending

NOBODY = 10.0  # seconds after which a server that never took a connection is thought not to be there
GONE = 180.0  # seconds after which a server that broke is thought to stay so
PATIENCE = 900.0  # seconds that a request, or a run, lets itself be put off by 429s
LEAVING = 0.05  # seconds until a request that does not fit the budget beside others looks again

Answers = dict[str, Answer]


class Engine:
    """The door to one served model at one or several addresses. `ask` may be called from any number of threads.

    Raises ServerError where an address is none or the key is missing, RunError where a budget in USD meets no price.
    """

    def __init__(self, spec: Model, ledger: Ledger | None, purse: Purse) -> None:
        self.spec = spec
        self.model = f"{spec.name}@{spec.revision}" if spec.revision else spec.name
        self._ledger, self._purse = ledger, purse
        self._price = purse.price(spec.name)
        self._post = Post(spec)
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, ...], Future[Answers]] = {}
        self._loop = asyncio.new_event_loop()
        now = self._loop.time()
        limits = (spec.concurrency, spec.requests_per_minute, spec.tokens_per_minute)
        self._endpoints = [Endpoint(url, *limits, now) for url in spec.base_url]
        self._queue: deque[_Turn] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._served = now  # when something was answered last, or asked after a rest
        self._halted = False  # by what ends the run; `_stopped` says how, as soon as that is known
        self._stopped: Exception | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"requests to {spec.name}", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._post.open(), self._loop).result()

    def ask(self, calls: Iterable[Call]) -> list[list[Answer] | Unanswered]:
        """Return the answers to each call, or why there are none. Blocks until all are there, and on disk.

        Each call is sent as it comes, while the next one is made. Raises ServerError where the server cannot serve this
        run, BudgetReached where the budget does not allow the next request, RunError where the ledger's disk takes no
        more; what was under way is finished and kept first.
        """
        asked: list[tuple[Call, Future[Answers]]] = []
        error: BaseException | None = None
        for call in calls:
            try:
                asked.append((call, self._begun(call)))
            except Exception as stopped:
                error = stopped
                break
        told: list[list[Answer] | Unanswered] = []
        for call, future in asked:
            failure = future.exception()
            if isinstance(failure, Unanswered):
                told.append(failure)
            elif failure is not None:
                error = error or failure
            else:
                told.append([future.result()[key] for key in call.keys])
        if error is not None:
            raise error
        return told

    def close(self) -> None:
        """Stop at once: requests under way are dropped, and whoever waits for them gets a ServerError."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            with self._lock:
                for future in self._under_way.values():  # asked for while this was closing
                    if not future.done():
                        future.set_exception(self._stopped or ServerError("closed"))

    def _begun(self, call: Call) -> Future[Answers]:
        """Return the promise of a call's answers: that of one under way, or the ledger's, or that of one sent now.

        A call is marked as under way before the ledger is read, and is so until its answer is in the ledger: at no
        moment would somebody else find it in neither.
        """
        with self._lock:
            if self._stopped is not None:
                raise self._stopped
            future = self._under_way.get(call.keys)
            if future is not None:
                return future
            future = self._under_way[call.keys] = Future()
        try:
            known = self._ledger.answered(call.keys) if self._ledger else {}
        except BaseException as error:
            self._conclude(call, future, error)
            raise
        if len(known) == len(set(call.keys)):
            self._conclude(call, future, known)
        else:
            self._loop.call_soon_threadsafe(self._begin, call, future, known)
        return future

    def _conclude(self, call: Call, future: Future[Answers], end: Answers | BaseException) -> None:
        with self._lock:
            self._under_way.pop(call.keys, None)
            if future.done():  # this was closed before the ledger's thread came here
                return
            if isinstance(end, BaseException):
                future.set_exception(end)
            else:
                future.set_result(end)

    # From here on everything runs on the loop's thread.

    async def _end(self) -> None:
        self._stop(ServerError(f"the requests to {self.spec.name} were stopped"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._post.close()

    def _begin(self, call: Call, future: Future[Answers], known: Answers) -> None:
        if not self._tasks:
            self._served = self._loop.time()
        task = self._loop.create_task(self._settle(call, future, known))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, call: Call, future: Future[Answers], known: Answers) -> None:
        try:
            answers, recorded = await self._answer(call)
        except asyncio.CancelledError:
            self._conclude(call, future, self._stopped or ServerError("the request was stopped"))
            return
        except BaseException as error:
            self._conclude(call, future, error)
            return
        end = answers | known  # what was known first stands
        if recorded is None:
            self._conclude(call, future, end)
        else:
            recorded.add_done_callback(lambda done: self._conclude(call, future, done.exception() or end))

    async def _answer(self, call: Call) -> tuple[Answers, Future[None] | None]:
        """Try until there is an answer; return it with the ledger's promise to keep it."""
        last: Endpoint | None = None
        put_off: float | None = None  # since when
        tries, delays, tried = 0, 0, []
        while True:
            endpoint, hold = await self._turn(call, last)
            ending, recorded = await self._attempt(call, endpoint, hold)
            if ending.then == "done":
                return dict(zip(call.keys, ending.answers, strict=True)), recorded
            if recorded is not None:
                await asyncio.wrap_future(recorded)
            if ending.then == "stop":
                error = await self._post.fatal(ending, endpoint)
                self._stop(error)
                raise error
            tried.append(ending.outcome)
            tries += ending.then == "again"
            if ending.then == "wait":
                put_off = put_off or self._loop.time()
            late = put_off is not None and self._loop.time() - put_off > PATIENCE
            if ending.then == "drop" or tries >= self.spec.attempts or late:
                raise Unanswered(_said(call, ending, endpoint, tried))
            last = endpoint
            if ending.outcome != "gone" and not ending.pause:  # those two are the endpoint's own to wait for
                await asyncio.sleep(backoff(delays))
                delays += 1

    async def _turn(self, call: Call, avoid: Endpoint | None) -> tuple[Endpoint, Hold]:
        """Wait for a place at an endpoint (another than `avoid`, where there is a choice) and in the budget."""
        if self._stopped is not None:
            raise self._stopped
        turn = _Turn(call.tokens, avoid, self._loop.create_future())
        if avoid is None:
            self._queue.append(turn)
        else:
            self._queue.appendleft(turn)  # what was begun comes first
        self._dispatch()
        return await turn.come

    def _dispatch(self) -> None:
        """Give out the places that there are, in the queue's order; come back when the next one may be free."""
        now = self._loop.time()
        while self._queue and not self._halted:
            turn = self._queue[0]
            if turn.come.done():
                self._queue.popleft()
                continue
            waits = [endpoint.wait(turn.tokens, now) for endpoint in self._endpoints]
            ready = [endpoint for endpoint, wait in zip(self._endpoints, waits, strict=True) if not wait]
            if not ready:
                self._wake(min(waits))
                return
            try:
                hold = self._purse.take(turn.tokens, self._price)
            except Exception as error:
                self._stop(error)
                return
            if hold is None:
                self._wake(LEAVING)
                return
            endpoint = min(ready, key=lambda one: (one is turn.avoid, one.load))
            endpoint.start(turn.tokens, now)
            self._queue.popleft()
            turn.come.set_result((endpoint, hold))

    def _wake(self, seconds: float) -> None:
        """Dispatch again in so many seconds; infinitely many: when a request ends, which does it anyway."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds != float("inf"):
            self._timer = self._loop.call_later(seconds, self._dispatch)

    def _stop(self, error: Exception) -> None:
        """Send nothing any more: all that wait get this error, what is under way ends."""
        with self._lock:
            self._stopped = self._stopped or error
        while self._queue:
            turn = self._queue.popleft()
            if not turn.come.done():
                turn.come.set_exception(self._stopped)

    async def _attempt(self, call: Call, endpoint: Endpoint, hold: Hold) -> tuple[Ending, Future[None] | None]:
        """Send a request once, and put down how it ended: at the endpoint, in the budget, in the ledger."""
        started = self._loop.time()
        ending = Ending("stopped", "again", "served")
        try:
            ending = await self._post.send(call, endpoint)
        finally:
            now = self._loop.time()
            usage, untold = ending.usage, ending.untold(call)
            usd = None if self._price is None else self._price.of(usage) + self._price.most(untold)
            unused = call.tokens - untold - (usage.prompt or 0) - (usage.completion or 0)
            endpoint.end(ending.news, started, now, unused, ending.pause)
            self._purse.settle(hold, usage, untold, usd)
            attempt = Attempt(self.model, endpoint.place, ending.outcome, now - started, usage, untold, usd)
            answers = dict(zip(call.keys, ending.answers, strict=False))
            if ending.then == "done":
                self._served = now
            recorded = self._ledger.record(attempt, answers) if self._ledger else None
            self._look_around(ending, now)
            if recorded is None:
                self._free(endpoint, None)
            else:
                recorded.add_done_callback(partial(self._written, endpoint))
        return ending, recorded

    def _written(self, endpoint: Endpoint, recorded: Future[None]) -> None:
        """Free a request's place, on the ledger's thread.

        It was held until here, so that what a kill loses was under way, in the sense of `concurrency`.
        """
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(self._free, endpoint, recorded.exception())

    def _free(self, endpoint: Endpoint, error: BaseException | None) -> None:
        endpoint.leave()
        if isinstance(error, Exception):
            self._stop(error)  # a disk that takes no more: nothing further is paid
        self._dispatch()

    def _look_around(self, ending: Ending, now: float) -> None:
        """Stop where nobody is there, or nobody wants to be asked for long, instead of failing every question."""
        self._halted = self._halted or ending.then == "stop"
        news = ending.news
        places, name = ", ".join(endpoint.place for endpoint in self._endpoints), self.spec.name
        waited = now - self._served
        pause = min(endpoint.paused_until for endpoint in self._endpoints) - now
        down = [e.breaker.down_since for e in self._endpoints]
        if news == "gone" and not any(e.reached for e in self._endpoints) and waited > NOBODY:
            said = f"nobody answers at {places}: start the server of {name}, or mend base_url"
        elif waited > GONE and all(since is not None and now - since > GONE for since in down):
            said = f"{places} has failed for {GONE / 60:g} minutes: see to the server of {name}"
        elif pause > PATIENCE:
            said = f"{places} asks to be left alone for {pause / 60:.0f} minutes: wait as long"
        elif news == "refused" and waited > PATIENCE:
            said = f"{places} has refused everything for {PATIENCE / 60:g} minutes (429): see to the limits of {name}"
        else:
            return
        self._stop(ServerError(f"{said}; then {ON}"))


class _Turn:
    """A request in the queue: what it may use, the endpoint that failed it last, and the place that it waits for."""

    def __init__(self, tokens: int, avoid: Endpoint | None, come: asyncio.Future[tuple[Endpoint, Hold]]) -> None:
        self.tokens, self.avoid, self.come = tokens, avoid, come


def _said(call: Call, ending: Ending, endpoint: Endpoint, tried: Sequence[str]) -> str:
    """Return what a question's row says: the tries, and what the server said at last."""
    words = f": {ending.words}" if ending.words else ""
    last = f"{ending.outcome} from {endpoint.place}{words}"
    if ending.then == "drop":
        return f"{call.what}: {last}"
    counts: Mapping[str, int] = {kind: tried.count(kind) for kind in dict.fromkeys(tried)}
    summary = ", ".join(f"{kind} x {n}" if n > 1 else kind for kind, n in counts.items())
    return f"{call.what}: given up after {len(tried)} tries ({summary}); the last: {last}"
