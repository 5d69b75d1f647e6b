"""`earwitness world build`: the embedded weights from scratch, with fixed seeds, and their scores."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from earwitness.models.loading import CARD
from earwitness.pretrain.bodies import feature_extractor
from earwitness.pretrain.perception import score_ear, train_ear, train_eye
from earwitness.pretrain.school import SCREEN, School
from earwitness.pretrain.scores import answers_of, score_base, score_checker, score_teacher
from earwitness.pretrain.skills import train_base, train_checker, train_teacher
from earwitness.pretrain.text_core import score_text_core, train_text_core
from earwitness.pretrain.vocabulary import tokenizer
from earwitness.workers import Workers
from earwitness.world.selections import BUILD_SEEDS, EAR_SCHOOL, EYE_SCHOOL, HELD_OUT_SEEDS

COMMAND = "earwitness world build"
NAMES = ("text-core", "teacher", "checker", "student")
PRELOAD = ("torch", "transformers")
SAME = "sixteen_bits.json"


def build(folder: Path, steps: float = 1.0) -> dict[str, dict[str, float]]:
    """Make all embedded models into `folder` (two one-thread workers side by side) and return their scores.

    `steps` scales every number of training steps: below 1 for tests of the machinery.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with Workers(2, PRELOAD) as workers:
        core = workers.submit(make, "text-core", folder, steps)
        senses = [workers.submit(make, name, folder, steps) for name in ("ear", "eye")]
        for future in (core, *senses):
            future.result()
        teacher = workers.submit(make, "teacher", folder, steps)
        workers.submit(make, "student", folder, steps).result()
        workers.submit(make, "checker", folder, steps).result()
        teacher.result()
    return finish(folder, time.time() - started)


def finish(folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Remove what was only needed on the way, score the models, and write the manifest."""
    for name in ("ear", "eye"):
        shutil.rmtree(folder / name, ignore_errors=True)
    scores = score_all(folder)
    _write_manifest(folder, scores, seconds)
    return scores


def score_all(folder: Path, count: int = 400) -> dict[str, dict[str, float]]:
    """Return the scores of the models in a folder, on held-out scenes."""
    ear, eye = School(EAR_SCHOOL, HELD_OUT_SEEDS, count), School(EYE_SCHOOL, HELD_OUT_SEEDS, count)
    return {
        "text-core": score_text_core(_open(folder, "text-core"), count),
        "teacher": score_teacher(_open(folder, "teacher"), eye),
        "checker": score_checker(_open(folder, "checker"), ear),
        "student": {**score_base(_open(folder, "student"), ear), **score_ear(_open(folder, "student"), ear)},
    }


def make(name: str, folder: Path, steps: float = 1.0) -> None:
    """Make one model into `folder / name`; what it is stitched from must lie there already."""
    recipes: dict[str, tuple[int, Callable[[int], Any]]] = {
        "text-core": (2600, train_text_core),
        "ear": (400, lambda n: train_ear(School(EAR_SCHOOL, BUILD_SEEDS), n)),
        "eye": (250, lambda n: train_eye(School(EYE_SCHOOL, BUILD_SEEDS), n)),
        "student": (350, lambda n: train_base(*_parts(folder, "ear"), School(EAR_SCHOOL, BUILD_SEEDS), n)),
        "checker": (150, lambda n: train_checker(_open(folder, "student"), School(EAR_SCHOOL, BUILD_SEEDS), n)),
        "teacher": (450, lambda n: train_teacher(*_parts(folder, "eye"), School(EYE_SCHOOL, BUILD_SEEDS), n)),
    }
    full, recipe = recipes[name]
    model = recipe(max(1, round(full * steps)))
    wide = _answers(model, name)
    write(model, folder / name)
    narrow = _answers(_open(folder, name), name)
    if wide:
        same = sum(a == b for a, b in zip(wide, narrow, strict=True)) / len(wide)
        _write_json(folder / name / SAME, {"same_answers_as_in_32_bits": round(same, 4)})


def _answers(model: Any, name: str, count: int = 400) -> list[str]:
    """Return greedy answers on held-out scenes, for comparing a model with its 16-bit copy."""
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


def write(model: Any, place: Path) -> None:
    """Write a model in 16 bits with the ordinary files: configuration, tokenizer, processor, chat template."""
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
    _write_json(place / CARD, {"manner": "world", "prompt": "direct"})


def _write_manifest(folder: Path, scores: dict[str, dict[str, float]], seconds: float) -> None:
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
        "seconds": round(seconds),
        "build_seeds": BUILD_SEEDS,
        "held_out_seeds": HELD_OUT_SEEDS,
        "licence": "Apache-2.0; trained from scratch on the embedded world; holds no third-party weights or recordings",
        "models": models,
    }
    _write_json(folder / "MANIFEST.json", facts)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
