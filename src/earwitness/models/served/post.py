"""Sends one request to a server and says how that ended. The key goes to `base_url` and nowhere else."""

from __future__ import annotations

import asyncio
import io
import os

import aiohttp
from yarl import URL

from earwitness import __version__
from earwitness.config import Model
from earwitness.models.exchange import OF_THE_QUESTION
from earwitness.models.served.call import Call, ServerError
from earwitness.models.served.endpoint import Endpoint
from earwitness.models.served.reply import REPLY_LIMIT, Ending, offered, read_reply

LARGE = 2**20  # bytes
CONNECTING = 10.0  # seconds until nobody is thought to take a connection
ON = "the same command continues, and nothing that was answered is asked again"


class Post:
    """The connections to one model's servers, with its key. Raises ServerError where the key is not to be had."""

    def __init__(self, spec: Model) -> None:
        self._spec, self._key = spec, read_key(spec)
        self._session: aiohttp.ClientSession

    async def open(self) -> None:
        """Open the connections' pool, in the running loop."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers["User-Agent"] = f"earwitness/{__version__}"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECTING),
            trust_env=False,
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self, call: Call, endpoint: Endpoint) -> Ending:
        """Send a request once, for at most `timeout` seconds, and return how that ended."""
        try:
            data = call.body if isinstance(call.body, bytes) else await asyncio.to_thread(call.body)
        except OF_THE_QUESTION as error:  # a clip that was there when its turn was asked for
            return Ending("unsent", "drop", "served", str(error))
        try:
            async with asyncio.timeout(self._spec.timeout):
                url = URL(endpoint.base_url + call.path, encoded=True)
                # A large body is sent piece by piece, so that it does not hold up the others.
                piecewise = data if len(data) < LARGE else io.BytesIO(data)
                async with self._session.post(url, data=piecewise, allow_redirects=False) as reply:
                    body = await _bounded(reply, REPLY_LIMIT)
                    if body is None:
                        words = f"a reply of more than {REPLY_LIMIT >> 20} MiB"
                        return Ending("too large", "drop", "served", words)
                    return read_reply(reply.status, reply.headers, body, call, self._key)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Ending("gone", "wait", "gone", _why(error))
        except TimeoutError:
            return Ending("hang", "again", "strained", f"no answer within {self._spec.timeout:g} s")
        except aiohttp.ClientPayloadError:
            return Ending("cut", "again", "failed", "the reply broke off")
        except (aiohttp.ClientError, OSError) as error:
            return Ending("reset", "again", "failed", f"the connection broke ({type(error).__name__})")

    async def fatal(self, ending: Ending, endpoint: Endpoint) -> ServerError:
        """Return the error that says why a server's answer ends the run, and what would do."""
        status, place, said = ending.outcome, endpoint.place, f": {ending.words}" if ending.words else ""
        if status in ("401", "403"):
            which = f"the key in {self._spec.api_key_env}" if self._spec.api_key_env else "a request without a key"
            mend = "set the variable to a valid one" if self._key else "name its variable in api_key_env"
            return ServerError(f"{place} refuses {which} ({status}){said}. To go on, {mend}; {ON}")
        if status in ("402", "429"):
            return ServerError(f"{place} says that the account's money or quota is used up ({status}){said}. Then {ON}")
        if status.startswith("3"):
            return ServerError(
                f"{place} redirects ({status}) {ending.words}, which is not followed: the key and the clips go to no "
                "other address than base_url"
            )
        names = await self._offered(endpoint)
        offers = f" It offers: {names}." if names else " base_url usually ends in /v1."
        return ServerError(
            f"{place} does not know the model {self._spec.name}, or not this path ({status}){said}.{offers}"
        )

    async def _offered(self, endpoint: Endpoint) -> str:
        try:
            async with asyncio.timeout(min(self._spec.timeout, CONNECTING)):
                url = URL(endpoint.base_url + "/models", encoded=True)
                async with self._session.get(url, allow_redirects=False) as reply:
                    body = await _bounded(reply, 2**20)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return ""
        return offered(body.replace(self._key.encode(), b"***") if self._key else body) if body else ""


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
