"""What a run would do and need, before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path

from earwitness.config import NOT_BUILT, ConfigError, Model, Optimisation, RunConfig
from earwitness.driver import read_exam, worker_count
from earwitness.models.places import ModelError, place_of
from earwitness.records import Question
from earwitness.sources import read_sources

GIB = 2**30
# Bytes a parameter: weights and optimizer state of full fine-tuning in 32 bits; weights alone in 32 or 16 bits.
FULL_TRAINING, WIDE, NARROW = 16, 4, 2


def plan_text(config: RunConfig, root: Path) -> str:
    """Return the resolved settings, what each stage owes, the calls to make and the largest stage's memory."""
    lines = [config.to_toml(), "what this run would do", ""]
    questions = read_sources(config.questions.train, config.questions, config.questions.limit)
    lines += [f"  training questions    {len(questions)}{_missing(questions)}"]
    done = _done(root / config.name)
    traces = len(questions) * config.sample.traces
    lines += [
        f"  sample                {len(questions)} questions x {config.sample.traces} traces = {traces} calls to the "
        f"teacher{_rows(done, 'sample')}",
        f"  verify                up to {traces} traces, one call per distinct claim to the checker{_rows(done, 'verify')}",
    ]
    lines += _training(config)
    for exam in config.exams.names:
        asked = len(read_exam(config, exam))
        sittings = len(config.arms) * len(config.train.seeds)
        lines.append(f"  exam {exam:16} {asked} questions x up to {sittings} sittings")
    lines += ["", *_memory(config), "", f"  {worker_count(config)} worker processes; results in {root / config.name}"]
    return "\n".join(lines)


def _training(config: RunConfig) -> list[str]:
    steps = {}
    for arm, parts in config.arms.items():
        for depth, step in enumerate(parts):
            if step.stage in NOT_BUILT:
                raise ConfigError(f"arms.{arm}: the stage {step.stage!r} is not built yet in this version")
            settings = config.settings(step)
            if isinstance(settings, Optimisation):
                trail = json.dumps([(s.stage, s.settings) for s in parts[: depth + 1]], sort_keys=True)
                steps[trail] = f"{step.stage} of {arm}: {settings.steps} steps of {settings.batch}, {settings.tuning}"
    seeds = len(config.train.seeds)
    return [f"  train                 {text}, {seeds} seed{'s' * (seeds > 1)}" for text in steps.values()]


def _memory(config: RunConfig) -> list[str]:
    """Models are freed between stages: what counts is the largest stage, not the sum."""
    lines, largest = [], 0.0
    for role, spec in config.models.items():
        size = parameters(spec)
        if size is None:
            lines.append(f"  {role:20} {spec.kind} {spec.name}: size not known here")
            continue
        full = role == "student" and config.sft.tuning == "full" and bool(config.arms)
        need = size * (FULL_TRAINING if full else WIDE if spec.dtype in ("auto", "float32") else NARROW) / GIB
        largest = max(largest, need)
        lines.append(f"  {role:20} {spec.kind} {spec.name}: {size / 1e6:.2f} M parameters, {need:.2f} GiB without activations")
    return [*lines, f"  largest stage         {largest:.2f} GiB without activations"]


def parameters(spec: Model) -> int | None:
    """Return a model's number of parameters from its files' headers, None where it is not on this machine."""
    if spec.kind == "served":
        return None
    try:
        folder = Path(place_of(spec))
    except ModelError as error:
        raise ConfigError(str(error)) from None
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for n in tensor["shape"]:
                    size *= n
                total += size
    return total or None


def _missing(questions: list[Question]) -> str:
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
