"""What a textual teacher behind a server teaches, against the same model in this process: the loss and its gradient.

The embedded world's textual teacher is served by `earwitness serve` in a process of its own, and reads what its clips
truly sound like. Errors are relative: of the top layer's loss over all lessons, and of its gradient with respect to
the student's logits.

python benchmarks/served_teacher.py [--lessons 64] [--tiny]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from earwitness.config import Distil, Model
from earwitness.learn.attention import unwrapped
from earwitness.learn.divergences import Divergence, Target, compare
from earwitness.learn.losses import hidden_states
from earwitness.learn.teachers import listen_to
from earwitness.models import open_local
from earwitness.models.served.desk import current_desk
from earwitness.models.served.teacher import ServedTeacher
from earwitness.records import Lesson, Question
from earwitness.stages.describe import describe_known
from earwitness.stages.distil import Reader
from earwitness.stages.sft import Supervised
from earwitness.stages.training import TrainingJob
from earwitness.world.questions import read_world
from measure import say

COUNTS = (20, 64)  # likeliest tokens: what servers give, and what they give where they are started so


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lessons", type=int, default=64)
    parser.add_argument("--tiny", action="store_true", help="two lessons, for a test")
    options = parser.parse_args()
    with serving() as url:
        say(measured(url, 2 if options.tiny else options.lessons))


@torch.no_grad()
def measured(url: str, count: int) -> dict[str, float]:
    """Return errors at each number of likeliest tokens: of the server against this process, and against all tokens."""
    pairs = material(count)
    student = open_local(Model(kind="world", name="student"), "student")
    made = Supervised(student).prepare(student.model, pairs, 0)
    where = made.packed.row, made.packed.source
    logits = unwrapped(student.model).lm_head(hidden_states(student.model, made.packed)[where]).float()
    served = Model(
        kind="served", name="textual-teacher", base_url=url, tokenizer="world:textual-teacher", manner="world"
    )
    local = open_local(Model(kind="world", name="textual-teacher"), "textual_teacher")
    teachers = {"here": local, "there": ServedTeacher(served, current_desk())}

    def learnt(where: str, top_k: int) -> tuple[Tensor, Tensor]:
        job = job_of(pairs, top_k)
        reader = Reader(job, teachers[where], student)  # type: ignore[arg-type]
        signals = listen_to(reader.teacher.model, reader.packed(made.lessons), reader.reading(job.settings, ()))
        target: Target = signals.top(slice(0, len(logits)))
        return compare(Divergence(), target, logits)

    exact, found = learnt("here", 0), {"tokens": float(len(logits)), "vocabulary": float(logits.shape[1])}
    for top_k in COUNTS:
        here, there = learnt("here", top_k), learnt("there", top_k)
        for name, (a, b) in {"served": (there, here), "top_k": (there, exact)}.items():
            found[f"{name}_error_{top_k}"] = float((a[0].sum() - b[0].sum()).abs() / b[0].sum())
            found[f"{name}_gradient_error_{top_k}"] = float((a[1] - b[1]).norm() / b[1].norm())
    return found


def material(count: int) -> list[tuple[Question, Lesson]]:
    """Return questions with the reasoning that the world's data carries."""
    return [
        (q, Lesson(think=q.think, answer=str(q.answer), index=0, pools=("given",), by="data"))
        for q in read_world("world-given:train", count)
    ]


def job_of(pairs: list[tuple[Question, Lesson]], top_k: int) -> TrainingJob:
    """Return what a reader is told: the settings, and what the clips sound like."""
    settings = Distil(layer_weight=0.0, acoustic_weight=0.0, top_k=top_k)
    told = {q.id: heard[0].text for q, _ in pairs if isinstance(heard := describe_known(q, "oracle"), list)}
    return TrainingJob(
        "distil", settings, Model(kind="world", name="student"), None, tuple(pairs), 1, Path(), "",
        textual_teacher=Model(kind="world", name="textual-teacher"), descriptions=tuple(told.items()),
    )  # fmt: skip


@contextmanager
def serving() -> Iterator[str]:
    """Serve the embedded textual teacher; gives its address."""
    command = [sys.executable, "-m", "earwitness", "serve", "world:textual-teacher", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = next(found for line in process.stdout if (found := re.search(r"at (http://\S+/v1)$", line.strip())))
        yield said[1]
    finally:
        process.terminate()
        process.wait()
        current_desk().close()


if __name__ == "__main__":
    main()
