"""The server of `served.py`: canned replies after some milliseconds, in a process of its own; faults where asked for.

The answer to `item 7` is `ITEM 7`, so that swapped and lost answers show. Whether a request fails, and how, is drawn
by a seed. `GET /told` says how often each item was answered whole.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter

from aiohttp import web

FAULTS = {"429": 0.05, "500": 0.03, "hang": 0.01, "malformed": 0.02, "reset": 0.01}
LATENCY = 0.05  # seconds


def main() -> None:
    """`canned.py clean|faults`: serve on a free port of loopback, and print it."""
    shares = FAULTS if sys.argv[1] == "faults" else {}
    dice, answered, kinds = random.Random(7), Counter(), Counter()

    async def complete(request: web.Request) -> web.Response:
        item = (await request.json())["messages"][0]["content"][0]["text"]
        (kind,) = dice.choices([*shares, "answered"], [*shares.values(), 1 - sum(shares.values())])
        kinds[kind] += 1
        await asyncio.sleep(3600 if kind == "hang" else LATENCY)
        if kind == "reset":
            request.transport.abort()
        if kind in ("429", "500"):
            return web.json_response({"error": {"message": "not now"}}, status=int(kind))
        if kind == "malformed":
            return web.Response(text='{"id": "x", "choices": [{"mess', content_type="application/json")
        answered[item] += kind == "answered"
        return web.json_response(reply(item))

    async def tell(_: web.Request) -> web.Response:
        return web.json_response({"answered": answered, "kinds": kinds})

    async def serve() -> None:
        app = web.Application(client_max_size=2**26)
        app.add_routes([web.post("/v1/chat/completions", complete), web.get("/told", tell)])
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


def reply(item: str) -> dict:
    message = {"role": "assistant", "content": item.upper()}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    common = {"id": "canned", "object": "chat.completion", "created": 1, "model": "canned"}
    return common | {"choices": [choice], "usage": usage}


def body(item: int) -> dict:
    """The JSON of a request, of about a kilobyte."""
    content = [{"type": "text", "text": f"item {item}"}, {"type": "text", "text": "x" * 800}]
    return {"model": "canned", "messages": [{"role": "user", "content": content}], "max_tokens": 64, "seed": item}


if __name__ == "__main__":
    main()
