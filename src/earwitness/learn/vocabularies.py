"""Two models that score the same words: which tokens are the same in both, and whether a response is.

A response is spelled by the student's tokenizer. A teacher can score it only where each of its tokens stands for the
same string in the teacher's vocabulary, and where the teacher would have cut the text in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NAMED = 10  # tokens named in an error; a list of thousands helps nobody


class VocabularyError(Exception):
    """A teacher that cannot score the student's responses: the message says which tokens, and what would do."""


@dataclass(frozen=True)
class SharedVocabulary:
    """The tokens that student and teacher have in common, by string.

    `student` and `teacher` (M) are their ids in either model, in the same order. `outside` counts the student's tokens
    that the teacher lacks.
    """

    student: Tensor
    teacher: Tensor
    outside: int
    names: tuple[str, str]

    @classmethod
    def of(cls, student: Any, teacher: Any, sizes: tuple[int, int], names: tuple[str, str]) -> SharedVocabulary:
        """Compare two tokenizers token by token. `sizes` are the lengths of the models' own tables: the ids beyond
        them cannot be scored.

        Raises VocabularyError where they have nothing in common.
        """
        own, other = student.get_vocab(), teacher.get_vocab()
        pairs = [(i, other[token]) for token, i in own.items() if token in other]
        kept = sorted((i, j) for i, j in pairs if i < sizes[0] and j < sizes[1])
        if not kept:
            raise VocabularyError(f"{names[0]} and {names[1]} share no token at all: their tokenizers are of two kinds")
        ids = torch.tensor(kept, dtype=torch.long)
        return cls(ids[:, 0].clone(), ids[:, 1].clone(), sizes[0] - len(kept), names)

    def translate(self, ids: Sequence[int], student: Any) -> tuple[int, ...]:
        """Return a response's ids as the teacher's. Raises VocabularyError with the list of those that it lacks."""
        table = dict(zip(self.student.tolist(), self.teacher.tolist(), strict=True))
        lacking = sorted({i for i in ids if i not in table})
        if lacking:
            listed = ", ".join(f"{i} {student.convert_ids_to_tokens(i)!r}" for i in lacking[:NAMED])
            raise VocabularyError(
                f"{self.names[1]} has no token for {len(lacking)} of the tokens that {self.names[0]} spells a response "
                f"with ({listed}): name a textual teacher of the student's own tokenizer family"
            )
        return tuple(table[i] for i in ids)

    @property
    def aligned(self) -> bool:
        """Whether the shared tokens are the first of both tables, in the same order: a slice will do for both."""
        return bool((self.student == self.teacher).all()) and int(self.student[-1]) == len(self.student) - 1


def refuse_other_cuts(text: str, ids: Sequence[int], teacher: Any, student: Any, names: tuple[str, str]) -> None:
    """Raise VocabularyError where the teacher would cut a response's text otherwise than its `ids` (the teacher's) do.

    A teacher's added token that the student spells in pieces (`<think>`) is taken in the student's pieces: both read
    the same text, and neither splits a word of it otherwise.
    """
    added = {i: token.content for i, token in teacher.added_tokens_decoder.items()}
    known = student.get_vocab()
    would: list[int] = []
    for i in teacher(text, add_special_tokens=False)["input_ids"]:
        if i in added and added[i] not in known:
            pieces = student(added[i], add_special_tokens=False)["input_ids"]
            would += teacher.convert_tokens_to_ids(student.convert_ids_to_tokens(pieces))
        else:
            would.append(i)
    if would == list(ids):
        return
    at = next((n for n, (a, b) in enumerate(zip(would, ids, strict=False)) if a != b), min(len(would), len(ids)))
    theirs, ours = (teacher.convert_ids_to_tokens(list(part[at : at + 3])) for part in (would, ids))
    raise VocabularyError(
        f"{names[1]} cuts a response otherwise than {names[0]}, first at token {at}: {theirs} where the student says "
        f"{ours}. Its probabilities would be of other words: name a textual teacher with the student's tokenizer"
    )
