"""The teacher's reasoning, handed to a student at the exam."""

from __future__ import annotations

import json

import pytest

from earwitness.config import Answer, ConfigError, Model
from earwitness.driver import drive
from earwitness.needs import roles
from earwitness.preflight import refuse
from earwitness.prompts import given_prompt, question_prompt
from earwitness.stages.answer import AnswerQuestions
from earwitness.world.questions import read_world
from worlds import world_config

HELPED = {
    "teacher": [{"stage": "answer", "examinee": "teacher"}],
    "helped": [{"stage": "answer", "prompt": "given-trace"}],
    "plain": [{"stage": "answer", "examinee": "teacher", "prompt": "plain"}],
}


def test_the_students_prompt_holds_what_the_teacher_thought():
    asked = question_prompt("plain", "direct", "What barks {trace}?", ("a dog", "a seal"))
    text = given_prompt("plain", "I hear: a dog {prompt}.", asked)
    assert "I hear: a dog {prompt}." in text and asked in text
    assert text.index("I hear") < text.index("What barks")


def test_a_trace_moves_the_answer_of_a_student_who_would_guess():
    questions = read_world("world:validation", 12)
    student = Model(kind="world", name="student")
    ask = AnswerQuestions(student, "student", "given-trace", Answer(max_tokens=24), 1)
    told = {c: [r[0].answer for r in ask([(q, f"so {q.choices[c]} .") for q in questions])] for c in (0, 1)}
    assert told[0] != told[1]


def test_the_teacher_answers_an_exam_once_for_itself_and_for_those_it_helps(tmp_path):
    config = world_config(arms=HELPED, exams={"names": ["world"], "both_ways": ["world"], "limit": 4})
    assert set(roles(config)) == {"student", "teacher"}
    report = drive(config, root=tmp_path).report
    modes = {arm: {row["mode"] for row in report["rows"] if row["arm"] == arm} for arm in HELPED}
    assert modes == {
        "teacher": {"direct", "think"},
        "helped": {"direct", "think", "given-trace"},
        "plain": {"direct", "think", "plain"},
    }  # fmt: skip
    settings = [json.loads(file.read_text()) for file in tmp_path.glob("small/answer-*/settings.json")]
    assert sorted((s["answer"]["examinee"], s["answer"]["prompt"]) for s in settings) == [
        ("student", "direct"), ("student", "given-trace"), ("student", "think"),
        ("teacher", "direct"), ("teacher", "plain"), ("teacher", "think"),
    ]  # fmt: skip
    assert all(row["hallucinated"] is None for row in report["rows"] if row["mode"] == "plain")


def test_each_student_is_told_of_its_own_question(tmp_path, monkeypatch):
    given = {}
    prompt = AnswerQuestions._prompt

    def spy(self, model, question, told, waves):
        if told is not None:
            given[question.id] = told
        return prompt(self, model, question, told, waves)

    monkeypatch.setattr(AnswerQuestions, "_prompt", spy)
    drive(world_config(arms={"helped": HELPED["helped"]}, exams={"names": ["world"], "limit": 4}), root=tmp_path)
    (teacher,) = (
        rows
        for rows in tmp_path.glob("small/answer-*/rows.jsonl")
        if json.loads((rows.parent / "settings.json").read_text())["answer"]["examinee"] == "teacher"
    )
    thoughts = {row["id"]: row["out"][0]["think"] for row in map(json.loads, teacher.open())}
    assert given == thoughts and len(given) == 4


def test_a_teacher_that_did_not_reason_fails_the_question(tmp_path):
    arms = {"helped": HELPED["helped"]}
    config = world_config(arms=arms, exams={"names": ["world"], "limit": 2}, answer={"max_tokens": 1})
    report = drive(config, root=tmp_path).report
    assert [row["unparsed"] for row in report["rows"] if row["category"] == "all"] == [2]
    rows = [json.loads(line) for table in tmp_path.glob("small/answer-*/rows.jsonl") for line in table.open()]
    assert sum("without reasoning" in (row.get("error") or "") for row in rows) == 2


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"prompt": "given-trace", "examinee": "teacher"}, "a trace is given to a student"),
        ({"prompt": "given-trace", "sees": "oracle"}, "a trace is given to a student"),
        ({"prompt": "plain"}, "'plain' is for a teacher"),
    ],
)
def test_who_cannot_be_asked_so_is_refused(step, says):
    with pytest.raises(ConfigError, match=says):
        refuse(world_config(arms={"odd": [{"stage": "answer", **step}]}))
