"""What the files of the command line share: how a command is added, and how a configuration is named."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from earwitness.config import RunConfig

Commands = Any  # argparse does not name the type of its commands in public
SETTINGS = "settings to override, as section.key=value"


def command(commands: Commands, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    """Add a command that runs a function, and return its parser."""
    sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(command=run)
    return sub


def add_config(sub: argparse.ArgumentParser) -> None:
    """Give a command the arguments CONFIG, settings and --root."""
    sub.add_argument("config", type=Path, help="a TOML file")
    sub.add_argument("settings", nargs="*", metavar="section.key=value", help=SETTINGS)
    sub.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie (default: runs)")


def config_of(arguments: argparse.Namespace) -> RunConfig:
    """Read the configuration of a command; a name that is no file here may be one that ships in the package."""
    place: Path = arguments.config
    shipped = resources.files("earwitness.configs") / place.name
    if not place.exists() and place.suffix == ".toml" and shipped.is_file():
        with resources.as_file(shipped) as file:
            return RunConfig.load(file, arguments.settings)
    return RunConfig.load(place, arguments.settings)
