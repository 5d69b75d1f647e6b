"""Any table as questions: the map of columns, what an answer may be, and where the clips lie."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earwitness.config import Columns, ConfigError, Questions, RunConfig
from earwitness.records import Clip, Question
from earwitness.sources import read_source, rows
from earwitness.sources.problems import RowError, SourceError
from earwitness.sources.tables import _answer

datasets = pytest.importorskip("datasets")
parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

MAP = Columns(
    id="number",
    media="file",
    question="prompt",
    choices=("first", "second", "third"),
    answer="right",
    think="why",
    tags={"category": "task"},
)
ROW = {
    "number": 7,
    "file": "sub/-HG3Omg_89c.mp3",
    "begin": 1.5,
    "prompt": "What is heard?",
    "first": "a dog",
    "second": "a kettle",
    "third": None,
    "right": "B",
    "why": "It whistles.",
    "task": "sound",
    "other": "x",
}
OTHER = ROW | {"number": 8, "file": "two.wav", "third": "rain", "right": "Rain ", "why": None}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Everything lies in a folder of its own, what `datasets` caches, too, and no hub is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def clips(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"sound")


def write(name: str, *found: dict) -> str:
    """Write rows in the form that a name's ending asks for, and return the source."""
    path = Path(name)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, found)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(found))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(found)), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, found[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(found)
    return f"table:{name}"


def ask(source: str, notes: list[str] | None = None, limit: int = 0, **changed) -> list[Question]:
    chosen = {"columns": MAP, "media": ("clips",)} | changed
    return read_source(
        source, Questions(train=(source,), **chosen), limit, [].append if notes is None else notes.append
    )


def refused(source: str, **changed) -> str:
    with pytest.raises(SourceError) as error:
        ask(source, **changed)
    return str(error.value)


# Forms


def saved(*found: dict) -> str:
    datasets.Dataset.from_list(list(found)).save_to_disk("t")
    return "hf:t"


def folder(*found: dict) -> str:
    Path("t").mkdir()
    datasets.Dataset.from_list(list(found)).to_parquet("t/train.parquet")
    return "hf:t:train"


FORMS = {ending: lambda *r, e=ending: write(f"t.{e}", *r) for ending in ("jsonl", "json", "csv", "tsv", "parquet")}
FORMS |= {"saved": saved, "folder": folder}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_in_any_form_gives_the_same_questions(form, tmp_path):
    clips("clips/sub/-HG3Omg_89c.mp3", "clips/two.wav")
    source = FORMS[form](ROW, OTHER)
    table = "t-train" if form == "folder" else "t"
    assert ask(source, columns=MAP.model_copy(update={"start": "begin"})) == [
        Question(
            id="7",
            clip=Clip(
                id=f"{table}/sub/-HG3Omg_89c.mp3@1.5-", media=str(tmp_path / "clips/sub/-HG3Omg_89c.mp3"), start=1.5
            ),
            text="What is heard?",
            choices=("a dog", "a kettle"),
            answer="a kettle",
            think="It whistles.",
            tags={"category": "sound"},
        ),
        Question(
            id="8",
            clip=Clip(id=f"{table}/two.wav@1.5-", media=str(tmp_path / "clips/two.wav"), start=1.5),
            text="What is heard?",
            choices=("a dog", "a kettle", "rain"),
            answer="rain",
            tags={"category": "sound"},
        ),
    ]


def test_columns_of_our_own_names_need_no_map_and_a_row_without_id_is_called_by_its_place():
    clips("my data/a.wav")
    source = write("my data/some clips.jsonl", {"media": "a.wav", "question": "What?", "choices": '["x", "y"]'})
    (question,) = ask(source, media=(), columns=Columns())
    assert (question.id, question.clip.id, question.choices) == ("some_clips-1", "some clips/a.wav", ("x", "y"))


def test_cotas_whole_text_in_a_column_says_the_answer():
    clips("a.wav")
    parts = "".join(f"<{part}>x</{part}>" for part in ("PLANNING", "CAPTION", "REASONING", "SUMMARY"))
    row = {"media": "a.wav", "question": "What?", "think": f"<THINK>{parts}</THINK><RESPONSE>a dog</RESPONSE>"}
    (question,) = ask(write("t.jsonl", row), media=(), columns=Columns())
    assert (question.think, question.answer) == (parts, "a dog")


def test_every_problem_of_a_table_is_told_with_its_row():
    clips("clips/two.wav")
    text = refused(write("t.parquet", OTHER, OTHER | {"prompt": "<audio> what"}, OTHER, OTHER | {"right": "Z"}))
    assert text.splitlines()[0] == "3 problems in t.parquet:"
    assert "t.parquet:2: question holds the tag <audio>" in text
    assert "t.parquet:3: id '8' is that of row 1 too" in text
    assert "t.parquet:4: answer 'Z' is not among the choices" in text


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"question": "promt"}, "has no column 'promt' for question; did you mean 'prompt'?"),
        ({"choices": ("first", "2nd")}, "has no column '2nd' for choices; it has number, file"),
        ({"tags": {"x": "tusk"}}, "has no column 'tusk' for tags.x; did you mean 'task'?"),
    ],
)
def test_a_map_that_names_no_column_is_refused_with_the_nearest(changed, said):
    assert said in refused(write("t.csv", ROW), columns=MAP.model_copy(update=changed))


def test_a_map_with_an_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown key questions\.columns\.anwser; did you mean 'answer'\?"):
        RunConfig.load(
            Path(__file__).parent.parent / "src/earwitness/configs/world.toml", ["questions.columns.anwser=x"]
        )


def test_a_map_survives_toml_and_a_younger_setting_changes_no_older_run(tmp_path):
    world = Path(__file__).parent.parent / "src/earwitness/configs/world.toml"
    plain = RunConfig.load(world)
    mapped = RunConfig.load(world, ["questions.columns.media=file", 'questions.columns.tags={ a = "b" }'])
    (tmp_path / "again.toml").write_text(mapped.to_toml())
    assert RunConfig.load(tmp_path / "again.toml") == mapped
    assert {"columns", "reword", "unpack"}.isdisjoint(plain.questions.identity())
    assert plain.measured() != mapped.measured() != RunConfig.load(world, ["questions.reword=false"]).measured()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("t.txt", b"x", "is no table that can be read"),
        ("t.jsonl", b"", "holds no rows"),
        ("t.csv", b"a,b\n", "holds no rows"),
        ("t.json", b"[1]", "t.json:1: 1 is not an object"),
        ("t.json", b'{"a": 1}{', "not valid JSON"),
        ("t.jsonl", b"[" * 100_000, "not valid JSON"),
        ("t.jsonl", b'{\n"a": 1\n}', "is one JSON object; write a list"),
        ("t.csv", b"a,a\n1,2\n", "two columns are called 'a'"),
        ("t.csv", b"a,b\n1,2,3\n", "row 1 has not as many columns"),
        ("t.csv", b'a,b\n"1,2\n', "not valid CSV"),
        ("t.csv", b"a\n\xff\n", "is not UTF-8"),
        ("t.parquet", b"PAR1 not", "is no Parquet file"),
        ("gone.csv", None, "cannot be read"),
    ],
)
def test_files_that_are_no_tables(name, content, said):
    if content is not None:
        Path(name).write_bytes(content)
    assert said in refused(f"table:{name}")


def test_splits_of_a_data_set_are_named():
    clips("clips/two.wav")
    two = datasets.DatasetDict({name: datasets.Dataset.from_list([OTHER]) for name in ("train", "held-out")})
    two.save_to_disk("t")
    assert "has the splits train, held-out: name one" in refused("hf:t")
    assert [q.id for q in ask("hf:t:held-out")] == ["8"]
    assert "write hf:NAME, hf:NAME:SPLIT" in refused("hf:a:b:c:d")
    assert "cannot be loaded" in refused("hf:./nowhere")


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setattr(rows.importlib.util, "find_spec", lambda name: None)
    assert importlib.util.find_spec is rows.importlib.util.find_spec
    Path("t.parquet").write_bytes(b"x")
    assert "needs pyarrow: `pip install 'earwitness[data]'`" in refused("table:t.parquet")
    assert "needs datasets: `pip install 'earwitness[data]'`" in refused("hf:t")


# Answers

WORDS = st.text(st.sampled_from("abABcd 12"), min_size=1, max_size=3).filter(str.strip)


@given(st.lists(WORDS, min_size=2, max_size=6, unique_by=lambda w: " ".join(w.split()).casefold()), st.data())
def test_an_answer_by_text_index_or_letter_is_that_choice_or_refused_as_ambiguous(choices, data):
    index = data.draw(st.integers(0, len(choices) - 1))
    assert _answer(index, choices, numbers=False, texts=False) == choices[index]
    for said, texts in ((choices[index], False), ("ABCDEF"[index], False), (str(index), True), (choices[index], True)):
        try:
            assert _answer(said, choices, numbers=False, texts=texts) == choices[index]
        except RowError as error:
            assert "can be" in str(error)
            named = {c for c in choices if " ".join(c.split()).casefold() == said.strip().casefold()}
            letter = "ABCDEF".find(said.strip().upper()) if len(said.strip()) == 1 else -1
            number = int(said) if texts and said.strip().isdecimal() else -1
            named |= {choices[i] for i in (letter, number) if 0 <= i < len(choices)}
            assert len(named) > 1


@given(st.one_of(st.text(max_size=4), st.integers(), st.floats(), st.booleans(), st.lists(st.integers(), max_size=2)))
def test_an_answer_is_never_a_choice_that_it_does_not_name(value):
    choices = ["a dog", "a kettle", "rain"]
    try:
        found = _answer(value, choices, numbers=False, texts=True)
    except RowError:
        return
    if found in choices:
        at = choices.index(found)
        assert str(value).strip().casefold() in (found, "abc"[at]) or float(value) == at


@pytest.mark.parametrize(
    "ending, choices, right, said",
    [
        ("jsonl", ["B", "A"], "B", "can be the text of one choice 'B' and the letter of 'A'"),
        ("csv", ["1", "2"], "1", "can be the text of one choice '1' and the index of '2'"),
        ("jsonl", [1, 2], 1, "can be the text of one choice '1' and the index of '2'"),
        ("jsonl", ["1", "2"], "1", None),
        ("jsonl", ["1", "2"], 1, None),
        ("csv", ["A", "B"], "B", None),
        ("csv", ["0", "1"], "1", None),
    ],
)
def test_an_answer_that_could_name_two_choices_is_refused_by_row(ending, choices, right, said):
    clips("clips/two.wav")
    row = OTHER | {"first": choices[0], "second": choices[1], "third": None, "right": right}
    source = write(f"t.{ending}", row)
    if said is None:
        assert ask(source)[0].answer == (str(choices[right]) if isinstance(right, int) else right)
    else:
        assert f"t.{ending}:1: answer" in refused(source) and said in refused(source)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    st.fixed_dictionaries({key: st.text(max_size=8) for key in ("id", "media", "question", "answer", "think")}),
    st.lists(st.text(max_size=6), max_size=4),
)
def test_any_row_is_a_whole_question_or_refused_by_its_row(row, choices):
    Path("t.json").write_text(json.dumps([row | {"choices": choices}]))
    clips("clips/a.wav")
    try:
        (question,) = ask("table:t.json", columns=Columns())
    except SourceError as error:
        assert "t.json:1: " in str(error) or "none of the 1 clips" in str(error)
    else:
        assert question.answer is None or question.choices is None or question.answer in question.choices


# Clips


def test_clips_that_are_missing_are_told_and_fatal_only_if_all_are():
    clips("clips/two.wav")
    notes: list[str] = []
    assert [q.id for q in ask(write("t.jsonl", ROW, OTHER), notes)] == ["8"]
    assert notes == ["table:t.jsonl: 1 questions; 1 clips are not on this machine, such as sub/-HG3Omg_89c.mp3"]
    assert "none of the 1 clips of t.jsonl is here, such as sub/-HG3Omg_89c.mp3" in refused(write("t.jsonl", ROW))
    assert "none of the 1 clips" in refused(write("t.jsonl", ROW), media=())


def test_places_are_tried_in_order_and_names_may_begin_with_a_dash():
    clips("b/x_-HG3Omg_89c_sound.flac", "clips/sub/-HG3Omg_89c.mp3", "c/8-two.wav")
    places = ("a/{media}.mp4", "b/x_{media}*.flac", "clips", "c/{number}-{media}.wav")
    found = ask(write("t.jsonl", ROW, OTHER), media=places)
    assert [os.path.relpath(q.clip.media) for q in found] == ["b/x_-HG3Omg_89c_sound.flac", "c/8-two.wav"]


def test_no_guess_is_made_between_two_files_of_one_name():
    clips("a/two.wav", "a/two.mp4", "b/two.wav")
    assert "such as two.wav (2 files match)" in refused(write("t.jsonl", OTHER), media=("a/{media}.*", "b"))


def test_patterns_of_other_sources_are_passed_over_and_mistakes_are_told():
    clips("b/two.wav")
    source = write("t.jsonl", OTHER)
    assert len(ask(source, media=("x/{video_name}*.mp4", "b/{media}.wav"))) == 1
    assert "a row has no {numbr}; did you mean {number}?" in refused(source, media=("b/{numbr}.wav",))
    for bad in ("b/*.wav", "b/*{media}.wav", "{media}/x.wav"):
        assert "write {media} in the file's name, before any *" in refused(source, media=(bad,))


@pytest.mark.parametrize("name", ["../secret.wav", "a/../../b.wav", "..\\b.wav", "https://x.org/a.wav", "a\0.wav", ""])
@pytest.mark.parametrize("places", [(), ("clips",), ("clips/{media}*",)])
def test_a_media_name_leads_nowhere_else(name, places):
    clips("clips/b.wav", "secret.wav", "a.wav")
    assert "t.jsonl:1: " in refused(write("t.jsonl", OTHER | {"file": name}), media=places)


def test_what_is_empty_in_a_row_matches_no_file():
    clips("b/two.wav")
    source = write("t.jsonl", OTHER | {"other": ""})
    assert "none of the 1 clips" in refused(source, media=("b/{other}*",))


EMBEDDED = OTHER | {"file": {"bytes": b"RIFF sound", "path": "x/two.WAV"}}


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_sound_within_a_table_is_written_out_once_or_refused(form, tmp_path):
    source = FORMS[form](EMBEDDED, EMBEDDED | {"number": 9}, ROW | {"file": {"bytes": b"other", "path": None}})
    assert "media lies within the table itself, and must be a file" in refused(source)
    found = ask(source, unpack="out", media=())
    files = sorted(Path("out").iterdir())
    assert len(files) == 2 and {f.read_bytes() for f in files} == {b"RIFF sound", b"other"}
    assert found[0].clip == found[1].clip != found[2].clip
    assert found[0].clip.media.endswith(".wav") and Path(found[0].clip.media).parent == tmp_path / "out"
    made = files[0].stat().st_mtime_ns
    assert ask(source, unpack="out") == found and files[0].stat().st_mtime_ns == made
    assert [q.id for q in ask(source, unpack="few", limit=1)] == ["8"] and len(list(Path("few").iterdir())) == 1


def test_sound_as_datasets_holds_it_needs_no_decoder():
    table = datasets.Dataset.from_list([EMBEDDED]).cast_column("file", datasets.Audio())
    table.save_to_disk("t")
    (question,) = ask("hf:t", unpack="out", media=())
    assert Path(question.clip.media).read_bytes() == b"RIFF sound"


def test_a_folder_of_sounds_is_read_by_its_table():
    """`datasets` itself makes such a folder a data set only where it can decode sound; its table is enough."""
    clips("t/a.wav", "t/b.wav")
    found = [{"file_name": f"{name}.wav", "question": f"What is {name}?"} for name in "ab"]
    source = write("t/metadata.jsonl", *found)
    asked = ask(source, columns=Columns(media="file_name"), media=())
    assert [(q.text, os.path.relpath(q.clip.media)) for q in asked] == [
        ("What is a?", "t/a.wav"),
        ("What is b?", "t/b.wav"),
    ]
