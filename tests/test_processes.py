"""Several processes learn what one would, sharded or not; what starts them lets nothing outlive it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import worlds
from conftest import open_model, under_lora
from earwitness.config import Model
from earwitness.learn.checkpoints import complete_checkpoints, restore
from earwitness.learn.trainer import Trainer
from earwitness.models import connect
from earwitness.stages.training import train
from objectives import SCHEDULE, Practised, Said, lessons, plan_of, stage_job, tasks
from tensors import gradients, relative_error

SCRIPT = Path(__file__).parent / "distributed_training.py"
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Two steps of one arm: lessons first, so that practice starts from a parent.
CONFIG = worlds.world_config(
    arms={"practised": worlds.ARMS["practised"]}, exams={"limit": 2}, verify={"calibrate": 0.0},
    sft={"steps": 2, "batch": 4}, grpo={"steps": 3, "batch": 4, "updates": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def two(tiny_student, tmp_path_factory):
    """The folder of what two processes of one launcher made of everything in distributed_training.py."""
    out = tmp_path_factory.mktemp("two")
    command = [*TWO, str(SCRIPT), str(tiny_student), str(out)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-5000:]
    return out


def left(folder: Path, stop_at: int | None = None) -> dict:
    return torch.load(folder / f"left-{stop_at}.pt")


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def alone(tiny_student, folder, kind="full", practice=0, **changes):
    """The same training in this process: its model, with the gradients of its last step."""
    local = open_model(tiny_student, "student")
    model = local.model
    if kind == "lora":
        torch.manual_seed(5)
        model = under_lora(model)
    objective = Practised(local, practice) if practice else Said()
    plan = plan_of(tasks(local) if practice else lessons(local), updates=practice or 1)
    trainer = Trainer(model, objective, plan, replace(SCHEDULE, **changes), folder)
    kept: dict = {}
    trainer.add_callback(_keeping(kept))
    trainer.fit()
    return model, kept


def _keeping(kept):
    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            kept.update(gradients(model))

    return Keep()


@pytest.mark.parametrize("what", ["said", "practised"])
def test_two_processes_have_the_loss_and_gradient_of_one(two, tiny_student, tmp_path, what):
    practice = int(what == "practised")
    _, expected = alone(tiny_student, tmp_path, practice=practice, steps=1, clip=1e9)
    for accumulation in (1, 2):
        made = two / f"{what}-{accumulation}"
        assert relative_error(left(made)["gradients"], expected) < 1e-5
        assert log_of(made)[0] == pytest.approx(log_of(tmp_path)[0], abs=1e-5)
        if practice:  # the same samples, in the order of the questions, whichever process drew them
            assert (made / "rollouts.jsonl").read_text() == (tmp_path / "rollouts.jsonl").read_text()


def test_two_processes_killed_between_updates_end_as_if_undisturbed(two, tiny_student, tmp_path):
    assert [int(p.name.split("-")[1]) for p in complete_checkpoints(two / "killed").values()] == [4, 6]
    for name in ("log.jsonl", "rollouts.jsonl"):
        assert (two / "killed" / name).read_text() == (two / "whole" / name).read_text()
    whole, killed = left(two / "whole")["weights"], left(two / "killed")["weights"]
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
    assert any(not torch.equal(value, left(two / "killed", 4)["weights"][name]) for name, value in whole.items())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_sharded_model_learns_what_a_whole_one_does(two, tiny_student, tmp_path, kind):
    """The one under LoRA was killed on its way, and computes its activations twice."""
    model, _ = alone(tiny_student, tmp_path, kind, steps=4)
    sharded = left(two / f"fsdp-{kind}")["weights"]
    for name, value in model.state_dict().items():
        assert torch.allclose(sharded[name], value, atol=1e-3), name
    losses = [[line["ce"] for line in log_of(folder)] for folder in (two / f"fsdp-{kind}", tmp_path)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_sharded_model_goes_on_where_it_was(two):
    whole, killed = (left(two / name)["weights"] for name in ("fsdp-full", "fsdp-killed"))
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_a_sharded_model_is_saved_whole(two, tiny_student):
    full, adapter = (two / name / "checkpoint-4" for name in ("fsdp-full", "fsdp-lora"))
    assert not list(full.glob("pytorch_model*")) and not list(adapter.glob("pytorch_model*"))
    config = json.loads((full / "config.json").read_text())
    assert config["architectures"] == ["Qwen2AudioForConditionalGeneration"]
    model = open_model(tiny_student, "student").model
    restore(model, full)
    weights = left(two / "fsdp-full")["weights"]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    saved = load_file(adapter / "adapter_model.safetensors")
    inside = {name.replace(".default.", "."): v for name, v in left(two / "fsdp-lora")["weights"].items()}
    assert len(saved) > 10 and all(torch.equal(value, inside[name]) for name, value in saved.items())


def test_a_whole_stage_in_shards_leaves_a_model_that_can_be_asked(two, tiny_student, tmp_path):
    """Every process hears its own clips: keeping what the encoder makes of them would need all processes at once."""
    train(stage_job(tiny_student, tmp_path))
    ours, theirs = (load_file(place / "final" / "adapter_model.safetensors") for place in (two / "stage", tmp_path))
    assert all(torch.allclose(ours[name], value, atol=1e-4) for name, value in theirs.items())
    names = [sorted(p.name for p in (place / "final").iterdir()) for place in (two / "stage", tmp_path)]
    assert set(names[1]) - set(names[0]) <= {"README.md"} and set(names[0]) <= set(names[1])
    spec = Model(kind="local", name=str(tiny_student), adapter=str(two / "stage" / "final"))
    local = connect(spec, "student")
    assert local.trained_prompt == "direct"


def test_fsdp_that_does_not_shard_is_refused_in_every_process(two):
    assert ["not sharded" in (two / f"refused-{rank}").read_text() for rank in (0, 1)] == [True, True]
    assert not (two / "not-sharded" / "log.jsonl").exists()


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """A finished run in one process."""
    from earwitness.driver import drive

    root = tmp_path_factory.mktemp("one")
    drive(CONFIG, root, quiet=True)
    return root / CONFIG.name


@pytest.fixture
def owed(one_run, tmp_path):
    """A copy of a run whose practice is owed, and the command that goes on with it in two processes."""
    but = shutil.ignore_patterns("grpo-*", "answer-*", "grade-*")
    run = shutil.copytree(one_run, tmp_path / CONFIG.name, ignore=but)
    config = worlds.save(CONFIG, tmp_path / "small.toml")
    return run, ["run", config, "--root", tmp_path, "train.processes=2"]


def test_a_run_in_two_processes_learns_what_one_does(one_run, owed):
    run, command = owed
    done = worlds.call(*command)
    assert done.returncode == 0, done.stderr
    assert "training sft" not in done.stderr  # it was done
    assert "training grpo of practised, seed 1: 3 steps in 2 processes" in done.stderr
    assert "grpo of practised, seed 1: 3/3" in done.stderr
    as_one_does(run, one_run)


@pytest.mark.slow
def test_killed_in_its_processes_a_run_leaves_none_of_them_and_ends_as_if_undisturbed(one_run, owed):
    run, command = owed
    process = worlds.start(*command)
    started = until(process, run, "checkpoints/grpo-*/checkpoint-2/complete.json")
    worlds.kill_driver(process)
    assert len(started) >= 3  # the launcher, and two processes of it
    assert gone(started)
    done = worlds.call(*command)
    assert done.returncode == 0, done.stderr
    as_one_does(run, one_run)


def as_one_does(run: Path, one_run: Path) -> None:
    """Assert that a run made the tables of another, and very nearly its weights."""
    assert not list(run.glob("checkpoints/*/launch.log"))
    ours, theirs = (next(place.glob("checkpoints/grpo-*")) for place in (run, one_run))
    assert ours.name == theirs.name
    made = [load_file(place / "final" / "model.safetensors") for place in (ours, theirs)]
    assert all(torch.allclose(made[0][name], value, atol=2e-4) for name, value in made[1].items())
    assert [line["reward"] for line in log_of(ours)] == [line["reward"] for line in log_of(theirs)]
    tables = [{p.parent.name for p in place.glob("*/done.json")} for place in (run, one_run)]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_an_interrupted_run_ends_what_it_started(owed):
    run, command = owed
    process = worlds.start(*command)
    started = until(process, run, "checkpoints/grpo-*/log.jsonl")
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "nothing that was finished is lost" in said
    assert started and gone(started)


def until(process: subprocess.Popen, run: Path, sign: str) -> set[int]:
    """Wait for a file of a run; return every process that its driver has started by then."""
    started: set[int] = set()
    try:
        while not list(run.glob(sign)):
            assert process.poll() is None, process.communicate()
            started |= descendants(process.pid)
            time.sleep(0.05)
    except BaseException:
        worlds.kill_group(process)
        raise
    return started


def descendants(number: int) -> set[int]:
    """The processes that descend from one, by /proc."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(place.parent.name)] = int(place.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    found, grown = {number}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found - {number}


def gone(numbers: set[int], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(alive(number) for number in numbers):
            return True
        time.sleep(0.05)
    return False


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
