"""What one attempt came to: the answers, or what is to be done about it.

A server's words are untrusted: they are cut, cleaned, and rid of the key and of media that they may repeat.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from earwitness.ledger import UNTOLD, Usage
from earwitness.models.served.call import Answer, Call, Malformed
from earwitness.models.served.endpoint import News, retry_after
from earwitness.terminal import clean

Then = Literal["done", "again", "wait", "drop", "stop"]
"""What follows: nothing; another try; another that does not count; a row that says why; the end of the run."""

REPLY_LIMIT = 32 * 2**20  # bytes of a response that are taken
SECRET = 8  # characters; what is shorter ("EMPTY", "x") is no secret, and stands in answers that mean something else
EXCERPT = 300  # characters of a server's words in a message
_MEDIA = re.compile(r"[A-Za-z0-9+/=_-]{64,}")
_COUNT = 10**9  # tokens; a server that counts more is not believed

WORKED = ("answered", "malformed", "cut", "hang", "reset", "too large", "stopped")
"""Outcomes of attempts that a server may have charged for."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: `outcome` for the ledger, `words` for people, `pause` as the server asked for one."""

    outcome: str
    then: Then
    news: News
    words: str = ""
    answers: tuple[Answer, ...] = ()
    usage: Usage = UNTOLD
    pause: float = 0.0

    def untold(self, call: Call) -> int:
        """Return the most tokens that may have been charged without being told of."""
        return call.tokens if self.outcome in WORKED and not self.usage.told else 0


def read_reply(status: int, headers: Mapping[str, str], body: bytes, call: Call, key: str) -> Ending:
    """Return what a whole response means for its call."""
    if len(key) < SECRET:
        key = ""
    if key:
        body = body.replace(key.encode(), b"***")
    if 200 <= status < 300:
        return _read_answer(body, call)
    words, outcome = excerpt(body), str(status)
    pause = retry_after(headers.get("Retry-After"), time.time())
    if status == 429 and b"insufficient_quota" not in body:
        return Ending(outcome, "wait", "refused", words, pause=pause or 0.0)
    if status in (408, 409, 425) or status >= 500:
        news: News = "strained" if status in (408, 503, 529) else "failed"
        return Ending(outcome, "again", news, words, pause=pause or 0.0)
    if 300 <= status < 400:
        where = headers.get("Location", "")
        words = f"to {excerpt((where.replace(key, '***') if key else where).encode('utf-8', 'replace')) or 'nowhere'}"
        return Ending(outcome, "stop", "served", words)
    if status in (401, 402, 403, 404, 405, 410, 429):
        return Ending(outcome, "stop", "served", words)
    return Ending(outcome, "drop", "served", words)


def _read_answer(body: bytes, call: Call) -> Ending:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return Ending("malformed", "again", "failed", f"no JSON: {excerpt(body)}")
    if not isinstance(value, dict):
        return Ending("malformed", "again", "failed", f"no JSON object: {excerpt(body)}")
    usage = read_usage(value.get("usage"))
    try:
        answers = tuple(call.read(value))
        _check(answers)
    except Malformed as error:
        words = str(error)
        if "error" in value:  # some say with status 200 that they failed
            words += f"; the server says {value['error']}"
        return Ending("malformed", "again", "served", excerpt(words.encode("utf-8", "replace")), usage=usage)
    if len(answers) != len(call.keys):
        raise ValueError(f"{call.what}: {len(answers)} answers were read for {len(call.keys)} keys")
    return Ending("answered", "done", "served", answers=answers, usage=usage)


def _check(answers: tuple[Answer, ...]) -> None:
    try:
        json.dumps(answers, allow_nan=False)
    except ValueError as error:
        raise Malformed(f"an answer that is no JSON ({error})") from None


def read_usage(value: Any) -> Usage:
    """Return a response's token counts; nothing where it does not count both prompt and completion."""
    if not isinstance(value, dict):
        return UNTOLD
    details = value.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if prompt is None or completion is None:
        return UNTOLD
    return Usage(prompt, completion, _count(details.get("audio_tokens")), _count(details.get("cached_tokens")))


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT
    return value if whole else None


def excerpt(body: bytes) -> str:
    """Return the beginning of a server's words, on one line, cleaned, without what could be media."""
    text = clean(body[: 64 * EXCERPT].decode("utf-8", "replace"))
    text = " ".join(_MEDIA.sub("[...]", text).split())
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "..."


def offered(body: bytes) -> str:
    """Return the names in a server's list of models, for a message."""
    try:
        names = [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    shown = [excerpt(name[:80].encode("utf-8", "replace")) for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
