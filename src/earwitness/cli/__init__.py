"""The command line: thin. Each command is one function that calls what the Python interface calls."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from earwitness import __version__
from earwitness.cli import comparing, exams, models, probing, runs, serving, sitting, world
from earwitness.config import ConfigError
from earwitness.table import RunError
from earwitness.terminal import clean

DESCRIPTION = """\
Teach an audio-language model to reason, from a teacher that watches the silent video.

  earwitness demo                                the whole method on the embedded world, in minutes
  earwitness check my.toml                       what a run would do, before anything is spent
  earwitness ask my.toml                         the teacher writes questions about videos that have none
  earwitness run my.toml --rehearse              every stage with tiny models, two questions, a minute
  earwitness run my.toml questions.limit=500     the run; the same command continues it after any stop
  earwitness show runs/my-run                    where it stands; with a question's id: its whole life
  earwitness listen world:student clip.mp4 "what is heard ?" --choices dog,bell
  earwitness exam world:student --on world       public benchmarks too: mmau-mini, mmar, ...; score reads predictions
  earwitness compare runs/exam-a runs/exam-b     whether two systems differ on the same questions
"""

PARTS = (runs, exams, sitting, comparing, models, serving, probing, world)


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
    for part in PARTS:
        part.add(commands)
    return top
