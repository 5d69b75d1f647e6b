"""What may be trained together, by name; and processes that end with whoever started them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import worlds
from earwitness import preflight
from earwitness.config import ConfigError, Grpo, Model, Sft
from earwitness.launcher import Launcher, find_launcher, launch, launch_command, launcher_around, read_launcher
from earwitness.preflight import refuse
from earwitness.stages.training import TrainingJob, train
from earwitness.table import RunError

LAUNCHERS = Path(__file__).parent.parent / "launchers"
SFT = {"tuned": [{"stage": "sft", "lessons": "all"}]}
PARENT = """
import subprocess, sys, time
child = "import os, sys, time; sys.path.insert(0, sys.argv[1]); from earwitness.launcher import hold_lifeline; "
child += "hold_lifeline(); print(os.getpid(), flush=True); time.sleep(60)"
children = [subprocess.Popen([sys.executable, "-c", child, ""], start_new_session=True) for _ in range(2)]
sys.exit(max(c.wait() for c in children))
"""


def config(file: Path | None = None, **sections):
    train = {"processes": 2, "launcher": str(file or LAUNCHERS / "ddp.yaml")} | sections.pop("train", {})
    return worlds.world_config(train=train, **{"arms": SFT, **sections})


def written(folder: Path, text: str, name: str = "accelerate.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def with_gpus(monkeypatch, count: int) -> None:
    monkeypatch.setattr(preflight, "has_gpu", lambda: count > 0)
    monkeypatch.setattr(preflight, "_gpus", lambda: count)


def test_the_launchers_that_ship_are_read_as_what_they_are():
    found = {file.stem: read_launcher(file) for file in LAUNCHERS.glob("*.yaml")}
    assert {name: (one.kind, one.shards, one.precision) for name, one in found.items()} == {
        "ddp": ("data parallel", False, "no"),
        "fsdp2": ("FSDP", True, "no"),
        "deepspeed-zero2": ("DeepSpeed", False, "no"),
        "deepspeed-zero3": ("DeepSpeed", True, "no"),
    }
    for name in ("deepspeed-zero2", "deepspeed-zero3"):
        assert "UNTESTED" in (LAUNCHERS / f"{name}.yaml").read_text()


def test_the_users_own_accelerate_config_is_honoured(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert find_launcher("") == Launcher()
    (tmp_path / "accelerate").mkdir()
    text = "distributed_type: MULTI_GPU\nnum_processes: 2\nmain_process_port: 29501\nmixed_precision: bf16\n"
    file = written(tmp_path / "accelerate", text, "default_config.yaml")
    found = find_launcher("")
    assert found == Launcher(file=file, processes=2, port=29501, precision="bf16")
    assert launch_command(found, 2, ["train"])[3:] == ["--config_file", str(file), "--module", "earwitness", "train"]
    assert launch_command(found, 4, [])[5:7] == ["--num_processes", "4"]  # the one thing that does not fit


def test_without_an_accelerate_config_the_defaults_are_spelled_out():
    command = launch_command(Launcher(), 2, ["train", "x.toml"])
    assert command[1:4] == ["-m", "accelerate.commands.launch", "--multi_gpu"]
    assert command[-8:] == [
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "--module",
        "earwitness",
        "train",
        "x.toml",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distributed_type: 'NO'\nnum_processes: 1\n", "starts one process: name another accelerate config"),
        ("distributed_type: MULTI_CPU\nnum_processes: 2\n", "starts one process"),
        ("distributed_type: MEGATRON_LM\n", "a distributed_type that is not known here"),
        ("distributed_type: MULTI_GPU\nparallelism_config: {tp_size: 2}\n", "asks for parallelism_config"),
        ("distributed_type: MULTI_GPU\ndynamo_config: {dynamo_backend: INDUCTOR}\n", "asks for dynamo_config"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2\n", "is for 2 machines, which are not started from here"),
        ("distributed_type: MULTI_GPU\nmixed_precision: fp16\n", "mixed_precision fp16: only bf16"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}\n", "set fsdp_version: 2 and fsdp_state_dict_type"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 3}\n", "DeepSpeed, which is not installed; `pip"),
        ("distributed_type: [", "cannot be read"),
        ("just words", "is not an accelerate config"),
    ],
)
def test_what_a_launcher_may_not_ask_for(tmp_path, text, said):
    file = written(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as error:
        refuse(config(file))
    assert str(file) in str(error.value)


def test_fsdp_without_gpus_is_refused_before_anything_is_spent():
    with pytest.raises(ConfigError, match=r"fsdp2\.yaml asks for FSDP, and this machine has no GPU"):
        refuse(config(LAUNCHERS / "fsdp2.yaml"))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"arms": worlds.ARMS}, "arms.practised, step 2: grpo samples in the processes that train, and under FSDP"),
        (
            {"sft": {"candidates": 2}, "questions": {"choose": ["world:validation"]}},
            "candidates are compared by letting",
        ),
        ({"sft": {"tuning": "qlora"}}, "tuning is qlora, which is not known to work under FSDP"),
        ({"sft": {"batch": 1}}, "a step of 1 cannot be shared by 2 processes"),
        ({"models": {"student": {"kind": "world", "name": "student", "device": "cuda:0"}}}, "device is cuda:0"),
        ({"train": {"processes": 3}}, "train.processes is 3, and this machine has 2 GPUs"),
    ],
)
def test_what_fsdp_cannot_be_combined_with(monkeypatch, sections, said):
    with_gpus(monkeypatch, 2)
    refuse(config(LAUNCHERS / "fsdp2.yaml"))
    if "models" in sections:
        sections = {"models": config().model_dump(mode="json")["models"] | sections["models"]}
    with pytest.raises(ConfigError, match=said):
        refuse(config(LAUNCHERS / "fsdp2.yaml", **sections))


def test_data_parallel_practice_and_candidates_are_not_refused():
    refuse(config(arms=worlds.ARMS, sft={"candidates": 2}))


def test_the_launcher_around_a_process_is_held_to_the_same_table(monkeypatch):
    assert launcher_around() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launcher_around() == Launcher(processes=2, around=True)
    refuse(config(arms=worlds.ARMS), launcher=launcher_around())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with_gpus(monkeypatch, 2)
    around = launcher_around()
    assert around is not None and around.shards
    refuse(config(), launcher=around)
    with pytest.raises(ConfigError, match="grpo samples in the processes that train"):
        refuse(config(arms=worlds.ARMS), launcher=around)
    with pytest.raises(ConfigError, match="set fsdp_version: 2"):
        refuse(config(), launcher=replace(around, state_dict="SHARDED_STATE_DICT"))


def test_qlora_needs_a_gpu():
    with pytest.raises(ConfigError, match=r"arms\.tuned, step 1: tuning is qlora, which needs a CUDA GPU"):
        refuse(config(train={"processes": 1}, sft={"tuning": "qlora"}))


def test_a_tracker_that_is_not_there_is_refused_with_what_installs_it(monkeypatch):
    with pytest.raises(ConfigError, match=r"there is no tracker 'tensorbord'; known: clearml, .*tensorboard"):
        refuse(config(train={"trackers": "tensorbord"}))
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"train.trackers: wandb is not installed; `pip install wandb`"):
        refuse(config(train={"trackers": ["wandb"]}))


def test_the_words_of_processes_that_fail_are_those_of_the_error(tmp_path):
    script = (
        "import sys; print('noise'); print('earwitness: the disk is full:\\n  make room', file=sys.stderr); sys.exit(2)"
    )
    with pytest.raises(RunError, match=r"^the disk is full:\n  make room$"):
        launch([sys.executable, "-c", script], tmp_path)
    assert "noise" in (tmp_path / "launch.log").read_text()
    with pytest.raises(
        RunError, match=r"exit code 1; all of their output is in .*launch.log:\n(.*\n)*ZeroDivisionError"
    ):
        launch([sys.executable, "-c", "1 / 0"], tmp_path)
    launch([sys.executable, "-c", "print('well')"], tmp_path)
    assert not (tmp_path / "launch.log").exists()


def test_whatever_ends_the_launch_ends_all_processes(tmp_path):
    """Also grandchildren in sessions of their own, which no signal of ours reaches."""
    numbers: list[int] = []

    def watch():
        numbers[:] = [int(line) for line in (tmp_path / "launch.log").read_text().split()]
        if len(numbers) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch([sys.executable, "-c", PARENT], tmp_path, watch)
    assert len(numbers) == 2 and ended(numbers)


def test_a_starter_that_is_killed_takes_its_processes_with_it(tmp_path):
    script = "import sys; from pathlib import Path; from earwitness.launcher import launch; "
    script += "launch([sys.executable, '-c', sys.argv[2]], Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), PARENT])
    numbers: list[int] = []
    while len(numbers) < 2:
        assert process.poll() is None
        time.sleep(0.02)
        file = tmp_path / "launch.log"
        numbers = [int(line) for line in file.read_text().split()] if file.is_file() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ended(numbers)


def ended(numbers: list[int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_alive(number) for number in numbers):
            return True
        time.sleep(0.02)
    return False


def _alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("settings", [Sft(batch=4), Grpo(batch=4, tuning="lora", micro_batch=2)])
def test_a_memory_that_is_too_small_is_an_error_that_says_what_to_lower(tmp_path, monkeypatch, settings):
    import torch

    stage = "grpo" if isinstance(settings, Grpo) else "sft"
    where = f"earwitness.stages.{stage}." + ("practise" if stage == "grpo" else "learn_lessons")
    monkeypatch.setattr(where, lambda job: torch.empty(2**60))  # more than any machine has
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "complete.json").write_text("{}")
    job = TrainingJob(stage, settings, Model(kind="world", name="student"), None, (), 1, tmp_path, "key")
    with pytest.raises(RunError) as error:
        train(job)
    said = str(error.value)
    ways = {
        "sft": "lower sft.micro_batch (it is 0, all 4), set sft.activation_checkpointing = true, "
        'set sft.tuning = "lora"',
        "grpo": "lower grpo.micro_batch (it is 2), set grpo.activation_checkpointing = true, lower grpo.group (8) or "
        "grpo.max_tokens (1024)",
    }
    assert said.startswith(f"{stage} does not fit into memory: {ways[stage]}. The same command goes on from step 3")
    assert [file.name for file in (tmp_path / "checkpoint-3").iterdir()] == ["complete.json"]
