"""A textual teacher behind a server: prompts are spelled here, and it says which tokens were likely in a response."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from earwitness.config import Model
from earwitness.learn.divergences import Target, remainder
from earwitness.learn.teachers import Reading, Signals, TeacherError
from earwitness.learn.tree import Packed, Root
from earwitness.ledger import call_key
from earwitness.models.exchange import Prompt, PromptError, Unanswered
from earwitness.models.loading import load_tokenizer
from earwitness.models.served.call import Answer, Call, Malformed, ServerError
from earwitness.models.served.desk import Desk
from earwitness.models.served.weights import Keeper

PATH = "/completions"
SPARE = 8  # likeliest tokens beyond those that are compared: some may be none of the student's


class ServedTeacher:
    """What a reader asks of a textual teacher, by the log-probabilities that its server gives of a prompt's tokens.

    `width` is the number of its tokens, `window` how many it takes at once. It stands for its own `model`: what it has
    to say of a packed batch, it `says` itself. Raises ServerError where the server does not tell what is needed.
    """

    def __init__(self, spec: Model, desk: Desk) -> None:
        assert spec.tokenizer is not None, "preflight refuses a served teacher without a tokenizer"
        self.spec, self.name, self.manner = spec, spec.name, spec.manner
        self.tokenizer = load_tokenizer(spec.tokenizer)
        self.width = len(self.tokenizer)
        self.window = Keeper(spec).window()
        self.special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.special |= set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self.engine = desk.engine(spec)
        self.model: Any = self

    def encode(self, prompt: Prompt) -> Root:
        """Turn a prompt's text into token ids. Raises PromptError for a text that holds more than text."""
        if found := self.special.intersection(self._ids(prompt.text)):
            token = self.tokenizer.convert_ids_to_tokens(min(found))
            raise PromptError(f"the text holds {token!r}, which {self.name} would not read as text: reword it")
        turns = [{"role": "user", "content": [{"type": "text", "text": prompt.text}]}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return Root(tuple(self._ids(text)))

    def say(self, batch: Packed, reading: Reading) -> Signals:
        """Return the likeliest tokens in the place of each of a batch's N predictions: one response a branch.

        Raises TeacherError where too few of them are tokens of the student's, and where it is not answered.
        """
        wanted = reading.top_k + (SPARE if reading.shared is not None else 0)
        calls = [self._call(*_sequence(batch, branch), wanted) for branch in range(int(batch.branch.max()) + 1)]
        found: list[tuple[list[int], list[float]]] = []
        for answers in self.engine.ask(calls):
            if isinstance(answers, Unanswered):
                raise TeacherError(f"the textual teacher {self.name} gave no signals: {answers}")
            found += zip(answers[0]["ids"], answers[0]["logprobs"], strict=True)
        kept = [_in_common(ids, logprobs, reading, self.name) for ids, logprobs in found]
        columns = torch.tensor([ids for ids, _ in kept], dtype=torch.long, device=batch.target.device)
        logprobs = torch.tensor([said for _, said in kept], dtype=torch.float32, device=batch.target.device)
        return Signals(lambda some: Target(logprobs[some], columns[some], remainder(logprobs[some])))

    def _call(self, ids: tuple[int, ...], start: int, wanted: int) -> Call:
        spec = self.spec
        model = {"model": spec.name, "revision": spec.revision, "adapter": spec.adapter}
        body = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": wanted}
        return Call(
            keys=(call_key(**model, ids=list(ids), start=start, likeliest=wanted),),
            path=PATH,
            body=json.dumps({"model": spec.adapter or spec.name, **body}).encode(),
            read=partial(self._read, ids, start, wanted),
            tokens=len(ids) + 1,
            what="a lesson",
        )

    def _read(self, ids: Sequence[int], start: int, wanted: int, response: Mapping[str, Any]) -> list[Answer]:
        """Return {"ids", "logprobs"}: for each token from `start` on those that were likeliest in its place."""
        choices = response.get("choices")
        told = choices[0].get("prompt_logprobs") if isinstance(choices, list) and choices else None
        if not isinstance(told, list) or len(told) != len(ids):
            raise Malformed("log-probabilities of the prompt were asked for, and did not come for each of its tokens")
        made: Answer = {"ids": [], "logprobs": []}
        for own, entry in zip(ids[start:], told[start:], strict=True):
            if not isinstance(entry, dict) or str(own) not in entry:
                raise Malformed("a token of the prompt came without its log-probability")
            self._refuse_other_words(own, entry[str(own)])
            ranked = sorted(((_logprob(said), int(i)) for i, said in entry.items() if i.isdecimal()), reverse=True)
            made["ids"].append([i for _, i in ranked[:wanted]])
            made["logprobs"].append([round(min(p, 0.0), 6) for p, _ in ranked[:wanted]])
        return [made]

    def _refuse_other_words(self, own: int, said: Any) -> None:
        """Raise ServerError where the server's tokens are other words than ours. Part of a character is no word."""
        theirs = said.get("decoded_token") if isinstance(said, dict) else None
        ours = self.tokenizer.decode([own])
        if isinstance(theirs, str) and "\ufffd" not in theirs + ours and theirs.strip() != ours.strip():
            raise ServerError(
                f"token {own} is {theirs[:40]!r} to the server and {ours[:40]!r} to models.textual_teacher.tokenizer: "
                "name the tokenizer of the model that is served"
            )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _sequence(batch: Packed, branch: int) -> tuple[tuple[int, ...], int]:
    """Return what stands above a branch and on it, as one sequence, and where the branch begins."""
    mine = batch.branch == branch
    row, root = int(batch.row[mine][0]), int(batch.source[mine][0]) + 1
    ids = [*batch.input_ids[row, :root].tolist(), *batch.target[mine].tolist()]
    return tuple(ids), root


def _in_common(
    ids: Sequence[int], logprobs: Sequence[float], reading: Reading, name: str
) -> tuple[list[int], list[float]]:
    """Return the likeliest tokens that the student has, too, by its own ids."""
    pairs = list(zip(ids, logprobs, strict=True))
    if reading.shared is not None:
        pairs = [(reading.shared.compared[i], p) for i, p in pairs if i in reading.shared.compared]
    if len(pairs) < reading.top_k:
        raise TeacherError(
            f"{name} gave {len(ids)} likeliest tokens, {len(pairs)} of them are the student's, and distil.top_k is "
            f"{reading.top_k}: lower it"
        )
    return [i for i, _ in pairs[: reading.top_k]], [p for _, p in pairs[: reading.top_k]]


def _logprob(said: Any) -> float:
    value = said.get("logprob") if isinstance(said, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e6 < value < 1e-3:
        raise Malformed("a log-probability that is none")
    return float(value)
