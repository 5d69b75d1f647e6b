"""Model text cannot command the terminal, and progress is one line per stage."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.terminal import Progress, ProgressLine, clean

ANY_CHARACTER = st.characters(exclude_categories=())
HOSTILE = st.lists(
    st.one_of(
        st.text(ANY_CHARACTER, max_size=8),
        st.sampled_from(
            [
                "\x1b[31m",
                "\x1b]0;title\x07",
                "\x1b]8;;http://x\x1b\\",
                "\x9b2J",
                "\x1bPq\x9c",
                "\u202e",
                "\u200b",
                "\x1b",
            ]
        ),
    )
).map("".join)


@given(HOSTILE)
def test_clean_leaves_nothing_that_commands_a_terminal(text):
    result = clean(text)
    for character in result:
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs"), repr(character)
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
        assert character not in "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u061c"
    result.encode("utf-8")
    assert clean(result) == result


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), include_characters="\n\t")))
def test_clean_keeps_ordinary_text_in_any_script(text):
    assert clean(text) == text


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("a \x1b[1;31mred\x1b[0m b", "a red b"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jcleared", "cleared"),
        ("never \x1b]ended", "never ended"),
        ("never \x1b[", "never "),
        ("a\rb\r\nc\td", "ab\nc\td"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("be\u200bll", "bell"),
    ],
)
def test_clean_examples(hostile, harmless):
    assert clean(hostile) == harmless


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_plain_stream_gets_the_last_line_only_when_the_stage_is_quick():
    stream = io.StringIO()
    line = ProgressLine(stream)
    for done in (0, 32, 64, 70):
        line(Progress("sample", done, 70, 2 if done else 0, done / 10))
    line(Progress("vote", 0, 0, 0, 0.0))
    assert stream.getvalue() == "sample: 70/70, 2 failed, 10.0/s, took 7 s\nvote: nothing owed\n"


def test_a_plain_stream_gets_a_line_every_so_often():
    stream = io.StringIO()
    line = ProgressLine(stream, every=0.0)
    line(Progress("sample", 32, 7232, 0, 64.0))
    assert stream.getvalue() == "sample: 32/7232, 30.0/min, 4 h 00 min left\n"


def test_a_terminal_line_is_rewritten_and_ended():
    stream = Terminal()
    line = ProgressLine(stream)
    line(Progress("sample", 1, 100, 0, 1.0))
    line(Progress("vote", 2, 2, 0, 1.0))
    assert stream.getvalue() == ("\rsample: 1/100, 1.0/s, 1 min 39 s left\x1b[K\n\rvote: 2/2, 2.0/s, took 1 s\x1b[K\n")
    line(Progress("verify", 1, 100, 0, 1.0))
    line.close()
    assert stream.getvalue().endswith("left\x1b[K\n")
