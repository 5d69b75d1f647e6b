"""The benchmarks run, say what they promise, and compare what is equal. Nothing here looks at a clock."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def said(monkeypatch, capsys):
    """What a benchmark says on its last line, at its smallest."""
    monkeypatch.syspath_prepend(FOLDER)

    def run(name, *options):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--tiny", *options])
        module.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def positive(*numbers) -> bool:
    return all(math.isfinite(number) and number > 0 for number in numbers)


def test_the_prefix_tree_computes_what_separate_rows_compute(said):
    made = said("prefix_tree", "--runs", "1")
    ratios = [f"{work}_{cost}_ratio" for work in ("policy", "sft", "lora") for cost in ("time", "memory")]
    assert positive(*(made[name] for name in [*ratios, "logprob_time_ratio", "policy_share_of_limit"]))
    assert made["largest_gap"] < 1e-5


def test_the_parts_of_a_pass_add_up(said):
    made = said("breakdown")
    parts = sum(made[part] for part in ("encoder", "head", "attention", "products", "other"))
    assert positive(made["all"], made["encoder"]) and math.isfinite(made["attention"])  # by subtraction: may be noise
    assert parts == pytest.approx(made["all"], abs=0.01)


def test_a_step_of_practice_is_trls_on_the_same_completions(said):
    made = said("grpo_step", "--runs", "1")
    assert positive(*(made[f"{part}_time_ratio"] for part in ("step", "sampling", "update")))
    assert made["reward_gap"] < 1e-6
    assert made["loss_gap"] < 1e-6
    assert made["gradient_norm_gap"] < 1e-5
    assert made["gradient_norm"] > 1e-2


def test_a_step_of_distillation_is_the_plain_one(said):
    made = said("layer_kd", "--runs", "1")
    arms = ("representation", "distribution", "skip", "top_k", "plain")
    assert positive(*(made[f"{arm}_time_ratio"] for arm in arms))
    assert all(f"{arm}_memory_ratio" in made for arm in arms)
    assert made["largest_gap"] < 1e-5
    assert made["top_k_error"] < 1e-3 < made["top_k_error_flat"]
    limits = made["counted_limits"]
    assert 1 < limits["representation"] < limits["skip"] < limits["distribution"] < 2


def test_the_engine_loses_and_repeats_nothing_under_faults(said):
    made = said("served")
    assert positive(made["clean_ratio"], made["fault_ratio"])
    assert (made["lost"], made["repeated"]) == (0, 0)


def test_the_gpu_benchmark_runs_where_there_is_none(said):
    made = said("gpu", "--repeats", "1")
    assert made["device"]
    assert made["versions"]["torch"]
    arms = {(row["clip_seconds"], row["arm"]): row for row in made["updates"]}
    assert len(arms) == 8
    for seconds in (1.0, 4.0):
        rows = [arms[seconds, name] for name in ("naive", "tree, dense", "tree, FSDP2")]
        for row in rows:
            assert positive(row["step_seconds"], row["tokens_per_second"], row["peak_gib"], row["share_of_matrix_rate"])
            assert row["loss"] == pytest.approx(rows[0]["loss"], abs=0.02)  # 16 bits
        if "not_run" in arms[seconds, "tree, blocks"]:
            assert "block masks" in arms[seconds, "tree, blocks"]["not_run"]


def test_arms_take_turns_in_fresh_processes(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    measure = importlib.import_module("measure")
    order = []

    def arm(name):
        def run():
            order.append(name)
            return {"seconds": 2.0 if name == "a" else 1.0}

        return run

    results = measure.take_turns({"a": arm("a"), "b": arm("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert measure.ratio(results, "a", "b", "seconds") == 2
    assert measure.fresh("-c", """print("words"); print('{"x": 1}')""")() == {"x": 1}
    with pytest.raises(SystemExit, match="failed with status 3"):
        measure.fresh("-c", "raise SystemExit(3)")()


def test_the_peak_is_what_the_work_needed_at_once(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    measure = importlib.import_module("measure")

    def work():
        for _ in range(3):
            bytearray(64 * 2**20)

    _, costs = measure.measured(work)
    assert 60 < costs["mebibytes"] < 80


def test_a_served_teacher_teaches_what_it_would_here(said):
    made = said("served_teacher")
    for top_k in (20, 64):
        assert made[f"served_error_{top_k}"] < 1e-5 and made[f"served_gradient_error_{top_k}"] < 1e-4
        assert made[f"top_k_error_{top_k}"] < 0.1
    assert made["top_k_gradient_error_20"] > made["top_k_gradient_error_64"] > made["served_gradient_error_64"]


def test_ways_of_teaching_are_compared_at_equal_seconds(tmp_path, monkeypatch, capsys):
    """A run's files, written by hand: two methods, one of them twice as slow."""
    monkeypatch.syspath_prepend(FOLDER)
    accuracy = {"sft-20": 0.5, "sft-40": 0.6, "slow-20": 0.6, "slow-40": 0.8, "sft-40-of-10": 0.4}
    seconds = {"sft-20": 10, "sft-40": 20, "slow-20": 20, "slow-40": 40, "sft-40-of-10": 20}
    summary = [{"arm": "base", "exam": "world", "category": "all", "mean": 0.4}]
    summary += [{"arm": arm, "exam": "world", "category": "all", "mean": mean} for arm, mean in accuracy.items()]
    arms = {"base": {"name": "student"}}
    for arm in accuracy:
        arms |= {arm: {"name": f"checkpoints/{arm}-a/final"}, f"{arm}, seed 2": {"name": f"checkpoints/{arm}-b/final"}}
    timings = {f"{arm}-{seed}": value + side for arm, value in seconds.items() for seed, side in (("a", -1), ("b", 1))}
    for name, value in (("report", {"summary": summary}), ("arms", arms), ("timings", timings)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    monkeypatch.setattr(sys, "argv", ["transfer.py", str(tmp_path)])
    importlib.import_module("transfer").main()
    *lines, last = capsys.readouterr().out.splitlines()
    assert "| sft | 40 | 10 | 20 | 40.0 % |" in lines
    at = {row["seconds"]: (row["sft"], row["slow"]) for row in json.loads(last)["at_equal_seconds"]}
    assert at == {10: (0.5, None), 20: (0.6, 0.6)}


def test_a_clip_read_through_the_child_is_the_one_that_is_read_without(said):
    made = said("media")
    assert positive(made["share_of_bare_decode"], made["ours_seconds"], made["bare_seconds"])
    assert made["largest_gap"] < 0.05


def test_questions_below_one_clip_are_answered_as_one_by_one(said):
    made = said("exam", "--runs", "1")
    assert positive(made["time_ratio"], made["batch_time_ratio"]) and made["same_answers"]
