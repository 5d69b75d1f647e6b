"""The embedded world as ordinary video files: for looking at, listening to, and running like anybody's videos."""

from __future__ import annotations

import json
from pathlib import Path

from earwitness import media
from earwitness.config import ConfigError
from earwitness.sources.clips import scene_of
from earwitness.world import render
from earwitness.world.questions import read_world
from earwitness.world.selections import SELECTIONS


def write_clips(folder: Path, selection: str, count: int) -> Path:
    """Write `count` clips of a selection as MP4 (H.264 and AAC) with a questions.jsonl; returns the latter's path."""
    if selection not in SELECTIONS:
        raise ConfigError(f"there is no selection {selection!r}; there are {', '.join(SELECTIONS)}")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    lines = []
    for question in read_world(selection, count):
        scene = scene_of(question.clip)
        name = f"clips/{question.clip.id}.mp4"
        media.write_clip(
            folder / name, render.picture(scene), render.FRAMES_PER_SECOND, render.sound(scene), render.RATE
        )
        row = {
            "id": question.clip.id,
            "media": name,
            "question": question.text,
            "choices": list(question.choices or ()),
            "answer": question.answer,
            "tags": question.tags,
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    file = folder / "questions.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
