"""`earwitness world build`: the embedded weights from scratch, with fixed seeds, and their scores."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from earwitness.models.places import CARD
from earwitness.pretrain.bodies import feature_extractor
from earwitness.pretrain.perception import score_ear, train_ear, train_eye
from earwitness.pretrain.reader import reader_answers, score_reader, train_reader
from earwitness.pretrain.school import SCREEN, School
from earwitness.pretrain.scores import answers_of, score_base, score_checker, score_list, score_mood, score_teacher
from earwitness.pretrain.skills import train_base, train_checker, train_teacher
from earwitness.pretrain.text_core import score_text_core, train_text_core
from earwitness.pretrain.vocabulary import tokenizer
from earwitness.workers import Workers
from earwitness.world.selections import (
    BUILD_SEEDS,
    EAR_SCHOOL,
    EYE_SCHOOL,
    FEELING,
    HELD_OUT_SEEDS,
    SPEECH,
    SPEECH_SCHOOL,
)

COMMAND = "earwitness world build"
NAMES = ("text-core", "textual-teacher", "teacher", "checker", "student")
PRELOAD = ("torch", "transformers")
SAME = "sixteen_bits.json"


def build(folder: Path, steps: float = 1.0) -> dict[str, dict[str, float]]:
    """Make all embedded models into `folder` (two one-thread workers side by side) and return their scores.

    `steps` scales every number of training steps: below 1 for tests of the machinery.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Workers(2, PRELOAD) as workers:
        parts = [workers.submit(make, name, folder, steps) for name in ("text-core", "ear", "eye")]
        reader = workers.submit(make, "textual-teacher", folder, steps)
        for future in parts:
            future.result()
        student = workers.submit(make, "student", folder, steps)
        teacher = workers.submit(make, "teacher", folder, steps)
        student.result()
        workers.submit(make, "checker", folder, steps).result()
        for future in (teacher, reader):
            future.result()
    return finish(folder)


def finish(folder: Path) -> dict[str, dict[str, float]]:
    """Remove what was only needed on the way, score the models, and write the manifest."""
    for name in ("ear", "eye"):
        shutil.rmtree(folder / name, ignore_errors=True)
    scores = score_all(folder)
    _write_manifest(folder, scores)
    return scores


def score_all(folder: Path, count: int = 400) -> dict[str, dict[str, float]]:
    """Return the scores of the models in a folder, on held-out clips. Those about speech say so by their names."""
    ear, eye = School(EAR_SCHOOL, HELD_OUT_SEEDS, count), School(EYE_SCHOOL, HELD_OUT_SEEDS, count)
    speech, moods = School(SPEECH, HELD_OUT_SEEDS, count), School(FEELING, HELD_OUT_SEEDS, count)
    checker, student, reader = (_open(folder, name) for name in ("checker", "student", "textual-teacher"))
    return {
        "text-core": score_text_core(_open(folder, "text-core"), count),
        "textual-teacher": score_reader(reader, ear, speech),
        "teacher": score_teacher(_open(folder, "teacher"), eye),
        "checker": {**score_checker(checker, ear), "list": score_list(checker, ear)}
        | of_speech({"list": score_list(checker, speech)}),
        "student": {**score_base(student, ear), **score_ear(student, ear), **score_reader(student, ear, speech)}
        | of_speech({**score_base(student, speech), **score_ear(student, speech), **score_mood(student, moods)}),
    }


def of_speech(scores: dict[str, float]) -> dict[str, float]:
    """Name scores as those of speech."""
    return {f"speech:{name}": value for name, value in scores.items()}


def make(name: str, folder: Path, steps: float = 1.0) -> None:
    """Make one model into `folder / name`; what it is stitched from must lie there already."""
    sounds, speech = School(EAR_SCHOOL, BUILD_SEEDS), School(SPEECH_SCHOOL, BUILD_SEEDS)
    recipes: dict[str, tuple[int, Callable[[int], Any]]] = {
        "text-core": (4000, train_text_core),
        "textual-teacher": (2800, train_reader),
        "ear": (1100, lambda n: train_ear((sounds, speech), n)),
        "eye": (250, lambda n: train_eye(School(EYE_SCHOOL, BUILD_SEEDS), n)),
        "student": (600, lambda n: train_base(*_parts(folder, "ear"), sounds, speech, n)),
        "checker": (150, lambda n: train_checker(_open(folder, "student"), sounds, speech, n)),
        "teacher": (450, lambda n: train_teacher(*_parts(folder, "eye"), School(EYE_SCHOOL, BUILD_SEEDS), n)),
    }
    full, recipe = recipes[name]
    model = recipe(max(1, round(full * steps)))
    wide = _answers(model, name)
    write(model, folder / name, "think" if name == "textual-teacher" else "direct")
    narrow = _answers(_open(folder, name), name)
    if wide:
        same = sum(a == b for a, b in zip(wide, narrow, strict=True)) / len(wide)
        _write_json(folder / name / SAME, {"same_answers_as_in_32_bits": round(same, 4)})


def _answers(model: Any, name: str, count: int = 400) -> list[str]:
    """Return greedy answers on held-out scenes, for comparing a model with its 16-bit copy."""
    if name == "textual-teacher":
        return reader_answers(model, School(SPEECH, HELD_OUT_SEEDS, count))
    if name == "teacher":
        return answers_of(model, School(EYE_SCHOOL, HELD_OUT_SEEDS, count), "audio")
    if name in ("student", "checker"):
        return answers_of(model, School(EAR_SCHOOL, HELD_OUT_SEEDS, count), "direct" if name == "student" else "claim")
    return []


def _parts(folder: Path, sense: str) -> tuple[Any, Any]:
    return _open(folder, sense), _open(folder, "text-core")


def _open(folder: Path, name: str) -> Any:
    import transformers

    config = json.loads((folder / name / "config.json").read_text())
    model_class = getattr(transformers, config["architectures"][0])
    return model_class.from_pretrained(folder / name, dtype=torch.float32).eval()


def write(model: Any, place: Path, prompt: str = "direct") -> None:
    """Write a model in 16 bits with the ordinary files: configuration, tokenizer, processor, chat template.

    `prompt` is the one that it answers best.
    """
    shutil.rmtree(place, ignore_errors=True)
    kind = model.config.model_type
    model.half().save_pretrained(place)
    tokenizer().save_pretrained(place)
    if kind == "qwen2_audio":
        feature_extractor().save_pretrained(place)
    if kind == "qwen2_5_vl":
        pixels = {"min_pixels": SCREEN.min_pixels, "max_pixels": SCREEN.max_pixels}
        normal = {"image_mean": list(SCREEN.mean), "image_std": list(SCREEN.std)}
        _write_json(place / "video_preprocessor_config.json", {**pixels, **normal})
    _write_json(place / CARD, {"manner": "world", "prompt": prompt})


def _write_manifest(folder: Path, scores: dict[str, dict[str, float]]) -> None:
    models = {}
    for name in NAMES:
        file = folder / name / "model.safetensors"
        models[name] = {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
            "parameters": sum(p.numel() for p in _open(folder, name).parameters()),
            "scores": scores[name],
            **(json.loads((folder / name / SAME).read_text()) if (folder / name / SAME).is_file() else {}),
        }
    facts = {
        "command": COMMAND,
        "build_seeds": BUILD_SEEDS,
        "held_out_seeds": HELD_OUT_SEEDS,
        "licence": "Apache-2.0; trained from scratch on the embedded world; holds no third-party weights or recordings",
        "models": models,
    }
    _write_json(folder / "MANIFEST.json", facts)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
