"""Files of predictions: found columns, whole id sets, three honest columns, and no point that nobody earned."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.cli import main
from earwitness.config import ConfigError
from earwitness.exams import EXAMS
from earwitness.exams.exam import Exam, official_id
from earwitness.exams.official import Item, token_match
from earwitness.exams.rows import read_rows
from earwitness.score import judge, score_file
from earwitness.score.predictions import FIELDS, Matched
from earwitness.score.table import table
from earwitness.sources.problems import SourceError
from exam_files import FILES, OWN, own, write
from public_files import public

KEYS = [
    *("exam", "version", "n", "missing", "duplicates", "official_raw", "official", "strict", "low", "high"),
    *("unparsed", "truncated", "rules", "by"),
]


@pytest.fixture
def scored(tmp_path):
    """A function that scores predictions (by id) of an exam against its small file."""

    def score(exam: str, said, ending: str = "jsonl", field: str = "prediction", **options):
        rows = [{"id": name, field: text} for name, text in (said.items() if isinstance(said, dict) else said)]
        path = write(tmp_path / f"said.{ending}", rows)
        return score_file(exam, path, OWN / FILES[exam], **options)

    return score


def right(exam: str) -> dict[str, str]:
    return {official_id(q): q.answer or "" for q in own(exam) if q.answer is not None}


@pytest.mark.parametrize("exam", FILES)
def test_the_right_answers_are_right_everywhere(scored, exam):
    one_cannot_be = exam in ("avqa-val", "music-avqa", "music-avqa-whole")
    score = scored(exam, right(exam), partial=exam == "mmau-pro")
    assert list(score)[: len(KEYS)] == KEYS
    assert score["strict"] == ((score["n"] - 1) / score["n"] if one_cannot_be else 1)
    assert score["unparsed"] == (1 if exam == "avqa-val" else 0)
    assert score["low"] <= score["high"] <= 1


def test_letters_are_wrong_for_the_official_script_and_right_when_read(scored):
    score = scored("mmau-mini", {"m-1": "A", "m-2": "D", "m-3": "B", "m-4": "(B)", "m-5": "H", "m-6": "A."})
    assert score["official_raw"] == 1 / 6 and score["official"] == score["strict"] == 1
    assert score["by"]["speech"]["n"] == 2 and score["by"]["music"]["official_raw"] == 1


def test_reasoning_that_names_every_choice_is_read_by_its_answer(scored):
    said = right("mmau-mini") | {"m-1": "<think>Not a woman, not a child, not a robot.</think><answer>Man</answer>"}
    score = scored("mmau-mini", said)
    assert score["official_raw"] == 5 / 6 and score["official"] == 1 and score["rules"]["tag/exact"] == 1


def test_a_denial_is_right_for_the_official_script_alone(scored):
    score = scored("mmau-mini", right("mmau-mini") | {"m-1": "not Man"})
    assert score["official_raw"] == 1 and score["strict"] == score["official"] == 5 / 6


def test_orders_of_the_same_words_are_told_apart_by_strict_alone(scored):
    score = scored("mmar", right("mmar") | {"-x_00-00-00_00-00-06": "From far to near"})
    assert score["official_raw"] == score["official"] == 1 and score["strict"] == 2 / 3


def test_mmsu_reuses_a_letter_and_leaves_rows_out_where_the_script_does(scored):
    said = {"s1": "A", "s2": "B. no", "s3": "", "s4": "it is blue"}
    score = scored("mmsu", said)
    assert score["official_raw"] == 1.0  # s3 is empty and gets the B before it, which is right; s4 is left out
    assert score["official"] == score["strict"] == 3 / 4  # over all, and only what was said
    assert score["unparsed"] == 1


def test_air_bench_has_no_official_number_where_a_model_would_read(scored):
    whole = scored("air-bench", {"7": "B", "8": "B. fire", "9": "A"})
    assert whole["official_raw"] == whole["official"] == whole["strict"] == 2 / 3
    rest = scored("air-bench", {"7": "B", "8": "It is fire", "9": "A"})
    assert rest["official_raw"] is None and rest["official"] == 2 / 3


def test_mmau_pro_has_no_official_number(scored, tmp_path):
    said = {"p1": "rain", "p2": "fire", "p3": "It is raining", "p4": "whatever"}
    score = scored("mmau-pro", said)
    assert (score["official_raw"], score["official"], score["strict"], score["n"]) == (None, None, 2 / 3, 3)
    assert "NV-Embed" in table(score, EXAMS["mmau-pro"])


def test_music_avqa_two_answers_to_one_id_are_both_counted(scored):
    said = right("music-avqa") | {"12": "2", "14": "two", "16": "acoustic guitar"}
    score = scored("music-avqa", said)
    assert score["n"] == 6 and score["strict"] == score["official"] == 5 / 6  # 14 cannot be two and four
    whole = scored("music-avqa-whole", [*right("music-avqa-whole").items()])
    assert whole["n"] == 7


def test_emotions_by_any_name_and_their_other_measures(scored):
    score = scored(
        "iemocap",
        {f"Ses05F_x_F00{i}": said for i, said in enumerate(["exc", "Happy.", "<answer>anger</answer>", "neu", "sad"])},
    )
    assert score["strict"] == 1 and score["measures"]["unweighted_accuracy"] == 1
    meld = scored("meld", {"dia0_utt0": "neutral", "dia0_utt1": "neutral", "dia38_utt4": "neutral"})
    assert meld["measures"]["accuracy"] == 2 / 3 and meld["measures"]["unweighted_accuracy"] == 1 / 2


def test_word_error_rate_is_after_a_named_normalisation(scored):
    score = scored("transcript", {"t1": "hello its me", "t2": "One two three four."})
    assert score["measures"] == {"word_error_rate": 1 / 7, "word_error_rate_raw": 5 / 7}
    assert score["official"] is None and score["strict"] == 1 / 2


# --- denominators -----------------------------------------------------------------------------------------------------


def test_half_of_the_predictions_are_no_score_of_the_exam(scored):
    half = {"m-1": "Man", "m-2": "D", "m-3": "first: anger, second: calm"}
    with pytest.raises(SourceError, match="answers 3 of 6 questions; 3 are missing, 'm-4'"):
        scored("mmau-mini", half)
    score = scored("mmau-mini", half, partial=True)
    assert (score["official_raw"], score["official"], score["strict"], score["missing"]) == (1.0, 0.5, 0.5, 3)
    assert score["rules"]["missing"] == 3 and "INCOMPLETE: 3" in table(score)


def test_predictions_of_the_whole_file_are_scored_on_the_part_that_is_asked(scored):
    told = []
    said = right("music-avqa-whole")
    score = scored("music-avqa", said, note=told.append)
    assert score["n"] == len(own("music-avqa")) < len(own("music-avqa-whole"))
    assert any("about questions that music-avqa does not ask" in line for line in told)
    with pytest.raises(SourceError, match="1 ids that are none of"):
        scored("music-avqa", said | {"no such id": "two"})


def test_a_null_prediction_is_missing_and_an_empty_one_is_wrong(scored):
    with pytest.raises(SourceError, match="1 are missing, 'm-1'"):
        scored("mmau-mini", right("mmau-mini") | {"m-1": None})
    assert scored("mmau-mini", right("mmau-mini") | {"m-1": ""})["official_raw"] == 5 / 6


def test_ids_of_another_version_are_refused(scored):
    with pytest.raises(SourceError, match=r"1 ids that are none of the 6.*'stranger'.*--data"):
        scored("mmau-mini", right("mmau-mini") | {"stranger": "Man"})


def test_two_predictions_of_one_question(scored):
    twice = [*right("mmau-mini").items(), ("m-1", "Man")]
    assert scored("mmau-mini", twice)["duplicates"] == 1
    with pytest.raises(SourceError, match="different things about one question, for 1 of them: 'm-1'"):
        scored("mmau-mini", [*twice, ("m-1", "Woman")])


def test_a_thought_without_an_end_is_truncated_and_wrong(scored, tmp_path):
    score = scored("mmau-mini", right("mmau-mini") | {"m-1": "<think>It is a Man"})
    assert (score["truncated"], score["unparsed"], score["strict"]) == (1, 1, 5 / 6)
    rows = [{"id": name, "output": text, "finish_reason": "length"} for name, text in right("mmau-mini").items()]
    assert score_file("mmau-mini", write(tmp_path / "cut.json", rows), OWN / "mmau.json")["truncated"] == 6


# --- columns and formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_columns_are_found_by_their_names(scored, field, ending):
    assert scored("mmau-mini", right("mmau-mini"), ending, field)["strict"] == 1


def test_predictions_in_tables(tmp_path):
    said = tmp_path / "said.csv"
    said.write_text("\ufeffid,response\n" + "".join(f'{n},"{t}"\n' for n, t in right("mmau-mini").items()), "utf-8")
    assert score_file("mmau-mini", said, OWN / "mmau.json")["strict"] == 1
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [row | {"model_output": row["answer"]} for row in read_rows(OWN / "mmau_pro.jsonl")]
    rows[3]["model_output"] = "yes"
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "said.parquet")
    score = score_file("mmau-pro", tmp_path / "said.parquet", partial=True)
    assert (score["n"], score["strict"], score["missing"]) == (3, 1, 0)


def test_columns_that_differ_are_refused_with_their_names(tmp_path):
    rows = [{"id": n, "model_output": t, "model_prediction": f"({t})"} for n, t in right("mmau-mini").items()]
    path = write(tmp_path / "two.json", rows)
    with pytest.raises(SourceError, match=r"differ: model_output, model_prediction\. Name one with --field"):
        score_file("mmau-mini", path, OWN / "mmau.json")
    assert score_file("mmau-mini", path, OWN / "mmau.json", field="model_output")["strict"] == 1
    same = write(tmp_path / "same.json", [row | {"model_prediction": row["model_output"]} for row in rows])
    assert score_file("mmau-mini", same, OWN / "mmau.json")["strict"] == 1


def test_a_gold_answer_is_never_scored_as_a_prediction(tmp_path):
    path = write(tmp_path / "gold.json", read_rows(OWN / "mmau.json"))
    with pytest.raises(SourceError, match="has no column of predictions; it has id, audio_id"):
        score_file("mmau-mini", path)
    with pytest.raises(SourceError, match="holds what is right, not what was said"):
        score_file("mmau-mini", path, field="answer")
    pro = write(tmp_path / "pro.jsonl", [row | {"model_output": ""} for row in read_rows(OWN / "mmau_pro.jsonl")])
    with pytest.raises(SourceError, match="model_output is empty in every row"):
        score_file("mmau-pro", pro, partial=True)


def test_values_that_are_no_single_text(scored):
    with pytest.raises(SourceError, match=r"said.jsonl:1: prediction is \['Man'\], not the text of one"):
        scored("mmau-mini", right("mmau-mini") | {"m-1": ["Man"]})
    with pytest.raises(SourceError, match="has no column 'said'"):
        score_file("mmau-mini", OWN / "mmau.json", field="said")


# --- gold answers -----------------------------------------------------------------------------------------------------


def annotated(tmp_path, change=lambda row: {}):
    rows = [row | {"model_output": row["answer"]} | change(row) for row in read_rows(OWN / "mmau.json")]
    return write(tmp_path / "annotated.json", rows)


def test_a_part_of_an_annotated_file_is_not_taken_for_the_whole(tmp_path):
    path = annotated(tmp_path)
    with pytest.raises(SourceError, match="carries 6 questions of mmau-mini, which has 1000"):
        score_file("mmau-mini", path)
    for part in (score_file("mmau-mini", path, partial=True), score_file("mmau-mini", path, OWN / "mmau.json")):
        assert part["version"].startswith("unknown ") and part["strict"] == 1
        assert (part["n"], part["size"]) == (6, 1000) and "A PART: the exam has 1000 questions" in table(part)


def test_predictions_made_for_another_version_are_refused(tmp_path):
    path = annotated(tmp_path, lambda row: {"answer": "Woman"} if row["id"] == "m-1" else {})
    with pytest.raises(SourceError, match=r"made for another version than .*1 of its 6 questions differ"):
        score_file("mmau-mini", path, OWN / "mmau.json")


def test_a_file_of_another_benchmark_is_named(tmp_path):
    rows = [row | {"output": row["answer"]} for row in read_rows(public("mmar/MMAR-meta.jsonl"))]
    with pytest.raises(ConfigError, match="holds the questions of mmar, not of mmau-mini"):
        score_file("mmau-mini", write(tmp_path / "said.json", rows))


def test_without_answers_there_is_no_score(tmp_path):
    said = write(tmp_path / "said.json", [{"id": "m-1", "prediction": "Man"}])
    with pytest.raises(SourceError, match="carries no questions and answers: name the exam's own file with --data"):
        score_file("mmau-mini", said)
    withheld = write(tmp_path / "test.json", [row | {"answer": ""} for row in read_rows(OWN / "mmau.json")])
    with pytest.raises(ConfigError, match="holds no answers to score against"):
        score_file("mmau-test", said, withheld)


def test_the_world_is_scored_by_its_own_answers(tmp_path):
    from earwitness.exams import world

    rows = [{"id": q.id, "prediction": q.answer} for q in world.load("world", 0)]
    score = score_file("world", write(tmp_path / "world.jsonl", rows))
    assert (score["n"], score["strict"], score["official"]) == (2400, 1, None)


def test_an_exam_of_ones_own_is_one_object(tmp_path):
    from earwitness.records import Clip, Question

    def question(row, number):
        clip = Clip(id=row["id"], media=row["sound"])
        return Question(id=row["id"], clip=clip, text=row["ask"], choices=tuple(row["options"]), answer=row["right"])

    mine = Exam(name="mine", files="mine.jsonl", question=question, official=token_match)
    rows = [{"id": "1", "sound": "a.wav", "ask": "What?", "options": ["dog", "bell"], "right": "dog", "output": "A"}]
    score = score_file(mine, write(tmp_path / "mine.jsonl", rows))
    assert (score["official_raw"], score["official"], score["strict"]) == (0, 1, 1)


# --- real files -------------------------------------------------------------------------------------------------------

LETTERS = "ABCDEFGH"
FORMATS = {
    "gold text": "{gold}",
    "letter": "{letter}",
    "(L) text": "({letter}) {gold}",
    "The answer is text.": "The answer is {gold}.",
    "<answer>text</answer> raw": "<answer>{gold}</answer>",
    "<answer>(L) text</answer> raw": "<answer>({letter}) {gold}</answer>",
    "The correct answer is (L) text.": "The correct answer is ({letter}) {gold}.",
}
CEILINGS = {  # the official script's, of a model that is always right
    ("mmau-mini", "mmau/mmau-test-mini.json"): (100.0, 0.2, 96.7, 90.7, 100.0, 96.7, 87.9),
    ("mmau-mini", "mmau/05_2025-03-25_1f675a9.json"): (100.0, 0.0, 96.5, 92.8, 100.0, 96.5, 89.7),
    ("mmar", "mmar/MMAR-meta.jsonl"): (100.0, 0.0, 98.5, 91.0, 99.6, 98.1, 89.7),
}


@pytest.mark.parametrize("exam, name", CEILINGS)
def test_perfect_models_score_what_the_official_scripts_gave_them(exam, name, tmp_path):
    rows = read_rows(public(name))
    for form, ceiling in zip(FORMATS.values(), CEILINGS[exam, name], strict=True):
        said = [
            row | {"output": form.format(gold=row["answer"], letter=LETTERS[row["choices"].index(row["answer"])])}
            for row in rows
        ]
        score = score_file(exam, write(tmp_path / "said.json", said))
        assert round(100 * score["official_raw"], 1) == ceiling, form
        assert score["official"] >= 0.99 and score["strict"] >= 0.99, form


def test_what_nobody_said_scores_nothing_on_real_questions(tmp_path):
    rows = read_rows(public("mmau/mmau-test-mini.json"))
    silent = [row | {"output": "" if number else "?"} for number, row in enumerate(rows)]
    score = score_file("mmau-mini", write(tmp_path / "silent.json", silent))
    assert (score["official_raw"], score["official"], score["strict"], score["unparsed"]) == (0, 0, 0, 1000)


# --- whatever a model writes ------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40) | st.sampled_from(["B", "man", "<answer>", "not", "(c)", "<think>"]), max_size=6))
def test_no_output_breaks_the_columns_or_earns_a_choice_it_does_not_name(words):
    questions = own("mmau-mini")
    text = " ".join(words)
    (one, *_) = judge(EXAMS["mmau-mini"], Matched(questions[:1], [text], [False], [], 0))
    assert one.official_raw in (True, False) and (one.choice is None or one.choice in (questions[0].choices or ()))
    if one.choice is not None:
        letter = LETTERS[(questions[0].choices or ()).index(one.choice)].casefold()
        assert one.choice.casefold() in text.casefold() or letter in text.casefold()


def test_official_numbers_do_not_depend_on_how_the_file_is_ordered(scored):
    said = right("mmau-mini") | {"m-1": "a man and a woman", "m-4": ""}
    assert scored("mmau-mini", dict(reversed(said.items()))) == scored("mmau-mini", said)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_one_object_or_a_table(tmp_path, capsys):
    said = write(tmp_path / "said.jsonl", [{"id": n, "prediction": t} for n, t in right("mmau-mini").items()])
    assert main(["score", "mmau-mini", str(said), "--data", str(OWN / "mmau.json"), "--json"]) == 0
    out = capsys.readouterr()
    assert list(json.loads(out.out.splitlines()[-1])) == [*KEYS, "size"] and "a version that is not known" in out.err
    assert main(["score", "mmau-mini", str(said), "--data", str(OWN / "mmau.json")]) == 0
    assert "official raw" in capsys.readouterr().out
    assert main(["score", "mmau-mimi", str(said)]) == 2
    assert "did you mean 'mmau-mini'" in capsys.readouterr().err


def test_scoring_needs_no_torch_and_no_media():
    told = (
        "import sys, earwitness.score, earwitness.score.table, earwitness.cli.exams;"
        "print(*sorted({'torch', 'transformers', 'av', 'matplotlib', 'jiwer', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_items_are_what_official_scorers_expect():
    item = Item("1", ("dog", "bell"), "dog")
    assert token_match([item], ["dog"]).accuracy == 1


VALUES = st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.sampled_from(["m-1", "A", "Man", "", "[1]"])
KEYED = ["id", "output", "prediction", "question", "choices", "answer", "audio_id", "finish", "type", "question_id"]
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYED), VALUES | st.lists(VALUES, max_size=3)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.sampled_from(["mmau-mini", "music-avqa", "mmsu", "mmau-pro", "meld", "transcript"]), st.booleans())
def test_any_rows_are_scored_or_refused_in_words(tmp_path_factory, rows, exam, partial):
    path = write(tmp_path_factory.getbasetemp() / "any.json", rows)
    for data in (None, OWN / FILES[exam]):
        try:
            score = score_file(exam, path, data, partial=partial)
            assert 0 <= score["strict"] <= 1
        except (SourceError, ConfigError) as error:
            assert str(error)
