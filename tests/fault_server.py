"""A server with canned replies and the faults of real ones, in a process of its own on loopback.

Its answer to a request is the request's text read back in capitals, so that a wrong or swapped answer shows. It counts
what it did per text; `GET /told` returns the counts. `POST /plan` sets how requests end: the kind `of` a text, a list
of kinds taken in turn, then shares of kinds, drawn by a seed, then `rest`. A kind is a word of `end`, or a status and
its Retry-After.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from earwitness.config import Budget, Model
from earwitness.ledger import Ledger, call_key
from earwitness.models.served.call import Call, Malformed
from earwitness.models.served.engine import Engine
from earwitness.models.served.purse import Purse

KEY = "sk-secret-0123456789"


class Canned:
    """The server's state: the plan, the faults still to come, and what was asked."""

    def __init__(self) -> None:
        self.plan: dict[str, Any] = {"turns": [], "rest": "ok", "shares": {}, "delay": 0.0, "of": {}}
        self.dice = random.Random(7)
        self.told: dict[str, Any] = {name: Counter() for name in ("asked", "answered", "kinds")}
        self.told |= {"most": 0, "keys": []}
        self.under_way = 0

    def kind(self, text: str) -> str:
        if text in self.plan["of"]:
            return self.plan["of"][text]
        if self.plan["turns"]:
            return self.plan["turns"].pop(0)
        lot = self.dice.random()
        for kind, share in self.plan["shares"].items():
            lot -= share
            if lot < 0:
                return kind
        return self.plan["rest"]


def answer(text: str) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    return {"choices": [{"message": {"content": text.upper()}, "finish_reason": "stop"}], "usage": usage}


def text_of(body: bytes) -> str:
    return json.loads(body)["messages"][0]["content"]


async def complete(request: web.Request) -> web.StreamResponse:
    canned: Canned = request.app["canned"]
    canned.under_way += 1
    try:
        return await end(canned, request)
    finally:
        canned.under_way -= 1


async def end(canned: Canned, request: web.Request) -> web.StreamResponse:
    told, body = canned.told, await request.read()
    text = text_of(body)
    kind = canned.kind(text)
    told["most"] = max(told["most"], canned.under_way)
    told["asked"][text] += 1
    told["kinds"][kind] += 1
    key = request.headers.get("Authorization", "")
    if key not in told["keys"]:
        told["keys"].append(key)
    await asyncio.sleep(canned.plan["delay"])
    if kind == "ok":
        told["answered"][text] += 1
        return web.json_response(answer(text))
    if kind == "hang":
        await asyncio.sleep(3600)
    if kind == "reset":
        request.transport.abort()
        return web.Response()
    if kind == "malformed":
        return web.Response(text='{"choices": [{"mess', content_type="application/json")
    if kind == "empty":
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 0}})
    if kind == "error":
        return web.json_response({"error": {"message": "no such voice"}})
    if kind == "cut":
        reply = web.Response(body=b'{"choices"', headers={"Content-Length": "4096"})
        await reply.prepare(request)
        await reply.write_eof()
        request.transport.close()
        return reply
    if kind == "drip":
        reply = web.StreamResponse()
        await reply.prepare(request)
        while True:
            await reply.write(b" ")
            await asyncio.sleep(0.05)
    if kind == "huge":
        reply = web.StreamResponse()
        await reply.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(4096):
                await reply.write(b" " * 2**16)
        return reply
    if kind == "redirect":
        return web.Response(status=307, headers={"Location": f"http://127.0.0.1:9/v1/elsewhere?{key}"})
    status, _, after = kind.partition(" ")
    headers = {"Retry-After": after} if after else {}
    error = {"error": {"message": f"no: {key} {'QUJD' * 400} \x1b[31m{status}"}}
    return web.json_response(error, status=int(status), headers=headers)


async def models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "canned\x1b[2J"}, {"id": "other"}]})


async def set_plan(request: web.Request) -> web.Response:
    request.app["canned"].plan |= await request.json()
    return web.Response()


async def tell(request: web.Request) -> web.Response:
    return web.json_response(request.app["canned"].told)


def main() -> None:
    app = web.Application(client_max_size=2**26)
    app["canned"] = Canned()
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/v1/models", models)])
    app.add_routes([web.post("/plan", set_plan), web.get("/told", tell)])

    async def serve() -> None:
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def plan(self, **plan: Any) -> None:
        url = f"http://127.0.0.1:{self.port}/plan"
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(plan).encode(), method="POST")).close()

    def told(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/told") as reply:
            return json.load(reply)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def start(port: int = 0) -> Server:
    process = subprocess.Popen([sys.executable, __file__, str(port)], stdout=subprocess.PIPE, text=True)
    return Server(process, int(process.stdout.readline()))


def read(reply: Any) -> list[dict[str, Any]]:
    try:
        return [{"text": reply["choices"][0]["message"]["content"]}]
    except (KeyError, IndexError):
        raise Malformed("no choices") from None


def call(text: str) -> Call:
    """A request with a picture that must never be seen again."""
    body = {"messages": [{"role": "user", "content": text}], "image": "QUJD" * 400}
    return Call((call_key(text=text),), "/chat/completions", json.dumps(body).encode(), read, 20, text)


def engine(*servers: Server | str, ledger: Ledger | None = None, purse: Purse | None = None, **settings: Any) -> Engine:
    urls = tuple(one if isinstance(one, str) else one.base_url for one in servers)
    spec = Model(kind="served", name="canned", base_url=urls, **({"timeout": 1.0, "attempts": 3} | settings))
    return Engine(spec, ledger, purse or Purse(Budget(), {}))


if __name__ == "__main__":
    main()
