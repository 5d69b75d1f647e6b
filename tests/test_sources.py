"""Reading questions: what is right arrives unchanged, what is wrong is told with file, line and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.records import Clip, Question
from earwitness.sources.questions import SourceError, read_folder, read_questions

GOOD = {"id": "k-1", "media": "clips/kitchen.mp4", "question": "What is heard after the bell?"}
CHOICES = ["a dog", "a kettle"]


def write(folder: Path, *rows) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refused(folder: Path, *rows) -> str:
    with pytest.raises(SourceError) as error:
        read_questions(write(folder, *rows))
    return str(error.value)


# Lines


def test_a_whole_line(tmp_path):
    row = GOOD | {"start": 3.0, "end": 13, "choices": CHOICES, "answer": "a kettle", "tags": {"category": "temporal"}}
    assert read_questions(write(tmp_path, row)) == [
        Question(
            id="k-1",
            clip=Clip(id="clips/kitchen.mp4@3-13", media=str(tmp_path / "clips/kitchen.mp4"), start=3, end=13),
            text="What is heard after the bell?",
            choices=("a dog", "a kettle"),
            answer="a kettle",
            tags={"category": "temporal"},
        )
    ]


def test_an_open_question_of_a_whole_file_and_keys_that_are_null(tmp_path):
    nulls = dict.fromkeys(["start", "end", "choices", "answer", "tags"])
    plain, explicit = read_questions(write(tmp_path, GOOD, GOOD | nulls | {"id": "k-2"}))
    assert plain.clip == explicit.clip == Clip(id="clips/kitchen.mp4", media=str(tmp_path / "clips/kitchen.mp4"))
    assert plain.choices is None and plain.answer is None and plain.tags == {}


@pytest.mark.parametrize(
    "span, expected",
    [
        ({"start": 0}, ""),
        ({"start": 1.5}, "@1.5-"),
        ({"end": 2}, "@0-2"),
        ({"start": 3661.25, "end": 3671}, "@3661.25-3671"),
    ],
)
def test_clips_are_named_by_file_and_span(tmp_path, span, expected):
    (question,) = read_questions(write(tmp_path, GOOD | span))
    assert question.clip.id == "clips/kitchen.mp4" + expected


@pytest.mark.parametrize("answer", ["a kettle", " A  Kettle ", 1])
def test_an_answer_becomes_the_choice_as_it_is_spelled(tmp_path, answer):
    (question,) = read_questions(write(tmp_path, GOOD | {"choices": CHOICES, "answer": answer}))
    assert question.answer == "a kettle"


FOUR = "<PLANNING>plan</PLANNING><CAPTION>a kettle\nboils</CAPTION><REASONING>so</REASONING><SUMMARY>short</SUMMARY>"


def cota(response: str) -> str:
    return f"<THINK>\n{FOUR}</THINK>\n<RESPONSE>{response}</RESPONSE>"


def test_reasoning_and_a_description_of_the_datas_own(tmp_path):
    row = GOOD | {"answer": "a kettle", "think": " A kettle boils. ", "description": "0 to 2 s: a kettle\n"}
    (plain,) = read_questions(write(tmp_path, row))
    assert (plain.think, plain.description) == ("A kettle boils.", "0 to 2 s: a kettle")
    (parts,) = read_questions(write(tmp_path, row | {"think": FOUR, "description": None}))
    assert (parts.think, parts.answer, parts.description) == (FOUR, "a kettle", None)


@pytest.mark.parametrize(
    "row, answer",
    [
        ({}, "It is a kettle"),
        ({"answer": "a kettle"}, "a kettle"),
        ({"choices": CHOICES}, "a kettle"),
        ({"choices": CHOICES, "answer": 1}, "a kettle"),
    ],
)
def test_a_row_of_cota_says_its_answer_in_its_response(tmp_path, row, answer):
    (question,) = read_questions(write(tmp_path, GOOD | {"think": cota(" It is a kettle\n")} | row))
    assert (question.think, question.answer) == (FOUR, answer)


def test_byte_order_mark_carriage_returns_and_empty_lines(tmp_path):
    path = tmp_path / "q.jsonl"
    lines = [
        json.dumps(GOOD, ensure_ascii=False),
        "",
        json.dumps(GOOD | {"id": "k-2", "question": "Où ?"}, ensure_ascii=False),
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [question.text for question in read_questions(path)] == [GOOD["question"], "Où ?"]


def test_a_missing_media_file_is_no_error_here(tmp_path):
    (question,) = read_questions(write(tmp_path, GOOD))
    assert not Path(question.clip.media).exists()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"qestion": "x"}, "unknown key 'qestion'; did you mean 'question'?"),
        ({"question": None}, "'question' is missing"),
        ({"question": 5}, "question is 5, not text"),
        ({"question": "  "}, "question is empty"),
        ({"question": "a\x1b[31mred"}, "control character U+001B"),
        ({"question": "a\u202eb"}, "control character U+202E"),
        ({"id": 7}, "id is 7, not text; put it in quotes"),
        ({"id": "a b"}, "holds a space"),
        ({"id": "a\n"}, "control character U+000A"),
        ({"id": "../x"}, "looks like a path"),
        ({"id": "/x"}, "looks like a path"),
        ({"id": "a\\b"}, "looks like a path"),
        ({"id": "x" * 300}, "longer than 200"),
        ({"media": "../secret.mp4"}, "leaves its folder"),
        ({"media": "a/../../b.mp4"}, "leaves its folder"),
        ({"media": "..\\b.mp4"}, "leaves its folder"),
        ({"media": "/etc/passwd"}, "is absolute"),
        ({"media": "C:\\x.mp4"}, "is absolute"),
        ({"media": "https://x.org/a.mp4"}, "is an address; download it"),
        ({"media": "a\0.mp4"}, "control character U+0000"),
        ({"start": "3"}, "start is '3', not a number"),
        ({"start": True}, "start is True, not a number"),
        ({"start": -1}, "seconds from 0 upwards"),
        ({"end": 10**400}, "seconds from 0 upwards"),
        ({"start": 3, "end": 3}, "end 3 is not after start 3"),
        ({"choices": "a, b"}, "not a list"),
        ({"choices": ["a"]}, "at least two"),
        ({"choices": ["a", 2]}, "choice 2 is 2, not text"),
        ({"choices": ["a", ""]}, "choice 2 is empty"),
        ({"choices": ["A dog", " a  DOG"]}, "are the same"),
        ({"choices": CHOICES, "answer": "a kettl"}, "not among the choices; the nearest: 'a kettle'"),
        ({"choices": CHOICES, "answer": 2}, "index 2, but choices are 0 to 1"),
        ({"choices": CHOICES, "answer": -1}, "index -1"),
        ({"choices": CHOICES, "answer": True}, "answer is True"),
        ({"choices": CHOICES, "answer": 1.0}, "answer is 1.0"),
        ({"answer": 1}, "answer is 1, not text"),
        ({"tags": ["x"]}, "tags is ['x']"),
        ({"think": 5}, "think is 5, not text"),
        ({"think": " "}, "think is empty"),
        ({"think": "<think>so</think>"}, "think holds the tag <think>"),
        ({"think": "<CAPTION>a dog</CAPTION>"}, "not in CoTA's four parts: <PLANNING> is missing"),
        ({"think": cota("<audio>")}, "think's response holds the tag <audio>"),
        ({"think": cota("a bird"), "choices": CHOICES}, "'a bird' names none of the choices; write an answer"),
        ({"think": cota("a dog"), "choices": CHOICES, "answer": 1}, "answer is 'a kettle', and think's response names"),
        ({"description": "<|AUDIO|>"}, "description holds a model's own token <|AUDIO|>"),
        ({"description": 1}, "description is 1, not text"),
        ({"desciption": "x"}, "did you mean 'description'?"),
        ({"tags": {"x": 1}}, "tag 'x' is 1, not text"),
    ],
)
def test_every_problem_is_named_with_its_line(tmp_path, change, said):
    text = refused(tmp_path, GOOD | {"id": "fine"}, GOOD | change)
    assert said in text and "questions.jsonl:2:" in text and "1 problem in" in text


@pytest.mark.parametrize(
    "token",
    [
        "<|AUDIO|>",
        "<|audio_bos|>",
        "<|video_pad|>",
        "<|image_pad|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<audio>",
        "<VIDEO>",
        "</audio>",
        "<image>",
        "<think>",
        "</think>",
        "<answer>",
        "< answer >",
        "{choices}",
        "{question}",
        "{{ question }}",
        "{row.text}",
    ],
)
def test_tokens_of_models_and_unfilled_placeholders_are_refused_by_name(tmp_path, token):
    for change in ({"question": f"What is {token} this?"}, {"choices": ["a", f"b {token}"]}):
        text = refused(tmp_path, GOOD | change)
        assert token in text


@pytest.mark.parametrize(
    "text",
    ["Is 3 < 5 | 6 > 2?", "What {is} this".replace("{is}", "{ }"), "a <b> c", "Line one\nline two", "[music] {1, 2}"],
)
def test_ordinary_signs_are_left_alone(tmp_path, text):
    assert read_questions(write(tmp_path, GOOD | {"question": text}))[0].text == text


@pytest.mark.parametrize(
    "line, said",
    [
        ("{'id': 1}", "not valid JSON at column 2"),
        ("[1]", "not an object"),
        ("[" * 100_000, "nests too deep"),
        ('{"id": "a", "id": "b"}', "key 'id' is written twice"),
        ('{"id": "x", "start": NaN}', "NaN is no number"),
        ('{"id": "x", "end": -Infinity}', "-Infinity is no number"),
        ('"' + "x" * (1 << 20) + '"', "above 1048576"),
        ('{"id": "x", "end": ' + "9" * 5000 + "}", "endless number"),
    ],
)
def test_lines_that_are_no_json_objects(tmp_path, line, said):
    assert said in refused(tmp_path, line)


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "q.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(SourceError, match=r"q\.jsonl:1: not UTF-8 at byte 9"):
        read_questions(tmp_path / "q.jsonl")


def test_ids_are_unique(tmp_path):
    assert "questions.jsonl:3: id 'k-1' is that of line 1 too" in refused(tmp_path, GOOD, GOOD | {"id": "k-2"}, GOOD)


def test_ten_problems_are_told_and_the_rest_counted(tmp_path):
    text = refused(tmp_path, *({} for _ in range(25)))
    assert text.startswith("25 problems in ") and text.count("is missing") == 10 and text.endswith("... and 15 more")


def test_links_may_stay_in_the_folder_but_not_leave_it(tmp_path):
    folder, outside = tmp_path / "set", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "x.mp4").write_bytes(b"x")
    (folder / "real.mp4").write_bytes(b"x")
    (folder / "inside.mp4").symlink_to(folder / "real.mp4")
    (folder / "out.mp4").symlink_to(outside / "x.mp4")
    (folder / "far").symlink_to(outside)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    assert read_questions(write(folder, GOOD | {"media": "inside.mp4"}))[0].clip.id == "inside.mp4"
    for media in ("out.mp4", "far/x.mp4"):
        assert "a link that leaves its folder" in refused(folder, GOOD | {"media": media})
    for media in ("loop.mp4", "loop.mp4/x.mp4"):
        assert "cannot be followed" in refused(folder, GOOD | {"media": media})
    for media in ("missing.mp4", "real.mp4/x.mp4"):  # their rows will say so
        assert read_questions(write(folder, GOOD | {"media": media}))[0].clip.id == media


def test_a_file_without_questions(tmp_path):
    assert "holds no question" in refused(tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_questions(tmp_path / "missing.jsonl")


KEYS = ["id", "media", "question", "start", "end", "choices", "answer", "think", "description", "tags"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_json_gives_questions_or_a_source_error(tmp_path_factory, row):
    folder = tmp_path_factory.mktemp("any")
    try:
        questions = read_questions(write(folder, GOOD | row))
    except SourceError:
        return
    assert Path(questions[0].clip.media).is_relative_to(folder)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_questions_or_a_source_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "q.jsonl"
    path.write_bytes(data)
    with pytest.raises(SourceError):
        read_questions(path)


# Folders


def test_a_folder(tmp_path):
    write(tmp_path, GOOD)
    assert read_folder(tmp_path) == read_questions(tmp_path / "questions.jsonl")


def test_a_folder_of_videos_alone_says_what_to_write(tmp_path):
    (tmp_path / "my film.mp4").write_bytes(b"x")
    with pytest.raises(SourceError) as error:
        read_folder(tmp_path)
    told, example, command = str(error.value).split("\n")
    assert "has no questions.jsonl; write" in told and command.endswith("earwitness ask CONFIG")
    path = tmp_path / "questions.jsonl"
    path.write_text(example)
    assert read_folder(tmp_path)[0].clip.media == str(tmp_path / "my film.mp4")


def test_no_folder(tmp_path):
    with pytest.raises(SourceError, match="is not a folder"):
        read_folder(tmp_path / "nothing")
