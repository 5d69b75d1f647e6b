"""Every configuration that ships goes through all its stages with tiny models, and leaves nothing behind."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from earwitness.cli import main
from earwitness.config import RunConfig
from earwitness.preflight import refuse
from media_files import ordinary

SHIPPED = sorted(p.name for p in (resources.files("earwitness") / "configs").iterdir() if p.name.endswith(".toml"))
SIGHTSOUND = "sightsound.toml"
# Between them these hold every stage, kind of model and way of training; experiments take their time under `slow`.
FIRST = ("layers.toml", SIGHTSOUND, "world.toml", "world-compose.toml", "world-served.toml")
SET_APART = 45  # the number of a clip that avqa:train-choose takes


@pytest.fixture(scope="module")
def avqa(tmp_path_factory):
    """Settings that name a small AVQA: one clip of ten seconds under the names that its annotations give."""
    folder = tmp_path_factory.mktemp("avqa")
    clip = ordinary(folder).read_bytes()
    (folder / "clips").mkdir()
    for split, numbers in {"train": (1, 2, SET_APART), "val": (4, 5)}.items():
        rows = []
        for number in numbers:
            name = f"clip{number:07}_000030"
            (folder / "clips" / f"{name}.mp4").write_bytes(clip)
            rows.append(
                {
                    "id": number,
                    "video_name": name,
                    "video_id": number,
                    "question_text": "What makes the sound in the video?",
                    "multi_choice": ["a machine", "a dog", "rain", "nobody"],
                    "answer": number % 4,
                    "question_relation": "Both",
                    "question_type": "Come From",
                }
            )
        (folder / f"{split}_qa.json").write_text(json.dumps(rows))
    return [
        f"questions.annotations={folder}/{{split}}_qa.json",
        f'questions.media=["{folder}/clips/{{video_name}}*.mp4"]',
    ]


@pytest.fixture(scope="module")
def cota(tmp_path_factory):
    """Settings that name a folder of three clips whose questions carry reasoning in four parts."""
    folder = tmp_path_factory.mktemp("cota")
    clip = ordinary(folder).read_bytes()
    parts = ("PLANNING", "CAPTION", "REASONING", "SUMMARY")
    think = "<THINK>" + "".join(f"<{part}>a machine</{part}>" for part in parts) + "</THINK>"
    rows = []
    for number in range(3):
        (folder / f"{number}.mp4").write_bytes(clip + bytes(number))
        row = {"id": f"c{number}", "media": f"{number}.mp4", "question": "What is it?", "choices": ["a", "b"]}
        rows.append(json.dumps({**row, "answer": "a", "think": think + "<RESPONSE>a</RESPONSE>"}))
    (folder / "questions.jsonl").write_text("\n".join(rows))
    source = f"folder:{folder}"
    return [f"questions.train={source}", f"questions.choose={source}", f'exams.names=["{source}"]']


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_is_refused_nothing(name):
    refuse(RunConfig.load(resources.files("earwitness") / "configs" / name, ["train.processes=1"]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in SHIPPED]
)
def test_a_shipped_configuration_can_be_rehearsed(name, avqa, cota, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {SIGHTSOUND: avqa, "layers.toml": cota}.get(name, [])
    assert main(["run", name, "--rehearse", *settings]) == 0
    said = capsys.readouterr().err
    assert "every stage of every arm, with tiny random models" in said
    assert ("sample (choose): 1/1" in said) == (name == SIGHTSOUND)
    assert said.index("training sft") < said.index("answer (")
    config = RunConfig.load(resources.files("earwitness") / "configs" / name)
    stages = {step.stage for steps in config.arms.values() for step in steps}
    assert ("sample" in said) == ("teacher" in config.models)
    if "teacher" in config.models:
        assert said.index("sample: 2/2") < said.index("verify: 2/2") < said.index("training sft")
    if "distil" in stages:
        assert said.index("describe: ") < said.index("training distil")
    assert ("training grpo" in said) == ("grpo" in stages)
    assert list((tmp_path / "runs").iterdir()) == []


def test_nothing_is_spent_where_no_clip_is_set_apart_to_choose_by(avqa, tmp_path, capsys):
    whole, few = avqa, [setting.replace("{split}_qa", "val_qa") for setting in avqa]
    root = ["--root", str(tmp_path)]
    assert main(["check", SIGHTSOUND, *root, *whole]) == 0
    assert main(["check", SIGHTSOUND, *root, *few]) == 2
    assert "questions.choose gives no question (avqa:train-choose)" in capsys.readouterr().err
    assert main(["run", SIGHTSOUND, *root, *few, "models.teacher.kind=world", "models.teacher.name=teacher"]) == 2
    assert "questions.choose gives no question (avqa:train-choose)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_says_why_nothing_can_be_learnt(tmp_path, capsys):
    rows = [{"id": f"q{n}", "media": f"{n}.mp4", "question": "what ?", "choices": ["a", "b"]} for n in "12"]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = [f"questions.train=folder:{tmp_path}"]
    assert main(["run", "world.toml", "--rehearse", "--root", str(tmp_path / "runs"), *settings]) == 2
    assert "2 of them failed, first q1: failed in sample: 1.mp4" in capsys.readouterr().err
