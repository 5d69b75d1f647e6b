"""A benchmark of your own: one function that makes a row a question, and one object that says the rest.

    python examples/own_exam.py

Put the same into `src/earwitness/exams/birds.py` as `EXAMS = (BIRDS,)`, name the file in `exams/__init__.py`, and
`earwitness score birds FILE` and `[exams] names = ["birds"]` know it.
"""

import json
import tempfile
from pathlib import Path

from earwitness.exams.exam import Exam, clip
from earwitness.exams.official import exact_text
from earwitness.exams.rows import Row, choices, gold, tags, text
from earwitness.records import Question
from earwitness.score import score_file
from earwitness.score.table import table


def question(row: Row, number: int) -> Question:
    """One row of the annotation file. What is not as it must be raises RowError, and the reader adds which row."""
    options = choices(row, "birds")
    return Question(
        id=text(row, "id"),
        clip=clip("birds", text(row, "recording")),
        text="Which bird is heard?",
        choices=options,
        answer=gold(row.get("heard"), options),
        tags=tags(row, task="region"),
    )


BIRDS = Exam(name="birds", files="birds.jsonl and the recordings that it names", question=question, official=exact_text)

ANNOTATIONS = [
    {"id": "1", "recording": "a.wav", "birds": ["robin", "wren", "owl"], "heard": "wren", "region": "north"},
    {"id": "2", "recording": "b.wav", "birds": ["robin", "wren", "owl"], "heard": 2, "region": "south"},
]
PREDICTIONS = [
    {"id": "1", "output": "<think>Too fast for a robin.</think><answer>B. wren</answer>"},
    {"id": "2", "output": "It could be a robin or an owl."},
]

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "birds.jsonl", Path(folder) / "predictions.jsonl"
        for path, rows in zip(files, (ANNOTATIONS, PREDICTIONS), strict=True):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(table(score_file(BIRDS, files[1], data=files[0]), BIRDS))
