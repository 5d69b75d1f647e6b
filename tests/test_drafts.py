"""Questions that a model wrote: read strictly, and held against rules before anybody is asked them."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from earwitness.sources.drafts import LONGEST_CHOICE, LONGEST_QUESTION, DraftError, read_draft, read_list
from earwitness.terminal import clean

GOOD = {"question": "What is heard after the bell?", "choices": ["a dog", "a kettle", "rain"], "answer": "a kettle"}
OTHER = {"question": "How often does the dog bark?", "choices": ["once", "twice", "never"], "answer": "twice"}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([GOOD]),
        json.dumps({"questions": [GOOD]}, indent=2),
        f"Here [1] they are:\n```json\n{json.dumps([GOOD])}\n```\nI hope that helps.",
        f'<think>perhaps [{{"question": "no"}}]</think>{json.dumps([GOOD])}',
    ],
)
def test_the_list_is_found_behind_fences_prose_and_thoughts(text):
    assert read_list(text) == [GOOD]


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no JSON list"),
        ("I cannot hear it.", "no JSON list"),
        ("[]", "no JSON list"),
        (json.dumps(GOOD), "no JSON list"),
        (json.dumps([GOOD])[:-1], "not valid JSON"),
        (json.dumps([GOOD]).replace("}]", "},]"), "not valid JSON"),
        (str([GOOD]), "not valid JSON"),
        ('[{"question": NaN}]', "NaN is no number"),
        ('[{"a":' + "[" * 100_000, "not valid JSON"),
        ('[{"a":' + "9" * 10_000 + "}]", "not valid JSON"),
        (json.dumps([GOOD]) + json.dumps([OTHER]), "more than one list"),
    ],
)
def test_what_is_no_one_list_of_json_is_refused(text, said):
    with pytest.raises(DraftError, match=said):
        read_list(text)


@given(st.text() | st.text(alphabet='[]{}":, \\ud8'))
@example("B\U00018d09")  # a letter of a later Unicode than Python's
def test_no_text_of_a_model_breaks_the_reader(text):
    for wrapped in (text, f"[{{{text}}}]", json.dumps([{"question": text, "choices": [text, "b"], "answer": text}])):
        try:
            items = read_list(wrapped)
        except DraftError:
            continue
        for item in items:
            try:
                question, choices, answer = read_draft(item, 2)
            except DraftError as error:
                assert len(str(error)) < 200
            else:
                assert answer in choices and clean(question) == question == " ".join(question.split())


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["question", "choices", "answer"]), inner),
)


@given(json_values)
def test_no_value_of_json_breaks_the_rules(value):
    for item in (value, {"question": value, "choices": value, "answer": value}, GOOD | {"choices": [value, value]}):
        with pytest.raises(DraftError):
            read_draft(item, 3)


def test_a_good_question_passes_with_its_white_space_mended():
    spaced = {"question": " What is heard\n after\tthe bell? ", "choices": [" a  dog", "A kettle", "rain "]}
    assert read_draft(spaced | {"answer": "a kettle."}, 3) == (
        GOOD["question"],
        ("a dog", "A kettle", "rain"),
        "A kettle",
    )
    assert read_draft(GOOD | {"explanation": "it whistles"}, 3)[2] == "a kettle"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"question": " "}, "the question has no words"),
        ({"question": "?!"}, "the question has no words"),
        ({"question": None}, "the question is no text"),
        ({"question": "x" * (LONGEST_QUESTION + 1)}, "longer than 500"),
        ({"question": "What <|AUDIO|> is heard?"}, "a model's own token"),
        ({"question": "What <audio> is heard?"}, "the tag <audio>"),
        ({"question": "What is {sound}?"}, "unfilled placeholder"),
        ({"question": "What\u202e is heard?"}, "nobody can see"),
        ({"question": "What\x07 is heard?"}, "nobody can see"),
        ({"question": "What\ud800 is heard?"}, "nobody can see"),
        ({"question": "Which colour is the dog that barks?"}, "it asks the eye"),
        ({"question": "What does the person in the video say?"}, "it asks the eye"),
        ({"question": "Is it the Kettle, that whistles?"}, "gives its answer away"),
        ({"choices": "a dog, a kettle"}, "choices are no list"),
        ({"choices": ["a dog", "a kettle"]}, "not 3 choices"),
        ({"choices": ["a dog", "a kettle", "A  Dog!"]}, "two of its choices are the same"),
        ({"choices": ["a dog", "a kettle", "rain\u200b"]}, "nobody can see"),
        ({"choices": ["a dog", "a kettle", 3]}, "a choice is no text"),
        ({"choices": ["a dog", "a kettle", "x" * (LONGEST_CHOICE + 1)]}, "longer than 200"),
        ({"choices": ["A. a dog", "B. a kettle", "C. rain"], "answer": "B. a kettle"}, "lettered"),
        ({"choices": ["a dog", "a kettle", "none of the above"]}, "speaks of another"),
        ({"answer": "B"}, "answer is not among"),
        ({"answer": "a cat"}, "answer is not among"),
        ({"answer": 1}, "answer is not among"),
        ({"answer": None}, "answer is not among"),
    ],
)
def test_a_question_that_cannot_be_asked_is_dropped_and_says_why(changes, said):
    with pytest.raises(DraftError, match=said):
        read_draft(GOOD | changes, 3)


def test_a_question_that_names_every_choice_gives_nothing_away():
    named = {"question": "Which comes first, the dog or the kettle?", "choices": ["the dog", "a kettle"]}
    assert read_draft(named | {"answer": "a kettle"}, 2)[2] == "a kettle"
