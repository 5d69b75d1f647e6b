"""Two systems on the same questions: differences with intervals, seeds pooled, and what may not be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import worlds
from earwitness.cli import main
from earwitness.compare import compare
from earwitness.compare.table import table
from earwitness.config import ConfigError
from earwitness.driver import drive
from earwitness.listen import model_spec
from earwitness.run import RunError
from earwitness.sit import sit, sitting_config
from earwitness.statistics.differences import detectable_difference, mcnemar
from exam_files import write

TASKS = ("sound", "music")


def predictions(path, right, clips=None, questions=None):
    """Write a file of predictions that carries its questions; `right` says which answers are."""
    rows = [
        {
            "id": f"q{n}",
            "audio_id": f"./{clips[n] if clips else f'c{n}'}.wav",
            "question": (questions or {}).get(n, "what is heard?"),
            "choices": ["dog", "bell"],
            "answer": "dog",
            "task": TASKS[n % 2],
            "model_output": "dog" if good else "bell",
        }
        for n, good in enumerate(right)
    ]
    return str(write(path, rows))


A = [n % 4 != 0 for n in range(40)]
B = [n % 4 != 0 or n % 8 == 0 for n in range(40)]


def test_two_files_are_compared_question_by_question(tmp_path, capsys):
    a, b = predictions(tmp_path / "a.json", A), predictions(tmp_path / "b.json", B)
    made = compare([a, b], ["mmau-mini"], Path(a))
    (entry,) = made["exams"]
    a_only, b_only, p = mcnemar(A, B)
    assert (entry["a_only"], entry["b_only"], entry["test"]) == (a_only, b_only, "mcnemar") == (0, 5, "mcnemar")
    assert entry["p"] == pytest.approx(p, abs=1e-6) and entry["holm"] == entry["p"]
    assert entry["difference"] == 5 / 40 and entry["low"] <= 5 / 40 <= entry["high"] and entry["low"] > 0
    assert entry["detectable"] is None  # five discordant questions of forty cannot be enough
    assert entry["by"]["task:sound"]["n"] == 20 and entry["by"]["task:sound"]["b_only"] == 5
    assert main(["compare", a, b, "--on", "mmau-mini", "--data", a, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == made
    assert "+12.5" in table(made) and "mcnemar" in table(made)


def test_questions_that_share_a_clip_are_tested_by_clip(tmp_path):
    clips = [f"c{n // 8}" for n in range(40)]
    a, b = (predictions(tmp_path / name, right, clips) for name, right in (("a.json", A), ("b.json", B)))
    (entry,) = compare([a, b], ["mmau-mini"], Path(a))["exams"]
    assert (entry["test"], entry["clips"], entry["n"]) == ("permutation", 5, 40)
    assert entry["p"] > 0.05  # five clips: 2 of 32 signs are as far out
    assert "less can be detected" in table({"exams": [entry]})


def test_p_is_adjusted_for_all_exams_of_a_pair(tmp_path, monkeypatch):
    import earwitness.compare as room

    a, b = predictions(tmp_path / "a.json", A), predictions(tmp_path / "b.json", B)
    once = room.side_of

    def twice(*given):
        found = once(*given)
        return [*found, *(type(one)(**(vars(one) | {"exam": "again"})) for one in found)]

    monkeypatch.setattr(room, "side_of", twice)
    first, second = compare([a, b], ["mmau-mini"], Path(a))["exams"]
    assert first["holm"] == second["holm"] == pytest.approx(2 * first["p"], abs=1e-6)


def test_p_is_adjusted_for_all_systems_that_are_compared(tmp_path):
    a, b, c = (predictions(tmp_path / f"{n}.json", right) for n, right in (("a", A), ("b", B), ("c", B)))
    made = compare([a, b, c], ["mmau-mini"], Path(a))
    first, second = made["exams"]
    assert first["holm"] == second["holm"] == pytest.approx(2 * first["p"], abs=1e-6)
    assert "p adjusted for 2 comparisons" in table(made)


def transcripts(path, texts):
    rows = [{"id": f"t{n}", "media": f"t{n}.wav", "text": text, "prediction": "hello"} for n, text in enumerate(texts)]
    return str(write(path, rows))


def test_other_versions_and_what_is_no_pair_are_refused(tmp_path):
    a, b = transcripts(tmp_path / "a.json", ["hello", "you"]), transcripts(tmp_path / "b.json", ["hello", "me"])
    with pytest.raises(ConfigError, match=r"transcript: .*a.json answered version unknown .*b.json version unknown"):
        compare([a, b], ["transcript"])
    for wrong, words in (([a], "two systems"), ([a, a], "each once"), ([a, str(tmp_path / "x")], "neither a file")):
        with pytest.raises(ConfigError, match=words):
            compare(wrong, ["transcript"])
    with pytest.raises(ConfigError, match="say of which exam with --on"):
        compare([a, b])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with two seeds and an untrained arm that answers under another prompt, and a shorter one."""
    root = tmp_path_factory.mktemp("runs")
    arms = {
        "base": [],
        "label": [{"stage": "sft", "lessons": "gold"}],
        "think": [{"stage": "answer", "prompt": "think"}],
    }
    config = worlds.world_config(
        arms=arms, train={"seeds": [1, 2], "parallel": 1}, exams={"names": ["world"], "limit": 8}
    )
    drive(config, root, quiet=True)
    short = worlds.world_config(name="short", arms={"base": []}, exams={"names": ["world"], "limit": 4})
    drive(short, root, quiet=True)
    return root / "small"


def test_arms_of_a_run_are_compared_as_its_report_does(runs):
    report = json.loads((runs / "report.json").read_text())
    made = compare([f"{runs}/base", f"{runs}/label"])
    (entry,) = made["exams"]
    theirs = [c for c in report["comparisons"] if (c["arm_a"], c["arm_b"]) == ("base", "label")]
    ours = [c for c in made["comparisons"] if c["category"] == "all"]
    keep = ("seed", "a_only", "b_only", "difference", "p", "test", "same_sign")
    assert [[c[k] for k in keep] for c in ours] == [[c[k] for k in keep] for c in theirs]
    assert entry["seeds"] == 2 and entry["test"] == "permutation" and entry["version"].startswith("unknown")
    summary = {s["arm"]: s["mean"] for s in report["summary"] if s["category"] == "all"}
    assert (entry["accuracy_a"], entry["accuracy_b"]) == (summary["base"], summary["label"])


def test_an_untrained_arm_under_another_prompt_is_found(runs):
    (entry,) = compare([f"{runs}/base", f"{runs}/think"])["exams"]
    assert entry["mode"] == "direct/think" and entry["seeds"] == 1


def test_what_a_run_does_not_hold_is_said(runs):
    short = runs.parent / "short"
    with pytest.raises(ConfigError, match="has several arms"):
        compare([str(runs), str(short)])
    with pytest.raises(ConfigError, match=r"answered 8 questions, .* 4, and 4 are not the same, 'world/exam/4'"):
        compare([f"{runs}/base", str(short)])
    with pytest.raises(ConfigError, match="none of mmar"):
        compare([f"{runs}/base", str(short)], ["mmar"])
    (table_folder,) = {place.parent for place in short.glob("answer-*/rows.jsonl")}
    rows = (table_folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (table_folder / "rows.jsonl").write_bytes(b"".join(rows[:2]))
    with pytest.raises(RunError, match="answers 2 of 4 questions so far"):
        compare([f"{short}/base", f"{runs}/base"])
    (table_folder / "rows.jsonl").write_bytes(b"".join(rows))


def test_the_detectable_difference_is_printed(capsys):
    assert main(["detectable", "1000"]) == 0
    assert f"{100 * detectable_difference(1000, 0.2):.1f} points" in capsys.readouterr().out
    assert main(["detectable", "0"]) == 2


def test_an_arm_that_sits_again_outside_its_run_answers_as_in_it(runs):
    report = json.loads((runs / "report.json").read_text())
    exams = {"names": ["world"], "limit": 8}
    config = sitting_config(
        model_spec(f"{runs}/label"), exams, "again", None, ["answer.max_tokens=24", "train.parallel=1"]
    )
    (score,) = sit(config, root=runs.parent, quiet=True).report["exams"]
    (row,) = [r for r in report["rows"] if (r["arm"], r["seed"], r["category"]) == ("label", 1, "all")]
    assert score["strict"] == row["accuracy"]
    (entry,) = compare([f"{runs}/base", str(runs.parent / "again")])["exams"]
    assert entry["accuracy_b"] == score["strict"]


def test_an_adapter_sits(tiny_adapter, tmp_path):
    spec = model_spec(str(tiny_adapter))
    config = sitting_config(spec, {"names": ["world"], "limit": 3}, None, "direct", ["answer.max_tokens=4"])
    assert config.name == "exam-adapter-direct" and config.model("student").adapter == str(tiny_adapter)
    assert sit(config, root=tmp_path, quiet=True).report["exams"][0]["n"] == 3
