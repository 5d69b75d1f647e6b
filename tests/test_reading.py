"""What a server sends back is read with care: what is not as it must be is Malformed, and never worse."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from earwitness.models.exchange import Unanswered
from earwitness.models.served.call import Malformed
from earwitness.models.served.reading import (
    LONGEST,
    NEVER,
    completion_of,
    read_choice,
    read_samples,
    read_scores,
)

OPTIONS = ("yes", "no")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("index", "message", "content", "refusal", "finish_reason", "logprobs", "token", "logprob", "top_logprobs")
NAMES += ("reasoning", "choices", "token_ids")
LIKELY = st.recursive(
    JSON | st.sampled_from(["stop", "length", "yes", -0.1, 0, []]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=20,
)


def said(*texts, **fields):
    """A response with one choice a text."""
    return {
        "choices": [
            {"index": i, "message": {"role": "assistant", "content": text, **fields}, "finish_reason": "stop"}
            for i, text in enumerate(texts)
        ]
    }


def first_token(**likely):
    top = [{"token": token.replace("_", " "), "logprob": p} for token, p in likely.items()]
    head = {**top[0], "top_logprobs": top} if top else {"token": "maybe", "logprob": 0.0, "top_logprobs": []}
    return {"choices": [{**said("yes")["choices"][0], "logprobs": {"content": [head]}}]}


@given(st.dictionaries(st.sampled_from(NAMES), LIKELY, max_size=4) | st.fixed_dictionaries({"choices": LIKELY}))
def test_no_response_does_worse_than_to_be_malformed(response):
    for read in (
        lambda: [completion_of(a) for a in read_samples(response, 1, thinks=True, ids=True)],
        lambda: read_samples(response, 2, thinks=False),
        lambda: read_scores(response, OPTIONS),
        lambda: read_choice(response, OPTIONS, thinks=True),
    ):
        try:
            read()
        except (Malformed, Unanswered) as error:
            assert str(error)


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_answers_is_malformed(count):
    with pytest.raises(Malformed, match=f"{count} answers were asked for, and 2 came"):
        read_samples(said("a", "b"), count, thinks=False)


@pytest.mark.parametrize("response", [{}, {"choices": None}, {"choices": [None]}, {"choices": [{}]}, said(None)])
def test_an_answer_without_its_parts_is_malformed(response):
    with pytest.raises(Malformed):
        read_samples(response, 1, thinks=False)


def test_an_answer_without_end_is_malformed():
    with pytest.raises(Malformed, match=str(LONGEST)):
        read_samples(said("a" * (LONGEST + 1)), 1, thinks=False)


def test_answers_are_told_apart_by_their_number():
    response = said("a", "b")
    response["choices"].reverse()
    assert [answer["text"] for answer in read_samples(response, 2, thinks=False)] == ["a", "b"]
    response["choices"][0]["index"] = 0
    with pytest.raises(Malformed, match="numbered"):
        read_samples(response, 2, thinks=False)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking_that_a_server_split_off_stands_before_the_answer(field):
    (answer,) = read_samples(said("<answer>dog</answer>", **{field: "I see a dog."}), 1, thinks=True)
    assert answer["text"] == "<think>I see a dog.</think><answer>dog</answer>"


def test_thinking_that_was_cut_off_stays_open():
    response = said(None, reasoning="I see")
    response["choices"][0]["finish_reason"] = "length"
    (answer,) = read_samples(response, 1, thinks=True)
    assert completion_of(answer).text == "<think>I see"
    assert completion_of(answer).finish == "length"


def test_a_refusal_is_an_answer_that_says_nothing():
    (answer,) = read_samples(said("", refusal="I'm sorry,\x1b[31m no."), 1, thinks=False)
    with pytest.raises(Unanswered, match=r"I'm sorry, no\."):
        completion_of(answer)
    response = said("half")
    response["choices"][0]["finish_reason"] = "content_filter"
    with pytest.raises(Unanswered, match="filter"):
        completion_of(read_samples(response, 1, thinks=False)[0])


def test_rows_keep_control_characters_and_no_halves_of_characters():
    (answer,) = read_samples(said("a\x1b[31mb\ud800"), 1, thinks=False)
    assert answer["text"] == "a\x1b[31mb\ufffd"


def test_all_spellings_of_an_option_count():
    response = first_token(yes=math.log(0.5), _Yes=math.log(0.25), no=math.log(0.125), The=math.log(0.1))
    yes, no = read_scores(response, OPTIONS)["scores"]
    assert math.exp(yes) == pytest.approx(0.75)
    assert math.exp(no) == pytest.approx(0.125)


def test_an_option_below_the_likeliest_has_at_most_what_they_leave():
    yes, no = read_scores(first_token(yes=math.log(0.9), The=math.log(0.09)), OPTIONS)["scores"]
    assert math.exp(no) == pytest.approx(0.01)
    assert math.exp(yes) == pytest.approx(0.9)
    assert read_scores(first_token(yes=0.0), OPTIONS)["scores"] == [0.0, NEVER]


def test_where_no_option_is_likely_nothing_is_known():
    assert read_scores(first_token(The=-0.1, A=-3.0), OPTIONS) == {"scores": None}


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("yes", [0.0, NEVER]),
        ('{"answer": "no"}', [NEVER, 0.0]),
        ("Yes, there is a dog.", [0.0, NEVER]),
        ("No.", [NEVER, 0.0]),
        ("yes or no", None),
        ("I cannot tell.", None),
        ("<think>yes? no?</think>no", [NEVER, 0.0]),
        ("", None),
    ],
)
def test_words_are_read_with_care(text, scores):
    assert read_choice(said(text), OPTIONS, thinks=True)["scores"] == scores


def test_ids_come_with_their_log_probabilities_or_not_at_all():
    response = said("a dog")
    choice = response["choices"][0]
    with pytest.raises(Malformed, match="token ids"):
        read_samples(response, 1, thinks=False, ids=True)
    choice |= {"token_ids": [5, 6], "logprobs": {"content": [{"token": "a", "logprob": -0.5}]}}
    with pytest.raises(Malformed, match="log-probability"):
        read_samples(response, 1, thinks=False, ids=True)
    choice["logprobs"]["content"].append({"token": "dog", "logprob": -0.25})
    (answer,) = read_samples(response, 1, thinks=False, ids=True)
    assert completion_of(answer).ids == (5, 6)
    assert answer["logprobs"] == [-0.5, -0.25]
