"""Official scorers: equal to what the benchmarks' own scripts were recorded to say, faults included."""

from __future__ import annotations

import csv
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.answers import read
from earwitness.exams.emotions import IEMOCAP, MELD, MERGED, NAMES, emotion_scores, label
from earwitness.exams.instruments import word
from earwitness.exams.official import Item, Outcome, air_bench, exact_text, letter_of, mmsu, music_avqa, token_match
from earwitness.sources.music_avqa import INSTRUMENTS, WORDS
from public_files import public

PEOPLE = ("Man", "Woman", "Child", "Robot")
ALL = (token_match, mmsu, air_bench, music_avqa, exact_text)


def one(scorer, prediction, choices=PEOPLE, answer="Man"):
    """What a scorer says of one row: right, wrong, or None where the row leaves the denominator."""
    return scorer([Item("x", choices, answer)], [prediction]).correct.get("x")


# --- MMAU and MMAR ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "choices", "answer", "right"),
    [
        ("Man", PEOPLE, "Man", True),
        ("The speaker is a man.", PEOPLE, "Man", True),
        ("A", PEOPLE, "Man", False),  # letters are not its rule
        ("low, not a child. Man", PEOPLE, "Man", False),  # a distractor was named
        ("It is not a man.", PEOPLE, "Man", True),  # a denial counts as right
        ("The answer is Yes", ("Yes", "It is not"), "Yes", False),  # "is" is a distractor's word
        ("", PEOPLE, "Man", False),
        ("!", PEOPLE, "Man", False),
        ("joy, then fear", ("fear, then joy", "joy, then fear"), "fear, then joy", True),
        (">1s", ("<1s", ">1s"), "<1s", True),
        ("A", ("A#", "A", "B"), "A#", True),
        ("Frederic Chopin", ("Franz Liszt", "Frédéric Chopin"), "Frédéric Chopin", False),
        ("Fre\u0301de\u0301ric Chopin", ("Franz Liszt", "Frédéric Chopin"), "Frédéric Chopin", False),
        ("the dog's bark", ("the dog\u2019s bark", "the cat's meow"), "the dog\u2019s bark", True),
        ("acoustic guitar", ("acoustic_guitar", "violin"), "acoustic_guitar", False),
        ("Rain", ("Rain", "rain ", "Wind"), "Rain", True),  # options that occur twice
        ("D", ("G", "A#", "D", "E"), "D", True),
    ],
)  # fmt: skip
def test_token_match_has_the_scripts_faults(prediction, choices, answer, right):
    assert one(token_match, prediction, choices, answer) is right


def test_missing_rows_shrink_the_denominator_of_token_match_and_empty_ones_do_not():
    items = [Item(str(i), PEOPLE, "Man", task) for i, task in enumerate(["sound", "sound", "music", "speech"])]
    outcome = token_match(items, ["Man", None, "", None])
    assert outcome == Outcome({"0": True, "2": False}, 2, {"sound": (1, 1), "music": (0, 1), "speech": (0, 0)})
    assert outcome.accuracy == 0.5
    assert token_match(items, [None] * 4).accuracy is None


# --- MMSU and AIR-Bench -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scorer", [mmsu, air_bench])
@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("A", "Man", True),
        ("A. Man", "Man", True),
        ("The answer is A.", "Man", True),
        ("The answer is B", "Woman", None),  # the last but one character is a space
        ("(B)", "Woman", True),
        ("(A) Man", "Man", None),
        ("Because it is low", "Woman", True),
        ("Definitely a man", "Robot", True),
        ("Man", "Man", None),
        ("a", "Man", None),
        ("7", "Man", None),
        ("\n A\n.", "Man", True),
    ],
)
def test_letters_are_first_or_last_but_one(scorer, prediction, answer, right):
    assert one(scorer, prediction, PEOPLE, answer) is right


def test_an_empty_row_of_mmsu_is_given_the_letter_before_it_and_of_air_bench_is_skipped():
    items = [Item(str(i), PEOPLE, "Woman") for i in range(6)]
    predictions = ["", "B", "None", " \n", "nonsense", None]
    assert mmsu(items, predictions).correct == {"1": True, "2": True, "3": True}
    assert air_bench(items, predictions).correct == {"1": True}
    assert mmsu(items[:3], ["A", "unreadable", ""]).correct == {
        "0": False,
        "2": False,
    }  # the last letter that there was


def test_two_choices_and_none_as_a_choice():
    assert one(mmsu, "C", ("Yes", "No"), "No") is False
    assert one(mmsu, "B", ("One", "None"), "None") is True
    assert one(mmsu, "None", ("One", "None"), "None") is None  # its text means that there is no answer
    assert letter_of(Item("x", ("One", "None"), "None"), "None") == "B"
    with pytest.raises(ValueError, match="'Two' is not one of its choices"):
        letter_of(Item("x", ("One", "None"), "None"), "Two")


# --- recorded outcomes ------------------------------------------------------------------------------------------------


def recorded() -> list[tuple[dict, dict]]:
    cases = [json.loads(line) for line in public("scorers/hardcases.jsonl").read_text("utf-8").splitlines()]
    with public("scorers/hardcases_results.tsv").open(encoding="utf-8", newline="") as file:
        return list(zip(cases, csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), strict=True))


def test_recorded_outcomes_of_hard_cases_are_equalled():
    for case, row in recorded():
        item = Item(case["name"], tuple(case["choices"]), case["answer"])
        assert one(token_match, case["prediction"], *(item.choices, item.answer)) == bool(int(row["MMAU.py"])), case
        before = Item("before", ("x", "y"), "x")
        correct = mmsu([before, item], ["B", case["prediction"]]).correct
        skipped = air_bench([item], [case["prediction"]]).correct
        if row["MMSU/AIR"] == "STALE":
            assert correct[item.id] == (item.choices[1] == item.answer)
            assert skipped == {}
        elif row["MMSU/AIR"] == "SKIP":
            assert item.id not in correct
            assert skipped == {}
        else:
            assert correct[item.id] == skipped[item.id] == bool(int(row["MMSU/AIR"]))


FORMATS = {
    "gold text": "{text}",
    "letter": "{letter}",
    "(L) text": "({letter}) {text}",
    "L. text": "{letter}. {text}",
    "The answer is text.": "The answer is {text}.",
    "<answer>text</answer> raw": "<answer>{text}</answer>",
    "<answer>(L) text</answer> raw": "<answer>({letter}) {text}</answer>",
    "The correct answer is (L) text.": "The correct answer is ({letter}) {text}.",
}
SECTIONS = {
    "## MMAU-v05.15.25 mini 1000": "mmau/mmau-test-mini.json",
    "## MMAU original mini (2025-03-25) 1000": "mmau/05_2025-03-25_1f675a9.json",
    "## MMAR 1000": "mmar/MMAR-meta.jsonl",
}


def benchmark(path: str) -> list[Item]:
    text = public(path).read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    return [Item(row["id"], tuple(row["choices"]), row["answer"], row.get("task", "")) for row in rows]


def section(heading: str) -> str:
    text = public("scorers/format_ceilings.txt").read_text(encoding="utf-8")
    return text.split(heading + "\n", 1)[1].split("\n##", 1)[0]


@pytest.mark.parametrize("heading", SECTIONS)
def test_ceilings_of_formats_are_equalled(heading):
    items, ceilings = benchmark(SECTIONS[heading]), section(heading)
    for name, template in FORMATS.items():
        told = [template.format(text=item.answer, letter=letter_of(item, item.answer)) for item in items]
        ceiling = re.search(rf"^{re.escape(name)}\s+([\d.]+)", ceilings, re.MULTILINE)
        assert f"{100 * token_match(items, told).accuracy:.1f}" == ceiling[1], name
    denied = token_match(items, [f"not {item.answer}" for item in items])
    assert f"'not <gold>' accepted {sum(denied.correct.values())}" in ceilings
    wrong = [(i, c) for i in items for c in i.choices if c != i.answer and one(token_match, c, i.choices, i.answer)]
    assert f"wrong choice text accepted: pairs {len(wrong)} items {len({i.id for i, _ in wrong})}" in ceilings


@pytest.mark.parametrize("path", SECTIONS.values())
def test_what_is_read_reaches_the_ceiling_in_every_format_and_denials_never(path):
    """A bare letter where choices are letters says nothing; all else that a perfect model may write is read."""
    items = benchmark(path)
    for name, template in FORMATS.items():
        told = [template.format(text=item.answer, letter=letter_of(item, item.answer)) for item in items]
        choice = [read(text, item.choices).answer for text, item in zip(told, items, strict=True)]
        assert exact_text(items, choice).accuracy >= (0.99 if name == "letter" else 0.998), name
        assert token_match(items, choice).counted >= (990 if name == "letter" else 998), name
    assert not any(read(f"It is not {item.answer}.", item.choices).answer == item.answer for item in items)


# --- MUSIC-AVQA and AVQA ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acoustic guitar", "acoustic_guitar"),
        ("acoustic_guitar", "acoustic_guitar"),
        ("Electric bass.", "electric_bass"),
        ("guitar", None),  # either of two
        ("2", "two"),
        ("There are 2 instruments.", "two"),
        ("more than 10", "more than ten"),
        ("More than ten.", "more than ten"),
        ("10", "ten"),
        ("12", None),
        ("2.5", None),
        ("Outdoors", "outdoor"),
        ("It is a violin, not a cello.", "violin"),
        ("The violin and the cello", None),
        ("not the piano", None),
        ("A", None),
        ("", None),
    ],
)
def test_one_of_42_words_is_read(text, expected):
    assert word(text) == expected


def test_there_are_42_words_each_read_as_itself():
    assert len(set(WORDS)) == 42
    assert len(INSTRUMENTS) == 22
    assert all(word(w) == word(w.replace("_", " ").upper()) == w for w in WORDS)


def test_music_avqa_counts_every_row():
    items = [Item("a", (), "two", "Audio/Counting"), Item("b", (), "yes", "Audio/Comparative"), Item("c", (), "piano")]
    outcome = music_avqa(items, ["2", None, "a flute"])
    assert outcome.correct == {"a": True, "b": False, "c": False}
    assert outcome.by["Audio/Counting"] == (1, 1)


def test_avqa_is_scored_by_text_where_options_are_doubled():
    choices = ("Motorboat", "motorboat ", "Yacht", "Car")
    assert one(exact_text, "motorboat ", choices, "Motorboat") is True
    assert one(exact_text, "boat", choices, "Motorboat") is False
    assert one(exact_text, None, choices, "Motorboat") is False


def test_all_answers_of_music_avqa_are_among_the_42_words():
    for name in ("avqa-test", "avqa-val", "v2_test_bias"):
        rows = json.loads(public(f"music_avqa/{name}.json").read_text(encoding="utf-8"))
        assert {row["anser"] for row in rows} <= set(WORDS)


# --- emotion ----------------------------------------------------------------------------------------------------------


def test_emotion_scores_of_a_small_table():
    gold = ["neutral", "neutral", "neutral", "joy", "anger"]
    scores = emotion_scores(gold, ["neutral", "neutral", "joy", "joy", None])
    assert scores.accuracy == 3 / 5
    assert scores.unweighted_accuracy == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores.macro_f1 == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert scores.weighted_f1 == pytest.approx((0.8 * 3 + 2 / 3 + 0) / 5)


def test_labels_are_named_and_excited_is_merged_only_where_it_is_said():
    assert label(" Happiness ", NAMES["meld"]) == "joy"
    assert label("hap", NAMES["iemocap"]) == "happy"
    assert label("exc", NAMES["iemocap"]) == "exc"
    assert label("Excited", NAMES["iemocap"], MERGED) == "happy"
    assert {label(name, NAMES["meld"]) for name in NAMES["meld"]} <= set(MELD)
    assert {label(name, NAMES["iemocap"], MERGED) for name in [*NAMES["iemocap"], *MERGED]} <= set(IEMOCAP)
    with pytest.raises(ValueError, match="no labels"):
        emotion_scores([], [])


def test_majority_baseline_of_meld():
    with public("emotion/meld_test_sent_emo.csv").open(encoding="utf-8", newline="") as file:
        gold = [label(row["Emotion"], NAMES["meld"]) for row in csv.DictReader(file)]
    scores = emotion_scores(gold, ["neutral"] * len(gold))
    assert set(gold) == set(MELD)
    assert round(scores.accuracy, 3) == 0.481
    assert scores.unweighted_accuracy == pytest.approx(1 / 7)


def test_labels_of_iemocaps_fifth_session_are_its_four_classes():
    lines = public("emotion/iemocap_test_fold_5.jsonl").read_text(encoding="utf-8").splitlines()
    assert {label(json.loads(line)["emo"], NAMES["iemocap"], MERGED) for line in lines} == set(IEMOCAP)


# --- any text ---------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["A", "None", "(B)", "Man"])), max_size=8))
def test_any_prediction_is_scored_without_an_error_and_counts_add_up(predictions):
    items = [Item(str(i), PEOPLE, "Woman", "odd" if i % 2 else "even") for i in range(len(predictions))]
    for scorer in ALL:
        outcome = scorer(items, predictions)
        assert outcome.counted == len(outcome.correct) == sum(counted for _, counted in outcome.by.values())
        assert sum(outcome.correct.values()) == sum(right for right, _ in outcome.by.values())
        assert set(outcome.correct) <= {item.id for item in items}


def test_items_of_one_id_are_refused():
    items = [Item("same", PEOPLE, "Man"), Item("same", PEOPLE, "Man")]
    for scorer in ALL:
        with pytest.raises(ValueError, match="same id"):
            scorer(items, ["Man", "Man"])


def test_a_guesser_gains_nothing_from_silence():
    """Empty replies are right in no scorer that keeps them, and unread in the ladder."""
    rng = random.Random(0)
    items = [Item(str(i), PEOPLE, rng.choice(PEOPLE)) for i in range(200)]
    for empty in ("", " \n"):
        assert token_match(items, [empty] * 200).accuracy == 0
        assert air_bench(items, [empty] * 200).counted == mmsu(items, [empty] * 200).counted == 0
        assert all(read(empty, item.choices).answer is None for item in items)
