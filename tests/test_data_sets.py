"""Published data sets: their rows with all anomalies, what is set apart for choosing, and what belongs to exams."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.config import Questions, RunConfig
from earwitness.preflight import read_questions
from earwitness.records import Clip, Question
from earwitness.sources import is_set_apart, read_source, read_sources
from earwitness.sources.music_avqa import WORDS, filled, read_row
from earwitness.sources.problems import RowError, SourceError
from earwitness.sources.rows import read_rows
from public_files import public

PARTS = "".join(f"<{part}>a dog barks</{part}>" for part in ("PLANNING", "CAPTION", "REASONING", "SUMMARY"))
AVQA = {
    "id": 183,
    "video_name": "-HG3Omg_89c_000030",
    "video_id": 341,
    "question_text": "What happened in the video?",
    "multi_choice": ["motorboat", "yacht", "sailboat", "car"],
    "answer": 1,
    "question_relation": "View",
    "question_type": "Happening",
}
AVRT = {
    "id": 183,
    "video_name": "-HG3Omg_89c_000030",
    "video_id": 341,
    "question": "What happened in the video?",
    "choices": ["motorboat", "yacht", "Motorboat ", "car"],
    "answer": "motorboat",
    "question_relation": "Both",
    "question_type": "Happening",
    "av_reasoning": "<think>An engine is heard.</think><answer>motorboat</answer>",
}
AUDIOMCQ = {
    "source_dataset": "Clotho",
    "id": "clotho_1",
    "question_type": "sound",
    "audio_path": "clotho/rain on roof.wav",
    "question": "What falls?",
    "choices": ["rain", "stones"],
    "answer": "rain",
    "key_caption": "Rain falls on a roof.",
    "structured_cot": "1. Rain.",
    "unstructured_cot": "It patters.",
}
COTA = {
    "user": "<audio>What is heard? (a) a dog (b) a cat",
    "assistant": f"<THINK>{PARTS}</THINK><RESPONSE>The answer is A.</RESPONSE>",
    "audio": "one.wav",
}
MUSIC = {
    "video_id": "00000093",
    "question_id": 12,
    "type": '["Audio", "Comparative"]',
    "question_content": "Is the <Object> louder than the <Object>? ",
    "templ_values": '["acoustic_guitar", "piano"]',
    "question_deleted": 0,
    "anser": "yes",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def clips(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"clip")


def ask(source: str, *rows: dict, notes: list[str] | None = None, file: str = "t.json", **chosen) -> list[Question]:
    Path(file).write_text(json.dumps(rows))
    chosen = {"media": ("clips/{media}*",), "annotations": "{split}.json"} | chosen
    asked = Questions(train=(source,), **chosen)
    return read_source(source, asked, 0, [].append if notes is None else notes.append)


# Sets with reasoning


def test_avrt_is_avqa_with_reasoning(tmp_path):
    clips("clips/-HG3Omg_89c_000030.mp4")
    (question,) = ask("avrt:t.json", AVRT)
    assert question == Question(
        id="avrt/183",
        clip=Clip(id="avqa/-HG3Omg_89c_000030", media=str(tmp_path / "clips/-HG3Omg_89c_000030.mp4")),
        text="What happened in the audio?",
        choices=("motorboat", "yacht", "car"),
        answer="motorboat",
        think="An engine is heard.",
        tags={"type": "Happening", "category": "Both", "repaired": "repeated choice"},
    )
    (avqa,) = ask("avqa:train", AVQA, file="train.json")
    assert question.clip == avqa.clip, "a clip has one name, whichever set asks about it"


def test_reasoning_for_another_answer_is_not_learnt_from():
    clips("clips/-HG3Omg_89c_000030.mp4")
    (question,) = ask("avrt:t.json", AVRT | {"answer": "car"})
    assert question.think is None and "reasoning for another answer" in question.tags["repaired"]
    (plain,) = ask("avrt:t.json", AVRT | {"av_reasoning": "An engine is heard."})
    assert plain.think == "An engine is heard."


def test_questions_are_reworded_where_asked():
    clips("clips/-HG3Omg_89c_000030.mp4")
    assert ask("avrt:t.json", AVRT, reword=False)[0].text == "What happened in the video?"
    assert ask("avqa:train", AVQA, file="train.json", reword=False)[0].text == "What happened in the video?"
    assert ask("avqa:train", AVQA, file="train.json")[0].text == "What happened in the audio?"


def test_audiomcq():
    clips("sound/clotho/rain on roof.wav")
    (question,) = ask("audiomcq:t.json", AUDIOMCQ, media=("sound",))
    assert (question.id, question.clip.id) == ("audiomcq/clotho_1", "t/clotho/rain on roof.wav")
    assert (question.answer, question.think, question.description) == ("rain", "It patters.", "Rain falls on a roof.")
    assert question.tags == {"type": "sound", "source": "Clotho"}


def test_cota_is_open_and_answered_by_its_response():
    clips("clips/one.wav")
    (question,) = ask("cota:t.json", COTA)
    assert (question.id, question.text) == ("cota/t-1", "What is heard? (a) a dog (b) a cat")
    assert (question.think, question.answer, question.choices) == (PARTS, "The answer is A.", None)


def test_rows_that_nobody_can_mend_are_left_out_and_told():
    clips("clips/one.wav", "clips/two.wav")
    notes: list[str] = []
    broken = COTA | {"assistant": "<CAPTION>a dog</CAPTION>"}
    assert len(ask("cota:t.json", COTA, broken, COTA | {"user": ""}, notes=notes)) == 1
    assert notes == [
        "cota:t.json: 2 rows cannot be asked and are left out, first t.json:2: think is not in CoTA's four parts: "
        "<PLANNING> is missing; mend it, or write it without these tags"
    ]
    with pytest.raises(SourceError, match="1 problem in"):
        ask("cota:t.json", broken)


def test_a_set_that_is_laid_out_otherwise_says_how_to_read_it():
    with pytest.raises(SourceError, match=r"no column 'user' for question; it has question.* with a map in"):
        ask("cota:t.json", {"question": "What?", "audio": "a.wav"})


# Clips of VGGSound


def test_clips_of_vggsound_are_found_under_the_names_they_are_given():
    for name in ("-HG3Omg_89c_000030.mp4", "x_-HG3Omg_89c.wav", "-HG3Omg_89c_30.wav"):
        clips(f"{name}.d/{name}")
    for pattern, name in (
        ("{video_name}*.mp4", "-HG3Omg_89c_000030.mp4"),
        ("x_{youtube_id}.wav", "x_-HG3Omg_89c.wav"),
        ("{youtube_id}_{start}.wav", "-HG3Omg_89c_30.wav"),
    ):
        (question,) = ask("avqa:train", AVQA, file="train.json", media=(f"{name}.d/{pattern}",))
        assert Path(question.clip.media).name == name


def test_vggsound_has_no_questions_and_says_so():
    with pytest.raises(SourceError, match="VGGSound has clips with labels, and nobody's questions"):
        ask("vggsound:vggsound.csv")


# MUSIC-AVQA


def test_a_row_of_music_avqa():
    clips("clips/00000093.mp4")
    (question,) = ask("music_avqa:train", MUSIC, file="train.json", media=("clips/{video_id}.mp4",))
    assert (question.id, question.clip.id) == ("music_avqa/12", "music_avqa/00000093")
    assert question.text == "Is the acoustic_guitar louder than the piano?"
    assert (question.choices, question.answer) == (WORDS, "yes") and len(WORDS) == 42
    assert question.tags == {"split": "train", "type": "A-Comparative"}


def test_rows_of_the_second_version_have_lists_and_no_ids():
    bare = {key: value for key, value in MUSIC.items() if key not in ("question_id", "question_deleted")}
    listed = bare | {"templ_values": ["acoustic_guitar", "piano"], "type": ["Audio", "Comparative"], "extra": 1}
    assert read_row(bare) == read_row(listed) and read_row(bare).id.startswith("00000093-")
    assert read_row(bare).id != read_row(bare | {"templ_values": '["piano", "acoustic_guitar"]'}).id


def test_a_question_that_is_answered_in_two_ways_has_no_answer():
    clips("clips/00000093.mp4")
    twice = ask("music_avqa:train", MUSIC, MUSIC | {"anser": "no"}, MUSIC, file="train.json")
    assert [(q.answer, q.tags["repaired"]) for q in twice] == [(None, "answered in two ways")]
    assert [q.answer for q in ask("music_avqa:train", MUSIC, MUSIC, file="train.json")] == ["yes"]
    with pytest.raises(SourceError, match="question_id 12 is that of another question, too"):
        ask("music_avqa:train", MUSIC, MUSIC | {"templ_values": '["tuba", "piano"]'}, file="train.json")


def test_what_only_the_picture_can_answer_is_not_asked_and_missing_videos_are_told():
    clips("clips/00000093.mp4")
    seen = MUSIC | {"question_id": 13, "type": '["Visual", "Counting"]', "video_id": "00000001"}
    gone = MUSIC | {"question_id": 14, "video_id": "00000002"}
    notes: list[str] = []
    assert len(ask("music_avqa:train", MUSIC, seen, gone, file="train.json", notes=notes)) == 1
    assert notes == ["music_avqa:train: 1 questions; 1 clips are not on this machine, such as 00000002.mp4"]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"anser": "guitar"}, "anser is 'guitar', none of the 42 words"),
        ({"anser": None}, "anser is None, not text"),
        ({"type": '"Audio"'}, "type is 'Audio', not a list"),
        ({"type": '["Sound", "Counting"]'}, "not two words such as Audio and Counting"),
        ({"templ_values": '["piano"]'}, "has 2 places, and 1 values"),
        ({"templ_values": '["<LL>", "piano"]'}, "the question still has <LL> in it"),
        ({"question_id": 1.5}, "question_id is 1.5"),
    ],
)
def test_broken_rows_of_music_avqa_are_refused_with_their_number(change, said):
    with pytest.raises(SourceError, match=r"train\.json:2: ") as error:
        ask("music_avqa:train", MUSIC, MUSIC | change, file="train.json")
    assert said in str(error.value)


@given(
    st.lists(st.sampled_from(["<Object>", "<LR>", "is", "\uff1f", " ", "<1>", "a<b"])), st.lists(st.text(max_size=5))
)
def test_a_template_is_filled_whole_or_refused(parts, values):
    try:
        text = filled("".join(parts), values)
    except RowError:
        return
    assert not any(f"<{name}>" in text for name in ("Object", "LR")) and all(v.strip() in text for v in values)


# What is set apart, and what belongs to exams


def names(count: int) -> list[str]:
    return [f"{number:03}.wav" for number in range(count)]


def table(count: int = 200) -> str:
    clips(*(f"clips/{name}" for name in names(count)))
    rows = [
        {"id": f"{name}-{n}", "media": name, "question": "What?", "start": n, "end": n + 1}
        for name in names(count)
        for n in range(2)
    ]
    Path("clips/questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "clips"


@pytest.mark.parametrize("source", ["folder:clips", "jsonl:clips/questions.jsonl", "table:clips/questions.jsonl"])
def test_every_source_has_a_part_that_is_set_apart_by_clip(source):
    table()
    both = Questions(train=(source,), choose=(f"{source}-choose",))
    train, choose = read_sources(both.train, both, 0), read_sources(both.choose, both, 0)
    files = [{q.clip.media for q in part} for part in (train, choose)]
    assert files[0].isdisjoint(files[1]) and len(files[0] | files[1]) == 200 and 0 < len(files[1]) < 20
    assert all(n == 2 for n in Counter(q.clip.media for q in train + choose).values()), "a file's spans go together"
    whole = read_sources(both.train, Questions(train=(source,)), 0)
    assert len(whole) == 400, "nothing is taken from a user's data where nobody asks for it"


def test_avqa_and_its_kin_set_the_same_clips_apart_always():
    videos = [f"{number:011}_000030" for number in range(200)]
    clips(*(f"clips/{name}.mp4" for name in videos))
    avqa = [AVQA | {"id": n, "video_name": name} for n, name in enumerate(videos)]
    avrt = [AVRT | {"id": n, "video_name": name} for n, name in enumerate(videos)]
    apart = {q.clip.id for q in ask("avqa:train-choose", *avqa, file="train.json")}
    assert apart == {q.clip.id for q in ask("avrt:t.json-choose", *avrt)} and 0 < len(apart) < 20
    for learnt in (ask("avqa:train", *avqa, file="train.json"), ask("avrt:t.json", *avrt)):
        assert apart.isdisjoint(q.clip.id for q in learnt) and len(apart) + len(learnt) == 200


def test_a_folder_whose_name_ends_so_is_a_folder():
    table(3)
    Path("clips").rename("my-choose")
    assert len(read_source("folder:my-choose", Questions(train=("x",)), 0)) == 6


def test_a_limit_counts_questions_behind_the_division():
    source = f"table:{table()}/questions.jsonl"
    chosen = read_source(f"{source}-choose", Questions(train=("x",)), 3)
    assert len(chosen) == 3 and all(map(is_set_apart, chosen))


@pytest.mark.parametrize("source", ["avqa:val", "avqa:test", "avqa:val-choose", "music_avqa:val", "music_avqa:test"])
@pytest.mark.parametrize("key", ["train", "choose"])
def test_an_exams_part_is_never_learnt_from_nor_chosen_by(source, key):
    shipped = Path(__file__).parent.parent / "src/earwitness/configs/world.toml"
    config = RunConfig.load(shipped, [f"questions.{key}={source}"])
    with pytest.raises(SourceError, match=f"{source} belongs to the exams: nothing is trained or chosen"):
        read_questions(config, lambda _: None)


def test_an_exams_clip_under_another_name_is_told_where_it_is_learnt_from():
    """A table names its clips as it likes; the file is the same."""
    clips("clips/u1.wav", "clips/u2.wav")
    row = {"id": "u1", "audio_id": "./x/u1.wav", "question": "what?", "choices": ["a dog", "a cat"], "answer": "a dog"}
    Path("mmau.json").write_text(json.dumps([row, row | {"id": "u2", "audio_id": "u2.wav"}]))
    Path("mine.jsonl").write_text(json.dumps({"id": "1", "media": "clips/u1.wav", "question": "?", "answer": "dog"}))
    shipped = RunConfig.load(Path(__file__).parent.parent / "src/earwitness/configs/world.toml")
    asked = {"train": ("table:mine.jsonl",), "choose": ()}
    exams = {"names": ("mmau-mini",), "annotations": {"mmau-mini": "mmau.json"}, "media": ("clips",), "limit": 0}
    config = shipped.model_copy(
        update={
            "questions": shipped.questions.model_copy(update=asked),
            "exams": shipped.exams.model_copy(update=exams),
        }
    )
    told: list[str] = []
    read_questions(config, told.append)
    assert any("the exam mmau-mini shares 1 of its 2 clips with the training questions" in line for line in told)


def test_avqas_validation_is_an_exam():
    clips("clips/-HG3Omg_89c_000030.mp4")
    assert len(ask("avqa:val", AVQA, file="val.json")) == 1


def test_two_files_of_one_clips_name_are_refused_and_not_taken_for_one():
    for folder in ("one", "two"):
        clips(f"{folder}/a.wav")
        row = {"id": folder, "media": "a.wav", "question": "What?"}
        Path(folder, "questions.jsonl").write_text(json.dumps(row))
    both = ("folder:one", "folder:two")
    with pytest.raises(SourceError, match=r"two sources call different files 'a\.wav'"):
        read_sources(both, Questions(train=both), 0)


def test_annotations_of_two_published_sets_lie_side_by_side():
    clips("clips/-HG3Omg_89c_000030.mp4", "clips/00000093.mp4")
    for source, row in (("avqa", AVQA), ("music_avqa", MUSIC)):
        Path(f"{source}_train.json").write_text(json.dumps([row]))
    both = Questions(
        train=("avqa:train", "music_avqa:train"),
        annotations="{source}_{split}.json",
        media=("clips/{video_id}*", "clips/{video_name}*"),
    )
    assert [q.id for q in read_sources(both.train, both, 0)] == ["avqa/183", "music_avqa/12"]


def test_a_source_that_is_not_there_is_called_as_it_was_written():
    with pytest.raises(SourceError, match="no source is called 'world:train-choose'"):
        read_source("world:train-choose", Questions(train=("x",)), 0)


# The real files


@pytest.mark.parametrize("file, rows", [("avqa-test", 9185), ("avqa-val", 4595), ("v2_test_bias", 9119)])
def test_real_files_of_music_avqa(file, rows, tmp_path):
    found = read_rows(public(f"music_avqa/{file}.json"))
    assert len(found) == rows
    for row in found:
        asked = read_row(row)
        assert "<" not in asked.text and asked.answer in WORDS
    for name in {row["video_id"] for row in found}:
        (tmp_path / f"{name}.mp4").touch()
    settings = Questions(train=("x",), annotations=f"{public('music_avqa')}/{{split}}.json", media=("{video_id}.mp4",))
    questions = read_source(f"music_avqa:{file}", settings, 0)
    heard = [row for row in found if json.loads(row["type"])[0] != "Visual"]
    named = {row["question_id"] for row in heard if "question_id" in row}
    nameless = {
        (row["video_id"], row["question_content"], str(row["templ_values"]))
        for row in heard
        if "question_id" not in row
    }
    assert len(questions) == len({q.id for q in questions}) == len(named) + len(nameless)


def test_real_files_of_avqa(tmp_path):
    """Re-split training rows with every second clip there: 3620 rows, with repeated choices and stray answers."""
    rows = json.loads(public("avqa/train_Where.json").read_text(encoding="utf-8"))
    videos = sorted({row["video_name"].removesuffix("_trimmed.mp4") for row in rows})
    for name in videos[::2]:
        (tmp_path / f"{name}_000030.mp4").touch()
    settings = Questions(train=("x",), annotations=str(public("avqa")), media=("{video_name}*.mp4",))
    notes: list[str] = []
    parts = [read_source(source, settings, 0, notes.append) for source in ("avqa:train", "avqa:train-choose")]
    here = [row for row in rows if row["video_name"].removesuffix("_trimmed.mp4") in set(videos[::2])]
    assert sum(map(len, parts)) == len(here) and all(parts)
    assert all(q.answer is None or q.answer in q.choices for part in parts for q in part)
    assert [f"{len(videos[1::2])} clips are not on this machine" in note for note in notes] == [True, True]
