"""The command that serves models to others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from earwitness.cli.common import Commands, command
from earwitness.config import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add(commands: Commands) -> None:
    """Add the command of this file."""
    sub = command(commands, "serve", serve, "Serve local models over the OpenAI-compatible protocol.")
    sub.add_argument(
        "models", nargs="+", metavar="MODEL", help="world:NAME, a model's folder, or RUN/ARM; NAME=MODEL to name it"
    )
    sub.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine alone)")
    sub.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    sub.add_argument(
        "--adapters",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder below which requests may name adapters and weights to load (default: none)",
    )


def serve(arguments: argparse.Namespace) -> int:
    """`earwitness serve`."""
    import asyncio

    from earwitness.listen import model_spec
    from earwitness.serve import app

    places = [_named(word) for word in arguments.models]
    names = [name for name, _ in places]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two models would be called {twice[0]!r}: name them apart with NAME=MODEL")
    if arguments.host not in LOOPBACK:
        print(f"warning: whoever reaches {arguments.host} can use these models: there is no key", file=sys.stderr)
    server = app.Server({name: model_spec(place) for name, place in places}, arguments.adapters)
    shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host

    def ready(port: int) -> None:
        senses = ", ".join(f"{name} ({host.sense})" for name, host in server.hosts.items())
        print(f"serving {senses} at http://{shown}:{port}/v1", flush=True)

    asyncio.run(app.serve(server, arguments.host, arguments.port, ready))
    return 0


def _named(word: str) -> tuple[str, str]:
    """Return the name and the place of a model: `NAME=PLACE`, or a place, whose last part is the name."""
    name, sign, place = word.partition("=")
    if sign:
        return name, place
    return (word.removeprefix("world:") if word.startswith("world:") else Path(word).name), word
