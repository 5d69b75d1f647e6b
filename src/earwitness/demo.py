"""The demonstration in three acts: a lie is caught, the whole method runs, the table is read."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from earwitness.config import RunConfig
from earwitness.records import Question, Trace, Verdict
from earwitness.terminal import clean

CANDIDATES = 24
MINUTES_ON_TWO_CORES = 8.0


def perform(root: Path, overrides: Sequence[str], quick: bool) -> int:
    """Play the demonstration and return the exit code of its run. `quick` ends after the first act."""
    config = demo_config(overrides)
    started = time.monotonic()
    print("Act 1. A witness who cannot hear, and a checker who can", flush=True)
    print(caught_lie(config), flush=True)
    print(f"\n({time.monotonic() - started:.0f} seconds, nothing trained)", flush=True)
    if quick:
        return 0
    from earwitness.driver import drive, worker_count

    cores = worker_count(config)
    minutes = MINUTES_ON_TWO_CORES * 2 / min(cores, 4)
    print(f"\nAct 2. The whole method: about {minutes:.0f} minutes on this machine ({cores} worker processes).")
    print("Ctrl-C is safe: run the same command again and it goes on where it was.", flush=True)
    outcome = drive(config, root)
    print(f"\nAct 3. What came of it ({(time.monotonic() - started) / 60:.1f} minutes)\n\n{outcome.text}")
    print(_next_commands(root / config.name))
    return 1 if outcome.failing else 0


def demo_config(overrides: Sequence[str] = ()) -> RunConfig:
    """Return the demonstration's configuration, which ships in the package."""
    with resources.as_file(resources.files("earwitness.configs") / "world.toml") as path:
        return RunConfig.load(path, list(overrides))


def caught_lie(config: RunConfig) -> str:
    """Return the first of some validation scenes whose silent teacher claims a sound that is not heard, told as text."""
    from earwitness.stages.sample import SampleTraces
    from earwitness.stages.verify import VerifyTraces
    from earwitness.world.questions import read_world

    questions = read_world("world:validation", CANDIDATES)
    for start in range(0, CANDIDATES, 8):
        block = questions[start : start + 8]
        written = SampleTraces(config.model("teacher"), config.sample, config.seed)(block)
        work = [(q, traces) for q, traces in zip(block, written, strict=True) if isinstance(traces, list)]
        verdicts = VerifyTraces(config.model("checker"), config.verify)(work)
        for (question, traces), judged in zip(work, verdicts, strict=True):
            lie = isinstance(judged, list) and next((v for v in judged if any(not c.heard for c in v.claims)), None)
            if lie:
                return tell(question, traces[lie.index], lie)
    return "In these scenes the teacher claimed nothing that the checker did not hear."


def tell(question: Question, trace: Trace, verdict: Verdict) -> str:
    """Return one trace and its verdict as a short story."""
    from earwitness.sources.clips import scene_of

    scene = scene_of(question.clip)
    seen = ", ".join(f"{name} at {slot / 2:g} s" for slot, name in scene.movers)
    lines = [
        f"  the question     {question.text}  ({', '.join(question.choices or ())})",
        f"  what moves       {seen}",
        f"  the teacher      {clean(trace.raw)}",
        "  the checker      " + ", ".join(f"{c.text}: {'heard' if c.heard else 'NOT HEARD'} ({c.score:.2f})" for c in verdict.claims),
        f"  the verdict      {verdict.reason or 'accepted'}",
        f"  what sounded     {', '.join(scene.heard)}",
    ]
    return "\n".join(lines)


def _next_commands(run: Path) -> str:
    first = "world/train/0"
    return os.linesep.join(
        [
            "Next:",
            f"  earwitness show {run} {first}          the whole life of one question",
            "  earwitness world sample clips --count 4          the world as video files, to watch and to hear",
            "  earwitness check configs/sightsound.toml          the same method at the paper's size",
        ]
    )
