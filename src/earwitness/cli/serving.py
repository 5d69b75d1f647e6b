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

    places = dict(_named(word) for word in arguments.models)
    if len(places) < len(arguments.models) or "" in places:
        raise ConfigError("each model needs a name of its own: say NAME=MODEL")
    if missing := [folder for folder in arguments.adapters if not folder.is_dir()]:
        raise ConfigError(f"--adapters {missing[0]}: there is no such folder")
    if arguments.host not in LOOPBACK:
        print(f"warning: whoever reaches {arguments.host} can use these models: there is no key", file=sys.stderr)
    server = app.Server({name: model_spec(place) for name, place in places.items()}, arguments.adapters)
    shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host

    def ready(port: int) -> None:
        senses = ", ".join(f"{name} ({host.sense})" for name, host in server.hosts.items())
        print(f"serving {senses} at http://{shown}:{port}/v1", flush=True)

    try:
        asyncio.run(app.serve(server, arguments.host, arguments.port, ready))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {shown}:{arguments.port} ({error}): choose another --port") from error
    return 0


def _named(word: str) -> tuple[str, str]:
    """Return the name and the place of a model: `NAME=PLACE`, or a place, whose last part is the name."""
    name, sign, place = word.partition("=")
    if sign and not Path(word).exists():
        return name, place
    return (word.removeprefix("world:") if word.startswith("world:") else Path(word).absolute().name), word
