"""AVQA: official and re-split rows, their anomalies, and clips that are gone."""

from __future__ import annotations

import json

import pytest

from earwitness.records import Clip, Question
from earwitness.sources.avqa import heard_wording, read_avqa
from earwitness.sources.questions import SourceError

OFFICIAL = {
    "id": 183,
    "video_name": "-HG3Omg_89c_000030",
    "video_id": 341,
    "question_text": "What happened in the video?",
    "multi_choice": ["motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car"],
    "answer": 1,
    "question_relation": "View",
    "question_type": "Happening",
}
RESPLIT = {
    "id": 40802,
    "video_name": "jSZSgsSgiL4_trimmed.mp4",
    "video_id": 49948,
    "question_text": "Where did the video take place?",
    "answer": "seabed",
    "question_relation": "Both",
    "question_type": "Where",
    "label": "scuba diving",
    "multi_choice": ["field", "at sea", " Seabed", "on the subway"],
}


@pytest.fixture
def avqa(tmp_path):
    """A function that writes rows to a file and reads them with two clips on disk."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("-HG3Omg_89c_000030.mp4", "jSZSgsSgiL4_000070.mp4"):
        (clips / name).write_bytes(b"x")

    def read(*rows, patterns=("clips/{video_name}*.mp4",), **options):
        (tmp_path / "train_Some.json").write_text(json.dumps(rows))
        return read_avqa(tmp_path, [str(tmp_path / pattern) for pattern in patterns], "train", **options)

    read.folder = tmp_path
    return read


def test_avqa_official_and_resplit_rows(avqa):
    (official, resplit), missing = avqa(OFFICIAL, RESPLIT)
    assert missing == []
    assert official == Question(
        id="avqa/183",
        clip=Clip(id="avqa/-HG3Omg_89c_000030", media=str(avqa.folder / "clips" / "-HG3Omg_89c_000030.mp4")),
        text="What happened in the audio?",
        choices=("motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car"),
        answer="Yacht consignment",
        tags={"split": "train", "type": "Happening", "category": "View"},
    )
    assert (resplit.answer, resplit.clip.id) == ("Seabed", "avqa/jSZSgsSgiL4")
    assert resplit.clip.media.endswith("jSZSgsSgiL4_000070.mp4") and "repaired" not in resplit.tags


def test_avqa_rows_without_choices_are_open(avqa):
    ((question,), _) = avqa({k: v for k, v in RESPLIT.items() if k != "multi_choice"})
    assert question.choices is None and question.answer == "seabed"


def test_avqa_anomalies_are_mended_and_marked(avqa):
    repeated = RESPLIT | {"multi_choice": ["Ski Field", "seabed", "ski  field ", "NULL"]}
    by_index = OFFICIAL | {"multi_choice": ["land", "sea", "Land", "air"], "answer": 2}
    strange = OFFICIAL | {"id": 5, "answer": "Racetrack"}
    (first, second, third), _ = avqa(repeated, by_index, strange)
    assert (first.choices, first.answer, first.tags["repaired"]) == (
        ("Ski Field", "seabed"),
        "seabed",
        "repeated choice",
    )
    assert (second.choices, second.answer) == (("land", "sea", "air"), "land")
    assert third.answer is None and third.tags["repaired"] == "answer not among the choices"


def test_avqa_missing_clips_are_told_and_fatal_only_if_all_are(avqa):
    gone = RESPLIT | {"id": 1, "video_name": "AAAAAAAAAAA_000001"}
    questions, missing = avqa(gone, RESPLIT, gone | {"id": 2})
    assert [q.id for q in questions] == ["avqa/40802"] and missing == ["AAAAAAAAAAA_000001"]
    with pytest.raises(SourceError, match="none of the 1 clips"):
        avqa(gone)


def test_avqa_does_not_guess_between_two_clips_of_one_video(avqa):
    (avqa.folder / "clips" / "jSZSgsSgiL4_000200.mp4").write_bytes(b"x")
    questions, missing = avqa(OFFICIAL, RESPLIT)
    assert len(questions) == 1 and missing == ["jSZSgsSgiL4 (2 files match)"]


def test_avqa_patterns_are_tried_in_order(avqa):
    (avqa.folder / "VGG1").mkdir()
    (avqa.folder / "VGG1" / "avqa_jSZSgsSgiL4.wav").write_bytes(b"x")
    (question,), _ = avqa(RESPLIT, patterns=("VGG*/avqa_{video_name}.wav", "clips/{video_name}*.mp4"))
    assert question.clip.media.endswith("VGG1/avqa_jSZSgsSgiL4.wav")
    for bad in ("clips/*.mp4", "clips/*{video_name}.mp4", "{video_name}/x.mp4"):
        with pytest.raises(SourceError, match=r"write \{video_name\} in the file's name"):
            avqa(RESPLIT, patterns=(bad,))
    with pytest.raises(SourceError, match=r"set questions\.media"):
        avqa(RESPLIT, patterns=())


@pytest.mark.parametrize(
    "change, said",
    [
        ({"answer": 4}, "index 4 of 4"),
        ({"answer": None}, "answer is None; this is no AVQA row"),
        ({"question_text": ""}, "question_text is empty"),
        ({"multi_choice": "a"}, "not a list of texts"),
        ({"question_text": "What is <audio>?"}, "<audio>"),
        ({"video_name": "a\nb"}, "control character"),
    ],
)
def test_avqa_broken_rows_are_refused_with_their_number(avqa, change, said):
    with pytest.raises(SourceError, match=r"train_Some\.json:2: ") as error:
        avqa(RESPLIT, OFFICIAL | change)
    assert said in str(error.value)


def test_avqa_ids_are_unique_and_files_are_named(avqa, tmp_path):
    with pytest.raises(SourceError, match="id 183 appears twice"):
        avqa(OFFICIAL, OFFICIAL)
    with pytest.raises(SourceError, match=r"folder with val_\*\.json"):
        read_avqa(tmp_path, ["x/{video_name}.mp4"], "val")


def test_heard_wording(avqa):
    assert (
        heard_wording("Where did the video take place? Videos, video.")
        == "Where did the audio take place? Audios, audio."
    )
    (question,), _ = avqa(RESPLIT, reword=False)
    assert question.text == "Where did the video take place?"
