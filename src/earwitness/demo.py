"""The demonstration in three acts: a lie is caught, the whole method runs, the table is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from earwitness.config import RunConfig
from earwitness.records import Question, Trace, Verdict
from earwitness.terminal import clean

CANDIDATES = 24
MINUTES_ON_TWO_CORES = 4.5


def perform(root: Path, overrides: Sequence[str], quick: bool, say: Callable[[str], None]) -> int:
    """Play the demonstration and return the exit code of its run. `quick` ends after the first act."""
    config = demo_config(overrides)
    started = time.monotonic()
    say("Act 1. A witness who cannot hear, and a checker who can\n")
    say(caught_lie(config))
    say(f"\n({time.monotonic() - started:.0f} seconds, nothing trained)")
    if quick:
        return 0
    from earwitness.driver import drive
    from earwitness.preflight import worker_count

    cores = worker_count(config)
    minutes = MINUTES_ON_TWO_CORES * 2 / min(cores, 4)
    say(f"\nAct 2. The whole method: about {minutes:.0f} minutes on this machine ({cores} worker processes).")
    say("Ctrl-C is safe: run the same command again and it goes on where it was.")
    outcome = drive(config, root)
    say(f"\nAct 3. What came of it ({(time.monotonic() - started) / 60:.1f} minutes)\n\n{outcome.text}\n")
    say(_next_commands(root / config.name))
    return 1 if outcome.failing else 0


def demo_config(overrides: Sequence[str] = ()) -> RunConfig:
    """Return the demonstration's configuration, which ships in the package."""
    with resources.as_file(resources.files("earwitness.configs") / "world.toml") as path:
        return RunConfig.load(path, list(overrides))


def caught_lie(config: RunConfig) -> str:
    """Return, told as text, the first of some scenes whose silent teacher claims a sound that is not heard."""
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
            truth = question.clip.sounds or ()
            lie = isinstance(judged, list) and next((v for v in judged if _caught(v, truth)), None)
            if lie:
                return tell(question, traces[lie.index], lie)
    return "In these scenes the checker caught the teacher in no lie."


def _caught(verdict: Verdict, truth: Sequence[str]) -> bool:
    """Whether the checker was right about every claim, and one of them was false."""
    right = all(claim.heard == (claim.text in truth) for claim in verdict.claims)
    return right and any(not claim.heard for claim in verdict.claims)


def tell(question: Question, trace: Trace, verdict: Verdict) -> str:
    """Return one trace and its verdict as a short story."""
    from earwitness.sources.clips import scene_of
    from earwitness.world.scenes import Scene

    scene = scene_of(question.clip)
    movers = scene.movers if isinstance(scene, Scene) else ()
    seen = ", ".join(f"{name} at {slot / 2:g} s" for slot, name in movers)
    lines = [
        f"  the question     {question.text}  ({', '.join(question.choices or ())})",
        f"  what moves       {seen}",
        f"  the teacher      {clean(trace.raw)}",
        "  the checker      "
        + ", ".join(f"{c.text}: {'heard' if c.heard else 'NOT HEARD'} ({c.score:.2f})" for c in verdict.claims),
        f"  the verdict      {verdict.reason or 'accepted'}",
        f"  what sounded     {', '.join(scene.heard)}",
    ]
    return "\n".join(lines)


def _next_commands(run: Path) -> str:
    first = "world/train/0"
    commands = {
        f"earwitness show {run} {first}": "the whole life of one question",
        "earwitness world sample clips --count 4": "the world as video files, to watch and to hear",
        "earwitness run sightsound.toml --rehearse": "the same method at the paper's size, rehearsed on your data",
    }
    width = max(map(len, commands))
    return "\n".join(["Next:", *(f"  {command:{width}}   {words}" for command, words in commands.items())])
