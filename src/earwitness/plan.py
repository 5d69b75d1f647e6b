"""What a run would do and need, before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from earwitness.config import Answer, Distil, Grpo, Model, Optimisation, RunConfig
from earwitness.memory import (
    GIB,
    Need,
    Shape,
    distilling_need,
    operations,
    parameters,
    sampling_need,
    shape,
    training_need,
)
from earwitness.models.served.endpoint import place_of_url
from earwitness.needs import chooses, data_stages, sitting_of, sittings, trains
from earwitness.preflight import (
    Asked,
    has_gpu,
    read_questions,
    refuse,
    refuse_no_choice,
    refuse_no_truth,
    refuse_pool,
    worker_count,
)
from earwitness.records import Question
from earwitness.table import BLOCK

WIDTH = 21
PACE = 125e12  # operations a second: 40 % of what an A100 can do in 16 bits


def plan_text(config: RunConfig, root: Path) -> str:
    """Return the resolved settings, what each stage owes, the calls to make and the largest stage's memory.

    Raises what a run would raise before it spends anything.
    """
    refuse(config)
    refuse_pool(config)
    notes: list[str] = []
    asked = read_questions(config, notes.append)
    refuse_no_choice(config, asked)
    refuse_no_truth(config, asked)
    done = _done(root / config.name)
    lines = [config.to_toml(), "what this run would do", ""]
    lines += [
        *_data(config, asked, done),
        *_training(config),
        *_exams(config, asked),
        *_describing(config, asked, done),
    ]
    lines += ["", *_memory(config), ""]
    hands = f"{config.shards} shards on Ray" if config.pool == "ray" else f"{worker_count(config)} worker processes"
    lines += [f"  {hands}; results in {root / config.name}"]
    return "\n".join([*lines, *(f"  note: {note}" for note in notes)])


def _line(name: str, text: str) -> str:
    return f"  {name:{WIDTH}} {text}"


def _data(config: RunConfig, asked: Asked, done: dict[str, int]) -> list[str]:
    if not asked.train:
        return [_line("training questions", "none: no arm trains anything")]
    traces = len(asked.train) * config.sample.traces
    each = "one call each" if config.verify.unit == "trace" else "one call per distinct claim"
    heard = f"up to {traces} traces, {each} to the checker"
    if config.verify.source == "extracted" and config.verify.unit == "claims":
        heard += f", and up to {traces} to the teacher for their claims"
    calls = f"{config.sample.traces} traces each: {traces} calls to the teacher"
    lines = [_line("training questions", f"{len(asked.train)}{_missing(asked.train)}")]
    if "sample" in data_stages(config):
        lines += [_line("sample", calls + _rows(done, "sample")), _line("verify", heard + _rows(done, "verify"))]
    else:
        lines.append(_line("lessons", "the data's own (a control): no teacher is asked for any"))
    if chooses(config):
        labels = "by the data's own answers"
        if config.questions.choose_by == "teacher":
            labels = f"{len(asked.choose) * config.sample.traces} calls more"
        lines.append(_line("choose", f"{len(asked.choose)} questions{_missing(asked.choose)}: {labels}"))
    return lines


def _describing(config: RunConfig, asked: Asked, done: dict[str, int]) -> list[str]:
    """Say how many clips are described, and by whom; in training at most those of all questions."""
    source = config.describe.source
    counts: dict[str, int] = {}
    if asked.train and "describe" in data_stages(config):
        counts[source] = len(asked.train)
    for sees in {"oracle" if sitting.sees == "oracle" else source for sitting in sittings(config) if _reads(sitting)}:
        counts[sees] = counts.get(sees, 0) + sum(map(len, asked.exams.values()))
    names = {
        "model": "calls to the describer",
        "caption": "captions from the data's own reasoning",
        "field": "descriptions that the data carries",
        "oracle": "truths of the embedded world (a control)",
    }
    told = ", ".join(f"up to {count} {names[kind]}" for kind, count in sorted(counts.items()))
    return [_line("describe", told + _rows(done, "describe"))] if counts else []


def _reads(sitting: Answer) -> bool:
    return sitting.sees != "clip"


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
    helped = any(sitting.prompt == "given-trace" for sitting in sittings(config))
    return [
        _line(
            f"exam {name}",
            f"{len(questions)} questions{_missing(questions)} x {_sittings(config, name)} sittings"
            + (f", and {len(questions)} calls to the teacher, whose reasoning is handed over" if helped else ""),
        )
        for name, questions in asked.exams.items()
    ]


def _sittings(config: RunConfig, exam: str) -> int:
    """Return how often an exam is sat: by every arm, of every seed where it trains, both ways where asked so."""
    modes = 2 if exam in config.exams.both_ways else 1
    return sum(
        (modes + (modes > 1 and sitting_of(config, steps).prompt in ("plain", "given-trace")))
        * (len(config.train.seeds) if trains(steps) else 1)
        for steps in config.arms.values()
    )


def _memory(config: RunConfig) -> list[str]:
    """Models are freed between stages: what counts is the largest stage, not the sum."""
    lines, largest = [], (0.0, "")
    for name, spec, need in _needs(config):
        if spec.kind == "served":
            lines.append(_line(name, f"{spec.name}, asked at {', '.join(map(place_of_url, spec.base_url))}"))
        elif need is None:
            lines.append(_line(name, f"{spec.kind} {spec.name}: its size is not known on this machine"))
        else:
            largest = max(largest, (need.total, name))
            lines.append(_line(name, f"{spec.name}: {need.told()}"))
    if largest[1]:
        each = f" in each of {config.train.processes} processes" if config.train.processes > 1 else ""
        lines.append(_line("largest stage", f"{largest[1]}: about {largest[0] / GIB:.2f} GiB{each}"))
    return lines + _arithmetic(config)


def _arithmetic(config: RunConfig) -> list[str]:
    """How long the training steps take, counted: a real machine is slower where clips must be read from a disk."""
    size = parameters(config.models["student"]) if "student" in config.models else None
    lines = []
    for name, settings in _steps(config).items() if size is not None else ():
        live = isinstance(settings, Distil) and settings.reads and settings.signals == "live"
        teacher = (parameters(config.model("textual_teacher")) or 0) if live else 0
        work = settings.steps * operations(size or 0, settings, config.sample.max_tokens, teacher)
        hours = work / PACE / config.train.processes / 3600
        gpus = f"{config.train.processes} GPUs" if config.train.processes > 1 else "a GPU"
        lines.append(
            _line(name, f"{work:.1e} operations a seed: {hours:.2g} h on {gpus} at {PACE / 1e12:g} TFLOP/s each")
        )
    return lines


def _needs(config: RunConfig) -> Iterator[tuple[str, Model, Need | None]]:
    """Yield what each role and each kind of training step needs: its name, its model, and its memory."""
    for role, spec in config.models.items():
        size, sizes = parameters(spec), shape(spec)
        if size is None or sizes is None:
            yield role, spec, None
            continue
        number = 4 if _wide(spec.dtype) else 2
        samples, length = (config.sample.traces, config.sample.max_tokens) if role == "teacher" else (1, 1)
        if role in ("student", "textual_teacher"):
            length = config.answer.max_tokens
        if role == "describer":
            length = config.describe.max_tokens
        yield role, spec, sampling_need(size, sizes, BLOCK, samples, length, number)
        for name, settings in _steps(config).items() if role == "student" else ():
            wide, lesson = _wide(settings.precision), config.sample.max_tokens
            need = training_need(size, sizes, settings, lesson, wide, config.train.processes)
            yield name, spec, _in_company(config, settings, need, sizes, lesson)


def _in_company(config: RunConfig, settings: Optimisation, need: Need, sizes: Shape, lesson: int) -> Need | None:
    """Return a training step's need with its teacher's or checker's part, None where that one's size is not known."""
    if isinstance(settings, Grpo) and settings.checker_weight:
        checker = config.model("checker")
        held = parameters(checker)
        return None if held is None else replace(need, company=held * (4.0 if _wide(checker.dtype) else 2.0))
    if not isinstance(settings, Distil) or not settings.reads:
        return need
    teacher = config.model("textual_teacher")
    size, theirs = parameters(teacher), shape(teacher)
    if size is None or theirs is None:
        return None
    number = 4 if _wide(teacher.dtype) else 2
    return distilling_need(need, sizes, (size, theirs), settings, lesson, number, config.train.processes)


def _steps(config: RunConfig) -> dict[str, Optimisation]:
    """Return the training steps that differ in what they need, by a name for each."""
    found: dict[str, Optimisation] = {}
    for arm, parts in config.arms.items():
        for step in parts:
            settings = config.settings(step)
            if isinstance(settings, Optimisation) and not any(_alike(settings, other) for other in found.values()):
                found[f"{step.stage} of {arm}"] = settings
    return found


def _alike(a: Optimisation, b: Optimisation) -> bool:
    sizes = ["tuning", "batch", "micro_batch", "lora_rank", "precision", "activation_checkpointing"]
    sizes += ["checker_weight"] if isinstance(a, Grpo) else []
    if isinstance(a, Distil):
        sizes += ["layers", "match", "acoustic_layers", "signals", "reads", "layer_weight", "acoustic_weight"]
    return type(a) is type(b) and all(getattr(a, name) == getattr(b, name) for name in sizes)


def _wide(precision: str) -> bool:
    """Whether numbers have 32 bits: `auto` has 16 on GPUs."""
    return precision == "float32" or (precision == "auto" and not has_gpu())


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
