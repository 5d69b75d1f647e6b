"""Asks a served model, many requests at a time: each is tried until it is answered, and paid once.

Callers wait in their own threads; one background thread runs the requests on an event loop. What is asked twice at the
same time is sent once, and what the ledger knows is not sent at all.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import aiohttp
from yarl import URL

from earwitness import __version__
from earwitness.config import Model
from earwitness.ledger import Attempt, Ledger
from earwitness.models.exchange import Unanswered
from earwitness.models.served.call import Answer, Call, ServerError
from earwitness.models.served.endpoint import Endpoint, backoff
from earwitness.models.served.purse import Hold, Purse
from earwitness.models.served.reply import REPLY_LIMIT, Ending, offered, read_reply

CONNECTING = 10.0  # seconds until nobody is thought to take a connection
NOBODY = 10.0  # seconds after which a server that never took a connection is thought not to be there
GONE = 180.0  # seconds after which a server that broke is thought to stay so
PATIENCE = 900.0  # seconds that a request, or a run, lets itself be put off by 429s
LEAVING = 0.05  # seconds until a request that does not fit the budget beside others looks again

Answers = dict[str, Answer]


class Engine:
    """The door to one served model at one or several addresses. `ask` may be called from any number of threads."""

    def __init__(self, spec: Model, ledger: Ledger | None, purse: Purse) -> None:
        self.spec = spec
        self.model = f"{spec.name}@{spec.revision}" if spec.revision else spec.name
        self._ledger, self._purse = ledger, purse
        self._price = purse.price(spec.name)
        self._key = read_key(spec)
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, ...], Future[Answers]] = {}
        self._loop = asyncio.new_event_loop()
        now = self._loop.time()
        limits = (spec.concurrency, spec.requests_per_minute, spec.tokens_per_minute)
        self._endpoints = [Endpoint(url, *limits, now) for url in spec.base_url]
        self._queue: deque[_Turn] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._first: float | None = None
        self._stopped: Exception | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"requests to {spec.name}", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open_session(), self._loop).result()

    def ask(self, calls: Sequence[Call]) -> list[list[Answer] | Unanswered]:
        """Return the answers to each call, or why there are none. Blocks until all are there, and on disk.

        Raises ServerError where the server cannot serve this run, BudgetReached where the budget does not allow the
        next request, RunError where the ledger's disk takes no more; what was under way is finished and kept first.
        """
        mine: list[tuple[Call, Future[Answers]]] = []
        results: list[Future[Answers]] = []
        with self._lock:
            if self._stopped is not None:
                raise self._stopped
            for call in calls:
                future = self._under_way.get(call.keys)
                if future is None:
                    future = self._under_way[call.keys] = Future()
                    mine.append((call, future))
                results.append(future)
        self._send_what_is_owed(mine)
        told: list[list[Answer] | Unanswered] = []
        error: BaseException | None = None
        for call, future in zip(calls, results, strict=True):
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

    def _send_what_is_owed(self, mine: Sequence[tuple[Call, Future[Answers]]]) -> None:
        """Answer from the ledger what it knows, and send the rest.

        Each call was marked as under way before the ledger is read, and is so until its answer is in the ledger: there is
        no moment in which somebody else would find it in neither.
        """
        try:
            keys = [key for call, _ in mine for key in call.keys]
            known = self._ledger.answered(keys) if self._ledger and keys else {}
        except BaseException as error:
            for call, future in mine:
                self._conclude(call, future, error)
            raise
        owed = []
        for call, future in mine:
            here = {key: known[key] for key in call.keys if key in known}
            if len(here) == len(set(call.keys)):
                self._conclude(call, future, here)
            else:
                owed.append((call, future, here))
        if owed:
            self._loop.call_soon_threadsafe(self._begin, owed)

    def _conclude(self, call: Call, future: Future[Answers], end: Answers | BaseException) -> None:
        with self._lock:
            self._under_way.pop(call.keys, None)
        if isinstance(end, BaseException):
            future.set_exception(end)
        else:
            future.set_result(end)

    # From here on everything runs on the loop's thread.

    async def _open_session(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers["User-Agent"] = f"earwitness/{__version__}"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECTING),
            trust_env=False,
            auto_decompress=False,
        )

    async def _end(self) -> None:
        self._stop(ServerError(f"the requests to {self.spec.name} were stopped"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def _begin(self, owed: Sequence[tuple[Call, Future[Answers], Answers]]) -> None:
        self._first = self._first or self._loop.time()
        for call, future, known in owed:
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
        began, last = self._loop.time(), None
        tries, delays, tried = 0, 0, []
        while True:
            endpoint, hold = await self._turn(call, last)
            ending, recorded = await self._attempt(call, endpoint, hold)
            if ending.then == "done":
                return dict(zip(call.keys, ending.answers, strict=True)), recorded
            if ending.then == "stop":
                error = await self._fatal(ending, endpoint)
                self._stop(error)
                raise error
            tried.append(ending.outcome)
            tries += ending.then == "again"
            late = self._loop.time() - began > PATIENCE and ending.then == "wait"
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
        while self._queue:
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
        ending = Ending("stopped", "stop", "served")
        try:
            ending = await self._send(call, endpoint)
        finally:
            now = self._loop.time()
            usage, untold = ending.usage, ending.untold(call)
            usd = None if self._price is None else self._price.of(usage) + self._price.most(untold)
            unused = call.tokens - untold - (usage.prompt or 0) - (usage.completion or 0)
            endpoint.end(ending.news, started, now, unused, ending.pause)
            self._purse.settle(hold, usage, untold, usd)
            attempt = Attempt(self.model, endpoint.place, ending.outcome, now - started, usage, untold, usd)
            answers = dict(zip(call.keys, ending.answers, strict=False))
            recorded = self._ledger.record(attempt, answers) if self._ledger else None
            if recorded is not None and not answers:
                recorded.add_done_callback(self._look_at_disk)
        self._look_around(now)
        self._dispatch()
        return ending, recorded

    async def _send(self, call: Call, endpoint: Endpoint) -> Ending:
        try:
            async with asyncio.timeout(self.spec.timeout):
                url = URL(endpoint.base_url + call.path, encoded=True)
                async with self._session.post(url, data=call.body, allow_redirects=False) as reply:
                    body = await _bounded(reply, REPLY_LIMIT)
                    if body is None:
                        words = f"a reply of more than {REPLY_LIMIT >> 20} MiB"
                        return Ending("too large", "drop", "served", words)
                    return read_reply(reply.status, reply.headers, body, call, self._key)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Ending("gone", "wait", "gone", _why(error))
        except TimeoutError:
            return Ending("hang", "again", "failed", f"no answer within {self.spec.timeout:g} s")
        except aiohttp.ClientPayloadError:
            return Ending("cut", "again", "failed", "the reply broke off")
        except (aiohttp.ClientError, OSError) as error:
            return Ending("reset", "again", "failed", f"the connection broke ({type(error).__name__})")

    def _look_at_disk(self, recorded: Future[None]) -> None:
        error = recorded.exception()
        if isinstance(error, Exception):
            self._loop.call_soon_threadsafe(self._stop, error)

    def _look_around(self, now: float) -> None:
        """Stop where nobody is there, or nobody wants to be asked for long, instead of failing every question."""
        places = ", ".join(endpoint.place for endpoint in self._endpoints)
        if not any(e.reached for e in self._endpoints) and now - (self._first or now) > NOBODY:
            mend = f"start the server of {self.spec.name}, or mend base_url"
            self._stop(ServerError(f"nobody answers at {places}: {mend}; {_ON}"))
        elif all(e.breaker.down_since is not None and now - e.breaker.down_since > GONE for e in self._endpoints):
            mend = f"see to the server of {self.spec.name}"
            self._stop(ServerError(f"{places} has failed for {GONE / 60:g} minutes: {mend}; {_ON}"))
        elif (pause := min(e.paused_until for e in self._endpoints) - now) > PATIENCE:
            self._stop(ServerError(f"{places} asks to be left alone for {pause / 60:.0f} minutes; then {_ON}"))

    async def _fatal(self, ending: Ending, endpoint: Endpoint) -> ServerError:
        """Return the error that says why a server's answer ends the run, and what would do."""
        status, place, said = ending.outcome, endpoint.place, f": {ending.words}" if ending.words else ""
        if status in ("401", "403"):
            which = f"the key in {self.spec.api_key_env}" if self.spec.api_key_env else "a request without a key"
            mend = "set the variable to a valid one" if self._key else "name its variable in api_key_env"
            return ServerError(f"{place} refuses {which} ({status}){said}. To go on, {mend}; {_ON}")
        if status in ("402", "429"):
            return ServerError(
                f"{place} says that the account's money or quota is used up ({status}){said}. Then {_ON}"
            )
        if status.startswith("3"):
            return ServerError(
                f"{place} redirects ({status}) {ending.words}, which is not followed: the key and the clips go to no "
                "other address than base_url"
            )
        names = await self._offered(endpoint)
        offers = f" It offers: {names}." if names else " base_url usually ends in /v1."
        return ServerError(
            f"{place} does not know the model {self.spec.name}, or not this path ({status}){said}.{offers}"
        )

    async def _offered(self, endpoint: Endpoint) -> str:
        try:
            async with asyncio.timeout(min(self.spec.timeout, CONNECTING)):
                url = URL(endpoint.base_url + "/models", encoded=True)
                async with self._session.get(url, allow_redirects=False) as reply:
                    body = await _bounded(reply, 2**20)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return ""
        return offered(body.replace(self._key.encode(), b"***") if self._key else body) if body else ""


_ON = "the same command continues, and nothing that was answered is asked again"


class _Turn:
    """A request in the queue: what it may use, the endpoint that failed it last, and the place that it waits for."""

    def __init__(self, tokens: int, avoid: Endpoint | None, come: asyncio.Future[tuple[Endpoint, Hold]]) -> None:
        self.tokens, self.avoid, self.come = tokens, avoid, come


def read_key(spec: Model) -> str:
    """Return the key of a model's server, empty where none is named. Raises ServerError naming the variable."""
    if not spec.api_key_env:
        return ""
    key = os.environ.get(spec.api_key_env, "").strip()
    if not key:
        raise ServerError(f"the environment variable {spec.api_key_env} (api_key_env of {spec.name}) is not set")
    if not (key.isascii() and key.isprintable()):
        raise ServerError(f"the environment variable {spec.api_key_env} holds characters that no key has")
    return key


async def _bounded(reply: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Return a response's body, None where it is larger than the limit (in bytes), however it is sent."""
    if (reply.content_length or 0) > limit:
        reply.close()
        return None
    parts, size = [], 0
    async for part in reply.content.iter_any():
        size += len(part)
        if size > limit:
            reply.close()
            return None
        parts.append(part)
    return b"".join(parts)


def _why(error: Exception) -> str:
    reason = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    said = getattr(reason, "strerror", None) or type(error).__name__
    return f"no connection ({said})"


def _said(call: Call, ending: Ending, endpoint: Endpoint, tried: Sequence[str]) -> str:
    """Return what a question's row says: the tries, and what the server said at last."""
    words = f": {ending.words}" if ending.words else ""
    last = f"{ending.outcome} from {endpoint.place}{words}"
    if ending.then == "drop":
        return f"{call.what}: {last}"
    counts: Mapping[str, int] = {kind: tried.count(kind) for kind in dict.fromkeys(tried)}
    summary = ", ".join(f"{kind} x {n}" if n > 1 else kind for kind, n in counts.items())
    return f"{call.what}: given up after {len(tried)} tries ({summary}); the last: {last}"
