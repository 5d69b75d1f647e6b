"""The shards of a run on a Ray cluster of this machine: whole runs, dead workers, a dead driver, other folders."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import worlds
from earwitness.config import RunConfig
from earwitness.driver import drive
from earwitness.pool import STORE, hand_out
from earwitness.run import RunError, StaleRow
from earwitness.terminal import ProgressLine

# Read when ray is first imported. Without a token Ray writes one into the home folder.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
pytest.importorskip("ray")

SMALL = {
    "questions": {"limit": 70},
    "sample": {"traces": 1, "max_tokens": 48},
    "train": {"parallel": 2},
    "exams": {"limit": 8},
}
ARMS = {"base": [], "label": worlds.ARMS["label"]}


@pytest.fixture(autouse=True)
def _on_this_machine(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def ray_config(shards=3, **sections):
    return worlds.world_config(**{**SMALL, "arms": ARMS, **sections}, pool="ray", shards=shards)


def started(parent: int) -> list[int]:
    """Every living process that a process has started, and those have."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rsplit(")", 1)[1].split()
            if fields[0] != "Z":
                parents[int(entry.parent.name)] = int(fields[1])
    found, new = [], [parent]
    while new:
        new = [pid for pid, its in parents.items() if its in new]
        found += new
    return found


def alive(pids: list[int]) -> list[int]:
    living = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                living.append(pid)
    return living


def ends(pids: list[int], seconds: float = 30.0) -> bool:
    """Whether processes end by themselves; those that do not are killed."""
    deadline = time.monotonic() + seconds
    while left := alive(pids):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.1)
    return True


def wait_for(condition, process, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.stderr.read() if process.stderr else "it ended too soon"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def at_work(run: Path) -> dict[str, int]:
    """The shards that hold their lock, with their processes."""
    words = {file.name: file.read_text() for file in run.glob("lock.*-of-*")}
    pids = {name: int(found[1]) for name, text in words.items() if (found := re.match(r"process (\d+) on", text))}
    return {name: pid for name, pid in pids.items() if alive([pid])}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What a run leaves that one process has made to its end, without Ray."""
    root = tmp_path_factory.mktemp("alone")
    config = worlds.save(ray_config(), root / "small.toml")
    done = worlds.call("run", config, "--root", root, "pool=local", "shards=0", "train.parallel=1")
    assert done.returncode == 0, done.stderr
    return worlds.made(root / "small")


def test_a_few_questions_on_ray_are_those_of_one_process_and_nothing_is_left_running(tmp_path):
    few = {"questions": {"limit": 34}, "sample": {"traces": 1, "max_tokens": 12, "frames": 2}}
    config = worlds.save(ray_config(2, **few), tmp_path / "ray.toml")
    command = ["run", config, "--until", "select", "--root"]
    process = worlds.start(*command, tmp_path / "ray")
    try:
        seen = wait_for(lambda: at_work(tmp_path / "ray" / "small") and started(process.pid), process)
        _, said = process.communicate(timeout=300)
    finally:
        worlds.kill_group(process)
    assert process.returncode == 0, said
    assert "Ray on this machine has 2 CPUs and 0 GPUs" in said
    assert "shards: 2/2" in said and "sample: 34/34" in said
    assert ends(seen), "Ray was left running"
    assert RunConfig.load(tmp_path / "ray" / "small" / "config.toml") == RunConfig.load(config)
    assert not (tmp_path / "ray" / "small" / "shards.json").exists()
    assert len(list(tmp_path.glob("ray/small/sample-*/done.*-of-2.json"))) == 2
    drive(RunConfig.load(config, ["pool=local", "shards=0"]), tmp_path / "alone", until="select", quiet=True)
    assert worlds.made(tmp_path / "ray" / "small") == worlds.made(tmp_path / "alone" / "small")


def note(folder, number):
    import torch

    words = [os.environ["OMP_NUM_THREADS"], str(torch.get_num_threads()), str(Path.cwd())]
    (folder / str(number)).write_text(" ".join(words))


def die(folder, number):
    with (folder / f"deaths of {number}").open("a") as file:
        file.write("again\n")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def refuse(number):
    raise StaleRow(f"row {number} is stale")


def stumble(_):
    raise ZeroDivisionError("a mistake of ours")


def test_what_becomes_of_shards_is_told(tmp_path, monkeypatch, capsys):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where workers find this file
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=STORE)
    try:
        hand_out(partial(note, tmp_path), 3, 2, True, None)
        assert {(tmp_path / str(n)).read_text() for n in (1, 2, 3)} == {f"1 1 {Path.cwd()}"}
        monkeypatch.setattr("earwitness.pool.DEATHS", 1)
        with pytest.raises(RunError, match=r"shard 2 of 2 has lost 2 workers, which is too many: The worker died"):
            hand_out(partial(die, tmp_path), 2, 2, False, ProgressLine())
        assert (tmp_path / "deaths of 2").read_text().count("again") == 2
        told = capsys.readouterr().err
        assert "shard 2 of 2 has lost its worker, and goes on in another one (1 of 1 times)" in told
        with pytest.raises(RunError, match=r"^shard 1 of 1: row 1 is stale$"):
            hand_out(refuse, 1, 2, False, None)
        with pytest.raises(ZeroDivisionError, match=r"in stumble(.|\n)*a mistake of ours"):
            hand_out(stumble, 1, 2, False, None)
        with monkeypatch.context() as other:
            other.setattr("earwitness.pool.__version__", "9.0")
            with pytest.raises(RunError, match=r"^shard 1 of 1: \S+ has earwitness 0\S+, and the driver 9.0: install"):
                hand_out(refuse, 1, 2, False, None)
        monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "only here")
        with pytest.raises(RunError, match=r"shard 1 of 1: \S+ has no folder \S+only here .*where the run was started"):
            hand_out(refuse, 1, 2, False, None)
        assert ray.is_initialized()  # it was joined before
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_with_a_worker_and_then_the_driver_killed_a_run_ends_as_one_process_does(alone, tmp_path, seed):
    dice, run = random.Random(seed), tmp_path / "small"
    config = worlds.save(ray_config(), tmp_path / "small.toml")
    process = worlds.start("run", config, "--root", tmp_path, "train.parallel=2")
    try:
        wait_for(lambda: any(b"\n" in p.read_bytes() for p in run.glob("sample-*/rows.*-of-3.jsonl")), process)
        time.sleep(dice.uniform(0, 1))
        victim, pid = dice.choice(sorted(wait_for(lambda: at_work(run), process).items()))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: at_work(run).get(victim) not in (None, pid), process)
        time.sleep(dice.uniform(0, 1))
        seen = started(process.pid)
        worlds.kill_driver(process)
        said = process.stderr.read()
    finally:
        worlds.kill_group(process)
    assert "has lost its worker, and goes on in another one (1 of 5 times)" in said
    assert "shards: 3/3" not in said, "the driver was killed too late"
    before = {p: p.read_bytes() for p in run.glob("*/rows*.jsonl")}
    settings = ["train.parallel=1", f"shards={2 + seed}"]  # the same cut, and another
    again = worlds.call("run", config, "--root", tmp_path, *settings)  # at once: the old shards may be about to end
    assert again.returncode == 0, again.stderr
    assert "Ray on this machine has 1 CPUs" in again.stderr
    assert all(p.read_bytes().startswith(rows[: rows.rfind(b"\n") + 1]) for p, rows in before.items())
    assert ends(seen, 150), "what the killed driver had started was left running"  # Ray's agents take their time
    assert worlds.made(run) == alone


@pytest.mark.slow
def test_on_a_cluster_that_outlives_the_driver_its_shards_end_with_it(alone, tmp_path, monkeypatch):
    run, port = tmp_path / "small", free_port()
    config = worlds.save(ray_config(), tmp_path / "small.toml")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    quiet = ["--include-dashboard=false", "--object-store-memory=100000000", "--disable-usage-stats"]
    cluster = subprocess.Popen([*ray, *quiet], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        wait_for(lambda: answers(port), cluster)
        process = worlds.start("run", config, "--root", tmp_path)
        try:
            wait_for(lambda: at_work(run), process)
            shards = list(at_work(run).values())
            worlds.kill_driver(process)
        finally:
            worlds.kill_group(process)
        again = worlds.call("run", config, "--root", tmp_path)  # at once
        assert again.returncode == 0, again.stderr
        assert f"Ray at 127.0.0.1:{port} has 2 CPUs" in again.stderr
        assert not alive(shards)
        assert worlds.made(run) == alone
    finally:
        seen = started(cluster.pid)
        cluster.terminate()
        cluster.wait(30)
        assert ends(seen), "the test's own cluster was left running"
