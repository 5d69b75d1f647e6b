"""One request to a server: what is sent, how its answer is read, and under which keys the answers are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from earwitness.models.places import ModelError

Answer = dict[str, Any]
"""One answer as the ledger keeps it: a JSON object."""


class Malformed(Exception):  # noqa: N818 - named for what it is
    """A response with status 200 that does not hold what was asked for: paid, and asked again."""


class ServerError(ModelError):
    """A server that cannot serve this run, whatever is tried again: a wrong key, an unknown model, nobody there."""


@dataclass(frozen=True)
class Call:
    """A request whose answers are not known yet.

    `body` is JSON, or makes it when the request's turn comes: the media of all that wait would not fit in memory. It
    goes to `path` below the server's base URL. `read` takes the parsed response and returns one answer per key of
    `keys`, or raises Malformed. `tokens` is an upper bound of what the request uses, for limits and budget. `what`
    names the question in messages, never where its media lie.
    """

    keys: tuple[str, ...]
    path: str
    body: bytes | Callable[[], bytes]
    read: Callable[[Mapping[str, Any]], list[Answer]]
    tokens: int
    what: str
