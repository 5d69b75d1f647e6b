"""The queue before a model, and answers that do not depend on what else is asked."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import aiohttp
import numpy as np
import pytest

from earwitness.config import Model
from earwitness.models.exchange import Completion, Drawing, Prompt, PromptError
from earwitness.serve import engine
from earwitness.serve.app import Server, opened
from earwitness.serve.asks import Ask, Reply
from earwitness.serve.choosing import along, drawn
from earwitness.serve.engine import Engine
from earwitness.serve.host import Host
from earwitness.serve.refusals import Refused
from earwitness.sources.clips import load_sound
from tensors import clip

GREEDY, HOT = Drawing(), Drawing(2, 1.5, 12)


def ask(words="list the sounds", how=GREEDY, **more) -> Ask:
    return Ask("checker", Prompt(words), how, 0, **more)


@pytest.fixture(scope="module")
def host():
    return Host("checker", Model(kind="world", name="checker"))


# Batches


@pytest.mark.parametrize("choices", [(), ("yes", "no", "the first one")])
def test_requests_in_a_batch_are_answered_as_alone(host, choices):
    how = replace(HOT, max_tokens=20)
    asks = [
        Ask(
            "checker",
            Prompt(f"is the {word} heard ?", wave=load_sound(clip(n))[: 64000 - 9000 * n]),
            how,
            n,
            choices,
            3,
        )
        for n, word in enumerate(["dog", "bell", "siren", "dog"])
    ]
    for alone, together in zip([host.answer([one])[0] for one in asks], host.answer(asks), strict=True):
        assert together.completions == alone.completions
        assert together.prompt_ids == alone.prompt_ids
        for a, b in zip(alone.scores, together.scores, strict=True):
            assert [t.logprob for t in b] == pytest.approx([t.logprob for t in a], abs=1e-4)


def test_a_prompt_that_cannot_be_read_costs_the_others_nothing(host):
    fine = ask(how=HOT)
    first, wrong, last = host.answer([fine, ask("is <|AUDIO|> heard ?", HOT), fine])
    assert isinstance(wrong, PromptError)
    assert first.completions == last.completions == host.answer([fine])[0].completions


class Recorder:
    """Answers, one batch at a time, when it is let; remembers what it was asked."""

    def __init__(self, fails=None) -> None:
        self.batches: list[list[Ask]] = []
        self.at_work, self.go = threading.Event(), threading.Event()
        self.fails = fails

    def __call__(self, asks):
        self.batches.append(list(asks))
        self.at_work.set()
        assert self.go.wait(30)
        if self.fails in asks:
            raise RuntimeError("broken")
        return [Reply((1,), (Completion(a.prompt.text, (1,), "stop"),), (), (), {}) for a in asks]


def occupied(fails=None):
    """An engine that is busy with a first request until it is let go on."""
    recorder = Recorder(fails)
    made = Engine(recorder)
    first = made.ask(ask("first"))
    assert recorder.at_work.wait(30)
    return recorder, made, first


def test_what_waits_and_is_alike_is_answered_together_in_order():
    recorder, made, first = occupied()
    waiting = [made.ask(ask(str(n), GREEDY if n % 2 else HOT)) for n in range(6)]
    done = made.do(lambda: len(recorder.batches))
    behind = made.ask(ask("behind", HOT))
    recorder.go.set()
    for n, outcome in enumerate(waiting):
        assert outcome.result(30).completions[0].text == str(n)
    assert behind.result(30).completions[0].text == "behind"
    assert done.result(30) == 3, "what is to be done with the model waits for what came before, and not for more"
    texts = [[a.prompt.text for a in batch] for batch in recorder.batches]
    assert texts == [["first"], ["0", "2", "4"], ["1", "3", "5"], ["behind"]]
    made.close()
    assert first.result(0)


def test_a_batch_is_bounded_by_its_samples(monkeypatch):
    monkeypatch.setattr(engine, "MOST_TOGETHER", 5)
    recorder, made, _ = occupied()
    waiting = [made.ask(ask(str(n), HOT)) for n in range(5)]
    recorder.go.set()
    for outcome in waiting:
        outcome.result(30)
    assert [len(batch) for batch in recorder.batches] == [1, 2, 2, 1]
    made.close()


def test_a_request_that_breaks_the_model_breaks_no_other():
    recorder, made, _ = occupied(fails=ask("bad"))
    fine, bad, other = (made.ask(ask(words)) for words in ("fine", "bad", "other"))
    recorder.go.set()
    assert fine.result(30).completions[0].text == "fine"
    assert other.result(30).completions[0].text == "other"
    with pytest.raises(RuntimeError, match="broken"):
        bad.result(30)
    made.close()


def test_whoever_left_costs_nothing():
    recorder, made, _ = occupied()
    left, stays = made.ask(ask("left")), made.ask(ask("stays"))
    assert left.cancel()
    recorder.go.set()
    assert stays.result(30)
    assert [[a.prompt.text for a in batch] for batch in recorder.batches] == [["first"], ["stays"]]
    made.close()


def test_closing_finishes_what_was_asked():
    recorder, made, first = occupied()
    second = made.ask(ask("second", HOT))
    closing = threading.Thread(target=made.close)
    closing.start()
    recorder.go.set()
    closing.join(30)
    assert first.result(0)
    assert second.result(0)
    with pytest.raises(Refused, match="closing"):
        made.ask(ask("third"))


def test_too_many_waiting_are_refused_until_some_leave(monkeypatch):
    monkeypatch.setattr(engine, "MOST_WAITING", 2)
    recorder, made, _ = occupied()
    waiting = [made.ask(ask(str(n))) for n in range(2)]
    with pytest.raises(Refused) as refused:
        made.ask(ask("too many"))
    assert refused.value.status == 429
    assert made.do(lambda: None), "what an operator asks for is not refused"
    waiting[0].cancel()
    recorder.go.set()
    assert waiting[1].result(30)
    made.close()


def test_over_the_wire_a_client_that_leaves_is_dropped_and_one_too_many_is_told_when_to_return(monkeypatch):
    monkeypatch.setattr(engine, "MOST_WAITING", 1)
    recorder, made, _ = occupied()
    server = Server({"checker": Model(kind="world", name="checker")})
    server.engines["checker"].close()
    server.engines["checker"] = made

    async def wire():
        async with opened(server, "127.0.0.1", 0) as port, aiohttp.ClientSession() as client:

            def send(words):
                body = {"model": "checker", "messages": [{"role": "user", "content": words}]}
                return client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)

            async def said(words):
                async with send(words) as answer:
                    return answer.status, answer.headers, await answer.json()

            leaving = asyncio.create_task(said("leaving"))
            while not made._queue:
                await asyncio.sleep(0.01)
            status, headers, body = await said("too many")
            assert (status, headers["Retry-After"], body["error"]["code"]) == (429, "1", "queue_full")
            leaving.cancel()
            while not made._queue[0].outcome.cancelled():
                await asyncio.sleep(0.01)
            staying = asyncio.create_task(said("staying"))
            while [waiting.what.prompt.text for waiting in made._queue] != ["staying"]:
                await asyncio.sleep(0.01)
            recorder.go.set()
            assert (await staying)[0] == 200

    asyncio.run(wire())
    assert [[a.prompt.text for a in batch] for batch in recorder.batches] == [["first"], ["staying"]]


# Choices


def test_a_choice_is_drawn_at_its_share():
    scores = np.log([0.5, 0.25, 0.25]) - 700
    assert drawn(scores, 0, 0.99) == 0
    assert [drawn(scores, 1, noise) for noise in (0, 0.49, 0.51, 0.74, 0.76, 0.999999)] == [0, 0, 1, 1, 2, 2]
    assert drawn(scores, 1, 1.0) == 2


def test_the_tokens_of_a_choice_add_up_to_it():
    """Also where one choice begins like another, or is its beginning."""
    paths, shares = [(7, 2), (7, 8, 2), (9, 2)], [0.5, 0.2, 0.3]
    for path, share in zip(paths, shares, strict=True):
        tokens = along(paths, np.log(shares) - 40, path, 5)
        assert sum(token.logprob for token in tokens) == pytest.approx(np.log(share))
        assert [token.id for token in tokens] == list(path)
    first, second, _ = along(paths, np.log(shares), (7, 8, 2), 5)
    assert [(id, round(float(np.exp(p)), 6)) for id, p in first.likeliest] == [(7, 0.7), (9, 0.3)]
    assert [id for id, _ in second.likeliest] == [2, 8]
    assert (first.rank, second.rank) == (1, 2)
