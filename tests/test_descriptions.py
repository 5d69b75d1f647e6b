"""Descriptions by a describer: read from its JSON, held against themselves and the clip, and told as plain text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.descriptions import SLACK, DescriptionError, Event, Heard, Speaker, parse, render, validate

WORDS = st.sampled_from(["a dog barks", "rain on a roof", "Stimmen", "犬が吠える", "two bells, one loud"])
TIMES = st.floats(0, 10, allow_nan=False).map(lambda x: round(x, 2))
EVENTS = st.tuples(WORDS, TIMES, TIMES).map(lambda e: Event(e[0], min(e[1:]), max(e[1:])))
HEARD = st.builds(
    Heard,
    st.lists(EVENTS, min_size=1, unique=True).map(tuple),
    WORDS,
    st.lists(st.builds(Speaker, WORDS, st.none() | st.just("happy")), unique=True).map(tuple),
    st.none() | WORDS,
)
GOOD = {
    "events": [{"what": "a dog barks", "start": 0.5, "end": 1.5}, {"what": "a bell", "start": 0, "end": 0.25}],
    "speech": "come here",
    "speakers": [{"who": "a woman", "emotion": "angry"}, {"who": "a child", "emotion": None}],
    "music": None,
}


def spoken(heard: Heard) -> str:
    row = {
        "events": [vars(event) for event in heard.events],
        "speech": heard.speech,
        "speakers": [vars(speaker) for speaker in heard.speakers],
        "music": heard.music,
    }
    return json.dumps(row, ensure_ascii=False)


def refused(text: str, seconds: float = 10.0) -> str:
    with pytest.raises(DescriptionError) as error:
        validate(parse(text), seconds)
    return f"the description {error.value}"


@given(
    HEARD,
    st.sampled_from(["{}", "```json\n{}\n```", "Here is what I hear:\n```\n{}\n```\nI hope that helps.", "\n {} "]),
)
def test_what_was_heard_is_read_whatever_stands_around_it(heard, around):
    read = parse(around.replace("{}", spoken(heard)))
    assert read == heard
    validate(read, 10.0)
    lines = render(read).split("\n")
    assert len(lines) == len(heard.events) + len(heard.speakers) + 2
    starts = [float(line.split(" to ")[0]) for line in lines[: len(heard.events)]]
    assert starts == sorted(event.start for event in heard.events)


def test_a_description_is_told_in_the_order_of_time():
    assert render(parse(json.dumps(GOOD))) == (
        "0 to 0.25 s: a bell\n"
        "0.5 to 1.5 s: a dog barks\n"
        'Speech: "come here"\n'
        "Speaker: a woman, angry\n"
        "Speaker: a child\n"
        "Music: none"
    )
    nothing = parse('{"events": [], "speech": "No speech is present.", "speakers": null, "music": "a flute"}')
    assert render(nothing) == "Speech: none\nMusic: a flute"


@pytest.mark.parametrize(
    "told, seconds", [("1.5", 1.5), ("1.5s", 1.5), ("2 seconds", 2), ("0:03", 3), ("1:02.5", 62.5)]
)
def test_times_may_be_written_as_people_write_them(told, seconds):
    row = GOOD | {"events": [{"what": "a dog", "start": 0, "end": told}]}
    assert parse(json.dumps(row)).events == (Event("a dog", 0.0, seconds),)


def event(**changes) -> dict:
    return {"events": [{"what": "a dog", "start": 1, "end": 2} | changes]}


SILENT = {"speech": None, "speakers": [], "music": None}


@pytest.mark.parametrize(
    "change, said",
    [
        (event(end=0.5), "lets 'a dog' end at 0.5 s, before it starts at 1 s"),
        (event(end=10.6), "lets 'a dog' end at 10.6 s, and the clip has 10.0 s"),
        (event(start=-1), "gives the start of 'a dog' as -1"),
        (event(start=True), "gives the start of 'a dog' as True"),
        (event(end="soon"), "gives the end of 'a dog' as 'soon'"),
        (event(end=10**400), "which is no time in seconds"),
        (event(what="..."), "has an event's what that is no text"),
        (event(what=None), "has an event's what that is no text"),
        (event(loud=1), "has an event that is not {what, start, end}"),
        ({"events": ["a dog"]}, "has an event that is not {what, start, end}"),
        ({"events": "a dog"}, "has events that are no list"),
        ({"speech": 5}, "has speech that is no text"),
        ({"mood": "calm"}, "has the unknown key 'mood'"),
        ({"speech": None}, "names a speaker (a woman) and says that nobody speaks"),
        (event(what="no speech"), "says that nobody speaks and what is said: 'come here'"),
        ({"speech": "No speech here: 'hello'"}, "says that nobody speaks and what is said"),
        (SILENT | {"events": []}, "names nothing that is heard"),
        (SILENT | event(what="silence") | {"music": "a piano"}, "calls the clip silent and hears music in it"),
        (
            {"events": [{"what": "Silence.", "start": 0, "end": 4}, *event()["events"]]},
            "calls 0 to 4 s silent and hears 'a dog' there",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(change, said):
    assert said in refused(json.dumps(GOOD | change))


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("I hear a dog.", "holds no JSON object: 'I hear a dog.'"),
        (json.dumps(GOOD)[:-20], "is not valid JSON"),
        (json.dumps(GOOD) * 2, "holds more than one JSON object"),
        ('{"events": NaN}', "holds NaN"),
        ('{"a": ' * 100_000, "is not valid JSON"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "music"}), "says nothing of 'music'"),
        (json.dumps(GOOD)[:-1] + ', "speech": null}', "has 'speech' twice, with different values"),
    ],
)
def test_words_that_are_no_description_are_refused(text, said):
    assert said in refused(text)


def test_what_is_said_twice_alike_is_said_once():
    text = json.dumps(GOOD | {"events": 2 * GOOD["events"]})[:-1] + ', "music": null}'
    assert parse(text) == parse(json.dumps(GOOD))


def test_silence_is_a_description_and_so_is_silence_between_sounds():
    for row in (
        SILENT | event(what="silence", start=0, end=10),
        GOOD | {"events": [*event()["events"], {"what": "silence", "start": 2, "end": 10 + SLACK}]},
    ):
        validate(parse(json.dumps(row)), 10.0)


@given(st.text() | st.text(alphabet='{}[]":,events0.1null '))
def test_any_words_are_read_or_refused(text):
    try:
        validate(parse(text), 4.0)
    except DescriptionError as error:
        assert str(error)
