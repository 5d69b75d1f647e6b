"""Faults in front of a real server, in a process of its own: what becomes of a request is a function of a seed.

Of a request, its body and how often that body came before decide. `GET /faults` tells what was done.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from aiohttp import web

BEFORE = ("wait", "busy", "error", "hang", "reset")  # the server never hears of it
AFTER = ("malformed", "cut", "empty", "miscounted", "equal", "drip")  # the server has answered
KINDS = (*BEFORE, *AFTER)
PIECES = 20  # that a dripping answer comes in


@contextmanager
def faulty(url: str, seed: int = 0, pause: float = 0.1, **rates: float) -> Iterator[str]:
    """Put faults in front of a server and give the address to ask instead.

    `rates` are shares of requests: `wait` and `busy` (429 with and without Retry-After), `error` (500), `hang` (until
    the client leaves), `reset` (of the connection), `malformed` and `cut` (JSON), `empty` (no choices), `miscounted`
    (one choice too many or too few), `equal` (all choices as the first), `drip` (with `pause` seconds between pieces).
    """
    from servers import started

    told = ["--to", url, "--seed", str(seed), "--pause", str(pause), "--rates", json.dumps(rates)]
    process = subprocess.Popen(
        [sys.executable, __file__, *told],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with started(process) as address:
        yield address


class Faults:
    """The layer: what it was told to do, and what it did."""

    def __init__(self, to: str, seed: int, pause: float, rates: dict[str, float]) -> None:
        assert set(rates) <= set(KINDS) and sum(rates.values()) <= 1, rates
        self.to, self.seed, self.pause, self.rates = to, seed, pause, rates
        self.done: Counter[str] = Counter()
        self.came: Counter[str] = Counter()  # by the sha256 of their bodies
        self.forwarded: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()  # as the server answered them

    def fault(self, body: str) -> str | None:
        """What becomes of a request this time."""
        left = random.Random(f"{self.seed} {body} {self.came[body]}").random()
        for kind in KINDS:
            left -= self.rates.get(kind, 0.0)
            if left < 0:
                return kind
        return None

    async def told(self, _: web.Request) -> web.Response:
        """`GET /faults`: how often each was done, and each body's requests by what became of them."""
        counts = {name: dict(getattr(self, name)) for name in ("done", "came", "forwarded", "answered")}
        return web.json_response(counts)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        if request.method != "POST" or not request.path.endswith("/completions"):
            status, answer, kind = await self._forward(request, data)
            return web.Response(body=answer, status=status, headers={"Content-Type": kind})
        body = hashlib.sha256(data).hexdigest()
        fault = self.fault(body)
        self.came[body] += 1
        self.done[fault or "nothing"] += 1
        if fault in BEFORE:
            return await self._instead(request, fault)
        self.forwarded[body] += 1
        status, answer, kind = await self._forward(request, data)
        if fault is None or status != 200:
            self.answered[body] += 1
            return web.Response(body=answer, status=status, headers={"Content-Type": kind})
        if fault == "drip":
            self.answered[body] += 1
            return await self._drip(request, answer)
        return web.Response(body=spoilt(answer, fault), content_type="application/json")

    async def _forward(self, request: web.Request, data: bytes) -> tuple[int, bytes, str]:
        headers = {"Content-Type": request.headers.get("Content-Type", "")} if data else {}
        client = request.app[CLIENT]
        async with client.request(request.method, self.to + request.path_qs, data=data, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers.get("Content-Type", "text/plain")

    async def _instead(self, request: web.Request, fault: str) -> web.Response:
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            assert request.transport is not None
            request.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            request.transport.abort()
        status = 500 if fault == "error" else 429
        error = {"message": f"a fault: {fault}", "type": "fault", "param": None, "code": None}
        headers = {"Retry-After": "1"} if fault == "wait" else {}
        return web.json_response({"error": error}, status=status, headers=headers)

    async def _drip(self, request: web.Request, answer: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(answer))})
        await response.prepare(request)
        size = -(-len(answer) // PIECES)
        for start in range(0, len(answer), size):
            await response.write(answer[start : start + size])
            await asyncio.sleep(self.pause)
        return response


def spoilt(answer: bytes, fault: str) -> bytes:
    """What a faulty server says in place of an answer."""
    if fault == "malformed":
        return b"<html>" + answer
    if fault == "cut":
        return answer[: len(answer) // 2]
    data: dict[str, Any] = json.loads(answer)
    choices = data["choices"]
    if fault == "empty":
        data["choices"] = []
    if fault == "miscounted":
        data["choices"] = choices[:-1] if len(choices) > 1 else [*choices, choices[0] | {"index": 1}]
    if fault == "equal":
        data["choices"] = [choices[0] | {"index": n} for n in range(len(choices))]
    return json.dumps(data).encode()


CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def main(faults: Faults) -> None:
    app = web.Application(client_max_size=2**30)
    app.add_routes([web.get("/faults", faults.told), web.route("*", "/{path:.*}", faults.handle)])
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout()
    ) as client:
        app[CLIENT] = client
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        print(f"faults at http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        await stop.wait()
        await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.1)
    parser.add_argument("--rates", type=json.loads, default={})
    asyncio.run(main(Faults(**vars(parser.parse_args()))))
