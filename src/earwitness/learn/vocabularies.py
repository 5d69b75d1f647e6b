"""Two models that score the same words: which tokens are the same in both, and whether a response is.

A response is spelled by the student's tokenizer. A teacher can score it only where each of its tokens stands for the
same string in the teacher's vocabulary, and where the teacher would have cut the text in the same places.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

FEW = 0.01  # of the shared tokens: special ones, which families of models number each in their own way
NAMED = 10  # tokens named in an error; a list of thousands helps nobody


class VocabularyError(Exception):
    """A teacher that cannot score the student's responses: the message says which tokens, and what would do."""


@dataclass(frozen=True)
class SharedVocabulary:
    """The tokens that student and teacher have in common, by string.

    `student` and `teacher` (M) are the ids in either model of those whose probabilities are compared, in the same
    order; `outside` counts the student's other tokens. `renumbered` are pairs of ids that both have, too, and that are
    left out of it: where all but a few tokens have the same number in both, a slice of either table will do.
    """

    student: Tensor
    teacher: Tensor
    outside: int
    names: tuple[str, str]
    renumbered: tuple[tuple[int, int], ...] = ()

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
        alike = next((n for n, pair in enumerate(kept) if pair != (n, n)), len(kept))
        count = alike if len(kept) - alike <= FEW * len(kept) else len(kept)
        ids = torch.tensor(kept[:count], dtype=torch.long)
        return cls(ids[:, 0].clone(), ids[:, 1].clone(), sizes[0] - count, names, tuple(kept[count:]))

    @cached_property
    def table(self) -> dict[int, int]:
        """The teacher's id of each of the student's that both have."""
        return dict(zip(self.student.tolist(), self.teacher.tolist(), strict=True)) | dict(self.renumbered)

    @cached_property
    def compared(self) -> dict[int, int]:
        """The student's id of each of the teacher's whose probabilities are compared."""
        return dict(zip(self.teacher.tolist(), self.student.tolist(), strict=True))

    def translate(self, ids: Sequence[int], student: Any) -> tuple[int, ...]:
        """Return a response's ids as the teacher's. Raises VocabularyError with the list of those that it lacks."""
        table = self.table
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
        """Whether what is compared are the first tokens of both tables, in the same order: a slice will do for both."""
        return bool((self.student == self.teacher).all()) and int(self.student[-1]) == len(self.student) - 1


class Cuts:
    """Where a teacher cuts a text into tokens, and whether a student does so, too.

    An added token of the teacher's that the student spells in pieces (`<think>`) is taken for the text that it is:
    both then read the same pieces, and those that follow, whatever they grow together with (`>` and a line's end).
    """

    def __init__(self, teacher: Any, student: Any, names: tuple[str, str]) -> None:
        from tokenizers import Tokenizer

        self.teacher, self.names = teacher, names
        known = student.get_vocab()
        rules = json.loads(teacher.backend_tokenizer.to_str())
        rules["added_tokens"] = [token for token in rules["added_tokens"] if token["content"] in known]
        self.plain = Tokenizer.from_str(json.dumps(rules))

    def refuse_others(self, text: str, ids: Sequence[int]) -> None:
        """Raise VocabularyError where the teacher would cut a response's text otherwise than its `ids` (the teacher's)
        do.
        """
        would, said = (
            self.plain.encode(text, add_special_tokens=False).tokens,
            self.teacher.convert_ids_to_tokens(list(ids)),
        )
        if would == said:  # by name: leaving tokens out has changed the numbers of those added after them
            return
        pairs = enumerate(zip(would, said, strict=False))
        at = next((n for n, (a, b) in pairs if a != b), min(len(would), len(said)))
        theirs, ours = (part[at : at + 3] for part in (would, said))
        raise VocabularyError(
            f"{self.names[1]} cuts a response otherwise than {self.names[0]}, first at token {at}: {theirs} where the "
            f"student says {ours}. Its probabilities would be of other words: name a textual teacher with the "
            "student's tokenizer"
        )
