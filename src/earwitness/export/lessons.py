"""A run's lessons for other trainers: chats with sound as `messages` or `sharegpt`, or a table in Parquet.

The sound of each clip is written beside them as the student hears it: its span alone, mono, 16 kHz.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from earwitness.config import ConfigError
from earwitness.export import new_file, open_run
from earwitness.media import RATE
from earwitness.media.write import write_sound
from earwitness.preflight import read_questions
from earwitness.prompts import question_prompt
from earwitness.records import Clip, Lesson, Pool, Question
from earwitness.run import RunError, Table
from earwitness.sources.clips import load_sound
from earwitness.sources.rows import write_parquet
from earwitness.stages.spelling import prompt_of, spell

MANNER = "plain"  # other trainers teach real models
Taught = tuple[Question, Lesson]


def export_lessons(folder: Path, to: str, out: Path, pool: Pool = "verified") -> list[Path]:
    """Write a pool's lessons, one file for each table of lessons in the run, and return their paths.

    Raises RunError where there are no lessons, ConfigError where the pool holds none.
    """
    run, config = open_run(folder)
    tables = sorted(place.parent for place in run.path.glob("select-*/rows*.jsonl"))
    if not tables:
        raise RunError(f"the run {folder} has no lessons yet")
    questions = {question.id: question for question in read_questions(config, lambda _: None, data_only=True).train}
    written = []
    for table in dict.fromkeys(tables):
        taught = lessons_of(table, questions, pool)
        sounds = _sounds(taught, out / "audio")
        name = "lessons" if len(set(tables)) == 1 else f"lessons.{table.name.removeprefix('select-')}"
        path = new_file(out / f"{name}.{pool}.{'parquet' if to == 'parquet' else 'jsonl'}")
        rows = [WRITERS[to](question, lesson, sounds[question.clip.id]) for question, lesson in taught]
        if to == "parquet":
            write_parquet(path, rows)
        else:
            path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
        written.append(path)
    return written


def lessons_of(table: Path, questions: dict[str, Question], pool: Pool) -> list[Taught]:
    """Return a pool's lessons in a table, in the order of the questions. Raises ConfigError where it holds none."""
    made = {
        row.id: [Lesson.model_validate(record) for record in row.out]
        for row in Table(table, "select", writable=False).rows()
    }
    if strangers := [name for name in made if name not in questions]:
        raise RunError(f"{table} has lessons of {strangers[0]!r}, which is none of the run's questions any more")
    taught = [(q, lesson) for q in questions.values() for lesson in made.get(q.id, ()) if pool in lesson.pools]
    if not taught:
        pools = sorted({p for lessons in made.values() for lesson in lessons for p in lesson.pools})
        raise ConfigError(f"{table} has no lesson in the pool {pool!r}; there are {', '.join(pools) or 'none'}: --pool")
    return taught


def _sounds(taught: Sequence[Taught], folder: Path) -> dict[str, str]:
    """Write each clip's sound once; return its name relative to the lessons, by the clip's id."""
    names: dict[str, str] = {}
    for question, _ in taught:
        clip = question.clip
        if clip.id in names:
            continue
        path = folder / f"{_name(clip)}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_sound(path, load_sound(clip), RATE)
        names[clip.id] = f"{folder.name}/{path.name}"
    return names


def _name(clip: Clip) -> str:
    """Return a file's name for a clip: what can be read of its id, and a digest that tells it from all others."""
    plain = "".join(c if c.isalnum() else "-" for c in clip.id)[-40:].strip("-")
    return f"{plain}-{hashlib.sha256(clip.id.encode()).hexdigest()[:8]}"


def _asked(question: Question, lesson: Lesson) -> str:
    return question_prompt(MANNER, prompt_of(lesson), question.text, question.choices)


def _messages(question: Question, lesson: Lesson, sound: str) -> dict[str, Any]:
    heard = {"type": "audio", "audio": sound}
    return {
        "id": question.id,
        "messages": [
            {"role": "user", "content": [heard, {"type": "text", "text": _asked(question, lesson)}]},
            {"role": "assistant", "content": [{"type": "text", "text": spell(lesson)}]},
        ],
    }


def _sharegpt(question: Question, lesson: Lesson, sound: str) -> dict[str, Any]:
    return {
        "id": question.id,
        "conversations": [
            {"from": "human", "value": f"<audio>{_asked(question, lesson)}"},
            {"from": "gpt", "value": spell(lesson)},
        ],
        "audios": [sound],
    }


def _row(question: Question, lesson: Lesson, sound: str) -> dict[str, Any]:
    return {
        "id": question.id,
        "audio": sound,
        "question": question.text,
        "choices": list(question.choices or ()),
        "think": lesson.think,
        "answer": lesson.answer,
        "prompt": _asked(question, lesson),
        "response": spell(lesson),
        "by": lesson.by,
        "pools": list(lesson.pools),
    }


WRITERS: dict[str, Callable[[Question, Lesson, str], dict[str, Any]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "parquet": _row,
}
