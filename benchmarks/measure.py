"""Measuring: arms run in turns, each time in a fresh process; what is compared are medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MIB = 2**20


Arm = Callable[[], dict[str, float]]


def take_turns(arms: Mapping[str, Arm], runs: int) -> dict[str, list[dict[str, float]]]:
    """Run every arm `runs` times, in turns, every other turn in reverse order."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for run in range(runs):
        for name in list(arms) if run % 2 == 0 else reversed(list(arms)):
            results[name].append(arms[name]())
            print(f"{name}: {json.dumps(results[name][-1])}", file=sys.stderr, flush=True)
    return results


def fresh(*command: str) -> Arm:
    """Return an arm that runs a script in a process of its own, on one thread, and reads the JSON on its last line."""

    def run() -> dict[str, float]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed with status {done.returncode}")
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result

    return run


def median(results: Sequence[Mapping[str, float]], key: str) -> float:
    """Return the median of a value over an arm's runs."""
    return statistics.median(result[key] for result in results)


def ratio(results: Mapping[str, Sequence[Mapping[str, float]]], over: str, under: str, key: str) -> float:
    """Return how many times larger the median of one arm is than that of another."""
    return round(median(results[over], key) / median(results[under], key), 3)


def gap(results: Mapping[str, Sequence[Mapping[str, float]]], one: str, other: str, key: str) -> float:
    """Return the relative difference of a value between two arms, which should not differ."""
    a, b = results[one][0][key], results[other][0][key]
    return abs(a - b) / max(abs(a), abs(b), 1e-12)


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Do some work and return with its result the CPU `seconds` and the `mebibytes` above those held before."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    started = time.process_time()
    result = work()
    return result, {"seconds": time.process_time() - started, "mebibytes": max(_memory("VmHWM") - before, 4096) / MIB}


def _memory(key: str) -> int:
    """Return a line of Linux' account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def say(result: Mapping[str, Any]) -> None:
    """Print the result as the last line."""
    print(json.dumps(result), flush=True)
