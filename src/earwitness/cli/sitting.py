"""The command that lets a model sit exams outside a run."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from earwitness.cli.common import SETTINGS, Commands, command
from earwitness.config import ConfigError, Model
from earwitness.terminal import clean

SETTING = re.compile(r"[a-z_]+(\.[a-z_0-9-]+)+=.*")


def add(commands: Commands) -> None:
    """Add the command of this file."""
    sub = command(commands, "exam", exam, "Let a model sit public benchmarks; what is answered is not asked again.")
    sub.add_argument(
        "model", metavar="MODEL", help="world:NAME, a model's or adapter's folder, a name of the hub, RUN/ARM"
    )
    sub.add_argument("settings", nargs="*", metavar="section.key=value", help=SETTINGS)
    sub.add_argument("--on", required=True, metavar="EXAMS", help="exams, separated by commas (docs/exams.md)")
    sub.add_argument("--media", nargs="+", default=[], metavar="DIR", help="folders of clips, or patterns with {media}")
    sub.add_argument("--annotations", nargs="+", default=[], metavar="NAME=FILE", help="the exams' own files")
    sub.add_argument("--limit", type=int, default=0, help="so many questions of each exam (default: all)")
    sub.add_argument("--prompt", choices=["direct", "think"], help="default: the one that the model was trained with")
    sub.add_argument("--max-tokens", type=int, help="the longest reply")
    sub.add_argument("--long-clips", choices=["refuse", "truncate", "chunk"], help="what becomes of clips too long")
    sub.add_argument("--base-url", action="append", help="the model is served there, under the name MODEL")
    sub.add_argument("--profile", default="vllm", help="what the server understands (default: vllm)")
    sub.add_argument("--samples", type=int, default=0, metavar="K", help="draw K answers beside: avg@k, maj@k, pass@k")
    sub.add_argument("--temperature", type=float, default=0.7, help="of the samples (default: 0.7)")
    sub.add_argument("--shuffles", action="store_true", help="ask under every cyclic shuffle of the choices, too")
    sub.add_argument("--controls", default="", help="silence, noise, other, text: the same questions without the sound")
    sub.add_argument("--against", metavar="RUN|SOURCE", help="say which clips were learnt from: by name, and by sound")
    sub.add_argument("--shard", metavar="I/S", help="answer only the I-th of S shares; without it all are put together")
    sub.add_argument("--redo", choices=["stale", "failed"], help="answer again what changed, or what failed")
    sub.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    sub.add_argument("--name", help="the folder below it (default: exam-MODEL-PROMPT)")
    sub.add_argument("--json", action="store_true", help="one JSON object on the last line")


def exam(arguments: argparse.Namespace) -> int:
    """`earwitness exam`."""
    from earwitness.cli.runs import shard_of
    from earwitness.sit import Beside, sit, sitting_config

    a = arguments
    late = [word for word in [*a.media, *a.annotations] if SETTING.fullmatch(word) and not Path(word).exists()]
    exams = {
        "names": [name.strip() for name in a.on.split(",") if name.strip()],
        "limit": a.limit,
        "media": [place for place in a.media if place not in late],
        "annotations": dict(_named(word) for word in a.annotations if word not in late),
    }
    if not exams["names"]:
        raise ConfigError(f"--on {a.on}: name an exam, such as mmau-mini (docs/exams.md)")
    answer = [] if a.max_tokens is None else [f"answer.max_tokens={a.max_tokens}"]
    config = sitting_config(_spec(a), exams, a.name, a.prompt, [*answer, *a.settings, *late])
    controls = tuple(word.strip() for word in a.controls.split(",") if word.strip())
    beside = Beside(a.samples, a.temperature, a.shuffles, controls, a.against)
    outcome = sit(config, beside, a.root, a.redo, shard_of(a.shard))
    if outcome.report is not None:
        print(clean(outcome.text), flush=True)
        print(f"\nreport: {a.root / config.name / 'report.md'}", flush=True)
    for stage, first in outcome.failures:
        print(f"{clean(stage)}, first {clean(first)}", file=sys.stderr)
    if a.json and outcome.report is not None:
        print(json.dumps(outcome.report, ensure_ascii=False))
    return 1 if outcome.failing else 0


def _spec(arguments: argparse.Namespace) -> Model:
    """Return the model that is named: behind a server where one is given."""
    from earwitness.config import RunConfig
    from earwitness.listen import model_spec

    if arguments.base_url:
        served = {"kind": "served", "name": arguments.model, "base_url": arguments.base_url}
        model = {"student": served | {"profile": arguments.profile}}
        spec = RunConfig.parse({"name": "exam", "questions": {"train": []}, "models": model}, "--base-url").models[
            "student"
        ]
    else:
        spec = model_spec(arguments.model)
    if arguments.long_clips:
        spec = spec.model_copy(update={"long_clips": arguments.long_clips})
    return spec


def _named(word: str) -> tuple[str, str]:
    name, equals, path = word.partition("=")
    if not equals:
        raise ConfigError(f"--annotations {word}: write NAME=FILE, such as mmau-mini=mmau-test-mini.json")
    return name, path
