"""AIR-Bench, its Foundation part (Yang et al. 2024): recognition tasks over sound, music and speech, with choices."""

from __future__ import annotations

from earwitness.exams import official
from earwitness.exams.exam import Exam, clip
from earwitness.exams.mmsu import lettered
from earwitness.exams.rows import Row, gold, identity, tags, text
from earwitness.records import Question

GROUNDING = "Audio_Grounding"  # whose clips are FLAC, whatever the row says


def question(row: Row, number: int) -> Question:
    """Return a row's question; its clip lies in a folder named by task and data set."""
    options = lettered(row)
    task, path = text(row, "task_name"), text(row, "path")
    if task == GROUNDING:
        path = path.rpartition(".")[0] + ".flac"
    media = f"{task}_{text(row, 'dataset_name')}/{path}"
    return Question(
        id=text(row, "uniq_id"),
        clip=clip("air-bench", media),
        text=text(row, "question"),
        choices=options,
        answer=gold(row.get("answer_gt"), options),
        tags=tags(row, task="task_name", dataset="dataset_name"),
    )


def _id(row: Row) -> str | None:
    return identity(row, "uniq_id", "id")


EXAMS = (
    Exam(
        name="air-bench",
        files="Foundation_meta.json and the folders beside it of the Hugging Face data set qyang1021/AIR-Bench-Dataset",
        question=question,
        identity=_id,
        official=official.air_bench,
        letters=True,
        asks_model=True,
        why="the official scorer lets a model of OpenAI read the replies that begin with no letter",
    ),
)
