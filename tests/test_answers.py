"""One reading of an answer: the right choice or none, and never a wrong one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.answers import normalise, read, same, well_formed

PEOPLE = ("Man", "Woman", "Child", "Robot")
SOUNDS = ("dog", "cat", "horn", "bell")
COUNTS = ("1", "2", "3", "4")

READABLE = [
    # the embedded models' own way of writing
    ("<think> i hear dog , horn . so dog . </think> <answer> dog </answer>", SOUNDS, "dog"),
    ("<think> i hear dog , dog . so 2 . </think> <answer> 2 </answer>", COUNTS, "2"),
    # thinking is not answering
    ("<think>not a child, not a woman</think> Man", PEOPLE, "Man"),
    ("a cat? a dog?</think><answer>horn</answer>", SOUNDS, "horn"),
    ("<THINK>cat</THINK><RESPONSE>dog</RESPONSE>", SOUNDS, "dog"),
    ("<think><answer>cat</answer></think><answer>dog</answer>", SOUNDS, "dog"),
    # tags
    ("<answer>\n Dog. \n</answer>", SOUNDS, "dog"),
    ("<answer>dog</answer> <answer>DOG</answer>", SOUNDS, "dog"),
    ("<answer></answer><answer>dog</answer>", SOUNDS, "dog"),
    ("<answer>bell", SOUNDS, "bell"),
    # boxes and statements
    (r"I hear 3 cats. \boxed{\text{dog}}", SOUNDS, "dog"),
    (r"<answer>\boxed{B}</answer>", PEOPLE, "Woman"),
    ("The pitch is low.\nANSWER: A", PEOPLE, "Man"),
    ("**Answer:**\n**B**", PEOPLE, "Woman"),
    ("The correct answer is **B**. The voice is high.", PEOPLE, "Woman"),
    ("A cat is not heard. The answer is dog. The cat is far away.", SOUNDS, "dog"),
    ("The answer is not the cat. The answer is: a dog.", SOUNDS, "dog"),
    # normal forms
    ("frederic chopin", ("Claude Debussy", "Frédéric Chopin"), "Frédéric Chopin"),
    ("Fre\u0301de\u0301ric Chopin", ("Claude Debussy", "Frédéric Chopin"), "Frédéric Chopin"),
    ("the dog's bark", ("the dog\u2019s bark", "the cat's meow"), "the dog\u2019s bark"),
    ("acoustic guitar", ("acoustic_guitar", "violin"), "acoustic_guitar"),
    ("twenty three", ("twenty", "twenty-three"), "twenty-three"),
    ("23", ("twenty", "twenty-three"), "twenty-three"),
    (">1s", ("<1s", ">1s", "0s"), ">1s"),
    ("**Man**", PEOPLE, "Man"),
    # letters
    ("b", PEOPLE, "Woman"),
    ("(b)", PEOPLE, "Woman"),
    ("[B]", PEOPLE, "Woman"),
    ("B)", PEOPLE, "Woman"),
    ("E", (*SOUNDS, "rain"), "rain"),
    ("Option C: it is a small voice.", PEOPLE, "Child"),
    ("I choose option C, since it is a small voice.", PEOPLE, "Child"),
    # the text beats the letter
    ("(A) Woman", PEOPLE, "Woman"),
    ("A. Woman", PEOPLE, "Woman"),
    ("Woman (A)", PEOPLE, "Woman"),
    ("A woman", ("A child", "A woman"), "A woman"),
    # a choice that looks like a label is text
    ("D", ("G", "A#", "D", "E"), "D"),
    ("A#", ("A", "A#", "B", "C"), "A#"),
    ("3", ("4", "3", "2", "1"), "3"),
    # sentences
    ("Man. The voice is too low for a woman.", PEOPLE, "Man"),
    ("Yes, there is a dog.", ("No", "Yes"), "Yes"),
    ("No, there is not.", ("No", "Yes"), "No"),
    ("Yes, the piano is always playing.", ("yes", "no", "piano", "drum"), "yes"),
    ("It is not a woman; it is a man.", PEOPLE, "Man"),
    ("It isn't a cat but a dog", SOUNDS, "dog"),
    ("There are 3 speakers.", ("two", "three", "four"), "three"),
    ("It must be table tennis", ("Tennis", "Badminton", "Table Tennis"), "Table Tennis"),
    ("答案是北京", ("北京", "上海"), "北京"),
    ("It must be by J. S. Bach, not by Handel", ("Bach", "J. S. Bach", "Handel"), "J. S. Bach"),
    # options that are doubled are one option
    ("dog", ("dog", "Dog ", "cat"), "dog"),
]

UNREADABLE = [
    ("", SOUNDS),
    (" \n", SOUNDS),
    ("<think>it could be a dog", SOUNDS),
    ("<think>dog</think>", SOUNDS),
    ("<answer>dog</answer><think>or rather", SOUNDS),
    ("<answer>Man</answer> or <answer>Woman</answer>", PEOPLE),
    ("<answer>Man</answer> or <answer>somebody</answer>", PEOPLE),
    (r"\boxed{A} or \boxed{B}", PEOPLE),
    ("I hear 3 dogs. The answer is 5.", COUNTS),
    (r"I hear 3 dogs. \boxed{5}", COUNTS),
    ("The answer is not the dog.", SOUNDS),
    ("I doubt it; the wrong answer is dog.", SOUNDS),
    ("Table", ("Tables", "Table Tennis")),
    ("<answer>Table", ("Table", "Table Tennis")),
    ("<answer>A", ("Table", "Table Tennis")),
    ("F", (*SOUNDS, "rain")),
    ("B", ("C", "D", "E", "F")),
    ("7", SOUNDS),
    ("2", SOUNDS),
    ("A or B", PEOPLE),
    ("A, B", PEOPLE),
    ("(A), (B)", PEOPLE),
    ("A. It is a woman.", PEOPLE),
    ("Man, Woman, Child, Robot", PEOPLE),
    ("Dog. No, wait, a cat.", SOUNDS),
    ("dog: no", SOUNDS),
    ("It is not a man.", PEOPLE),
    ("a dog is not heard here", SOUNDS),
    ("Is it a dog?", SOUNDS),
    ("It is neither the dog, the cat nor the bell", SOUNDS),
    ("I cannot tell whether it is a dog", SOUNDS),
    ("None of these, only a dog", SOUNDS),
    ("不是北京", ("北京", "上海")),
    ("the loudest one", COUNTS),
    ("two hundred", ("two", "three")),
    ("twenty-three", ("twenty", "eighteen")),
    ("2.5", COUNTS),
    ("the 3rd sound", COUNTS),
    ("1s", ("<1s", ">1s")),
    ("1s", ("<1s", "5s")),
    ("214", ("2.14", "2.15")),
    ("It is minus 5.", ("5", "-5")),
    ("No, wait, yes, the piano.", ("yes", "no", "piano")),
    ("Yes, the piano is always playing.", ("yes", "piano", "drum")),
    ("The chord is C minor", ("C", "Cm", "C7")),
    ("I hear a hotdog seller", SOUNDS),
    ("group", ("Group A", "Group B")),
    ("the rumour of a dog " * 500, SOUNDS),
]


@pytest.mark.parametrize(("raw", "choices", "expected"), READABLE)
def test_reads_the_right_choice(raw: str, choices: tuple[str, ...], expected: str) -> None:
    assert read(raw, choices).answer == expected


@pytest.mark.parametrize(("raw", "choices"), UNREADABLE)
def test_reads_nothing_rather_than_guess(raw: str, choices: tuple[str, ...]) -> None:
    assert read(raw, choices).answer is None


def test_reading_names_its_rule_and_keeps_the_thinking() -> None:
    reading = read("<think> low </think><answer>(b)</answer>", PEOPLE)
    assert (reading.think, reading.answer, reading.rule) == ("low", "Woman", "tag/letter")
    assert read("<think> low", PEOPLE).rule == "unclosed-think"
    assert read("<answer>Man</answer><answer>Child</answer>", PEOPLE).rule == "tag/conflict"
    assert read("", PEOPLE).rule == "empty"
    assert read("dog", PEOPLE).rule == "none"
    assert read("dog", PEOPLE).think is None


def test_open_questions_are_read_as_normalised_text() -> None:
    assert read("<think>hm</think><answer> A  Kettle. </answer>", None).answer == "a kettle"
    assert read("<think>hm</think> A Kettle!", None).answer == "a kettle"
    assert read("<answer>dog</answer><answer>cat</answer>", None).answer is None
    assert read("<think>dog</think>", None).answer is None
    assert read("...", None).answer is None


# --- properties -------------------------------------------------------------------------------------------------------

VOCABULARY = """
dog cat horn bell table tennis man woman two three 2 3 12 2.5 yes no none not a the b C A# one left right J. St. B. ( )
acoustic_guitar twenty-three Chopin \u00e9 answer option is >1s <1s - \u2019 \u5317\u4eac first: second:
"""
WORDS = st.sampled_from(VOCABULARY.split())
CHOICE = st.one_of(st.lists(WORDS, min_size=1, max_size=3).map(" ".join), st.text(min_size=1, max_size=12))
CHOICES = st.lists(CHOICE, min_size=2, max_size=6, unique_by=lambda c: normalise(c, 2)).filter(
    lambda choices: all(normalise(c, 2) for c in choices) and not any("<" in c or "\\" in c for c in choices)
)
TEXT_TEMPLATES = [
    "{text}",
    " {text}\n",
    "**{text}**",
    '"{text}"',
    "<answer>{text}</answer>",
    "<answer>\n{text}\n</answer>",
    "<think>{other} or {text}</think><answer>{text}</answer>",
    "<think>{other}</think> {text}",
    r"\boxed{{{text}}}",
    "The answer is {text}",
    "<answer>The answer is {text}.</answer>",
    "Answer: {text}",
    "{letter}. {text}",
    "({letter}) {text}",
    "<answer>({letter}) {text}</answer>",
    "The correct answer is ({letter}) {text}.",
    "It is {text}.",
    "I hear {text}, not {other}.",
]
LETTER_TEMPLATES = ["{letter}", "({letter})", "{letter}.", "{letter})", "**{letter}**", "<answer>{letter}</answer>"]


@st.composite
def wrapped(draw: st.DrawFn) -> tuple[str, list[str], str, str]:
    choices = draw(CHOICES)
    i = draw(st.integers(0, len(choices) - 1))
    template = draw(st.sampled_from(TEXT_TEMPLATES + LETTER_TEMPLATES))
    names = {"text": choices[i], "other": choices[i - 1], "letter": "ABCDEF"[i]}
    return template.format(**names), choices, choices[i], template


@settings(max_examples=600, deadline=None)
@given(wrapped())
def test_any_wrapping_of_any_choice_is_read_right_or_not_at_all(case: tuple[str, list[str], str, str]) -> None:
    raw, choices, meant, template = case
    if template in LETTER_TEMPLATES and any(len(normalise(c, 3)) == 1 for c in choices):
        return  # a letter is the text of an option, so it labels none
    answer = read(raw, choices).answer
    assert answer is None or answer == meant


@settings(max_examples=200, deadline=None)
@given(CHOICES, st.integers(0, 5), st.sampled_from(["{text}", "<answer>{text}</answer>", " {text} \n"]))
def test_the_bare_text_of_a_choice_is_always_read(choices: list[str], i: int, template: str) -> None:
    meant = choices[i % len(choices)]
    assert read(template.format(text=meant), choices).answer == meant


@settings(max_examples=100, deadline=None)
@given(st.permutations(["dog", "cat", "horn", "bell", "rain"]), st.integers(0, 4), st.sampled_from(LETTER_TEMPLATES))
def test_a_label_is_always_read_where_no_choice_is_a_letter(choices: list[str], i: int, template: str) -> None:
    assert read(template.format(letter="ABCDE"[i]), choices).answer == choices[i]


TAGS = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "The answer is ", "(B)", " not "]
)
SOUP = st.lists(st.one_of(TAGS, WORDS, st.text(max_size=8)), max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(SOUP, st.one_of(st.none(), st.lists(st.one_of(CHOICE, st.text(max_size=4)), max_size=5)))
def test_any_text_is_read_without_an_error_as_a_given_choice_or_none(raw: str, choices: list[str] | None) -> None:
    answer = read(raw, choices).answer
    assert answer is None or choices is None or any(answer is choice for choice in choices)
    assert isinstance(well_formed(raw), bool)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=30), st.lists(WORDS).map(" ".join)), st.sampled_from([1, 2, 3]))
def test_normalising_twice_changes_nothing(text: str, level: int) -> None:
    once = normalise(text, level)
    assert normalise(once, level) == once
    assert same(text, text.upper()) or text.upper().casefold() != text.casefold()


def test_normalise_refuses_a_level_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="level"):
        normalise("dog", 4)


@pytest.mark.parametrize(
    "piece", ["<answer>", "<think>", "\\boxed{", "answer is ", "not ", "dog ", "(A) ", "one ", "* ", "A"]
)
def test_hostile_lengths_are_read_in_linear_time(piece: str) -> None:
    start = time.perf_counter()
    read(piece * 20_000, SOUNDS)
    read(piece * (4000 // len(piece)), SOUNDS)
    well_formed(piece * 20_000)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("raw", "good"),
    [
        ("<think>a</think><answer>b</answer>", True),
        (" <think>\na\n</think>\n<answer> b </answer>\n", True),
        ("<think></think><answer>b</answer>", False),
        ("<think>a</think><answer> </answer>", False),
        ("<think>a</think><answer>b</answer> more", False),
        ("so <think>a</think><answer>b</answer>", False),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<think>a</think><answer>b</answer><answer>b</answer>", False),
        ("<think>a<think>b</think><answer>b</answer>", False),
        ("<think>a <answer>b</answer></think><answer>b</answer>", False),
        ("<answer>b</answer>", False),
        ("<think>a</think>", False),
    ],
)
def test_format_reward_asks_for_one_thought_and_one_answer(raw: str, good: bool) -> None:
    assert well_formed(raw) is good
