"""The rules of the ladder, one property each: in any wrapping of any choice, the right choice or none.

Before these rules were written the ladder agreed with the human verdict on 37 of the 60 replies in
`tests/data/hardcases_second.jsonl`, which had been written and committed before it was run on them; in three of the
other 23 it read a choice that was not meant. The rules were then written with the 60 in view, so that their score now
(58) says what they cover and nothing about replies of other kinds.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from earwitness.answers import normalise, read, same
from earwitness.forms import fold, folded, level_two, lowered, stems
from public_files import public

HERE = Path(__file__).parent
PEOPLE = ("Man", "Woman", "Child", "Robot")

# --- replies with human verdicts --------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


UNREAD = (
    "A. Piano. Wait, no, the attack is plucked: it's B. Guitar.",
    "I count 2 dogs first and then 3 more, so 5 in total.",
)


@pytest.mark.parametrize("row", rows(HERE / "data" / "hardcases_second.jsonl"), ids=lambda row: row["why"])
def test_second_set_is_read_as_a_human_reads_it(row):
    answer = read(row["raw"], row["choices"]).answer
    if row["raw"] in UNREAD:  # two choices are affirmed, and which one is meant takes understanding: none, not wrong
        assert answer is None
    else:
        assert (answer == row["gold"]) == bool(row["verdict"])


@pytest.mark.parametrize("row", rows(HERE / "data" / "hardcases_third.jsonl"), ids=lambda row: row["raw"][:40])
def test_third_set_is_read_as_a_human_reads_it_or_not_at_all(row):
    unread = row["raw"] in ("The answer isn't A, it's B.", "Cat? No. Dog? No. Horn? Yes.")
    assert read(row["raw"], row["choices"]).answer == (None if unread else row["says"])


def test_shared_hard_cases_are_read_as_a_human_reads_them():
    """Two of 55 stay unread: a number among other numbers, and a chord's long name."""
    cases = rows(public("scorers/hardcases.jsonl"))
    wrong = [c for c in cases if (read(c["prediction"], c["choices"]).answer == c["answer"]) != bool(c["human"])]
    assert len(cases) == 55
    assert {c["name"] for c in wrong} <= {"number word + other number", "chord minor"}
    assert all(read(c["prediction"], c["choices"]).answer is None for c in wrong)


# --- one property a rule ----------------------------------------------------------------------------------------------

NOUNS = (
    "dog", "dogs barking", "table tennis", "tennis", "siren", "a woman", "the left speaker", "acoustic_guitar",
    "happiness", "sadness", "churches", "boxes", "buses", "2", "three", "twenty-three", "2.5 seconds", "440 Hz",
    "1,000", "90 BPM", "30 percent", "first: bell, second: horn", "first: horn, second: bell", ">1s", "<1s",
    "Frédéric Chopin", "the dog\u2019s bark", "J. S. Bach", "C# minor", "北京", "violin", "piano", "glass breaking",
    "bass", "rain",
)  # fmt: skip
PLAIN = st.lists(st.sampled_from(NOUNS), min_size=2, max_size=6, unique_by=lambda c: normalise(c, 3))
ANY = st.lists(
    st.one_of(
        st.sampled_from(NOUNS),
        st.sampled_from(["A", "B", "D", "Yes", "No", "None", "not it", "none of them"]),
        st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=9),
    ),
    min_size=2,
    max_size=6,
    unique_by=lambda c: normalise(c, 2),
).filter(
    lambda choices: all(re.search(r"[^\W_]", c) for c in choices) and not any(set("<\\{~\"'") & set(c) for c in choices)
)

# Each affirms {right} and names {wrong} at most as something else. Where a label is given, it is the right one's.
AFFIRMING = {
    "keyed": [
        '{{"answer": {json}}}',
        '```json\n{{"reasoning": "{wrong} is near.", "answer": {json}}}\n```',
        "{{'choice': '{right}'}}",
    ],
    "keyed label": ['{{"reasoning": "{wrong}?", "final_answer": "{letter}"}}'],
    "stated": ["The answer - {right}", "La réponse est {right}.", "Die Antwort ist: {right}", "答案是{right}"],
    "stated again": ["The answer is {wrong}. Wait, no, the answer is {right}."],
    "called right": ["{right} is the correct answer.", "{wrong} fits less. {right} is the answer."],
    "called right label": ["{letter} is correct.", "Option {letter} is the best choice, not {other}."],
    "chosen": [
        "I cannot hear it. If I had to guess, I would say {right}.",
        "I'd go with {right}.",
        "My best guess is {right}",
    ],
    "chosen label": ["I would choose option {letter}.", "选择{letter}。", "So I'll pick ({letter})."],
    "wide label": ["\uff08{wide}\uff09", "{wide}\uff0e"],
    "struck out": ["- ~~{wrong}~~\n- {right}", "<s>{wrong}</s> {right}"],
    "ticked": [
        "{letter} - yes\n{other} - no",
        "| {other} | ❌ |\n| {letter} | ✅ |",
        "- {other}: wrong\n- {letter}: correct",
    ],
    "end of text": ["{right}<|im_end|>", "{letter}</s>", "<answer>{right}</answer><|endoftext|>\n"],
    "denied": [
        "I don't think it's {wrong}. It is {right}.",
        "It is not {wrong}, it is {right}.",
        "There's no doubt that it is {right}.",
    ],
    "concluded": ["The third one is {right}."],
    "label beside text": ["({letter}) {right}", "{right} ({letter})", "Option {letter}: {right}"],
    "text over letter": ["({other}) {right}", "The answer is {other}. {right}"],
}


@st.composite
def affirmed(draw: st.DrawFn, choices: st.SearchStrategy[list[str]], rule: str) -> tuple[str, list[str], str]:
    given_choices = draw(choices)
    i = draw(st.integers(0, len(given_choices) - 1))
    j = (i + draw(st.integers(1, len(given_choices) - 1))) % len(given_choices)
    names = {"right": given_choices[i], "wrong": given_choices[j], "json": json.dumps(given_choices[i])}
    names |= {"letter": "ABCDEF"[i], "other": "ABCDEF"[j], "wide": chr(0xFF21 + i)}
    template = draw(st.sampled_from(AFFIRMING[rule]))
    lettered = any(name in template for name in ("{letter}", "{other}", "{wide}"))
    assume(not lettered or not any(len(normalise(c, 3)) == 1 for c in given_choices))
    return template.format(**names), given_choices, given_choices[i]


@pytest.mark.parametrize("rule", AFFIRMING)
def test_a_rule_reads_the_right_choice_or_none(rule):
    reads = []

    @settings(max_examples=150, deadline=None)
    @given(affirmed(st.one_of(PLAIN, ANY), rule))
    def check(case):
        raw, choices, right = case
        answer = read(raw, choices).answer
        assert answer is None or same(answer, right)
        reads.append(answer is not None)

    check()
    assert sum(reads) > len(reads) / 4  # a rule that never applies would pass as well


# Each denies {text}, leaves it open, or takes it back: what is not chosen is not read.
DENYING = (
    "{text} is not the correct answer.", "I don't think {text} is the correct answer.", "Is {letter} correct?",
    "{letter} is correct, or {rival} is correct.", "It is not clear that {letter} is correct.",
    "I don't think it's {text}.", "I do not think that it is {text}.", "I doubt that it is {text}.",
    "It is hardly {text}.", "It isn't {text}.", "If it were {text}, the pitch would be lower.",
    "I wonder whether it is {text}.", "The answer is not {text}.", "Anything but not {text}", "It cannot be {text}.",
    "{text} can be ruled out.", "{text} is not heard.", "{text} ❌", "❌ {text}", "~~{text}~~", "<del>{text}</del>",
    "Is it {text}?", "Answer: {text}. Wait, no.", "The answer is {text}. Scratch that.", "{text}. No, wait.",
    "- {text}: no", "Instead of {text}", "不是{text}", "It could be {text} or {other}.", "{letter} - no",
    "({letter}) is wrong", "The answer is not ({letter}).", "{letter}. No, not {text}.",
    "I would not choose {letter}.", "{letter} or {rival}", '{{"answer": "not {text}"}}', "<think>{text}",
    "<answer>{text}</answer><answer>{other}</answer>", "<answer>{letter}</answer> <answer>{rival}</answer>",
    "The least likely answer is {letter}.", "The second best answer is {text}.", "Anything but {text}",
    "The answer is anything but {text}.", "All of them but {text}", "It is far from {text}.",
    "Nothing suggests {text}.", "I rejected {text}.", "It is impossible that it is {text}.",
    "\\boxed{{{text}}} or \\boxed{{{other}}}", "Not only {text} but also {other}.", "Either {text} or {other}",
    "{text}, {other}", "None of these: {text}, {other}",
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(PLAIN, st.sampled_from(DENYING), st.integers(0, 5), st.integers(1, 5))
def test_what_is_denied_left_open_or_taken_back_is_not_read(choices, template, i, step):
    i, j = i % len(choices), (i + step) % len(choices)
    assume(i != j)
    names = {"text": choices[i], "other": choices[j], "letter": "ABCDEF"[i], "rival": "ABCDEF"[j]}
    assert read(template.format(**names), choices).answer != choices[i]


@settings(max_examples=300, deadline=None)
@given(ANY, st.integers(0, 5), st.sampled_from(["{}", "<answer>{}</answer>", "(B) {}", "The answer is {}."]))
def test_other_forms_of_a_choices_words_are_read_as_it_or_not_at_all(choices, i, template):
    right = choices[i % len(choices)]
    plural = right + "s" if right[-1].isalpha() else right
    for form in (plural, " ".join(stems(right)), right.replace("ness", ""), right.upper()):
        answer = read(template.format(form), choices).answer
        meant = [c for c in choices if stems(c) == stems(form) or normalise(c, 3) == normalise(form, 3)]
        labelled = [choices[1]] if "(B)" in template else []
        assert answer is None or any(same(answer, c) for c in [*meant, *labelled, right])


SHARED_WORDS = st.lists(
    st.sampled_from(["about", "times", "bar", "the", "speaker", "seconds", "is", "first"]), max_size=2
)
CORES = st.lists(
    st.sampled_from(["1", "two", "13", "dog", "red bird", "left", "A4", "not"]), min_size=2, max_size=5, unique=True
)


@settings(max_examples=200, deadline=None)
@given(SHARED_WORDS, CORES, SHARED_WORDS, st.integers(0, 4))
def test_words_that_all_choices_share_may_be_left_out(before, cores, behind, i):
    choices = [" ".join([*before, core, *behind]) for core in cores]
    i %= len(cores)
    for part in (cores[i], " ".join([cores[i], *behind]), " ".join([*before, cores[i]])):
        assert read(part, choices).answer in (choices[i], None)
    assert read("the " + " ".join(behind), choices).answer is None


@pytest.mark.parametrize(
    ("raw", "choices", "expected"),
    [
        ("13", ("13 times", "8 times", "3 times"), "13 times"),
        ("25 seconds", ("approximately 25 seconds", "approximately 5 seconds"), "approximately 25 seconds"),
        ("not", ("loud", "not loud"), None),
        ("B", ("Speaker B", "Speaker A"), None),  # a label, or the speaker's name
        ("B", ("Speaker A", "Speaker B"), "Speaker B"),
        ("dog", ("dogs", "cats"), "dogs"),
        ("Happy", ("happiness", "sadness"), "happiness"),
        ("dogs", ("dog", "two dogs"), None),  # which of the two is not said
        ("busy", ("business", "leisure"), None),
        ("5 seconds", ("5 s", "5 ms"), "5 s"),
        ("five minutes", ("5 s", "5 min"), "5 min"),
        ("1,000 Hz", ("1000 Hz", "1,000,000 Hz"), "1000 Hz"),
        ("1920s", ("1920 s", "1930 s"), None),  # a decade is no duration
        ("the second", ("s", "ms"), None),
        ("It is 30 per cent.", ("30%", "60%"), "30%"),
        ("bell -> horn", ("bell, then horn", "horn → bell", "bell → horn"), "bell → horn"),
    ],
)
def test_one_notation_of_quantities_and_forms(raw, choices, expected):
    assert read(raw, choices).answer == expected


def test_text_over_letter_is_named():
    assert read("(A) Woman", PEOPLE).rule == "text-over-letter"
    assert read("The answer is: (A) Woman", PEOPLE).rule == "stated/text-over-letter"
    assert read("(B) Woman", PEOPLE).rule == "letter"
    assert read('<answer>{"answer": "b"}</answer>', PEOPLE).rule == "tag/keyed/letter"


# --- anomalies of the benchmarks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "choices", "expected"),
    [
        # eight options: a letter beyond D names one; a letter beyond the options names none
        ("H", ("red", "blue", "green", "black", "white", "grey", "pink", "gold"), "gold"),
        ("E", PEOPLE, None),
        ("B", ("Yes", "No"), "No"),
        # options that occur twice are one option
        ("B", ("Rain", "rain ", "Wind", "Sea"), "rain "),
        ("Rain", ("Rain", "rain ", "Wind", "Sea"), "Rain"),
        # options with the same words in another order
        ("joy, then fear", ("fear, then joy", "joy, then fear"), "joy, then fear"),
        ("From near to far", ("From far to near", "From near to far"), "From near to far"),
        # gold answers that are letters: text before letter
        ("D", ("G", "A#", "D", "E"), "D"),
        ("a", ("u", "a", "e", "i"), "a"),
        ("A", ("D", "C", "B", "A"), "A"),
        # `None` as a choice, and a model that says nothing
        ("None", ("One", "Two", "None"), "None"),
        ("None", PEOPLE, None),
        ("", ("One", "None"), None),
        # signs, accents, quotes, white space
        ("<1s", (">1s", "<1s"), "<1s"),
        ("A", ("A#", "Ab", "B"), None),
        ("A#", ("A", "A#", "B"), "A#"),
        ("Fre\u0301de\u0301ric Chopin", ("Franz Liszt", "Frédéric Chopin"), "Frédéric Chopin"),
        ("the dog's bark", ("the dog\u2019s bark", "the cat's meow"), "the dog\u2019s bark"),
        ("Sea waves", ("  Sea waves ", "Wind"), "  Sea waves "),
        ("How to plan wood", ("How to plan wood", "How to plant wood"), "How to plan wood"),
        # a choice inside another
        ("Tennis", ("Tennis", "Table Tennis"), "Tennis"),
        ("It sounds like table tennis to me", ("Tennis", "Table Tennis"), "Table Tennis"),
        ("female", ("male", "female"), "female"),
        # words that begin like labels
        ("Because of the bass", ("Bass", "Drum", "Flute", "Harp"), "Bass"),
        ("Dog", ("Cat", "Dog", "Bird", "Cow"), "Dog"),
        ("not a man", PEOPLE, None),
    ],
)  # fmt: skip
def test_anomalies_of_benchmarks_are_read_right_or_not_at_all(raw, choices, expected):
    assert read(raw, choices).answer == expected


# --- fuzz -------------------------------------------------------------------------------------------------------------

PIECES = (
    "<think>", "</think>", "<answer>", "</answer>", "<RESPONSE>", "</RESPONSE>", "\\boxed{", "}", "The answer is ",
    "Answer: ", "Option ", "not ", "no ", "yes", "wait, ", " but ", "it is ", "(", ")", "**", "~~", '"answer": ', "{",
    '"', ", ", ". ", "\n", "- ", ":", "I would say ", "✅", "❌", "", " → ", " or ", "if ", "don't ", "<|im_end|>",
    "答案是", "不",
    " is ", "A", "B", "C", "D", "E", "a", "b", "H", "\uff08\uff22\uff09", "\u0301", "\x00", "\ud7ff", "😀",
    "None", "Yes", "1", "2.5", "%", " seconds", "\u2019", "\u201c",
)  # fmt: skip


def soup(rng: random.Random) -> tuple[str, list[str]]:
    """Random markup, words and code points around random choices."""
    strange = ["".join(chr(rng.randrange(1, 0x3000)) for _ in range(rng.randint(1, 6)))]
    choices = rng.sample([*NOUNS, "A", "B", "D", "Yes", "No", "None", "not it", *strange], rng.randint(1, 8))
    named = rng.sample(choices, rng.randint(0, min(2, len(choices))))
    pieces = [*rng.choices(PIECES, k=rng.randint(0, 9)), *named, *rng.choices(strange, k=rng.randint(0, 2))]
    rng.shuffle(pieces)
    return rng.choice(["", " "]).join(pieces), choices


def names(raw: str, choice: str, choices: list[str]) -> bool:
    """Return whether the text holds all words of the choice in some form, or a letter of it that stands alone."""
    said = {*stems(raw), *stems(" ".join(re.findall(r"\w+", normalise(raw, 3))))}
    words = set(stems(" ".join(re.findall(r"\w+", normalise(choice, 3)))))
    if words <= said or level_two(choice) in lowered(raw) or folded(choice) in fold(lowered(raw)):
        return True
    letters = ["ABCDEFGHIJ"[i] for i, c in enumerate(choices) if same(c, choice)]
    plain = raw.translate({code: code - 0xFEE0 for code in range(0xFF21, 0xFF5B)})
    return any(re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", plain, re.IGNORECASE) for letter in letters)


def fuzz(count: int, seed: int) -> int:
    rng, answered = random.Random(seed), 0
    for _ in range(count):
        raw, choices = soup(rng)
        answer = read(raw, choices).answer
        assert answer is None or (answer in choices and names(raw, answer, choices)), (raw, choices, answer)
        answered += answer is not None
    return answered


def test_random_outputs_are_never_read_as_a_choice_that_was_not_named():
    assert fuzz(5_000, seed=1) > 500


@pytest.mark.slow
def test_a_hundred_thousand_random_outputs_are_never_read_as_a_choice_that_was_not_named():
    assert fuzz(100_000, seed=2) > 10_000
