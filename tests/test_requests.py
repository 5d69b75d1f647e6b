"""What is said to servers: golden shapes per profile, true times, and silence where silence is due."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from earwitness.config import Model, Wire
from earwitness.media import Frames
from earwitness.models.exchange import Drawing, MediaLimit, Prompt, PromptError
from earwitness.models.places import ModelError
from earwitness.models.served.call import ServerError
from earwitness.models.served.profiles import WIRES, wire_of
from earwitness.models.served.requests import Asked, body, film_clock, most_tokens
from earwitness.models.served.showing import Shown, refuse_frame, show
from earwitness.records import Clip
from earwitness.serve.asks import chat_ask
from earwitness.serve.requests import ChatRequest, parsed
from earwitness.sources.encoded import Film, samples_in

FILM = Film((b"one", b"two"), (0.25, 1.75), 2.0, 300)
SOUND = b"RIFF" + bytes(40) + bytes(32_000)
SCENE = Clip(id="scene", media="world:default:7")
HOW = Drawing(4, 0.7, 100)


def spec(profile="vllm", **more):
    return Model(kind="served", name="model", base_url="http://localhost/v1", profile=profile, **more)


PLAINLY = Asked()


def said(model, shown, how=HOW, asked=PLAINLY, text="what?"):
    return json.loads(body(model, shown, text, how, asked))


def b64(data):
    return base64.b64encode(data).decode()


def test_vllm_is_sent_a_sequence_of_frames_with_their_times():
    assert said(spec(), Shown(FILM), asked=Asked(seed=5)) == {
        "model": "model",
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "video_url",
                        "video_url": {"url": f"data:video/jpeg;base64,{b64(b'one')},{b64(b'two')}"},
                    },
                    {"type": "text", "text": "what?"},
                ],
            }
        ],
        "temperature": 0.7,
        "top_p": 1.0,
        "max_tokens": 100,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "media_io_kwargs": {
            "video": {
                "num_frames": -1,
                "fps": 1000,
                "frames_indices": [250, 1750],
                "total_num_frames": 2000,
                "duration": 2.0,
                "do_sample_frames": False,
            }
        },
        "n": 4,
        "seed": 5,
    }


@pytest.mark.parametrize("profile", ["sglang", "openai", "transformers-serve"])
def test_others_are_sent_images_and_never_the_file(profile):
    made = said(spec(profile), Shown(FILM))
    *images, text = made["messages"][0]["content"]
    assert images == [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{b64(picture)}"}}
        for picture in FILM.pictures
    ]
    assert text == {"type": "text", "text": "what?"}
    assert "media_io_kwargs" not in made


def test_sound_is_sent_as_wav_before_the_words():
    content = said(spec(), Shown(sounds=(SOUND, SOUND)))["messages"][0]["content"]
    audio = {"type": "input_audio", "input_audio": {"data": b64(SOUND), "format": "wav"}}
    assert content == [audio, audio, {"type": "text", "text": "what?"}]


def test_each_profile_says_how_it_draws():
    how = Drawing(1, 0.7, 100)
    openai = said(spec("openai"), Shown(), how)
    assert openai.keys() == {"model", "messages", "temperature", "top_p", "max_completion_tokens"}
    assert said(spec("sglang"), Shown(), how)["top_k"] == -1
    served = said(spec("transformers-serve"), Shown(), how)
    assert json.loads(served["generation_config"])["do_sample"] is True, "a temperature alone leaves it greedy"
    greedy = said(spec("transformers-serve"), Shown(), Drawing())
    assert json.loads(greedy["generation_config"])["do_sample"] is False
    assert said(spec("custom", wire=Wire()), Shown(), Drawing(1, 0.7, 100, 20))["top_k"] == 20
    with pytest.raises(ServerError, match="top_k"):
        body(spec("openai"), Shown(), "?", Drawing(1, 0.7, 100, 20))


def test_an_answer_is_held_to_a_list_in_each_servers_way():
    asked = Asked(options=("yes", "no"))
    assert said(spec(), Shown(), Drawing(), asked)["structured_outputs"] == {"choice": ["yes", "no"]}
    schema = said(spec("sglang"), Shown(), Drawing(), asked)["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["yes", "no"]
    assert not {"structured_outputs", "response_format"} & said(spec("openai"), Shown(), Drawing(), asked).keys()


def test_token_ids_are_asked_for_only_where_they_are_wanted():
    plain, wanted = said(spec(), Shown()), said(spec(), Shown(), asked=Asked(ids=True))
    assert "return_token_ids" not in plain
    assert "logprobs" not in plain
    assert wanted["return_token_ids"] is True
    assert wanted["logprobs"] is True
    assert said(spec(), Shown(), asked=Asked(top=20))["top_logprobs"] == 20


@pytest.mark.parametrize("count", [1, 2, 16, 40, 200])
def test_the_times_of_frames_arrive(count):
    times = np.sort(np.random.default_rng(count).uniform(0, 10, count))
    frames = Frames(np.zeros((count, 28, 28, 3), np.uint8), times, 10.0)
    made = body(spec(), show(Prompt("what?", film=frames), spec(), "sight"), "what?", Drawing())
    arrived = chat_ask(parsed(made, ChatRequest), "sight", 100).prompt.film
    assert np.abs(arrived.times - times).max() < 0.002
    assert arrived.duration == 10.0
    assert len(arrived.images) == count, "no frame is cut off"


def test_the_clock_never_ends_before_its_last_frame():
    clock = film_clock(Film((b"a", b"b", b"c"), (0.0, 0.0001, 2.0004), 2.0, 3))
    assert clock["frames_indices"] == [0, 1, 2000]
    assert clock["total_num_frames"] > 2000


def test_silent_means_silent():
    """A teacher's request holds no sound, a student's no picture, a reader's neither: whatever the clip has."""
    prompt = Prompt("what?", SCENE)
    parts = {sense: kinds(said(spec(), show(prompt, spec(), sense))) for sense in ("sight", "hearing", "reading")}
    assert parts == {"sight": ["video_url", "text"], "hearing": ["input_audio", "text"], "reading": ["text"]}
    wave, film = np.zeros(16_000, np.float32), Frames(np.zeros((1, 28, 28, 3), np.uint8), np.zeros(1), 1.0)
    for foreign, senses in ((Prompt("?", wave=wave), ("sight", "reading")), (Prompt("?", film=film), ("hearing",))):
        for sense in senses:
            with pytest.raises(ModelError, match="must not be given"):
                show(foreign, spec(), sense)


def kinds(made):
    return [part["type"] for part in made["messages"][0]["content"]]


def test_a_request_never_names_the_clip(tmp_path):
    made = body(spec(), show(Prompt("what?", SCENE), spec(), "hearing"), "what?", Drawing())
    assert b"scene" not in made
    assert b"world:" not in made


@pytest.mark.parametrize("text", ["<|im_start|>", "a <|AUDIO|> b", "[INST]", "<image>", "</s>"])
def test_words_that_are_not_read_as_words_are_refused(text):
    with pytest.raises(PromptError, match="reword"):
        refuse_frame(text, "model")


def test_ordinary_words_pass():
    refuse_frame("a < b | c > d, <think> <answer> [sic] |x|", "model")


def test_a_model_with_a_window_hears_long_clips_as_the_configuration_says():
    wave = np.arange(40 * 16_000, dtype=np.float32) % 100 / 200
    prompt = Prompt("what?", SCENE, wave=wave)
    with pytest.raises(MediaLimit, match=r"40\.0 s .* window of 30 s"):
        show(prompt, named("refuse"), "hearing")
    cut = show(prompt, named("truncate"), "hearing")
    assert [samples_in(sound) for sound in cut.sounds] == [30 * 16_000]
    assert cut.note == "only the first 30 s of 40.0 s were heard"
    parts = show(prompt, named("chunk"), "hearing")
    assert [samples_in(sound) for sound in parts.sounds] == [20 * 16_000] * 2
    assert parts.note is None
    assert samples_in(show(prompt, spec(), "hearing").sounds[0]) == len(wave), "no window is known of this model"


def named(long_clips):
    return spec(long_clips=long_clips).model_copy(update={"name": "Qwen/Qwen2-Audio-7B-Instruct"})


def test_an_upper_bound_of_tokens_is_one():
    """Qwen2.5-VL takes a token for 28 x 28 pixels of two frames, Qwen2-Audio 25 a second of sound."""
    shown = Shown(Film((b"",) * 16, (0.0,) * 16, 10.0, 640 * 360))
    assert most_tokens(shown, "what?", Drawing(4, 1.0, 100)) >= 8 * 640 * 360 / 784 + 4 * 100
    assert most_tokens(Shown(sounds=(SOUND,)), "what?", Drawing()) >= 25 + Drawing().max_tokens


def test_every_profile_is_described():
    assert wire_of(spec("custom", wire=Wire(samples="native"))).samples == "native"
    assert set(WIRES) == {"vllm", "sglang", "openai", "transformers-serve"}
