"""Whatever would not reach a served model as it was meant is refused, in words that say what would do."""

from __future__ import annotations

import json

import numpy as np
import pytest

import servers
from earwitness.sources.clips import load_frames, load_sound
from servers import film, post, refused, sound, text
from tensors import clip

LIST = "list the sounds"


@pytest.fixture
def url(world_server):
    return world_server


def heard(seed, words=LIST):
    return [sound(load_sound(clip(seed))), text(words)]


def data_url(kind, data=b"no picture"):
    return f"data:{kind};base64,{servers.coded(data)}"


def shown(address, kind="video_url"):
    return [{"type": kind, kind: {"url": address}}, text(LIST)]


TONE = np.zeros(16000, np.float32)
NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def test_a_teacher_is_given_no_sound_and_a_listener_no_picture(url):
    """Whatever else it is asked."""
    frames = load_frames(clip(1), 2).images
    for model in ("teacher", "textual-teacher"):
        assert refused(url, model, [sound(TONE), text(LIST)]) == (
            400,
            f"{model} is served for its {'sight' if model == 'teacher' else 'reading'}: it must not be given a sound",
        )
        assert refused(url, model, [film(frames), sound(TONE), text(LIST)])[0] == 400
    for model in ("checker", "textual-teacher"):
        assert "must not be given a picture" in refused(url, model, [film(frames), text(LIST)])[1]
    assert "must not be given a picture" in refused(url, "checker", [sound(TONE), film(frames), text(LIST)])[1]


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/a.jpg", "https://example.org/a.mp4", "file:///etc/passwd", "data:video/mp4;base64,AAAA", ""],
)
def test_no_address_is_opened(url, address):
    for kind in ("video_url", "image_url"):
        status, words = refused(url, "teacher", shown(address, kind))
        assert status == 400
        assert "address" in words


@pytest.mark.parametrize(
    "content, words",
    [
        (shown(data_url("video/jpeg")), "frame 0 is not a JPEG picture"),
        (shown(data_url("video/jpeg", servers.jpeg(NOISE)[:-400])), "damaged or cut short"),
        (shown("data:video/jpeg;base64,%%%"), "is not base64"),
        ([film(np.zeros((2, 8, 8, 3), np.uint8)), film(np.zeros((1, 8, 8, 3), np.uint8)), text("a")], "about one clip"),
        ([text(LIST), film(np.zeros((2, 8, 8, 3), np.uint8))], "must come before the words"),
        ([{"type": "audio_url", "audio_url": {"url": "http://a"}}], "does not match any of the expected tags"),
    ],
)
def test_pictures_that_cannot_be_read_are_refused(url, content, words):
    status, told = refused(url, "teacher", content)
    assert status == 400
    assert words in told


@pytest.mark.parametrize(
    "part, words",
    [
        (sound(TONE, rate=8000), "1 channels at 8000 Hz"),
        (sound(TONE, channels=2), "2 channels at 16000 Hz"),
        (sound(np.zeros(0, np.int16)), "no whole samples"),
        (sound(np.full(16000, np.nan, np.float32)), "no numbers"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "not a WAV file"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}, "'wav'"),
        (sound(np.zeros(16000 * 5, np.int16)), "do not fit the model's window"),
    ],
)
def test_sound_that_would_be_heard_otherwise_is_refused(url, part, words):
    status, told = refused(url, "checker", [part, text(LIST)])
    assert status == 400
    assert words in told


@pytest.mark.parametrize(
    "more, words",
    [
        ({"n": 2, "temperature": 0}, "n must be 1 when using greedy sampling, got 2"),
        ({"n": 0}, "n: "),
        ({"temperature": -1}, "temperature: "),
        ({"top_p": 0}, "top_p: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"stream": True}, "stream: "),
        ({"stop": ["."]}, "stop is not supported by this server"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "'json_schema' is not supported"),
        ({"structured_outputs": {"regex": "a*"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": ["yes", "yes"]}}, "choices must differ"),
        ({"structured_outputs": {"choice": ["yes", "no"]}, "top_k": 1}, "leave top_k and top_p out"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: "),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "differ"),
        (
            {"media_io_kwargs": {"video": {"num_frames": 32, "frames_indices": [0]}, "audio": {}}},
            "media_io_kwargs.audio",
        ),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(url, more, words):
    status, told = refused(url, "checker", heard(1), **more)
    assert status == 400
    assert words in told


@pytest.mark.parametrize(
    "times, words",
    [
        ({"num_frames": 2}, "num_frames is 2, and 3 frames were sent"),
        ({"frames_indices": [0, 1]}, "2 entries for 3 frames"),
        ({"frames_indices": [0, 5, 5]}, "must rise"),
        ({"frames_indices": [0, 1, 9], "total_num_frames": 9}, "reach 9, and total_num_frames is 9"),
        ({"fps": 0}, "fps"),
        ({"do_sample_frames": True}, "do_sample_frames"),
    ],
)
def test_frames_that_do_not_fit_their_times_are_refused(url, times, words):
    part = film(np.zeros((3, 32, 32, 3), np.uint8))
    status, told = refused(url, "teacher", [part, text(LIST)], media_io_kwargs={"video": times})
    assert status == 400
    assert words in told


def test_a_prompt_that_is_too_long_has_a_code_of_its_own(url):
    message = {"role": "user", "content": "so " * 600}
    status, answer = post(f"{url}/v1/chat/completions", {"model": "checker", "messages": [message]})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    status, answer = post(f"{url}/v1/completions", {"model": "checker", "prompt": [20] * 512, "max_tokens": 1})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    status, _ = post(f"{url}/v1/completions", {"model": "checker", "prompt": [20] * 511, "max_tokens": 1})
    assert status == 200


def test_what_would_be_taken_for_media_is_refused(url):
    assert "'<|AUDIO|>'" in refused(url, "checker", "is <|AUDIO|> heard ?")[1]
    for prompt in ("<|AUDIO|>", [20, 4], [10**6], []):
        assert post(f"{url}/v1/completions", {"model": "checker", "prompt": prompt})[0] == 400


def test_what_cannot_be_a_request_has_the_right_status(url):
    there = f"{url}/v1/chat/completions"
    fine = {"model": "checker", "messages": [{"role": "user", "content": "is the dog heard ?"}], "max_tokens": 1}
    tries = [
        (post(there, fine | {"model": "nobody"}), 404, "there are: teacher, checker, student, textual-teacher"),
        (post(f"{url}/v1/nothing", fine), 404, "Not Found"),
        (servers.get(there), 405, "Method Not Allowed"),
        (post(there, b"{"), 400, "not JSON"),
        (post(there, b"[1]"), 400, "must be a JSON object"),
        (post(there, b"[" * 100_000), 400, "not JSON"),
        (post(there, {"model": "checker", "messages": []}), 400, "messages: "),
        (post(there, {"model": "checker", "messages": [{"role": "assistant", "content": "yes"}]}), 400, "the user's"),
        (post(there, json.dumps(fine).encode(), "text/plain"), 415, "application/json"),
        (post(there, b" " * (64 * 2**20 + 1)), 413, "67108864 bytes at most"),
        (post(there, fine), 200, None),
    ]
    for (status, answer), expected, words in tries:
        assert status == expected
        assert words is None or words in answer["error"]["message"]


@pytest.mark.parametrize(
    "more, words",
    [
        ({"temperature": 1e-320}, "must be 0, which is greedy"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        ({"media_io_kwargs": {"video": {"frames_indices": [0, 10**400]}}}, "frames_indices"),
        ({"media_io_kwargs": {"video": {"total_num_frames": 10**400}}}, "total_num_frames"),
    ],
)
def test_numbers_and_characters_that_break_arithmetic_are_the_requests_fault(url, more, words):
    """They came back as the server's own failure (500), which clients try again."""
    body = {"model": "teacher", "max_tokens": 2, "messages": [{"role": "user", "content": LIST}], **more}
    status, told = post(f"{url}/v1/chat/completions", body)
    assert (status, words in told["error"]["message"]) == (400, True), told
