"""A model sits exams outside a run: resumable, sharded, with controls that tell whether it listens."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

import worlds
from earwitness.cli import main
from earwitness.config import ConfigError, Model
from earwitness.flow.ways import _others, _turned
from earwitness.listen import model_spec
from earwitness.media import write_sound
from earwitness.models import open_local
from earwitness.models.exchange import Prompt
from earwitness.models.places import ModelError
from earwitness.records import Clip, Question
from earwitness.run import RunError
from earwitness.sit import Beside, checks, sit, sitting_config
from earwitness.sources.clips import load_sound
from earwitness.stages.answer import AnswerQuestions, Way
from exam_files import write

STUDENT = Model(kind="world", name="student")
SMALL = ["answer.max_tokens=48", "train.parallel=1"]


def config(name="sat", limit=8, exams=("world",), spec=STUDENT, **more):
    return sitting_config(spec, {"names": exams, "limit": limit, **more}, name, None, SMALL)


def tables(run):
    return {path.parent.name: path.read_bytes() for path in run.glob("answer-*/rows.jsonl")}


@pytest.fixture(scope="module")
def sat(tmp_path_factory):
    """A sitting with all that can be asked beside it, and where it lies."""
    root = tmp_path_factory.mktemp("sat")
    beside = Beside(2, 0.7, True, ("silence", "noise", "other", "text"))
    return sit(config(), beside, root, quiet=True), root / "sat"


def test_a_sitting_reports_what_score_says_and_what_was_asked_beside(sat):
    outcome, run = sat
    (score,) = outcome.report["exams"]
    assert score["n"] == 8 and score["size"] == 2400 and 0 <= score["strict"] <= 1
    assert score["wilson_low"] <= score["strict"] <= score["wilson_high"]
    assert score["samples"]["k"] == 2 and score["samples"]["passed"] >= score["samples"]["average"]
    assert score["shuffles"]["always"] <= score["shuffles"]["average"]
    assert [c["control"] for c in score["controls"]] == ["silence", "noise", "other", "text"]
    for c in score["controls"]:
        assert c["difference"] == pytest.approx(score["strict"] - c["accuracy"], abs=1e-6)
        assert c["difference_low"] <= c["difference"] <= c["difference_high"]
    assert {row["variant"] for row in outcome.report["rows"]} == {"default", "silence", "noise", "other", "text"}
    assert {row["category"] for row in outcome.report["rows"]} > {"all", "type:count"}
    assert [f["check"] for f in outcome.report["checks"]] == ["long clips", "hearing", "batches", "audio tokens"]
    assert json.loads((run / "report.json").read_text()) == outcome.report
    assert "second" not in (run / "report.json").read_text() and json.loads((run / "timings.json").read_text())
    assert "this is no score of the whole exam" in outcome.text


def test_a_second_sitting_asks_nothing_and_reports_the_same(sat, monkeypatch):
    outcome, run = sat
    before = worlds.finished(run)
    monkeypatch.setattr(AnswerQuestions, "__call__", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr(checks, "_findings", lambda *_: pytest.fail("checked again"))
    again = sit(config(), Beside(2, 0.7, True, ("silence", "noise", "other", "text")), run.parent, quiet=True)
    assert again.report == outcome.report and worlds.finished(run) == before


def test_the_plain_sitting_is_the_table_that_a_run_fills(sat, monkeypatch):
    from earwitness.driver import drive

    _, run = sat
    before = worlds.finished(run)
    monkeypatch.setattr(AnswerQuestions, "__call__", lambda *_: pytest.fail("asked again"))
    report = drive(config(), run.parent, quiet=True).report
    assert {name: when for name, when in worlds.finished(run).items() if name in before} == before
    assert report["rows"][0]["n"] == 8
    sit(config(), Beside(), run.parent, quiet=True)


def test_shards_together_make_the_tables_of_one(tmp_path):
    beside = Beside(controls=("other",), shuffles=True)
    whole = sit(config(limit=40), beside, tmp_path / "one", quiet=True)
    for number in (1, 2):
        assert sit(config(limit=40), beside, tmp_path / "two", shard=(number, 2), quiet=True).report is None
    together = sit(config(limit=40), beside, tmp_path / "two", quiet=True)
    assert together.report == whole.report
    assert tables(tmp_path / "two" / "sat") == tables(tmp_path / "one" / "sat")


def test_a_sitting_that_was_killed_goes_on(tmp_path):
    words = ["exam", "world:student", "--on", "world", "--limit", "96", "--name", "sat", *SMALL]
    process = worlds.start(*words, "--root", tmp_path / "killed")
    rows = tmp_path / "killed" / "sat"
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in rows.glob("answer-*/rows.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    worlds.kill_driver(process)
    worlds.kill_group(process)
    assert main([*words, "--root", str(tmp_path / "killed")]) == 0
    assert main([*words, "--root", str(tmp_path / "whole")]) == 0
    assert tables(rows) == tables(tmp_path / "whole" / "sat")
    assert (rows / "report.json").read_bytes() == (tmp_path / "whole" / "sat" / "report.json").read_bytes()


def clips_and_rows(folder, lengths):
    rng = np.random.default_rng(0)
    rows = []
    for number, seconds in enumerate(lengths):
        time_axis = np.arange(int(16000 * seconds)) / 16000
        wave = (0.3 * np.sin(2 * np.pi * (300 + 100 * number) * time_axis)).astype(np.float32)
        write_sound(folder / f"c{number}.wav", wave + 0.01 * rng.standard_normal(len(wave)).astype(np.float32), 16000)
        rows.append(
            {
                "id": f"m{number}",
                "audio_id": f"./c{number}.wav",
                "question": "what is heard ?",
                "choices": ["dog", "bell"],
                "answer": "dog",
                "task": "sound",
            }
        )
    return write(folder / "mmau.json", rows)


def test_the_command_sits_a_public_exam_with_clips_of_its_own(tmp_path, capsys):
    annotations = clips_and_rows(tmp_path, [2.0, 3.0, 4.0])
    words = ["exam", "world:student", "--on", "mmau-mini", "--media", str(tmp_path), "--json", "--controls", "silence"]
    code = main(
        [
            *words,
            "--annotations",
            f"mmau-mini={annotations}",
            *SMALL,
            "--root",
            str(tmp_path / "runs"),
            "--prompt",
            "think",
        ]
    )
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert code == 0 and report["run"] == "exam-student-think"
    (score,) = report["exams"]
    assert (score["n"], score["size"]) == (3, 1000) and score["official"] is not None and score["by"]["sound"]["n"] == 3
    assert "official raw" in out and "each second of sound" in out


def test_long_clips_need_a_word_about_what_becomes_of_them(tmp_path):
    annotations = clips_and_rows(tmp_path, [2.0, 9.0])
    exams = {"exams": ("mmau-mini",), "annotations": {"mmau-mini": str(annotations)}, "media": [str(tmp_path)]}
    with pytest.raises(ModelError, match=r"1 of 2 clips are longer than the 4 s.*--long-clips"):
        sit(config(limit=0, **exams), root=tmp_path / "runs", quiet=True)
    stated = config(limit=0, spec=STUDENT.model_copy(update={"long_clips": "refuse"}), **exams)
    outcome = sit(stated, root=tmp_path / "runs", quiet=True)
    assert outcome.report["exams"][0]["missing"] == 1 and outcome.failing
    cut = config("cut", 0, spec=STUDENT.model_copy(update={"long_clips": "truncate"}), **exams)
    assert sit(cut, root=tmp_path / "runs", quiet=True).report["exams"][0]["missing"] == 0


@pytest.fixture
def heard():
    """The embedded student with prompts about two clips."""
    model = open_local(STUDENT, "student")
    clips = [Clip(id=f"c{n}", media=f"world:default:{n + 1}") for n in range(2)]
    return model, [Prompt(f"what is heard ? options : dog , bell {'.' * n}", clip) for n, clip in enumerate(clips)]


def test_a_deaf_model_is_refused(heard):
    model, prompts = heard
    assert "nats" in checks.hears(model, prompts, ("dog", "bell"))
    inner, choose = model, model.choose
    inner.choose = lambda these, options: choose([Prompt(p.text) for p in these], options)
    with pytest.raises(ModelError, match="does not hear"):
        checks.hears(inner, prompts, ("dog", "bell"))


def test_a_model_that_answers_otherwise_in_a_batch_is_refused(heard):
    model, prompts = heard
    assert "float32" in checks.batches_change_nothing(model, prompts, ("dog", "bell"))
    choose = model.choose
    model.choose = lambda these, options: [[s + len(these) for s in row] for row in choose(these, options)]
    with pytest.raises(ModelError, match="in a batch of 2 than one by one"):
        checks.batches_change_nothing(model, prompts, ("dog", "bell"))


def test_audio_tokens_without_features_are_refused(heard):
    model, prompts = heard
    assert checks.tokens_are_features(model, prompts).startswith("as many as features")
    encode = model.encode
    placeholder = model.tokenizer.convert_tokens_to_ids(model.family.placeholder)

    def one_more(prompt):
        root = encode(prompt)
        return type(root)((placeholder, *root.ids), root.positions, root.media)

    model.encode = one_more
    with pytest.raises(ModelError, match="audio tokens stand for"):
        checks.tokens_are_features(model, prompts)


def test_controls_are_what_they_say(heard):
    model, _ = heard
    clip = Clip(id="c", media="world:default:3")
    question = Question(id="q/1", clip=clip, text="what is heard ?", choices=("dog", "bell"), answer="dog")
    own = load_sound(clip)
    for hears in ("silence", "noise"):
        stage = AnswerQuestions(STUDENT, "student", "direct", config().answer, 1, way=Way(hears=hears))
        wave = stage._waves({clip})[clip]
        assert len(wave) == len(own)
        loudness = float(np.sqrt((own**2).mean())) if hears == "noise" else 0
        assert float(np.sqrt((wave**2).mean())) == pytest.approx(loudness, rel=0.05)
        prompt = stage._prompt(model, question, None, {clip: wave})
        assert np.array_equal(prompt.wave, wave)
    text = AnswerQuestions(STUDENT, "student", "direct", config().answer, 1, way=Way(hears="text"))
    assert text._prompt(model, question, None, {}).clip is None


def test_the_other_clip_is_never_the_own_one_and_always_the_same():
    clips = [Clip(id=f"c{n}", media="x") for n in range(5)]
    asked = [Question(id=f"q/{n}", clip=clips[n % 5], text="?") for n in range(40)]
    others = _others(asked)
    assert all(others[q.id].id != q.clip.id for q in asked) and others == _others(asked)
    assert len({clip.id for clip in others.values()}) == 5
    assert _turned(asked[0].model_copy(update={"choices": ("a", "b", "c")}), 1).choices == ("b", "c", "a")
    assert _turned(asked[0].model_copy(update={"choices": ("a", "b")}), 2) is None


def test_controls_and_samples_are_no_sittings_of_their_own(sat):
    from earwitness.export.replies import sittings
    from earwitness.run import Run

    _, run = sat
    assert list(sittings(Run.read(run.parent, "sat"), "world")) == ["student.direct"]


def test_another_runs_folder_is_left_alone(tmp_path):
    worlds.save(worlds.world_config(), tmp_path / "small" / "config.toml")
    with pytest.raises(RunError, match="holds another run"):
        sit(config("small"), root=tmp_path, quiet=True)
    assert "sightsound" not in (tmp_path / "small" / "config.toml").read_text()


@pytest.mark.parametrize("wrong", [{"samples": 1}, {"samples": 4, "temperature": 0.0}, {"controls": ("thunder",)}])
def test_what_cannot_be_asked_beside_is_said(wrong):
    with pytest.raises(ConfigError):
        Beside(**wrong)


@pytest.mark.parametrize(
    ("given", "says"),
    [(["--on", ","], "name an exam"), (["--on", "world", "--max-tokens", "0"], "max_tokens: Input should be greater")],
)
def test_what_the_command_cannot_do_is_said_and_not_passed_over(given, says, tmp_path, capsys):
    assert main(["exam", "world:student", *given, "--root", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err


def test_a_name_of_the_hub_is_a_model_and_a_missing_folder_is_not(tmp_path):
    assert model_spec("Qwen/Qwen2-Audio-7B-Instruct").name == "Qwen/Qwen2-Audio-7B-Instruct"
    for name in (str(tmp_path / "nothing"), "nothing", "a/b/c"):
        with pytest.raises(ConfigError, match="neither world:NAME"):
            model_spec(name)


def test_a_served_model_sits_with_calls_paid_once(world_server, tmp_path, capsys):
    words = ["exam", "checker", "--on", "world", "--limit", "4", "--name", "served", "--base-url", f"{world_server}/v1"]
    words += ["--profile", "vllm", "--root", str(tmp_path), "models.student.manner=world", *SMALL]
    assert main(words) == 0
    report = json.loads((tmp_path / "served" / "report.json").read_text())
    local = sit(config(limit=4, spec=Model(kind="world", name="checker")), root=tmp_path, quiet=True).report
    assert report["exams"][0]["strict"] == local["exams"][0]["strict"]
    for table in (tmp_path / "served").glob("answer-*"):
        (table / "rows.jsonl").unlink()
        (table / "done.json").unlink()
    from earwitness.costs import costs_text

    before = costs_text(tmp_path / "served")
    assert main(words) == 0
    assert costs_text(tmp_path / "served") == before  # the ledger answered
