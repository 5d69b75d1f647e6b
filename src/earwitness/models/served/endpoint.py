"""One address of a model: how many requests it gets at once and per minute, and when it is left alone for a while.

Nothing here waits: an endpoint is told what happened and when (seconds of one clock), and says how long a request
would have to wait. Only the engine's loop touches it.
"""

from __future__ import annotations

import datetime
import email.utils
import random
from collections import deque
from typing import Literal
from urllib.parse import urlsplit

from earwitness.models.served.call import ServerError

News = Literal["served", "refused", "strained", "failed", "gone"]
"""How a request ended for its endpoint: it worked; too many at once; no room or no end; it broke; nobody took it."""

UNLIMITED = 64  # requests under way at one address where the configuration sets no number
TOLERATED = 0.2  # share of refusals and strain that leaves the pace as it is: a flaky server is not a full one
SLOWER = 0.7
RECENT = 20  # outcomes that a breaker looks at
ENOUGH = 10  # outcomes without which it does not judge
COOLING, COOLED = 0.5, 30.0  # seconds until a broken endpoint is tried again: at first, and at most
LONGEST = 7 * 24 * 3600.0  # seconds; what a Retry-After beyond this says is this


class Bucket:
    """What may flow per minute (0: any amount), with ten seconds' worth at once."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.rate = per_minute / 60
        self.capacity = max(1.0, per_minute / 6)
        self.level, self.seen = self.capacity, now

    def wait(self, need: float, now: float) -> float:
        """Return the seconds until `need` may be taken. More than the capacity is let through once it is full."""
        if not self.rate:
            return 0.0
        self._fill(now)
        return max(0.0, (min(need, self.capacity) - self.level) / self.rate)

    def take(self, need: float, now: float) -> None:
        """Take `need`, in debt if must be; a negative one gives back."""
        if self.rate:
            self._fill(now)
            self.level = min(self.capacity, self.level - need)

    def _fill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.seen) * self.rate)
        self.seen = now


class Breaker:
    """Opens when more than half of the recent requests failed, or nobody took one; then lets single ones try."""

    def __init__(self) -> None:
        self.recent: deque[bool] = deque(maxlen=RECENT)
        self.down_since: float | None = None
        self.until, self.cooling, self.trying = 0.0, COOLING, False

    def wait(self, now: float) -> float:
        """Return the seconds until a request may try; infinite while another one is trying."""
        if self.down_since is None:
            return 0.0
        return float("inf") if self.trying else max(0.0, self.until - now)

    def start(self) -> None:
        """Say that a request tries."""
        self.trying = self.down_since is not None

    def worked(self) -> None:
        """Say that the server answered, if only to refuse."""
        if self.down_since is not None:
            self.recent.clear()
        self.recent.append(False)
        self.down_since, self.cooling, self.trying = None, COOLING, False

    def failed(self, now: float, gone: bool) -> None:
        """Say that a request failed; `gone`: the connection was not even taken."""
        self.recent.append(True)
        if self.down_since is not None:
            if self.trying:  # not one that was under way when it broke
                self.cooling = min(COOLED, 2 * self.cooling)
                self.until, self.trying = now + self.cooling, False
        elif gone or (len(self.recent) >= ENOUGH and sum(self.recent) > len(self.recent) / 2):
            self.down_since, self.until = now, now + self.cooling


class Endpoint:
    """The state of one base URL. `place` is its host and port, all that messages and ledgers say of it."""

    def __init__(self, base_url: str, most: int, requests: int, tokens: int, now: float) -> None:
        self.base_url, self.place = base_url.rstrip("/"), place_of_url(base_url)
        self.most = most or UNLIMITED
        self.pace = float(self.most)  # requests under way that it seems to bear
        self.under_way = 0
        self.requests, self.tokens = Bucket(requests, now), Bucket(tokens, now)
        self.breaker = Breaker()
        self.paused_until, self.slowed_at = 0.0, 0.0
        self.reached = False
        self._refusals: deque[bool] = deque(maxlen=self.most)

    @property
    def load(self) -> float:
        """Requests under way per request that it bears."""
        return self.under_way / self.pace

    def wait(self, tokens: int, now: float) -> float:
        """Return the seconds until a request may start, infinite until another one ends."""
        if self.under_way >= int(self.pace):
            return float("inf")
        pause = self.paused_until - now
        return max(0.0, pause, self.breaker.wait(now), self.requests.wait(1, now), self.tokens.wait(tokens, now))

    def start(self, tokens: int, now: float) -> None:
        """Count a request that starts, and the tokens that it may use."""
        self.under_way += 1
        self.requests.take(1, now)
        self.tokens.take(tokens, now)
        self.breaker.start()

    def end(self, news: News, started: float, now: float, unused: int = 0, pause: float = 0.0) -> None:
        """Learn from how a request ended, what it left of its tokens, and how long the server asks to be left alone."""
        self.tokens.take(-unused, now)
        self.paused_until = max(self.paused_until, now + pause)
        self.reached = self.reached or news != "gone"
        if news in ("strained", "failed", "gone"):
            self.breaker.failed(now, news == "gone")
        else:
            self.breaker.worked()
        self._adapt(news, started, now)

    def leave(self) -> None:
        """Count a request that is over: its place is free."""
        self.under_way -= 1

    def _adapt(self, news: News, started: float, now: float) -> None:
        """Add one request per round that went well; after one in which many were too much go slower, once a round."""
        too_much = news in ("refused", "strained")
        self._refusals.append(too_much)
        if news == "served":
            self.pace = min(self.most, self.pace + 1 / self.pace)
        elif too_much and started >= self.slowed_at:
            latest = list(self._refusals)[-max(1, int(self.pace)) :]
            if sum(latest) > TOLERATED * len(latest):
                self.pace, self.slowed_at = max(1.0, SLOWER * self.pace), now


def place_of_url(base_url: str) -> str:
    """Return host:port of an http(s) URL. Raises ServerError for what is none, or carries a key."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        host = port = None
    if not host or port is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ServerError("base_url: write the address of a server as http://HOST:PORT/v1, without ? and #")
    if parts.username is not None or parts.password is not None:
        raise ServerError(f"base_url of {host}: leave the password out; the key is read from api_key_env")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for (seconds, or an HTTP date; `now` is Unix time)."""
    if header is None or len(header) > 64:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = _date(header) - now
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return min(max(0.0, seconds), LONGEST) if seconds == seconds else None


def _date(text: str) -> float:
    when = email.utils.parsedate_to_datetime(text)
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()


def backoff(tries: int) -> float:
    """Return the seconds before the next try: anything up to half a second, doubled with each, at most 30."""
    return random.uniform(0, min(30.0, 0.5 * 2 ** min(tries, 10)))
