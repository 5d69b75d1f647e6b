"""Answers in the shapes of the protocol, as vLLM writes them."""

from __future__ import annotations

import time
import uuid
from typing import Any

from earwitness.models.scoring import Scored
from earwitness.serve.asks import Reply
from earwitness.serve.requests import ChatRequest, CompletionRequest

Json = dict[str, Any]


def chat_body(reply: Reply, request: ChatRequest) -> Json:
    """Return the response to a chat request."""
    choices = []
    for index, completion in enumerate(reply.completions):
        scored = reply.scores[index] if reply.scores else None
        choice: Json = {
            "index": index,
            "message": {"role": "assistant", "content": completion.text},
            "logprobs": None if scored is None else {"content": [_token(token, reply.words) for token in scored]},
            "finish_reason": completion.finish,
            "stop_reason": None,
        }
        if request.return_token_ids:
            choice["token_ids"] = completion.ids
        choices.append(choice)
    body = _body("chatcmpl", "chat.completion", request.model, reply, choices)
    if request.return_token_ids:
        body["prompt_token_ids"] = reply.prompt_ids
    return body


def completion_body(reply: Reply, request: CompletionRequest) -> Json:
    """Return the response to a plain completion. Without a token to answer with there is one choice without a word."""
    of_prompt = None
    if request.prompt_logprobs is not None:
        of_prompt = [None, *(_of_prompt(token, reply.words) for token in reply.prompt_scores)]
    said = [(c.text, c.ids, c.finish) for c in reply.completions] or [("", (), "length")]
    choices = []
    for index, (text, ids, finish) in enumerate(said):
        choice: Json = {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": finish,
            "stop_reason": None,
            "prompt_logprobs": of_prompt,
        }
        if request.return_token_ids:
            choice |= {"token_ids": ids, "prompt_token_ids": reply.prompt_ids}
        choices.append(choice)
    return _body("cmpl", "text_completion", request.model, reply, choices)


def _body(prefix: str, kind: str, model: str, reply: Reply, choices: list[Json]) -> Json:
    said = sum(len(completion.ids) for completion in reply.completions)
    asked = len(reply.prompt_ids)
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


def _token(token: Scored, words: dict[int, str]) -> Json:
    return _entry(token.id, token.logprob, words) | {
        "top_logprobs": [_entry(id, logprob, words) for id, logprob in token.likeliest]
    }


def _entry(id: int, logprob: float, words: dict[int, str]) -> Json:
    return {"token": words[id], "logprob": logprob, "bytes": list(words[id].encode())}


def _of_prompt(token: Scored, words: dict[int, str]) -> Json:
    """Return a prompt token's likeliest by their ids, and the token itself wherever it ranks."""
    ranked = {id: (logprob, rank) for rank, (id, logprob) in enumerate(token.likeliest, 1)}
    ranked[token.id] = (token.logprob, token.rank)
    return {
        str(id): {"logprob": logprob, "rank": rank, "decoded_token": words[id]}
        for id, (logprob, rank) in ranked.items()
    }
