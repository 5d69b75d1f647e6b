"""The describe stage: by a model that listens, by the data, by an oracle; and exams that are sat by reading."""

from __future__ import annotations

import json

import pytest

import worlds
from earwitness.cli import main
from earwitness.config import ConfigError, Model, RunConfig
from earwitness.cota import FourParts, think_of
from earwitness.driver import drive
from earwitness.flow import describe_clips
from earwitness.models import connected
from earwitness.models.exchange import Completion, Prompt
from earwitness.models.local import LocalModel
from earwitness.preflight import refuse
from earwitness.pretrain.tiny import write_tiny
from earwitness.records import Clip, Description, Question
from earwitness.run import Run
from earwitness.stages.describe import DescribeClips, describe_known
from earwitness.stages.workbench import StageError, Workbench
from earwitness.table import Failed
from earwitness.workers import Workers
from earwitness.world.puzzles import listed
from earwitness.world.questions import read_world
from worlds import MODELS, READERS, reading_config

CHECKER = Model(kind="world", name="checker")
STUDENT = Model(kind="world", name="student")
HEARD = {"events": [{"what": "a dog", "start": 0, "end": 4}], "speech": None, "speakers": [], "music": None}
PARTS = FourParts("plan", "a kettle boils", "so", "in short")


CLIP = read_world("world:validation", 1)[0].clip


def asked(**changes) -> Question:
    return Question(id="q", clip=Clip(id="c.mp4", media="/nowhere/c.mp4"), text="what ?").model_copy(update=changes)


def bench_of(config: RunConfig, run: Run) -> Workbench:
    return Workbench(config, run, Workers(1))


def rows_of(run, stage: str) -> list[dict]:
    return [json.loads(line) for table in run.glob(f"{stage}-*/rows.jsonl") for line in table.open()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Model:
    """A random listener that is spoken to in the plain manner."""
    folder = tmp_path_factory.mktemp("models") / "describer"
    write_tiny(STUDENT, "qwen2_audio", folder)
    return Model(kind="local", name=str(folder), dtype="float32")


# by a model that listens


def test_the_embedded_listener_lists_what_it_hears():
    questions = read_world("world:validation", 4)
    told = [description for (description,) in DescribeClips(CHECKER, 48)(questions)]
    assert all(d.text.startswith("i hear ") and d.by == "checker" for d in told)
    right = sum(set(d.text.split()) >= set(q.clip.sounds or ()) for q, d in zip(questions, told, strict=True))
    assert right >= 3  # it hears: what it lists is what there is


def test_a_clip_is_listened_to_once_and_a_broken_one_costs_itself_alone(monkeypatch):
    first, second = read_world("world:validation", 2)
    shown: list[str] = []
    encode = LocalModel.encode
    monkeypatch.setattr(LocalModel, "encode", lambda self, prompt: shown.append(prompt.clip.id) or encode(self, prompt))
    again = first.model_copy(update={"id": "again", "text": "another question"})
    one, gone, two, same = DescribeClips(CHECKER, 48)([first, asked(), second, again])
    assert shown == [first.clip.id, "c.mp4", second.clip.id] and one == same != two
    assert isinstance(gone, Failed) and gone.why.startswith("c.mp4: cannot be read") and "/nowhere" not in gone.why


def test_a_description_that_was_cut_off_is_a_failure_that_says_so(plain):
    question = read_world("world:validation", 1)[0]
    for describer in (CHECKER, plain):
        (cut,) = DescribeClips(describer, 2)([question])
        assert cut == Failed("the description was cut off after 2 tokens: raise describe.max_tokens")


@pytest.mark.parametrize(
    "text, expected",
    [
        (json.dumps(HEARD), "0 to 4 s: a dog\nSpeech: none\nMusic: none"),
        (f"```json\n{json.dumps(HEARD)}\n```", "0 to 4 s: a dog\nSpeech: none\nMusic: none"),
        ("I hear a dog.", "the description holds no JSON object"),
        ("", "the description is empty"),
        (json.dumps(HEARD).replace("4", "9"), "the description lets 'a dog' end at 9 s, and the clip has 4.0 s"),
        (
            json.dumps(HEARD).replace("a dog", "<|AUDIO|>x"),
            "the description cannot be shown to a model: it holds a model's",
        ),
    ],
)
def test_what_a_describer_says_is_read_strictly(plain, text, expected):
    said = DescribeClips(plain, 64)._read(Completion(text, (), "stop"), connected(plain, "describer"), CLIP)
    assert (said.why if isinstance(said, Failed) else said[0].text)[: len(expected)] == expected


def test_an_embedded_describer_that_says_nothing_fails():
    said = DescribeClips(CHECKER, 64)._read(Completion(" ", (), "stop"), connected(CHECKER, "describer"), CLIP)
    assert said == Failed("the description is empty")


# by the data, and by the oracle


def test_captions_and_fields_come_from_the_data_or_fail_with_the_remedy():
    four = think_of(PARTS)
    assert describe_known(asked(think=four), "caption") == [Description(text="a kettle boils", by="data")]
    assert describe_known(asked(description=" rain \n"), "field") == [Description(text="rain", by="data")]
    none, bare, field = (
        describe_known(asked(), "caption"),
        describe_known(asked(think="it boils"), "caption"),
        describe_known(asked(think=four), "field"),
    )
    assert none.why.startswith("the question carries no reasoning") and "describe.source to model" in none.why
    assert "(<PLANNING> is missing)" in bare.why and "CoTA's four parts" in bare.why
    assert field.why.startswith("the question carries no description: write one")


def test_the_oracle_tells_the_truth_of_the_world_and_of_nothing_else(monkeypatch):
    question = read_world("world:validation", 1)[0]
    (told,) = describe_known(question, "oracle")
    assert told.by == "oracle" and set(told.text.split()) - {"i", "hear", ",", "."} == set(question.clip.sounds)
    assert told.text == listed(told.text.removeprefix("i hear ").removesuffix(" .").split(" , "))
    assert "c.mp4 is no clip of the embedded world" in describe_known(asked(), "oracle").why
    monkeypatch.setattr("earwitness.stages.describe.scene_of", lambda clip: object())
    with pytest.raises(StageError, match="the oracle has no words for world:default"):
        describe_known(question, "oracle")


# who reads


def test_a_model_that_hears_can_read_and_then_hears_nothing():
    question = read_world("world:validation", 1)[0]
    reader, listener = connected(STUDENT, "textual_teacher"), connected(STUDENT, "student")
    read, heard = (m.encode(Prompt("which sound is the last one ?", question.clip)) for m in (reader, listener))
    assert reader.sense == "reading" and read.media == {} and heard.media


def test_exams_are_sat_by_reading_and_controls_are_marked(tmp_path, capsys):
    config = reading_config(arms=READERS | {"watcher": [READERS["told"][0] | {"examinee": "teacher"}]})
    outcome = drive(config, tmp_path, quiet=True)
    assert outcome.failures == [] and outcome.report is not None
    run = tmp_path / config.name
    described = [row["out"][0] for row in rows_of(run, "describe")]
    assert sorted(d["by"] for d in described) == ["checker"] * 3 + ["oracle"] * 3
    assert len(rows_of(run, "answer")) == 12 and not rows_of(run, "sample")
    assert {(cell["arm"], cell["mode"]) for cell in outcome.report["rows"]} == {(arm, "think") for arm in config.arms}
    assert outcome.report["controls"] == ["told", "watcher"]
    assert "told (control)" in outcome.text and "reader (control)" not in outcome.text
    assert main(["show", str(run), "world/exam/0"]) == 0
    said = capsys.readouterr().out
    assert (
        said.index("\ndescribe-") < said.index("\nanswer-")
        and "by oracle: i hear" in said
        and "by checker: i hear" in said
    )


def test_a_failed_description_fails_the_answer_by_name(tmp_path):
    config = reading_config(arms={"reader": READERS["reader"]}, describe={"max_tokens": 2})
    outcome = drive(config, tmp_path, quiet=True)
    assert outcome.failing == ["describe", "answer"]
    why = {row["error"] for row in rows_of(tmp_path / config.name, "answer")}
    assert why == {"failed in describe: the description was cut off after 2 tokens: raise describe.max_tokens"}


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"arms": {"x": [{"stage": "answer", "examinee": "textual_teacher"}]}},
            "arms.x: the textual_teacher can neither",
        ),
        ({"models": {"describer": None}}, r"this run needs a describer: add \[models.describer\]"),
        (
            {"arms": {"x": [{"stage": "sft"}, *READERS["told"]]}},
            "the textual_teacher answers here, so the training",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_spent(changes, said):
    models = {role: spec for role, spec in (MODELS | changes.get("models", {})).items() if spec}
    data = reading_config(arms=changes.get("arms", READERS)).model_dump(mode="json") | {"models": models}
    with pytest.raises(ConfigError, match=said):
        refuse(RunConfig.parse(data))


def test_an_oracle_is_refused_by_the_name_of_a_clip_that_it_cannot_know(tmp_path):
    (tmp_path / "questions.jsonl").write_text(json.dumps({"id": "a", "media": "a.mp4", "question": "?", "answer": "x"}))
    source = f"folder:{tmp_path}"
    for arms, source_of_descriptions in ((READERS, "model"), ({"reader": READERS["reader"]}, "oracle")):
        config = reading_config(arms=arms, exams={"names": [source]}, describe={"source": source_of_descriptions})
        with pytest.raises(ConfigError, match=r"describe the clip a\.mp4 \(question a\)"):
            drive(config, tmp_path / "runs", quiet=True)
    config = reading_config(questions={"train": [source]}, describe={"source": "oracle"})
    with pytest.raises(ConfigError, match=r"describe the clip a\.mp4"):
        drive(config, tmp_path / "runs", until="describe", quiet=True)
    assert not (tmp_path / "runs").exists()


# runs, check and rehearsal


def test_until_describe_describes_every_training_question(tmp_path, capsys):
    config = reading_config(arms={}, questions={"limit": 3})
    file = worlds.save(config, tmp_path / "small.toml")
    assert main(["run", str(file), "--root", str(tmp_path), "--until", "describe"]) == 0
    assert "describe: 3/3" in capsys.readouterr().err
    run = tmp_path / config.name
    assert [row["out"][0]["text"][:7] for row in rows_of(run, "describe")] == ["i hear "] * 3
    assert [p.parent.name.split("-")[0] for p in run.glob("*/rows.jsonl")] == ["describe"]


def test_another_describer_or_source_is_another_table_and_an_edited_question_is_named(tmp_path):
    questions = read_world("world:train", 2)
    with Run.open(tmp_path, "run") as run:
        bench = bench_of(reading_config(), run)
        tables = {describe_clips(bench, questions, source).table for source in ("model", "oracle", None)}
        longer = bench_of(reading_config(describe={"max_tokens": 49}), run)
        assert len(tables | {describe_clips(longer, questions).table}) == 3
        changed = [questions[0], questions[1].model_copy(update={"text": "another"})]
        with pytest.raises(Exception, match=r"stage describe: row 'world/train/1'"):
            describe_clips(bench, changed)


def test_check_counts_what_is_to_be_described(tmp_path, capsys):
    file = worlds.save(reading_config(), tmp_path / "small.toml")
    assert main(["check", str(file), "--root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "up to 3 calls to the describer, up to 3 truths of the embedded world (a control)" in said


def test_a_rehearsal_lets_a_random_describer_speak_and_goes_on(tmp_path, capsys):
    file = worlds.save(reading_config(arms=READERS | {"label": worlds.ARMS["label"]}), tmp_path / "small.toml")
    assert main(["run", str(file), "--rehearse", "--root", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().err
    assert "descriptions by a random model mean nothing; stand-ins serve" in said
    assert "answer (reader, world): 2/2" in said and "every stage of every arm" in said


def test_a_rehearsal_tells_of_a_clip_that_the_describer_cannot_hear(tmp_path, capsys):
    assert main(["world", "sample", str(tmp_path / "own"), "--count", "2"]) == 0
    next((tmp_path / "own" / "clips").glob("*1.mp4")).unlink()
    config = reading_config(arms={"reader": READERS["reader"]}, exams={"names": [f"folder:{tmp_path / 'own'}"]})
    file = worlds.save(config, tmp_path / "small.toml")
    assert main(["run", str(file), "--rehearse", "--root", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert (
        "describe: 1 of 2 questions failed, first default-200000001: clips/default-200000001.mp4: cannot be read"
        in said
    )
