"""A training step in several processes: started from here, watched by its log, and finished like any other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from earwitness.launcher import find_launcher, launch, launch_command
from earwitness.stages.training import TrainingJob, finished
from earwitness.stages.workbench import StageError, Workbench, release_models
from earwitness.terminal import Progress, ProgressLine

CONFIG = "config.toml"  # in a step's folder: the configuration that its processes read


def train_launched(bench: Workbench, job: TrainingJob, shown: str, arm: str, step: int, seed: int) -> dict[str, Any]:
    """Train a job in as many processes as the configuration says, and return its facts; `shown` is its name.

    They read the configuration and the run's tables for themselves, as `earwitness train` does. Raises RunError with
    their words where they fail, StageError where they made something else than this job.
    """
    release_models()  # their memory is needed
    job.folder.mkdir(parents=True, exist_ok=True)
    config = job.folder / CONFIG
    config.write_text(bench.config.to_toml(), encoding="utf-8")
    arguments = ["train", config, arm, step, "--seed", seed, "--root", bench.run.root]
    train = bench.config.train
    command = launch_command(find_launcher(train.launcher), train.processes, [str(word) for word in arguments])
    launch(command, job.folder, Watch(job, shown, bench.progress))
    facts = finished(job)
    if facts is None:
        raise StageError(
            f"the processes of {shown} have trained another step than {job.folder}: a model or a clip has changed "
            "since this run began. The same command goes on with what is there now"
        )
    return facts


class Watch:
    """Tells how far a training is by the lines of its log."""

    def __init__(self, job: TrainingJob, shown: str, line: ProgressLine | None) -> None:
        self.file, self.steps, self.shown, self.line = job.folder / "log.jsonl", job.settings.steps, shown, line
        self.started = time.monotonic()
        self.first = self.last = len(_lines(self.file))

    def __call__(self) -> None:
        """Show what is new. Steps that a resumed training makes again count as its own."""
        now = len(_lines(self.file))
        if self.line is None or now == self.last:
            return
        self.first, self.last = min(self.first, now), now
        seconds = time.monotonic() - self.started
        self.line(Progress(self.shown, now, self.steps, 0, seconds * now / max(now - self.first, 1)))


@contextmanager
def watched(job: TrainingJob, shown: str, line: ProgressLine) -> Iterator[None]:
    """Tell how far a training in this process is, while it lasts."""
    watch, over = Watch(job, shown, line), threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            watch()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        watch()
        line.close()


def _lines(file: Path) -> Sequence[bytes]:
    return file.read_bytes().splitlines() if file.is_file() else ()
