"""The server: routes, and which model a request is for."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from earwitness.config import Model
from earwitness.models.exchange import OF_THE_QUESTION, MediaLimit, TooLong
from earwitness.models.places import ModelError
from earwitness.serve.adapters import Folders, base_named
from earwitness.serve.asks import Ask, chat_ask, completion_ask
from earwitness.serve.engine import Engine
from earwitness.serve.host import Host
from earwitness.serve.refusals import Refused
from earwitness.serve.replies import chat_body, completion_body
from earwitness.serve.requests import (
    B,
    ChatRequest,
    CompletionRequest,
    LoadAdapter,
    UnloadAdapter,
    UpdateWeights,
    parsed,
)

MOST_BYTES = 64 * 2**20  # of a request's body
PATIENCE = 600.0  # seconds that a server which is told to end gives to what is under way
log = logging.getLogger(__name__)


class Server:
    """The models that are served, each with the thread that owns it, and the routes to them."""

    def __init__(self, models: Mapping[str, Model], folders: Sequence[Path] = ()) -> None:
        self.hosts = {name: Host(name, spec) for name, spec in models.items()}
        self.engines = {name: Engine(host.answer) for name, host in self.hosts.items()}
        self.folders = Folders(folders)
        self.adapters: dict[str, str] = {}  # the names of adapters, and of the models that wear them

    def app(self) -> web.Application:
        """Return the application to be run."""
        app = web.Application(client_max_size=MOST_BYTES, middlewares=[_errors])
        app.add_routes(
            [
                web.get("/health", _health),
                web.get("/v1/models", self.models),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completion),
                web.post("/v1/load_lora_adapter", self.load_adapter),
                web.post("/v1/unload_lora_adapter", self.unload_adapter),
                web.post("/update_weights_from_disk", self.update_weights),
            ]
        )
        return app

    def close(self) -> None:
        """Finish what is under way."""
        for engine in self.engines.values():
            engine.close()

    async def models(self, _: web.Request) -> web.Response:
        """`GET /v1/models`."""
        bases: dict[str, str | None] = {**dict.fromkeys(self.hosts), **self.adapters}
        data = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "earwitness",
                "root": name,
                "parent": base,
                "max_model_len": self.hosts[base or name].window,
            }
            for name, base in bases.items()
        ]
        return web.json_response({"object": "list", "data": data})

    async def chat(self, request: web.Request) -> web.Response:
        """`POST /v1/chat/completions`."""
        body = await _body(request, ChatRequest)
        host = self._host(body.model)
        ask = await asyncio.to_thread(chat_ask, body, host.sense, host.window)
        reply = await self._answered(host, ask)
        return web.json_response(chat_body(reply, body))

    async def completion(self, request: web.Request) -> web.Response:
        """`POST /v1/completions`."""
        body = await _body(request, CompletionRequest)
        host = self._host(body.model)
        reply = await self._answered(host, completion_ask(body))
        return web.json_response(completion_body(reply, body))

    async def load_adapter(self, request: web.Request) -> web.Response:
        """`POST /v1/load_lora_adapter`."""
        body = await _body(request, LoadAdapter)
        name, folder = body.lora_name, self.folders.allowed(body.lora_path)
        if name in self.hosts or name in self.adapters:
            raise Refused(f"the name {name!r} is taken: the adapter or model has already been loaded")
        host = self.hosts[base_named(folder, body.base_model_name, {n: h.base for n, h in self.hosts.items()})]
        self.adapters[name] = host.name

        def load() -> None:
            try:
                host.load_adapter(name, folder)
            except BaseException:
                del self.adapters[name]
                raise

        await self._done(host, load)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: web.Request) -> web.Response:
        """`POST /v1/unload_lora_adapter`."""
        name = (await _body(request, UnloadAdapter)).lora_name
        if name not in self.adapters:
            raise Refused(f"the adapter {name!r} is not loaded", 404, "model_not_found")
        host = self.hosts[self.adapters[name]]

        def unload() -> None:
            host.unload_adapter(name)
            del self.adapters[name]

        await self._done(host, unload)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def update_weights(self, request: web.Request) -> web.Response:
        """`POST /update_weights_from_disk`, as SGLang has it."""
        body = await _body(request, UpdateWeights)
        folder = self.folders.allowed(body.model_path)
        if body.model is None and len(self.hosts) > 1:
            raise Refused(f"several models are served: say which with model ({', '.join(self.hosts)})")
        host = self.hosts.get(body.model or next(iter(self.hosts)))
        if host is None:
            raise Refused(f"there is no model {body.model!r}", 404, "model_not_found")
        await self._done(host, lambda: host.reload(folder))
        return web.json_response({"success": True, "message": "the weights were updated", "num_paused_requests": 0})

    def _host(self, name: str) -> Host:
        host = self.hosts.get(self.adapters.get(name, name))
        if host is None:
            known = ", ".join([*self.hosts, *self.adapters])
            raise Refused(f"there is no model {name!r}; there are: {known}", 404, "model_not_found")
        return host

    async def _answered(self, host: Host, ask: Ask) -> Any:
        return await asyncio.wrap_future(self.engines[host.name].ask(ask))

    async def _done(self, host: Host, what: Callable[[], None]) -> None:
        """Do something with a model. Whoever asked may leave: it is done, and told to the end, all the same."""
        await asyncio.shield(asyncio.wrap_future(self.engines[host.name].do(what)))


@asynccontextmanager
async def opened(server: Server, host: str, port: int) -> AsyncIterator[int]:
    """Listen for a while, on the port that is given (0: a free one). At the end, what is under way is finished."""
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=PATIENCE)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        await asyncio.to_thread(server.close)


async def serve(server: Server, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until SIGINT or SIGTERM. `ready` is told the port once it is open."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with opened(server, host, port) as taken:
        ready(taken)
        await stop.wait()


async def _health(_: web.Request) -> web.Response:
    return web.Response()


async def _body(request: web.Request, kind: type[B]) -> B:
    # A page in a browser cannot send this type to another site without asking, and nobody here would allow it.
    if request.content_type != "application/json":
        raise Refused("only application/json is taken", 415)
    data = await request.read()
    return await asyncio.to_thread(parsed, data, kind)


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error in the shape of the protocol."""
    try:
        return await handler(request)
    except Exception as error:
        refused = _refused(error)
    if refused.status >= 500:
        log.error("%s %s: %s", request.method, request.path, refused, exc_info=refused.__cause__)
    headers = {"Retry-After": "1"} if refused.status == 429 else {}
    return web.json_response(refused.body(), status=refused.status, headers=headers)


def _refused(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, TooLong):
        return Refused(str(error), 400, "context_length_exceeded")
    if isinstance(error, OF_THE_QUESTION):
        return Refused(str(error), 400, "media_limit" if isinstance(error, MediaLimit) else None)
    if isinstance(error, ModelError):
        return Refused(str(error))
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Refused(f"the body of a request may be of {MOST_BYTES} bytes at most", 413)
    if isinstance(error, web.HTTPException):
        return Refused(error.reason, error.status)
    failed = Refused(f"the server failed ({type(error).__name__})", 500)
    failed.__cause__ = error
    return failed
