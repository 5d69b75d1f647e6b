"""Reading what a server sends back. Nothing in it is trusted: what is not as it must be is Malformed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from earwitness.answers import read
from earwitness.models.exchange import Completion, Unanswered
from earwitness.models.served.call import Answer, Malformed
from earwitness.terminal import clean

LONGEST = 2_000_000  # characters of one answer
LONGEST_SHOWN = 200  # characters of it in a message
MOST_IDS = 1_000_000
NEVER = -700.0  # the log-probability that stands for zero, in JSON as in floats
REASONING = ("reasoning", "reasoning_content")
_SURROGATES = re.compile("[\ud800-\udfff]")


def read_samples(response: Mapping[str, Any], count: int, thinks: bool, ids: bool = False) -> list[Answer]:
    """Return `count` answers {"text", "finish"}, or {"refused"} where the server would not say; with `ids` also those.

    Where a server splits the thinking off (`thinks`) it is put back before the answer, as <think>...</think>.
    """
    choices = response.get("choices")
    if not isinstance(choices, list) or len(choices) != count:
        found = len(choices) if isinstance(choices, list) else "no list of"
        raise Malformed(f"{count} answers were asked for, and {found} came")
    return [_sample(choice, thinks, ids) for choice in _in_order(choices)]


def completion_of(answer: Answer) -> Completion:
    """Return a kept answer as a completion. Raises Unanswered for a refusal."""
    if "refused" in answer:
        raise Unanswered(f"the server would not answer: {answer['refused']}")
    return Completion(answer["text"], tuple(answer.get("ids", ())), answer["finish"])


def is_refusal(answer: Mapping[str, Any]) -> bool:
    """Whether a kept answer answers nothing: the server would not, or named nothing of what it was to choose from."""
    return "refused" in answer or ("said" in answer and answer.get("scores") is None)


def read_scores(response: Mapping[str, Any], options: Sequence[str]) -> Answer:
    """Return {"scores"}: the log-probability (nats) of each option among the likeliest first tokens, or None.

    All spellings of an option count together. An option that is not among them has at most the least of them, and at
    most what they leave over; where none is among them, nothing is known.
    """
    (choice,) = _in_order(_list(response.get("choices"), 1))
    tokens = _list(_mapping(_mapping(choice).get("logprobs")).get("content"))
    first = _mapping(tokens[0]) if tokens else {}
    told = [t for t in map(_token, [first, *_list(first.get("top_logprobs"))]) if t is not None]
    likely = dict(told)
    if not likely:
        raise Malformed("log-probabilities were asked for, and none came")
    spelled = [[p for token, p in likely.items() if _plain(token) == _plain(option)] for option in options]
    if not any(spelled):
        return {"scores": None}
    left = 1 - sum(map(math.exp, likely.values()))
    most = min(min(likely.values()), math.log(left) if left > 0 else NEVER)
    return {"scores": [max(NEVER, _together(found) if found else most) for found in spelled]}


def read_choice(response: Mapping[str, Any], options: Sequence[str], thinks: bool) -> Answer:
    """Return {"scores"}: 0 for the option that an answer names and NEVER for the others, or None where it names none.

    An answer is a JSON object with that option, or words that affirm exactly one.
    """
    (answer,) = read_samples(response, 1, thinks)
    if "refused" in answer:
        return {"scores": None, "said": answer["refused"]}
    chosen = None if answer["finish"] == "length" else _chosen(answer["text"], options)
    scores = None if chosen is None else [0.0 if option == chosen else NEVER for option in options]
    return {"scores": scores, "said": shown(answer["text"])}


def shown(text: str) -> str:
    """Return the beginning of what a server said, harmless on a terminal."""
    line = " ".join(clean(text).split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]}..."


def _sample(choice: Any, thinks: bool, ids: bool) -> Answer:
    message, finish = _mapping(_mapping(choice).get("message")), choice.get("finish_reason")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return {"refused": shown(refusal)}
    if finish == "content_filter":
        return {"refused": "its filter cut the answer off"}
    if finish not in ("stop", "length"):
        raise Malformed(f"an answer ended for the reason {shown(str(finish))!r}")
    made: Answer = {"text": _text(message, finish, thinks), "finish": finish}
    if ids:
        made |= _ids(choice)
    return made


def _text(message: Mapping[str, Any], finish: str, thinks: bool) -> str:
    content = message.get("content")
    thought = next((t for name in REASONING if isinstance(t := message.get(name), str) and t), "") if thinks else ""
    if content is None and thought:
        content = ""
    if not isinstance(content, str):
        raise Malformed("an answer without text")
    if len(content) + len(thought) > LONGEST:
        raise Malformed(f"an answer of more than {LONGEST} characters")
    if thought:
        closed = "" if finish == "length" and not content else "</think>"
        content = f"<think>{thought}{closed}{content}"
    return _SURROGATES.sub("\ufffd", content)  # halves of characters, which no file can hold


def _ids(choice: Any) -> Answer:
    """Return {"ids", "logprobs"}: a sample's tokens and the log-probability of each."""
    ids = choice.get("token_ids")
    if not isinstance(ids, list) or len(ids) > MOST_IDS or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise Malformed("token ids were asked for, and none came")
    tokens = _list(_mapping(choice.get("logprobs")).get("content"))
    logprobs = [_mapping(token).get("logprob") for token in tokens]
    if len(logprobs) != len(ids) or not all(_is_logprob(p) for p in logprobs):
        raise Malformed("not every token came with its log-probability")
    return {"ids": ids, "logprobs": logprobs}


def _chosen(text: str, options: Sequence[str]) -> str | None:
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        held = None
    if isinstance(held, dict) and isinstance(said := held.get("answer"), str):
        text = said
    return read(text, options).answer


def _in_order(choices: Sequence[Any]) -> list[Any]:
    """Return the choices by their index, where each has one."""
    places = [place for choice in choices if type(place := _mapping(choice).get("index")) is int]
    if len(places) < len(choices):
        return list(choices)
    if sorted(places) != list(range(len(choices))):
        raise Malformed("answers that are not numbered one by one")
    return [choices[places.index(place)] for place in range(len(choices))]


def _token(entry: Any) -> tuple[str, float] | None:
    if not isinstance(entry, Mapping):
        return None
    token, logprob = entry.get("token"), entry.get("logprob")
    return (token, min(float(logprob), 0.0)) if isinstance(token, str) and _is_logprob(logprob) else None


def _is_logprob(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and -1e6 < value < 1e-3  # not so for nan


def _together(logprobs: Sequence[float]) -> float:
    most = max(logprobs)
    return most + math.log(sum(math.exp(p - most) for p in logprobs))


def _plain(token: str) -> str:
    return token.strip(" \t\r\n\u2581\u0120\u010a").casefold()


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Malformed("an answer that lacks a part")
    return value


def _list(value: Any, count: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise Malformed("an answer that lacks a part" if count is None else "not as many answers as were asked for")
    return value
