"""What a run would do and need, before anything is spent."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from earwitness.config import Grpo, Model, Optimisation, RunConfig
from earwitness.models.places import place_of
from earwitness.preflight import Asked, chooses, read_questions, refuse, worker_count
from earwitness.records import Question

GIB = 2**30
# Bytes a parameter: weights, gradients and optimizer state in 32 bits; a frozen copy; weights alone in 32 or 16 bits.
FULL_TRAINING, REFERENCE, WIDE, NARROW = 16, 4, 4, 2
WIDTH = 22


def plan_text(config: RunConfig, root: Path) -> str:
    """Return the resolved settings, what each stage owes, the calls to make and the largest stage's memory.

    Raises what a run would raise before it spends anything.
    """
    refuse(config)
    notes: list[str] = []
    asked = read_questions(config, notes.append)
    done = _done(root / config.name)
    lines = [config.to_toml(), "what this run would do", ""]
    lines += [*_data(config, asked, done), *_training(config), *_exams(config, asked)]
    lines += ["", *_memory(config), ""]
    lines += [f"  {worker_count(config)} worker processes; results in {root / config.name}"]
    return "\n".join([*lines, *(f"  note: {note}" for note in notes)])


def _line(name: str, text: str) -> str:
    return f"  {name:{WIDTH}}{text}"


def _data(config: RunConfig, asked: Asked, done: dict[str, int]) -> list[str]:
    if not asked.train:
        return [_line("training questions", "none: no arm trains anything")]
    traces = len(asked.train) * config.sample.traces
    heard = f"up to {traces} traces, one call per distinct claim to the checker"
    lines = [
        _line("training questions", f"{len(asked.train)}{_missing(asked.train)}"),
        _line("sample", f"{config.sample.traces} traces each: {traces} calls to the teacher{_rows(done, 'sample')}"),
        _line("verify", f"{heard}{_rows(done, 'verify')}"),
    ]
    if chooses(config):
        calls = len(asked.choose) * config.sample.traces
        lines.append(_line("choose", f"{len(asked.choose)} questions{_missing(asked.choose)}: {calls} calls more"))
    return lines


def _training(config: RunConfig) -> list[str]:
    steps: dict[str, str] = {}
    for arm, parts in config.arms.items():
        for depth, step in enumerate(parts):
            settings = config.settings(step)
            if isinstance(settings, Optimisation):
                trail = json.dumps([(s.stage, s.settings) for s in parts[: depth + 1]], sort_keys=True)
                sizes = f"{settings.steps} steps of {settings.batch}, {settings.tuning}"
                steps.setdefault(trail, f"{step.stage} of {arm}: {sizes}")
    seeds = len(config.train.seeds)
    return [_line("train", f"{text}, {seeds} seed{'s' * (seeds > 1)}") for text in steps.values()]


def _exams(config: RunConfig, asked: Asked) -> list[str]:
    sittings = sum(
        len(config.train.seeds) if any(s.stage != "answer" for s in steps) else 1 for steps in config.arms.values()
    )
    return [
        _line(f"exam {name}", f"{len(questions)} questions{_missing(questions)} x {sittings} sittings")
        for name, questions in asked.exams.items()
    ]


def _memory(config: RunConfig) -> list[str]:
    """Models are freed between stages: what counts is the largest stage, not the sum."""
    lines, largest = [], 0.0
    for role, spec in config.models.items():
        size = parameters(spec)
        if size is None:
            lines.append(_line(role, f"{spec.kind} {spec.name}: its size is not known on this machine"))
            continue
        need = size * _bytes(config, role, spec) / GIB
        largest = max(largest, need)
        parts = f"{size / 1e6:.2f} M parameters, {need:.2f} GiB without activations"
        lines.append(_line(role, f"{spec.kind} {spec.name}: {parts}"))
    return [*lines, _line("largest stage", f"{largest:.2f} GiB without activations")] if largest else lines


def _bytes(config: RunConfig, role: str, spec: Model) -> int:
    """Return the bytes a parameter of a role's model takes in its largest stage."""
    steps = [config.settings(step) for parts in config.arms.values() for step in parts]
    full = [s for s in steps if isinstance(s, Optimisation) and s.tuning == "full"]
    if role == "student" and full:
        return FULL_TRAINING + REFERENCE * any(isinstance(s, Grpo) and s.beta > 0 for s in full)
    return WIDE if spec.dtype in ("auto", "float32") else NARROW


def parameters(spec: Model) -> int | None:
    """Return a model's number of parameters from its files' headers, None where it is not on this machine."""
    if spec.kind == "served":
        return None
    total = 0
    for file in Path(place_of(spec)).glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total or None


def _missing(questions: Sequence[Question]) -> str:
    absent = sum(1 for q in questions if not q.clip.media.startswith("world:") and not Path(q.clip.media).is_file())
    return f", {absent} of them without their media file" if absent else ""


def _done(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for rows in path.glob("*/rows.jsonl"):
        stage = rows.parent.name.rsplit("-", 1)[0]
        with rows.open("rb") as file:
            counts[stage] = counts.get(stage, 0) + sum(1 for _ in file)
    return counts


def _rows(done: dict[str, int], stage: str) -> str:
    return f"; {done[stage]} rows are on disk" if stage in done else ""
