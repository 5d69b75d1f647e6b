"""The command that tests servers."""

from __future__ import annotations

import argparse
import sys

from earwitness.cli.common import Commands, add_config, command, config_of
from earwitness.needs import DATA_STAGES
from earwitness.terminal import clean


def add(commands: Commands) -> None:
    """Add the command of this file."""
    sub = command(commands, "probe", probe, "Test whether the servers of a run do what it needs of them.")
    add_config(sub)
    sub.add_argument("--until", choices=DATA_STAGES, help="only what is needed up to this data stage")


def probe(arguments: argparse.Namespace) -> int:
    """`earwitness probe`."""
    from earwitness.models.served.probe import probe as test

    findings = test(config_of(arguments), arguments.until, lambda text: print(text, file=sys.stderr))
    if not findings:
        print("no model of this run is behind a server")
        return 0
    rows = [(f.role, clean(f.model), f.test, f.outcome, clean(f.said)) for f in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for *cells, said in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), said]))
    return 1 if any(f.outcome == "fails" for f in findings) else 0
