"""The embedded world's own exams: sounds (`world`, `world-easy`, out of domain `world-ood`) and speech.

`world-onehop` asks what needs no thinking, of clips in which nothing on screen misleads.

`world-speech` asks what is said, `world-speech-ood` in longer and noisier clips, `world-mood` how the speaker feels,
where the words agree with the prosody and where they contradict it.
"""

from __future__ import annotations

from earwitness.records import Question
from earwitness.world.questions import read_world

NAMES = ("world", "world-easy", "world-onehop", "world-ood", "world-speech", "world-speech-ood", "world-mood")
DEFAULT_SIZE = 2400
WHY = "the embedded world has no scorer but ours"


def load(name: str, limit: int) -> list[Question]:
    """Return an exam's questions (0: 2400 of them)."""
    return read_world(f"{name}:exam", limit or DEFAULT_SIZE)
