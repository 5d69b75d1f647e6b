"""Commands that drive a run or look at one: run, ask, check, train, demo, show, costs."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from earwitness.cli.common import SETTINGS, Commands, add_config, command, config_of
from earwitness.config import ConfigError
from earwitness.terminal import ProgressLine, clean


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    sub = command(commands, "run", run, "Run a configuration; what is done is not done again.")
    add_config(sub)
    sub.add_argument(
        "--until",
        metavar="STAGE",
        help="stop after this stage: sample, vote, verify, select, describe, train, answer",
    )
    sub.add_argument("--redo", choices=["stale", "failed"], help="make rows again whose inputs changed, or that failed")
    sub.add_argument("--shard", metavar="I/S", help="do only the I-th of S shares of the data stages")
    sub.add_argument(
        "--rehearse", action="store_true", help="two questions through every stage with tiny random models"
    )
    sub = command(commands, "ask", ask, "Let the teacher write the questions of folders of videos that have none.")
    add_config(sub)
    sub.add_argument("--redo", choices=["stale", "failed"], help="ask again about clips that changed, or that failed")
    sub = command(commands, "check", check, "Say what a run would do and need, without doing it.")
    add_config(sub)
    sub = command(commands, "train", train, "Train one step of one arm (what `run` does for each of them).")
    sub.add_argument("config", type=Path)
    sub.add_argument("arm", metavar="ARM", help="the arm's name in the configuration")
    sub.add_argument("step", metavar="STEP", type=int, help="the step's number in the arm, from 1")
    sub.add_argument("settings", nargs="*", metavar="section.key=value", help=SETTINGS)
    sub.add_argument("--seed", type=int, required=True, help="the training seed")
    sub.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    sub = command(commands, "demo", demo, "One caught lie, then the whole method on the embedded world.")
    sub.add_argument("settings", nargs="*", metavar="section.key=value", help=SETTINGS)
    sub.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    sub.add_argument("--quick", action="store_true", help="only the first act: no training")
    sub = command(commands, "show", show, "Show where a run stands, or the whole life of one question.")
    sub.add_argument("run", type=Path, help="a run's folder")
    sub.add_argument("question", nargs="?", help="a question's id")
    sub = command(commands, "costs", costs, "Say what a run asked of served models, and what that cost.")
    sub.add_argument("run", type=Path, help="a run's folder")


def run(arguments: argparse.Namespace) -> int:
    """`earwitness run`."""
    config = config_of(arguments)
    if arguments.rehearse:
        from earwitness.rehearsal import rehearse

        return rehearse(config, arguments.root)
    from earwitness.driver import FAILED_SHARE, drive

    outcome = drive(config, arguments.root, arguments.until, arguments.redo, shard_of(arguments.shard))
    if outcome.report is not None:
        print(f"{outcome.text}\n\nreport: {arguments.root / config.name / 'report.md'}".lstrip(), flush=True)
    for stage, first in outcome.failures:
        print(f"{stage}, first {clean(first)}", file=sys.stderr)
    if outcome.failing:
        print(
            f"more than {FAILED_SHARE:.0%} of the questions failed in {', '.join(outcome.failing)}; "
            f"`earwitness show {arguments.root / config.name}` says why, and --redo failed asks them again",
            file=sys.stderr,
        )
    return 1 if outcome.failing else 0


def ask(arguments: argparse.Namespace) -> int:
    """`earwitness ask`."""
    from earwitness.ask import ask as ask_about

    outcome = ask_about(config_of(arguments), arguments.root, arguments.redo)
    print(outcome.text)
    for stage, first in outcome.failures:
        print(f"{stage}, first {clean(first)}", file=sys.stderr)
    return 1 if outcome.failing else 0


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Return what --shard I/S says."""
    if text is None:
        return None
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit()):
        raise ConfigError(f"--shard {text}: write I/S, for example 1/4")
    return int(first), int(second)


def check(arguments: argparse.Namespace) -> int:
    """`earwitness check`."""
    from earwitness.plan import plan_text

    print(plan_text(config_of(arguments), arguments.root))
    return 0


def train(arguments: argparse.Namespace) -> int:
    """`earwitness train`."""
    from earwitness.driver import train_step
    from earwitness.launcher import hold_lifeline
    from earwitness.stages.training import first_process, told

    hold_lifeline()
    line = ProgressLine() if first_process() else None
    facts = train_step(config_of(arguments), arguments.root, arguments.arm, arguments.step, arguments.seed, line)
    if first_process():
        print(f"trained step {arguments.step} of {arguments.arm}, seed {arguments.seed}: {told(facts)}")
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """`earwitness demo`."""
    from earwitness.demo import perform

    return perform(arguments.root, arguments.settings, arguments.quick, partial(print, flush=True))


def show(arguments: argparse.Namespace) -> int:
    """`earwitness show`."""
    from earwitness.life import life_of, standing

    print(life_of(arguments.run, arguments.question) if arguments.question else standing(arguments.run))
    return 0


def costs(arguments: argparse.Namespace) -> int:
    """`earwitness costs`."""
    from earwitness.costs import costs_text

    print(costs_text(arguments.run))
    return 0
