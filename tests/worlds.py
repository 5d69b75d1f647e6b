"""Small runs on the embedded world: their configuration, as subprocesses, and what they leave on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from earwitness.config import RunConfig

COMMAND = [sys.executable, "-c", "import sys; from earwitness.cli import main; sys.exit(main())"]
ARMS: dict[str, list[dict[str, Any]]] = {
    "base": [],
    "label": [{"stage": "sft", "lessons": "labels"}],
    "practised": [{"stage": "sft", "lessons": "all"}, {"stage": "grpo", "prompts": "labels"}],
}
READERS: dict[str, list[dict[str, Any]]] = {
    "told": [{"stage": "answer", "examinee": "textual_teacher", "sees": "oracle"}],
    "reader": [{"stage": "answer", "examinee": "textual_teacher", "sees": "description"}],
    "student-reads": [{"stage": "answer", "sees": "description", "prompt": "think"}],
}
MODELS = {
    **{role: {"kind": "world", "name": role} for role in ("teacher", "checker", "student")},
    "describer": {"kind": "world", "name": "checker"},
    "textual_teacher": {"kind": "world", "name": "text-core"},
}


def world_config(**sections: Any) -> RunConfig:
    """Return a configuration that trains for seconds. `sections` are merged into it, `arms` replace its own.

    The pools that it learns from are never empty, however little the embedded models can do.
    """
    data: dict[str, Any] = {
        "name": "small",
        "questions": {"train": ["world:train"], "choose": ["world:validation"], "limit": 8, "choose_limit": 8},
        "exams": {"names": ["world"], "limit": 8},
        "models": {role: {"kind": "world", "name": role} for role in ("teacher", "checker", "student")},
        "sample": {"traces": 2, "max_tokens": 48},
        "verify": {"calibrate": 0.25},
        "sft": {"steps": 3, "batch": 2, "checkpoint_every": 1},
        "grpo": {"steps": 2, "batch": 2, "group": 2, "max_tokens": 24, "checkpoint_every": 1},
        "answer": {"max_tokens": 24},
        "train": {"seeds": [1], "parallel": 1},
        "arms": ARMS,
    }
    for name, values in sections.items():
        merged = isinstance(values, dict) and name not in ("arms", "variants")
        data[name] = {**data.get(name, {}), **values} if merged else values
    return RunConfig.parse(data)


def reading_config(**sections: Any) -> RunConfig:
    """Return a configuration in which nothing is trained and an exam of three questions is sat by reading."""
    small = {"describe": {"max_tokens": 48}, "arms": READERS, "exams": {"names": ["world"], "limit": 3}}
    return world_config(**small | {"models": MODELS} | sections)


def save(config: RunConfig, place: Path) -> Path:
    """Write a configuration to a file and return its path."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(config.to_toml(), encoding="utf-8")
    return place


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command line as a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def call(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end; whatever it started is gone afterwards."""
    process = start(*arguments)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        kill_group(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kill_driver(process: subprocess.Popen[str]) -> None:
    """Kill the driver alone, as the kernel does when memory is short: its workers must find out by themselves."""
    process.kill()
    process.wait()


def kill_group(process: subprocess.Popen[str]) -> None:
    """End a driver that is still there, and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def group_ends(number: int, seconds: float = 20) -> bool:
    """Whether a process group comes to its end by itself within some seconds; what is left is killed."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            os.killpg(number, 0)
            time.sleep(0.02)
        os.killpg(number, signal.SIGKILL)
    except ProcessLookupError:
        return True
    return False


def finished(run: Path) -> dict[str, int]:
    """Return when each file of a finished table or checkpoint was written last: nothing of these is made again."""
    tables = [done.with_name("rows.jsonl") for done in run.glob("*/done.json")]
    weights = [file for done in run.glob("checkpoints/*/done.json") for file in done.parent.glob("final/*")]
    return {file.relative_to(run).as_posix(): file.stat().st_mtime_ns for file in [*tables, *weights]}


def made(run: Path) -> dict[str, bytes]:
    """Return all that must be equal between two equal runs: tables, weights and the report, by relative path."""
    wanted = [*run.glob("*/rows.jsonl"), *run.glob("checkpoints/*/final/*.safetensors"), run / "report.json"]
    return {file.relative_to(run).as_posix(): file.read_bytes() for file in wanted if file.is_file()}
