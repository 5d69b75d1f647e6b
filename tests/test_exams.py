"""Annotation files of the public benchmarks: their anomalies, their versions, and where their clips lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.answers import read, same
from earwitness.config import ConfigError, Exams, RunConfig
from earwitness.exams import EXAMS, load_exam
from earwitness.exams.exam import official_id
from earwitness.exams.media import find_clips
from earwitness.exams.rows import RowError, choices, gold, read_rows
from earwitness.exams.versions import version_of
from earwitness.preflight import read_exam
from earwitness.sources.problems import SourceError
from exam_files import FILES, OWN, own, write
from public_files import public


def by_id(exam: str):
    return {official_id(question): question for question in own(exam)}


@pytest.mark.parametrize("exam", FILES)
def test_every_exam_reads_its_small_file(exam):
    questions = own(exam)
    assert len({q.id for q in questions}) == len(questions) and all(q.id.startswith(f"{exam}/") for q in questions)
    assert all(q.text and q.clip.media for q in questions)


def test_mmau_categories_in_lists_repeated_choices_and_more_than_four(tmp_path):
    mmau = by_id("mmau-mini")
    assert mmau["m-2"].tags["category"] == "Reasoning"
    assert mmau["m-4"].choices == ("glass", "a coin", "glass", "a book") and mmau["m-4"].answer == "a coin"
    assert read("H", mmau["m-5"].choices).answer == "eight"
    assert mmau["m-6"].choices == ("Kaffeemühle", "plates")  # choices as JSON within a text
    assert read("D", mmau["m-2"].choices).answer == "D"  # a note, not the fourth option
    assert mmau["m-1"].clip.id == "mmau/m-1"


def test_mmar_null_languages_several_spans_and_ids_that_begin_with_a_dash():
    mmar = by_id("mmar")
    assert "-x_00-00-00_00-00-06" in mmar and "language" not in mmar["-x_00-00-00_00-00-06"].tags
    assert mmar["b_00-00-00_00-00-06"].choices == ("left", "right", "", "nowhere")  # an empty choice keeps its letter
    assert mmar["c_00-00-00_00-00-06"].tags["language"] == "zh"


def test_mmsu_the_text_none_is_a_choice_and_null_is_not():
    mmsu = by_id("mmsu")
    assert mmsu["s1"].choices == ("None", "first", "second", "third") and mmsu["s1"].answer == "None"
    assert mmsu["s2"].choices == ("yes", "no")


def test_none_survives_a_table(tmp_path):
    path = tmp_path / "mmsu.csv"
    head = "id,task_name,audio_path,question,choice_a,choice_b,choice_c,choice_d,answer_gt"
    path.write_text(f"{head}\ns1,t,a.wav,Which?,None,first,,,None\n", encoding="utf-8")
    (question,) = EXAMS["mmsu"].read(read_rows(path), "mmsu.csv")
    assert question.choices == ("None", "first") and question.answer == "None"


def test_air_bench_clips_lie_by_task_and_data_set():
    air = by_id("air-bench")
    assert air["7"].clip.media == "Sound_AQA_own/7.wav"
    assert air["8"].clip.media == "Audio_Grounding_own/8.flac"
    assert air["8"].choices == ("rain", "fire", "wind")


def test_avqas_index_is_one_in_a_csv_file_too():
    row = {"id": "1", "video_name": "x_000001", "question_text": "What?", "multi_choice": '["sea", "land"]'}
    rows = [row | {"answer": "1"}, row | {"id": "2", "multi_choice": '["2", "1"]', "answer": "1"}]
    assert [q.answer for q in EXAMS["avqa-val"].read(rows, "val_qa.csv")] == ["land", "1"]


def test_avqa_indexes_texts_repetitions_and_placeholders():
    avqa = by_id("avqa-val")
    assert avqa["1"].answer == "Yacht" and avqa["1"].text == "What happened in the audio?"
    assert avqa["2"].choices == ("sea", "land", "Sea") and avqa["2"].answer == "Sea"
    assert all(same(read(said, avqa["2"].choices).answer or "", avqa["2"].answer) for said in ("A", "C", "sea", "Sea"))
    assert avqa["3"].choices == ("field", "Seabed", "tram") and avqa["3"].answer == "Seabed"
    assert avqa["4"].answer == "Racetrack"  # none of its choices: it stays, and nothing is right
    assert avqa["5"].choices is None and avqa["5"].answer == "bridge"
    assert avqa["1"].clip.id == "avqa/-HG3Omg_89c_000030"


def test_music_avqa_double_json_places_and_ids():
    heard, whole = by_id("music-avqa"), by_id("music-avqa-whole")
    assert "15" in whole and "15" not in heard  # the picture alone tells where it is
    assert heard["13"].text == "Is the violin louder than the acoustic_guitar?"
    assert heard["16"].text == "What is the left instrument of the left pipa?"
    (unnamed,) = (q for name, q in heard.items() if name.startswith("xx_flip-"))  # rows of the second version
    assert unnamed.text == "Which violin makes the sound last?" and unnamed.tags["type"] == "AV-Temporal"
    twice = [q for q in own("music-avqa") if official_id(q) == "14"]
    assert [q.id for q in twice] == ["music-avqa/14", "music-avqa/14.2"]
    assert [q.answer for q in twice] == ["two", "four"]


def test_mmau_pro_keeps_several_clips_apart_and_answers_withheld():
    pro = by_id("mmau-pro")
    assert pro["p2"].tags["clips"] == "2" and "clips" not in pro["p1"].tags
    assert pro["p3"].choices is None and pro["p4"].answer is None
    found, missing = find_clips([pro["p2"]], ["."])
    assert not found and missing == ["data/p2a.wav and 1 more for one question"]


def test_emotions_are_named_alike_in_all_files():
    assert [q.answer for q in own("meld")] == ["surprise", "neutral", "neutral"]
    assert own("meld")[2].tags["broken"] == "wrongly cut"
    assert [q.answer for q in own("iemocap")] == ["happy", "happy", "angry", "neutral", "sad"]
    assert own("iemocap")[0].id == "iemocap/Ses05F_x_F000"


BROKEN = [
    ("mmau-mini", {"choices": "Man or woman"}, "choices is 'Man or woman', not a list"),
    ("mmau-mini", {"choices": ["Man"]}, "nothing to choose"),
    ("mmau-mini", {"choices": ["Man", ["Woman"]]}, "not text"),
    ("mmau-mini", {"answer": ["Man"]}, "the answer is"),
    ("mmau-mini", {"answer": 7}, "index 7 of 4 choices"),
    ("mmau-mini", {"question": " "}, "question is empty"),
    ("mmau-mini", {"id": "m-2"}, "the id 'm-2' is there"),
    ("mmsu", {"choice_b": None}, "none may be missing between"),
    ("music-avqa", {"anser": "guitar"}, "none of the 42 words"),
    ("music-avqa", {"type": "Audio"}, "type is 'Audio', not a list"),
    ("music-avqa", {"templ_values": '["violin"]'}, "has 0 places, and 1 values"),
    ("music-avqa", {"question_content": "Is the <Object> there?"}, "has 1 places, and 0 values"),
    ("music-avqa", {"question_content": "<Object>?", "templ_values": '["<LR>"]'}, "still has <LR> in it"),
    ("mmau-pro", {"audio_path": []}, "audio_path names no file"),
    ("meld", {"Emotion": "bored"}, "'bored', none of"),
    ("iemocap", {"emo": "fru"}, "'fru', none of"),
    ("transcript", {"text": "..."}, "has no words"),
]


@pytest.mark.parametrize("exam, change, said", BROKEN)
def test_a_row_of_another_shape_is_refused_by_name_and_number(exam, change, said):
    rows = read_rows(OWN / FILES[exam])
    with pytest.raises(SourceError, match=rf"{FILES[exam]}:[12]: .*{said}.*(this is no row of {exam}|twice)"):
        EXAMS[exam].read([rows[0] | change, *rows[1:]], FILES[exam])


@pytest.mark.parametrize("name", ["hf:someone/set", "hf:set.json", "https://example.org/a.json"])
def test_rows_are_read_from_files_alone_and_nothing_is_fetched(name):
    with pytest.raises(SourceError, match=r"no table that can be read|cannot be read"):
        read_rows(Path(name))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_value_is_choices_or_an_error(value):
    try:
        options = choices({"choices": value})
        assert options is None or (len(options) > 1 and all(isinstance(option, str) for option in options))
        assert gold(value, options) is None or isinstance(gold(value, options), str)
    except RowError:
        pass


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_version_does_not_depend_on_order_or_white_space(tmp_path):
    rows = read_rows(OWN / "mmau.json")
    first = version_of("mmau-mini", EXAMS["mmau-mini"].read(rows, "a"))
    spaced = [row | {"question": f" {row['question']} "} for row in reversed(rows)]
    assert version_of("mmau-mini", EXAMS["mmau-mini"].read(spaced, "b")).digest == first.digest
    assert not first.known and "not known" in first.told()
    changed = [rows[0] | {"answer": "Woman"}, *rows[1:]]
    assert version_of("mmau-mini", EXAMS["mmau-mini"].read(changed, "c")).digest != first.digest


def test_a_version_whose_answers_are_no_choices_is_called_broken():
    rows = [row | {"answer": "None of these"} for row in read_rows(OWN / "mmau.json")]
    version = version_of("mmau-mini", EXAMS["mmau-mini"].read(rows, "a"))
    assert version.label.endswith(", broken") and "6 answers are not among the choices" in version.told()


PUBLIC = [
    ("mmau-mini", "mmau/05_2025-03-25_1f675a9.json", "05 (2025-03-25)", 1000),
    ("mmau-mini", "mmau/07_2025-05-16_f2017e3.json", "07 (2025-05-16), broken", 1000),
    ("mmau-mini", "mmau/mmau-test-mini.json", "HEAD", 1000),
    ("mmar", "mmar/MMAR-meta.jsonl", "2026", 1000),
    ("music-avqa", "music_avqa/avqa-test.json", "json/avqa-test", 6758),
    ("music-avqa-whole", "music_avqa/avqa-test.json", "json/avqa-test", 9185),
    ("music-avqa-val", "music_avqa/avqa-val.json", "json/avqa-val", 3381),
    ("music-avqa-whole", "music_avqa/v2_test_bias.json", "v2 test_bias", 9119),
    ("meld", "emotion/meld_test_sent_emo.csv", "test_sent_emo", 2610),
    ("meld", "emotion/meld_test_fold_1.jsonl", "test_sent_emo", 2610),  # EmoBox asks the same of the same clips
    ("iemocap", "emotion/iemocap_test_fold_5.jsonl", "EmoBox fold 5", 1241),
]


@pytest.mark.parametrize("exam, name, label, count", PUBLIC)
def test_public_files_are_known_by_their_content(exam, name, label, count):
    path = public(name)
    questions = EXAMS[exam].read(read_rows(path), name)
    version = version_of(exam, questions)
    assert (version.label, len(questions)) == (label, count)
    assert len(version.hopeless) == (146 if "broken" in label else 0)


def test_counts_of_the_public_music_questions():
    questions = EXAMS["music-avqa-whole"].read(read_rows(public("music_avqa/avqa-test.json")), "avqa-test.json")
    counts: dict[str, int] = {}
    for question in questions:
        counts[question.tags["type"]] = counts.get(question.tags["type"], 0) + 1
    assert counts == {
        "A-Counting": 1022,
        "A-Comparative": 601,
        "V-Location": 1228,
        "V-Counting": 1199,
        "AV-Existential": 995,
        "AV-Location": 927,
        "AV-Counting": 1274,
        "AV-Comparative": 1115,
        "AV-Temporal": 824,
    }
    assert not [q for q in questions if "<" in q.text]


# --- clips and runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def mmau(tmp_path):
    """Settings of an exam that has three of its six clips here, two by folder and one by pattern."""
    for name in ("test-mini-audios/m-1.wav", "test-mini-audios/m-2.wav", "more/own_m-3_16k.wav", "more/own_m-33.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    media = (str(tmp_path), str(tmp_path / "mo*" / "own_{media}*.wav"))
    return Exams(names=("mmau-mini",), annotations={"mmau-mini": str(OWN / "mmau.json")}, media=media)


def test_missing_clips_are_told_and_two_files_are_no_clip(mmau, tmp_path):
    said: list[str] = []
    asked = load_exam("mmau-mini", mmau, said.append)
    assert [q.id for q in asked] == ["mmau-mini/m-1", "mmau-mini/m-2"]  # own_m-3* matches two files
    assert asked[0].clip.media == str(tmp_path / "test-mini-audios" / "m-1.wav")
    assert "not known" in said[0] and "2 of 6 questions can be asked, 4 clips are not there" in said[1]
    assert "m-3.wav (2 files match)" in said[1]
    (tmp_path / "more" / "own_m-33.wav").unlink()
    assert load_exam("mmau-mini", mmau)[2].clip.media.endswith("own_m-3_16k.wav")
    with pytest.raises(ConfigError, match=r"none of its 6 clips is there.*exams\.media"):
        load_exam("mmau-mini", mmau.model_copy(update={"media": ()}))


def test_a_limit_draws_by_name_and_keeps_the_order(mmau, tmp_path):
    for number in range(1, 7):
        (tmp_path / f"m-{number}.wav").write_bytes(b"")
    whole = load_exam("mmau-mini", mmau)
    half = load_exam("mmau-mini", mmau.model_copy(update={"limit": 3}))
    assert len(whole) == 6 and len(half) == 3
    assert [q.id for q in half] == [q.id for q in whole if q.id in {h.id for h in half}] and half != whole[:3]


def test_a_clip_outside_its_folder_is_not_taken(tmp_path):
    (tmp_path / "secret.wav").write_bytes(b"")
    (tmp_path / "clips").mkdir()
    (question, *_) = own("mmau-mini")
    astray = question.model_copy(update={"clip": question.clip.model_copy(update={"media": "../secret.wav"})})
    assert find_clips([astray], [str(tmp_path / "clips")])[0] == []


def test_what_is_missing_says_what_to_fetch_and_where_to_name_it(tmp_path):
    with pytest.raises(ConfigError, match=r"needs mmau-test-mini\.json.*annotations = \{ mmau-mini = \"PATH\" \}"):
        load_exam("mmau-mini", Exams())
    with pytest.raises(ConfigError, match=r"there is no file gone\.json"):
        load_exam("mmau-mini", Exams(annotations={"mmau-mini": "gone.json"}))
    with pytest.raises(ConfigError, match="did you mean 'mmau-mini'"):
        load_exam("mmau-mimi", Exams())


def test_withheld_answers_cannot_be_graded(tmp_path):
    rows = [row | {"answer": ""} for row in read_rows(OWN / "mmau.json")]
    path = write(tmp_path / "mmau-test.json", rows)
    with pytest.raises(ConfigError, match="has no answers"):
        load_exam("mmau-test", Exams(annotations={"mmau-test": str(path)}, media=(str(tmp_path),)))


def test_a_question_with_a_models_own_token_is_not_asked(mmau, tmp_path):
    rows = read_rows(OWN / "mmau.json")
    path = write(tmp_path / "odd.json", [rows[0] | {"question": "What is <|audio_eos|>?"}, *rows[1:]])
    with pytest.raises(SourceError, match=r"question mmau-mini/m-1: .*<\|audio_eos\|>"):
        load_exam("mmau-mini", mmau.model_copy(update={"annotations": {"mmau-mini": str(path)}}))


def test_a_run_names_a_benchmark_and_where_it_lies(mmau):
    config = RunConfig.parse(
        {
            "name": "public",
            "questions": {"train": ["world:train"]},
            "exams": json.loads(mmau.model_dump_json()),
            "models": {"student": {"kind": "world", "name": "student"}},
        }
    )
    assert [q.answer for q in read_exam(config, "mmau-mini")] == ["Man", "D"]
    assert RunConfig.parse(json.loads(config.model_dump_json())) == config
    elsewhere = config.model_copy(update={"exams": mmau.model_copy(update={"media": ("elsewhere",)})})
    assert elsewhere.measured() == config.measured()  # where clips lie is no part of what is measured
