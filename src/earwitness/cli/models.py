"""Commands that ask or make one model: listen, merge."""

from __future__ import annotations

import argparse
from pathlib import Path

from earwitness.cli.common import Commands, command


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    sub = command(commands, "listen", listen, "Ask any student about any sound or video file.")
    sub.add_argument("model", help="world:NAME, a model's folder, or RUN/ARM of a finished run")
    sub.add_argument("file", type=Path)
    sub.add_argument("question")
    sub.add_argument("--choices", help="the options, separated by commas")
    sub.add_argument("--start", type=float, default=0.0, help="seconds")
    sub.add_argument("--end", type=float, help="seconds")
    sub.add_argument("--prompt", choices=["direct", "think"], help="default: the one that the model was trained with")
    sub.add_argument("--max-tokens", type=int, default=256)
    sub = command(commands, "merge", merge, "Merge an adapter into its base: a model's folder like any other.")
    sub.add_argument("checkpoint", help="an adapter's folder, or RUN/ARM of a finished run")
    sub.add_argument("out", type=Path, metavar="OUT", help="the folder to write; it must not exist yet")
    sub.add_argument(
        "--tolerance",
        type=float,
        help="nats that a log-probability may move by (default: 0.001, or 0.1 for weights stored in 16 bits)",
    )


def listen(arguments: argparse.Namespace) -> int:
    """`earwitness listen`."""
    from earwitness.listen import ask

    choices = tuple(c.strip() for c in arguments.choices.split(",")) if arguments.choices else None
    print(
        ask(
            arguments.model,
            arguments.file,
            arguments.question,
            choices,
            (arguments.start, arguments.end),
            arguments.prompt,
            arguments.max_tokens,
        )
    )
    return 0


def merge(arguments: argparse.Namespace) -> int:
    """`earwitness merge`."""
    from earwitness.listen import model_spec
    from earwitness.models.merge import merge

    gap = merge(model_spec(arguments.checkpoint), arguments.out, arguments.tolerance)
    print(f"wrote {arguments.out}; the largest change of a log-probability is {gap:.2g} nats")
    return 0
