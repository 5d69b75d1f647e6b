"""What a served model says is what it says in process."""

from __future__ import annotations

import json
import math
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import servers
import worlds
from earwitness.cli import main
from earwitness.config import Model
from earwitness.learn.tree import Root
from earwitness.models import connect
from earwitness.models.exchange import Drawing, Prompt
from earwitness.models.scoring import score
from earwitness.prompts import question_prompt
from earwitness.serve import media
from earwitness.serve.requests import VideoTimes
from earwitness.sources.clips import load_frames, load_sound
from servers import chat, film, post, sound, text
from tensors import clip

LIST = "list the sounds"
TIMES = {"num_frames": -1, "fps": 4, "frames_indices": list(range(16)), "total_num_frames": 16, "duration": 4.0}


@pytest.fixture
def url(world_server):
    return world_server


@pytest.fixture(scope="module")
def checker():
    return connect(Model(kind="world", name="checker"), "checker")


@pytest.fixture(scope="module")
def teacher():
    return connect(Model(kind="world", name="teacher"), "teacher")


def heard(seed, words=LIST):
    return [sound(load_sound(clip(seed))), text(words)]


def words_of(answer):
    return [choice["message"]["content"] for choice in answer["choices"]]


# What is said


@pytest.mark.parametrize("seed", range(4))
def test_a_listener_says_what_it_says_in_process(url, checker, seed):
    answer = chat(url, "checker", heard(seed), temperature=0, return_token_ids=True)
    prompt = Prompt(LIST, wave=load_sound(clip(seed)))
    (said,) = checker.draw([prompt], Drawing(), [()])[0]
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": said.text}
    assert choice["token_ids"] == list(said.ids)
    assert choice["finish_reason"] == said.finish == "stop"
    asked = checker.encode(prompt).ids
    assert answer["prompt_token_ids"] == list(asked)
    assert answer["usage"] == {
        "prompt_tokens": len(asked),
        "completion_tokens": len(said.ids),
        "total_tokens": len(asked) + len(said.ids),
    }


@pytest.mark.parametrize("seed", range(4))
def test_a_watcher_says_what_it_says_of_the_same_frames_in_process(url, teacher, seed):
    frames = load_frames(clip(seed), 16)
    part = film(frames.images)
    decoded = media.film(media.sequence(part["video_url"]["url"]), VideoTimes.model_validate(TIMES))
    assert np.abs(decoded.images.astype(int) - frames.images).max() < 32
    assert decoded.times.tolist() == frames.times.tolist()
    assert decoded.duration == frames.duration
    (of_jpeg,), (of_frames,) = teacher.draw([Prompt(LIST, film=f) for f in (decoded, frames)], Drawing(), [(), ()])
    told = chat(url, "teacher", [part, text(LIST)], temperature=0, media_io_kwargs={"video": TIMES})
    assert words_of(told) == [of_jpeg.text]
    assert of_jpeg.text == of_frames.text, "and JPEG takes nothing away that matters"
    images = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{servers.coded(servers.jpeg(i))}"}}
        for i in frames.images
    ]
    one_by_one = chat(url, "teacher", [*images, text(LIST)], temperature=0, media_io_kwargs={"video": TIMES})
    assert words_of(one_by_one) == [of_jpeg.text]


def test_the_times_of_frames_are_those_that_are_told():
    part = film(load_frames(clip(1), 4).images)
    pictures = media.sequence(part["video_url"]["url"])
    told = VideoTimes(fps=29.97, frames_indices=(9, 28, 100, 299), total_num_frames=300)
    frames = media.film(pictures, told)
    assert frames.times.tolist() == pytest.approx([9 / 29.97, 28 / 29.97, 100 / 29.97, 299 / 29.97])
    assert frames.duration == pytest.approx(300 / 29.97)
    untold = media.film(pictures, VideoTimes())
    assert (untold.times.tolist(), untold.duration) == ([0, 1, 2, 3], 4)


def test_earlier_turns_are_read(url, checker):
    turns = [("system", "you answer briefly"), ("user", "is the dog heard ?"), ("assistant", "yes")]
    messages = [{"role": role, "content": said} for role, said in turns]
    body = {"model": "checker", "temperature": 0, "messages": [*messages, {"role": "user", "content": heard(1)}]}
    status, answer = post(f"{url}/v1/chat/completions", body | {"return_token_ids": True})
    assert status == 200
    prompt = Prompt(LIST, wave=load_sound(clip(1)), earlier=tuple(turns))
    assert answer["prompt_token_ids"] == list(checker.encode(prompt).ids)
    assert len(answer["prompt_token_ids"]) > len(checker.encode(Prompt(LIST, wave=load_sound(clip(1)))).ids) + 8
    assert words_of(answer) == [checker.draw([prompt], Drawing(), [()])[0][0].text]


def test_an_answer_that_is_cut_says_so(url):
    (choice,) = chat(url, "checker", heard(1), temperature=0, max_tokens=3)["choices"]
    assert choice["finish_reason"] == "length"
    assert len(choice["message"]["content"].split()) == 3


# Samples


def hot(url, seed, n=4, **more):
    words = question_prompt("world", "think", "which sound is the first one ?", ("dog", "bell"))
    return words_of(chat(url, "teacher", words, n=n, seed=seed, temperature=1.5, max_tokens=24, **more))


def test_a_sample_is_a_function_of_the_seed_and_its_number(url, teacher):
    first = hot(url, 1)
    assert len(set(first)) == 4, "samples at a temperature differ"
    assert hot(url, 1) == first
    assert hot(url, 1, n=2) == first[:2], "however many are asked for"
    assert hot(url, 2) != first
    words = question_prompt("world", "think", "which sound is the first one ?", ("dog", "bell"))
    assert [c.text for c in teacher.draw([Prompt(words)], Drawing(4, 1.5, 24), [(1,)])[0]] == first


def test_without_a_seed_samples_are_new_each_time(url):
    assert hot(url, None) != hot(url, None)
    assert hot(url, -1) != hot(url, -1), "as vLLM has it"


def test_requests_that_wait_together_are_answered_as_alone(url, checker):
    def one(number):
        answer = chat(url, "checker", heard(number % 5), seed=number, n=2, temperature=2, max_tokens=12)
        return words_of(answer)

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(one, range(12)))
    for number, said in enumerate(together):
        prompt = Prompt(LIST, wave=load_sound(clip(number % 5)))
        assert [c.text for c in checker.draw([prompt], Drawing(2, 2, 12), [(number,)])[0]] == said


def test_top_k_and_top_p_are_taken(url):
    greedy = words_of(chat(url, "checker", heard(1), temperature=0))
    for only in ({"top_k": 1}, {"top_p": 1e-6}):
        assert words_of(chat(url, "checker", heard(1), temperature=2, n=3, **only)) == greedy * 3


# Log-probabilities


ASK = "is the dog heard ?"


def test_yes_and_no_are_scored_as_in_process(url, checker):
    for seed in range(3):
        yes, no = checker.choose([Prompt(ASK, wave=load_sound(clip(seed)))], ["yes", "no"])[0]
        answer = chat(url, "checker", heard(seed, ASK), temperature=0, max_tokens=1, logprobs=True, top_logprobs=20)
        top = {t["token"]: t["logprob"] for t in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        assert (top["yes"], top["no"]) == pytest.approx((yes, no), abs=1e-4)
        held = chat(
            url,
            "checker",
            heard(seed, ASK),
            temperature=0,
            logprobs=True,
            top_logprobs=2,
            structured_outputs={"choice": ["yes", "no"]},
        )
        assert words_of(held) == ["yes" if yes > no else "no"]
        top = {t["token"]: t["logprob"] for t in held["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        assert top["yes"] - top["no"] == pytest.approx(yes - no, abs=1e-4)
        assert math.exp(top["yes"]) + math.exp(top["no"]) == pytest.approx(1)


def test_a_choice_is_drawn_by_how_likely_it_is(url, checker):
    scores = checker.choose([Prompt("is it ?")], ["dog", "bell"])[0]
    share = 1 / (1 + math.exp((scores[1] - scores[0]) / 8))
    answer = chat(
        url, "checker", "is it ?", n=128, seed=3, temperature=8, structured_outputs={"choice": ["dog", "bell"]}
    )
    said = words_of(answer)
    assert set(said) == {"dog", "bell"}
    assert said.count("dog") / 128 == pytest.approx(share, abs=0.15)


def test_every_sampled_token_has_its_raw_log_probability(url, checker):
    answer = chat(
        url, "checker", heard(2), n=3, seed=5, temperature=2, max_tokens=8, top_k=3,
        logprobs=True, top_logprobs=3, return_token_ids=True,
    )  # fmt: skip
    here = checker.encode(Prompt(LIST, wave=load_sound(clip(2))))
    for choice in answer["choices"]:
        (tokens,) = score(checker, here, [choice["token_ids"]], 3)
        told = choice["logprobs"]["content"]
        assert [t["logprob"] for t in told] == pytest.approx([t.logprob for t in tokens], abs=1e-4)
        assert [[a["logprob"] for a in t["top_logprobs"]] for t in told] == [
            pytest.approx([p for _, p in t.likeliest], abs=1e-4) for t in tokens
        ]
        assert [t["token"] for t in told] == [checker.tokenizer.decode([t.id]) for t in tokens]


def test_the_log_probabilities_of_a_prompt(url):
    reader = connect(Model(kind="world", name="textual-teacher"), "textual_teacher")
    ids = reader.encode(Prompt("the dog is heard")).ids
    body = {"model": "textual-teacher", "prompt": ids, "max_tokens": 0, "prompt_logprobs": 2, "return_token_ids": True}
    status, answer = post(f"{url}/v1/completions", body)
    assert status == 200
    (choice,) = answer["choices"]
    first, *told = choice["prompt_logprobs"]
    assert first is None
    assert (choice["text"], choice["token_ids"], choice["prompt_token_ids"]) == ("", [], list(ids))
    (tokens,) = score(reader, Root(ids[:1]), [ids[1:]], 2)
    for entry, token in zip(told, tokens, strict=True):
        expected = {str(id): p for id, p in token.likeliest} | {str(token.id): token.logprob}
        assert {id: e["logprob"] for id, e in entry.items()} == pytest.approx(expected, abs=1e-4)
        assert entry[str(token.id)]["rank"] == token.rank, "the token itself is there, however unlikely"
        assert entry[str(token.id)]["decoded_token"] == reader.tokenizer.decode([token.id])
    status, again = post(f"{url}/v1/completions", body | {"max_tokens": 1, "temperature": 0})
    assert again["choices"][0]["prompt_logprobs"] == choice["prompt_logprobs"]
    assert len(again["choices"][0]["token_ids"]) == 1
    status, one = post(f"{url}/v1/completions", body | {"prompt": list(ids[:1])})
    assert one["choices"][0]["prompt_logprobs"] == [None]


def test_prompts_that_wait_together_are_scored_as_alone(url):
    def told(ids):
        body = {"model": "textual-teacher", "prompt": ids, "max_tokens": 0, "prompt_logprobs": 1}
        return post(f"{url}/v1/completions", body)[1]["choices"][0]["prompt_logprobs"]

    prompts = [[20 + (n * k) % 40 for k in range(1, 2 + n)] for n in range(12)]
    alone = [told(ids) for ids in prompts]
    with ThreadPoolExecutor(12) as pool:
        for before, after in zip(alone, pool.map(told, prompts), strict=True):
            for a, b in zip(before[1:], after[1:], strict=True):
                assert {i: e["logprob"] for i, e in b.items()} == pytest.approx(
                    {i: e["logprob"] for i, e in a.items()}, abs=1e-4
                )


# The server itself


def test_the_official_client_understands_it(url, checker):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    made = client.chat.completions.create(
        model="checker",
        messages=[{"role": "user", "content": heard(1)}],
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        extra_body={"return_token_ids": True},
    )
    (said,) = checker.draw([Prompt(LIST, wave=load_sound(clip(1)))], Drawing(), [()])[0]
    (choice,) = made.choices
    assert (choice.message.content, choice.finish_reason) == (said.text, "stop")
    assert choice.token_ids == list(said.ids)
    assert len(choice.logprobs.content) == made.usage.completion_tokens == len(said.ids)
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "a"}])
    assert refused.value.code == "model_not_found"
    assert [model.id for model in client.models.list()][:2] == ["teacher", "checker"]


def test_it_says_what_it_serves(url):
    assert servers.get(f"{url}/health")[0] == 200
    _, listed = servers.get(f"{url}/v1/models")
    assert [m["id"] for m in listed["data"]] == ["teacher", "checker", "student", "textual-teacher"]
    assert {m["max_model_len"] for m in listed["data"]} == {512}


def test_another_host_is_warned_of_and_names_must_differ(capsys):
    assert main(["serve", "world:nobody", "--host", "0.0.0.0"]) == 2
    told = capsys.readouterr().err
    assert "there is no key" in told
    assert "no embedded model 'nobody'" in told
    for models in (["world:teacher", "teacher=world:checker"], ["=world:teacher"]):
        assert main(["serve", *models]) == 2
        assert "a name of its own" in capsys.readouterr().err


def test_a_port_that_is_taken_and_a_folder_that_is_not_there_are_said(url, capsys):
    assert main(["serve", "world:textual-teacher", "--port", url.rpartition(":")[2]]) == 2
    assert "choose another --port" in capsys.readouterr().err
    assert main(["serve", "world:textual-teacher", "--adapters", "nowhere"]) == 2
    assert "--adapters nowhere" in capsys.readouterr().err


def test_a_server_that_is_told_to_end_finishes_what_is_under_way():
    process = worlds.start("serve", "world:checker", "--port", "0")
    replies = {}
    with servers.started(process) as url:
        body = {"model": "checker", "messages": [{"role": "user", "content": LIST}], "temperature": 2, "n": 8}
        waiting = [_sent(url, body | {"max_tokens": 100 + number}) for number in range(3)]
        assert post(f"{url}/v1/chat/completions", body | {"max_tokens": 100})[0] == 200  # with the first of them
        process.terminate()
        readers = [
            threading.Thread(target=lambda n=n, s=s: replies.update({n: _received(s)})) for n, s in enumerate(waiting)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
        assert process.wait(60) == 0
    assert [len(json.loads(replies[n].partition(b"\r\n\r\n")[2])["choices"]) for n in range(3)] == [8] * 3


def _sent(url, body):
    """A request that is on its way, and the connection that its answer will come by."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    return connection


def _received(connection):
    with connection, connection.makefile("rb") as file:
        return file.read()
