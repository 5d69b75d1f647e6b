"""A model behind a server answers as the same model in this process does, and is asked once."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.config import Budget, Model
from earwitness.ledger import Ledger
from earwitness.media import MediaError, write_clip
from earwitness.models import connect, open_local
from earwitness.models.exchange import Drawing, Prompt, PromptError, Unanswered
from earwitness.models.served import showing
from earwitness.models.served.desk import Desk, current_desk
from earwitness.models.served.purse import Purse
from earwitness.models.served.reading import is_refusal
from earwitness.models.served.voice import ServedModel
from earwitness.prices import load_prices
from earwitness.prompts import fill, question_prompt, template
from earwitness.records import Clip
from earwitness.sources import encoded
from earwitness.sources.clips import load_sound
from earwitness.world.questions import read_world
from media_files import numbered

QUESTIONS = read_world("world:validation", 6)
YES_NO = ("yes", "no")


@pytest.fixture
def url(world_server):
    return world_server


@pytest.fixture
def desk(tmp_path):
    opened = Desk(Ledger(tmp_path / "ledger.sqlite"), Purse(Budget(), load_prices()))
    yield opened
    opened.close()


def served(url, desk, name="checker", **more):
    spec = Model(kind="served", name=name, manner="world", base_url=(f"{url}/v1",), **more)
    return ServedModel(spec, "sight" if name == "teacher" else "hearing", desk)


def watching(question):
    return Prompt(question_prompt("world", "audio", question.text, question.choices), question.clip)


def hearing(question, claim="dog"):
    return Prompt(fill(template("world", "claim"), claim=claim), question.clip)


def requests(desk):
    with sqlite3.connect(desk.ledger.path) as ledger:
        return ledger.execute("SELECT count(*) FROM attempts").fetchone()[0]


def keys(*parts):
    return [(*parts, question.id) for question in QUESTIONS]


def test_the_checker_scores_as_it_does_in_process(url, desk):
    prompts = [hearing(question, claim) for question in QUESTIONS for claim in ("dog", "bell")]
    local = open_local(Model(kind="world", name="checker"), "checker")
    there, here = (np.array(model.choose(prompts, YES_NO)) for model in (served(url, desk), local))
    assert np.abs(there - here).max() < 1e-3


def test_the_teacher_says_what_it_says_in_process(url, desk):
    prompts, how = [watching(question) for question in QUESTIONS], Drawing(max_tokens=64)
    local = open_local(Model(kind="world", name="teacher"), "teacher")
    there, here = (model.draw(prompts, how, keys()) for model in (served(url, desk, "teacher"), local))
    assert [group[0].text for group in there] == [group[0].text for group in here]
    assert [group[0].finish for group in there] == [group[0].finish for group in here]


def test_nothing_is_asked_twice(url, desk, monkeypatch):
    model, prompts = served(url, desk), [hearing(question) for question in QUESTIONS]
    told = model.draw(prompts, Drawing(2, 1.0, 8), keys(1)), model.choose(prompts, YES_NO)
    asked = requests(desk)
    assert asked == 2 * len(QUESTIONS)
    monkeypatch.setattr(encoded, "load_sound", refuse)
    encoded._sound_of.cache_clear()
    elsewhere = served("http://127.0.0.1:9", desk, timeout=1.0, concurrency=3)  # where it stands is no part of a call
    again = elsewhere.draw(prompts, Drawing(2, 1.0, 8), keys(1)), elsewhere.choose(prompts, YES_NO)
    assert again == told
    assert requests(desk) == asked


def refuse(*_):
    raise AssertionError("decoded, though the answer was known")


def test_eight_samples_after_four_pay_four(url, desk):
    model, prompt = served(url, desk, "teacher"), [watching(QUESTIONS[0])]
    (four,) = model.draw(prompt, Drawing(4, 1.0, 48), [(1, "sample", "q")])
    (eight,) = model.draw(prompt, Drawing(8, 1.0, 48), [(1, "sample", "q")])
    assert eight[:4] == four
    assert requests(desk) == 2
    with sqlite3.connect(desk.ledger.path) as ledger:
        assert ledger.execute("SELECT attempt, count(*) FROM answers GROUP BY attempt").fetchall() == [(1, 4), (2, 4)]
    assert len({completion.text for completion in eight}) > 1


def test_fanned_out_samples_are_one_request_each(url, desk):
    wire = {"frames": "jpeg_sequence", "samples": "fanout", "seeds": "each", "logprobs": True}
    model = served(url, desk, "teacher", profile="custom", wire=wire)
    (drawn,) = model.draw([watching(QUESTIONS[0])], Drawing(4, 1.0, 48), [(1, "q")])
    assert requests(desk) == 4
    assert len({completion.text for completion in drawn}) > 1, "each has a seed of its own"


def test_what_decides_an_answer_decides_its_key(url, desk):
    model, prompt = served(url, desk), [hearing(QUESTIONS[0])]
    sampled = Drawing(1, 1.0, 4)
    asked = [
        (prompt, sampled, [(1, "q")]),
        (prompt, sampled, [(2, "q")]),  # another seed
        (prompt, Drawing(1, 0.5, 4), [(1, "q")]),
        (prompt, Drawing(1, 1.0, 5), [(1, "q")]),
        ([hearing(QUESTIONS[1])], sampled, [(1, "q")]),  # another clip
        ([hearing(QUESTIONS[0], "bell")], sampled, [(1, "q")]),
        (prompt, Drawing(max_tokens=4), [(1, "q")]),
    ]
    for number, (prompts, how, key) in enumerate(asked, 1):
        model.draw(prompts, how, key)
        assert requests(desk) == number
    model.draw(prompt, Drawing(max_tokens=4), [(2, "another")])  # a greedy answer is anybody's
    model.draw(prompt, Drawing(3, max_tokens=4), [(3, "third")])
    assert requests(desk) == len(asked)
    other = served(url, desk, revision="2")
    other.draw(prompt, Drawing(max_tokens=4), [(1, "q")])
    assert requests(desk) == len(asked) + 1


PLACES = {"base_url": ["http://a:1/v1", "http://b:2/v1"], "concurrency": [0, 7], "timeout": [120.0, 5.0]}
PLACES |= {"attempts": [8, 2], "requests_per_minute": [0, 60], "api_key_env": [None, "KEY"], "device": ["auto", "cpu"]}
DECIDING = {"name": ["m", "n"], "revision": [None, "2"], "adapter": [None, "a"], "long_clips": ["refuse", "truncate"]}
WIRES = [{"profile": "vllm"}, {"profile": "sglang"}, {"profile": "openai"}]
CLIPS = [{"media": "world:easy:1"}, {"media": "world:easy:2"}, {"media": "world:hard:1"}]
DRAWN = {"temperature": [0.0, 0.5, 1.0], "top_k": [0, 5], "top_p": [1.0, 0.9], "max_tokens": [4, 5]}


@st.composite
def asked(draw, sense):
    """A call, and all of it that decides its answer."""
    one = {name: draw(st.sampled_from(values)) for name, values in (PLACES | DECIDING).items()}
    wire, clip = draw(st.sampled_from(WIRES)), draw(st.sampled_from(CLIPS))
    how = {name: draw(st.sampled_from(values)) for name, values in DRAWN.items()}
    schema, text, frames = draw(st.sampled_from([None, "{}"])), draw(st.sampled_from("xy")), draw(st.integers(1, 2))
    seed, question = draw(st.sampled_from([1, 2])), draw(st.sampled_from("qr"))
    model = ServedModel(
        Model(kind="served", manner=draw(st.sampled_from(["plain", "world"])), **one, **wire), sense, None
    )
    prompt = Prompt(text, Clip(id=draw(st.sampled_from("ab")), **clip), frames)
    (name,) = model._samples(prompt, Drawing(schema=schema, **how), (seed, "sample", question)).names
    random = () if not how["temperature"] else (how["temperature"], how["top_k"], how["top_p"], seed, question)
    deciding = [one[field] for field in DECIDING if field != "long_clips" or sense == "hearing"]
    film = (frames, wire["profile"] == "vllm") if sense == "sight" else ()
    read = (wire["profile"] == "openai", schema if wire["profile"] != "openai" else None)
    return name, (text, clip["media"], *deciding, *random, *film, *read, how["max_tokens"])


@given(st.sampled_from(["sight", "hearing"]).flatmap(lambda sense: st.tuples(asked(sense), asked(sense))))
def test_two_calls_have_one_key_where_all_that_decides_their_answer_is_the_same(pair):
    (one, decides_one), (two, decides_two) = pair
    assert (one == two) == (decides_one == decides_two)


@given(st.data(), st.sampled_from(["sight", "hearing"]))
def test_where_and_how_fast_a_model_is_asked_is_no_part_of_a_key(data, sense):
    spec = Model(kind="served", name="m", base_url="http://a:1/v1")
    elsewhere = spec.model_copy(update={name: data.draw(st.sampled_from(values)) for name, values in PLACES.items()})
    prompt, how = Prompt("x", Clip(id="c", media="world:easy:1")), Drawing(2, 1.0, 4)
    one, two = (ServedModel(s, sense, None)._samples(prompt, how, (1, "q")).names for s in (spec, elsewhere))
    assert one == two and len(set(one)) == 2


def test_a_greedy_answer_is_asked_for_once_however_many_are_wanted(url, desk):
    (drawn,) = served(url, desk).draw([hearing(QUESTIONS[0])], Drawing(3, max_tokens=4), [(1, "q")])
    assert len(drawn) == 3
    assert len(set(drawn)) == 1
    assert requests(desk) == 1


def test_the_same_prompt_in_one_batch_is_asked_once(url, desk):
    same = [hearing(QUESTIONS[0])] * 3
    first, *others = served(url, desk).draw(same, Drawing(max_tokens=4), [(1,), (2,), (3,)])
    assert others == [first, first]
    assert requests(desk) == 1


class Counter:
    """A desk that only takes calls, and counts after each how many films of clips are alive."""

    ledger = None

    def __init__(self):
        self.films, self.most, self.taken = weakref.WeakSet(), 0, []

    def show(self, clip, count):
        film = encoded.Film((b"picture",) * count, tuple(range(count)), 1.0, 64)
        self.films.add(film)
        return film

    def ask(self, _, calls):
        for call in calls:
            self.taken.append(call)
            self.most = max(self.most, len(self.films))
        return [[{"text": "x", "finish": "stop"}] * len(call.keys) for call in self.taken]


def test_what_waits_to_be_asked_holds_no_clip(monkeypatch):
    """A block of films, from dozens of threads, would be gigabytes."""
    counter = Counter()
    monkeypatch.setattr(showing, "film_of", counter.show)
    watcher = served("http://127.0.0.1:9", counter, "teacher")
    drawn = watcher.draw([watching(question) for question in QUESTIONS], Drawing(3, 1.0, 4), keys(1))
    assert all(len(group) == 3 for group in drawn)
    assert counter.most == 1 and len(counter.films) <= 1
    sent = [json.loads(call.body()) for call in counter.taken]
    assert all(body["messages"][0]["content"][0]["type"] == "video_url" for body in sent)


def test_the_first_clip_is_asked_about_before_the_last_is_decoded(url, desk, monkeypatch):
    """A server would idle while a block is decoded, and blocks are decoded side by side."""
    decoded, sent = [], []
    monkeypatch.setattr(encoded, "load_sound", lambda clip: (decoded.append(clip), load_sound(clip))[1])
    engine, count = desk.engine(served(url, desk).spec), len(QUESTIONS)
    begun = engine._begun
    monkeypatch.setattr(engine, "_begun", lambda call: (sent.append(len(decoded)), begun(call))[1])
    encoded._sound_of.cache_clear()
    served(url, desk).choose([hearing(question) for question in QUESTIONS], YES_NO)
    assert sent == list(range(1, count + 1))


def test_a_clip_without_sound_costs_no_call(url, desk, tmp_path, monkeypatch):
    monkeypatch.setenv("EARWITNESS_CACHE", str(tmp_path))
    silent = Clip(id="silent", media=str(without_sound(tmp_path / "silent.mp4")))
    model = served(url, desk)
    with pytest.raises(MediaError, match="no sound"):
        model.check(Prompt("is the dog heard ?", silent))
    with pytest.raises(MediaError, match="no sound"):
        model.choose([Prompt("is the dog heard ?", silent)], YES_NO)
    failed, told = model.draw([Prompt("what ?", silent), hearing(QUESTIONS[0])], Drawing(max_tokens=4), [(1,), (2,)])
    assert isinstance(failed, MediaError)
    assert told[0].text
    assert requests(desk) == 1, "the question beside it is asked"


def without_sound(path):
    import av

    write_clip(path.with_name("both.mp4"), np.stack([numbered(i) for i in range(8)]), 8, np.ones(16_000) * 0.1, 16_000)
    with av.open(str(path.with_name("both.mp4"))) as given, av.open(str(path), "w") as made:
        track = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = track
                made.mux(packet)
    return path


def test_what_cannot_be_sent_as_text_is_the_questions_fault(url, desk):
    model = served(url, desk)
    with pytest.raises(PromptError):
        model.check(Prompt("<|AUDIO|>"))
    (failed,) = model.draw([Prompt("<|AUDIO|>", QUESTIONS[0].clip)], Drawing(), [(1,)])
    assert isinstance(failed, PromptError)
    assert requests(desk) == 0


def test_without_log_probabilities_the_answer_is_the_score(url, desk):
    """By structured output where a server has it: the choice is the one that log-probabilities prefer."""
    prompts = [hearing(question) for question in QUESTIONS]
    preferred = [yes > no for yes, no in served(url, desk).choose(prompts, YES_NO)]
    wires = [{"choices": "structured_outputs"}, {}]
    for wire in wires:
        scores = served(url, desk, profile="custom", wire=wire).choose(prompts, YES_NO)
        assert [yes > no for yes, no in scores] == preferred
        assert {score for pair in scores for score in pair} == {0.0, -700.0}


def test_an_answer_that_names_no_option_is_no_answer(url, desk):
    model = served(url, desk, profile="custom", wire={})
    with pytest.raises(Unanswered, match="siren or horn"):
        model.choose([hearing(QUESTIONS[0])], ("siren", "horn"))
    with pytest.raises(Unanswered):
        model.choose([hearing(QUESTIONS[0])], ("siren", "horn"))
    assert requests(desk) == 1, "it is an answer, too, and is paid once"
    desk.ledger.forget(is_refusal)
    with pytest.raises(Unanswered):
        model.choose([hearing(QUESTIONS[0])], ("siren", "horn"))
    assert requests(desk) == 2, "unless it is to be asked once more"


def test_a_model_without_a_desk_of_a_run_asks_without_a_ledger(url):
    spec = Model(kind="served", name="checker", manner="world", base_url=(f"{url}/v1",))
    model = connect(spec, "checker")
    assert isinstance(model, ServedModel)
    assert len(model.choose([hearing(QUESTIONS[0])], YES_NO)[0]) == 2
    current_desk().close()


WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "accelerate"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
from earwitness.config import Model, Sample, Verify
from earwitness.models.served import showing
from earwitness.models.served.desk import current_desk
from earwitness.stages.sample import SampleTraces
from earwitness.stages.verify import VerifyTraces
from earwitness.world.questions import read_world

def served(name):
    return Model(kind="served", name=name, manner="world", base_url=(sys.argv[1] + "/v1",))

questions = read_world("world:validation", 2)
traces = SampleTraces(served("teacher"), Sample(traces=2, max_tokens=64), 1)(questions)
verdicts = VerifyTraces(served("checker"), Verify())(list(zip(questions, traces)))
print([len(group) for group in traces], [len(group) for group in verdicts])
current_desk().close()
"""


def test_data_stages_need_no_torch_where_models_are_served(url):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, url], capture_output=True, text=True, check=False)
    assert done.stdout == "[2, 2] [2, 2]\n", done.stderr
