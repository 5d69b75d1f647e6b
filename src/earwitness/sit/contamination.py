"""What an exam shares with what was learnt: the same clip by its name, or the same recording by its sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from earwitness.config import ConfigError, Questions, RunConfig
from earwitness.fingerprints import Shelf, unpack_print
from earwitness.records import Fingerprint, Question
from earwitness.sources import read_source, read_sources
from earwitness.stages.fingerprint import fingerprint_clips
from earwitness.stages.workbench import Rows, Workbench

METHOD = 1  # changes when fingerprints do
LISTED = 20


def training_questions(name: str, note: Callable[[str], None]) -> list[Question]:
    """Return what a run learns from, or the questions of a source (`folder:PATH`, or a folder of videos and questions).

    Raises ConfigError where the name is none of these, and what the sources raise.
    """
    folder = Path(name)
    if (folder / "config.toml").is_file():
        questions = RunConfig.load(folder / "config.toml").questions
        found = read_sources(questions.train, questions, questions.limit, note)
    elif (folder / "questions.jsonl").is_file():
        found = read_source(f"folder:{name}", Questions(train=()), 0, note)
    elif ":" in name:
        found = read_source(name, Questions(train=(name,)), 0, note)
    else:
        raise ConfigError(f"--against {name}: name a run's folder, a folder with a questions.jsonl, or a source")
    if not found:
        raise ConfigError(f"--against {name}: it holds no training questions")
    return found


def shared_with(
    bench: Workbench, exam: str, questions: Sequence[Question], against: str, learnt: Sequence[Question]
) -> dict[str, Any]:
    """Compare an exam's clips with those that were learnt from, by name and by sound; fingerprints are kept as rows.

    Returns {"exam", "against", "clips", "learnt" (clips), "same_name", "same_sound" (counts of the exam's clips),
    "questions" (how many ask about either), "unread", "examples" of (exam's clip, training clip, share of equal bits)}.
    """
    asked, known = _clips(questions), _clips(learnt)
    mine = _prints(bench, exam, asked)
    theirs = _prints(bench, against, known)
    names = [clip.id for clip in known if theirs.of(clip)]
    shelf = Shelf([unpack_print(theirs.made[name][0].words) for name in names])
    found = {}
    for clip in asked:
        if records := mine.of(clip):
            match = shelf.find(unpack_print(records[0].words))
            if match is not None:
                found[clip.id] = (names[match[0]], match[1])
    same_name = {clip.id for clip in asked} & {clip.id for clip in known}
    return {
        "exam": exam,
        "against": against,
        "clips": len(asked),
        "learnt": len(known),
        "same_name": len(same_name),
        "same_sound": len(found),
        "questions": sum(q.clip.id in same_name or q.clip.id in found for q in questions),
        "unread": len(mine.failed) + len(theirs.failed),
        "examples": [[own, *other] for own, other in list(found.items())[:LISTED]],
    }


def _clips(questions: Sequence[Question]) -> list[Question]:
    """Return one question for each clip, called by the clip's name: rows are of clips."""
    clips = {question.clip.id: question.clip for question in questions}
    return [Question(id=name, clip=clip, text="") for name, clip in clips.items()]


def _prints(bench: Workbench, name: str, clips: list[Question]) -> Rows[Fingerprint]:
    identity = {"method": METHOD, "of": name}
    shown = f"fingerprint ({name})"
    return bench.fill("fingerprint", identity, clips, bench.content, fingerprint_clips, Fingerprint, shown=shown)
