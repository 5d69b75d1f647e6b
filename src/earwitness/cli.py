"""The command line: thin. Each command is one function that calls what the Python interface calls."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from earwitness import __version__
from earwitness.config import ConfigError, RunConfig
from earwitness.table import RunError
from earwitness.terminal import ProgressLine, clean

DESCRIPTION = """\
Teach an audio-language model to reason, from a teacher that watches the silent video.

  earwitness demo                                the whole method on the embedded world, in minutes
  earwitness check my.toml                       what a run would do, before anything is spent
  earwitness run my.toml --rehearse              every stage with tiny models, two questions, a minute
  earwitness run my.toml questions.limit=500     the run; the same command continues it after any stop
  earwitness show runs/my-run                    where it stands; with a question's id: its whole life
  earwitness listen world:student clip.mp4 "what is heard ?" --choices dog,bell
"""
Commands = Any  # argparse does not name the type of its commands in public
SETTINGS = "settings to override, as section.key=value"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 too much failed, 2 cannot go on, 130 interrupted."""
    arguments = _parsed(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # a library's, for its developers; for workers
    warnings.simplefilter("ignore", FutureWarning)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code: int = arguments.command(arguments)
    except KeyboardInterrupt:
        print("\nstopped; nothing that was finished is lost: the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if not _is_ours(error):
            raise
        print(f"earwitness: {clean(str(error))}", file=sys.stderr)
        return 2
    return code


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; settings may also stand behind options, which argparse alone does not take."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(late) < len(rest) or (late and not hasattr(arguments, "settings")):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:
        arguments.settings = [*arguments.settings, *late]
    return arguments


def _is_ours(error: Exception) -> bool:
    """Whether an error was written for people: those of this package, and nothing else."""
    return isinstance(error, ConfigError | RunError) or type(error).__module__.startswith("earwitness.")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="earwitness", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"earwitness {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_small(commands)
    _add_world(commands)
    return top


def _command(commands: Commands, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(command=run)
    return sub


def _add_run(commands: Commands) -> None:
    sub = _command(commands, "run", run, "Run a configuration; what is done is not done again.")
    _add_config(sub)
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
    sub = _command(commands, "check", check, "Say what a run would do and need, without doing it.")
    _add_config(sub)
    sub = _command(commands, "train", train, "Train one step of one arm (what `run` does for each of them).")
    sub.add_argument("config", type=Path)
    sub.add_argument("arm", metavar="ARM", help="the arm's name in the configuration")
    sub.add_argument("step", metavar="STEP", type=int, help="the step's number in the arm, from 1")
    sub.add_argument("settings", nargs="*", metavar="section.key=value", help=SETTINGS)
    sub.add_argument("--seed", type=int, required=True, help="the training seed")
    sub.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie (default: runs)")


def _add_config(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", type=Path, help="a TOML file")
    sub.add_argument("settings", nargs="*", metavar="section.key=value", help=SETTINGS)
    sub.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie (default: runs)")


def _add_small(commands: Commands) -> None:
    sub = _command(commands, "demo", demo, "One caught lie, then the whole method on the embedded world.")
    sub.add_argument("settings", nargs="*", metavar="section.key=value", help=SETTINGS)
    sub.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    sub.add_argument("--quick", action="store_true", help="only the first act: no training")
    sub = _command(commands, "show", show, "Show where a run stands, or the whole life of one question.")
    sub.add_argument("run", type=Path, help="a run's folder")
    sub.add_argument("question", nargs="?", help="a question's id")
    sub = _command(commands, "listen", listen, "Ask any student about any sound or video file.")
    sub.add_argument("model", help="world:NAME, a model's folder, or RUN/ARM of a finished run")
    sub.add_argument("file", type=Path)
    sub.add_argument("question")
    sub.add_argument("--choices", help="the options, separated by commas")
    sub.add_argument("--start", type=float, default=0.0, help="seconds")
    sub.add_argument("--end", type=float, help="seconds")
    sub.add_argument("--prompt", choices=["direct", "think"], help="default: the one that the model was trained with")
    sub.add_argument("--max-tokens", type=int, default=256)
    sub = _command(commands, "merge", merge, "Merge an adapter into its base: a model's folder like any other.")
    sub.add_argument("checkpoint", help="an adapter's folder, or RUN/ARM of a finished run")
    sub.add_argument("out", type=Path, metavar="OUT", help="the folder to write; it must not exist yet")
    sub.add_argument(
        "--tolerance",
        type=float,
        help="nats that a log-probability may move by (default: 0.001, or 0.1 for weights stored in 16 bits)",
    )


def _add_world(commands: Commands) -> None:
    world = _command(commands, "world", lambda _: 2, "The embedded world: make its weights, or samples of its clips.")
    parts = world.add_subparsers(metavar="PART", required=True)
    sub = _command(parts, "build", world_build, "Make the embedded models again from scratch, and print their scores.")
    sub.add_argument("folder", type=Path, help="where to write them")
    sub.add_argument("--steps", type=float, default=1.0, help="scale of all training steps (default 1)")
    sub = _command(parts, "sample", world_sample, "Write clips of the world as MP4 files with their questions.")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--selection", default="world:train", help="which scenes (default world:train)")
    sub.add_argument("--count", type=int, default=8)


def run(arguments: argparse.Namespace) -> int:
    """`earwitness run`."""
    config = _config(arguments)
    if arguments.rehearse:
        from earwitness.rehearsal import rehearse

        return rehearse(config, arguments.root)
    from earwitness.driver import FAILED_SHARE, drive

    outcome = drive(config, arguments.root, arguments.until, arguments.redo, _shard(arguments.shard))
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


def _config(arguments: argparse.Namespace) -> RunConfig:
    """Read the configuration of a command; a name that is no file here may be one that ships in the package."""
    place: Path = arguments.config
    shipped = resources.files("earwitness.configs") / place.name
    if not place.exists() and place.suffix == ".toml" and shipped.is_file():
        with resources.as_file(shipped) as file:
            return RunConfig.load(file, arguments.settings)
    return RunConfig.load(place, arguments.settings)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit()):
        raise ConfigError(f"--shard {text}: write I/S, for example 1/4")
    return int(first), int(second)


def check(arguments: argparse.Namespace) -> int:
    """`earwitness check`."""
    from earwitness.plan import plan_text

    print(plan_text(_config(arguments), arguments.root))
    return 0


def train(arguments: argparse.Namespace) -> int:
    """`earwitness train`."""
    from earwitness.driver import train_step
    from earwitness.launcher import hold_lifeline
    from earwitness.stages.training import first_process, told

    hold_lifeline()
    line = ProgressLine() if first_process() else None
    facts = train_step(_config(arguments), arguments.root, arguments.arm, arguments.step, arguments.seed, line)
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
