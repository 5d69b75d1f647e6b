"""Commands about the embedded world."""

from __future__ import annotations

import argparse
from pathlib import Path

from earwitness.cli.common import Commands, command


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    world = command(commands, "world", lambda _: 2, "The embedded world: make its weights, or samples of its clips.")
    parts = world.add_subparsers(metavar="PART", required=True)
    sub = command(parts, "build", world_build, "Make the embedded models again from scratch, and print their scores.")
    sub.add_argument("folder", type=Path, help="where to write them")
    sub.add_argument("--steps", type=float, default=1.0, help="scale of all training steps (default 1)")
    sub = command(parts, "sample", world_sample, "Write clips of the world as MP4 files with their questions.")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--selection", default="world:train", help="which scenes (default world:train)")
    sub.add_argument("--count", type=int, default=8)


def world_build(arguments: argparse.Namespace) -> int:
    """`earwitness world build`."""
    import json

    from earwitness.pretrain.build import build

    print(json.dumps(build(arguments.folder, arguments.steps), indent=2))
    return 0


def world_sample(arguments: argparse.Namespace) -> int:
    """`earwitness world sample`."""
    from earwitness.sources.world_files import write_clips

    print(f"wrote {write_clips(arguments.folder, arguments.selection, arguments.count)}")
    return 0
