"""CoTA's four parts: what is written is read again, and what is no four parts is refused with the reason."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.answers import read
from earwitness.cota import PARTS, CotaError, FourParts, in_parts, parse, think_of, write
from earwitness.records import Lesson
from earwitness.stages.spelling import spell

SAID = st.text(min_size=1).filter(lambda text: text.strip() and not in_parts(text))
WHOLE = st.builds(FourParts, SAID, SAID, SAID, SAID, st.none() | SAID)
GOOD = FourParts("plan", "a dog barks", "so it is a dog", "in short", "a dog")
TEXT = (
    "<THINK><PLANNING>plan</PLANNING><CAPTION>a dog barks</CAPTION><REASONING>so it is a dog</REASONING>"
    "<SUMMARY>in short</SUMMARY></THINK><RESPONSE>a dog</RESPONSE>"
)


@given(WHOLE)
def test_what_is_written_is_read_again(parts):
    text = write(parts)
    assert parse(text) == parts
    assert write(parse(text)) == text


@given(WHOLE, st.lists(st.sampled_from(["", " ", "\n", "\r\n\t"]), min_size=15, max_size=15))
def test_white_space_between_the_parts_says_nothing(parts, gaps):
    pieces = [
        "",
        *(f"<{name}>{text}</{name}>" for name, text in zip(PARTS, list(vars(parts).values())[:4], strict=True)),
    ]
    if parts.response is not None:
        pieces = ["<THINK>", *pieces[1:], "</THINK>", f"<RESPONSE>{parts.response}</RESPONSE>"]
    assert parse("".join(gap + piece for gap, piece in zip(gaps, pieces, strict=False)) + gaps[-1]) == parts


def test_the_format_is_that_of_audio_reasoner():
    assert write(GOOD) == TEXT and parse(TEXT) == GOOD
    assert think_of(GOOD) == TEXT[len("<THINK>") : TEXT.index("</THINK>")]
    assert parse(think_of(GOOD)) == FourParts("plan", "a dog barks", "so it is a dog", "in short")


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "<PLANNING> is missing"),
        ("a dog barks", "<PLANNING> is missing"),
        (TEXT.replace("<CAPTION>a dog barks</CAPTION>", ""), "<CAPTION> is missing"),
        (TEXT.replace("</CAPTION>", ""), "</CAPTION> is missing"),
        (TEXT.replace("<RESPONSE>a dog</RESPONSE>", ""), "<RESPONSE> is missing"),
        (TEXT.replace("<THINK>", ""), "<THINK> is missing"),
        (TEXT.replace("</SUMMARY>", "</SUMMARY><SUMMARY>x</SUMMARY>"), "<SUMMARY> is there twice"),
        (TEXT + TEXT, "<THINK> is there twice"),
        (TEXT.replace("a dog barks", " \n "), "<CAPTION> is empty"),
        (TEXT.replace("plan<", "<"), "<PLANNING> is empty"),
        (
            TEXT.replace("PLANNING", "X").replace("CAPTION", "PLANNING").replace("X", "CAPTION"),
            "<CAPTION> stands where",
        ),
        (TEXT.replace("</CAPTION><REASONING>", "<REASONING></CAPTION>"), "<REASONING> stands where </CAPTION> belongs"),
        (TEXT.replace("<CAPTION>", "and <CAPTION>"), "text stands outside the parts: 'and'"),
        ("Sure! " + TEXT, "text stands outside the parts: 'Sure!'"),
    ],
)
def test_what_is_not_in_four_parts_is_refused(text, said):
    with pytest.raises(CotaError, match=re.escape(said)):
        parse(text)


@pytest.mark.parametrize("part", ["", "  ", "a </CAPTION> b", "<THINK>"])
def test_parts_that_could_not_be_read_again_are_never_made(part):
    with pytest.raises(CotaError):
        FourParts("plan", part, "so", "short")


@given(st.text() | st.text(alphabet="<>/PLANNING CAPTION"))
def test_any_text_is_read_or_refused(text):
    try:
        assert parse(write(parse(text))) == parse(text)
    except CotaError as error:
        assert str(error)


def test_a_lesson_in_four_parts_is_spelled_so_that_its_answer_can_be_read():
    lesson = Lesson(think=think_of(GOOD), answer="a dog", index=None, pools=("given",), by="data")
    reading = read(spell(lesson), ("a dog", "a bell"))
    assert (reading.think, reading.answer, reading.rule) == (think_of(GOOD), "a dog", "tag/exact")
