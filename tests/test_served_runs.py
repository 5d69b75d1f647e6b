"""Whole runs whose models stand behind a server: the same rows through every fault and kill, each answer paid once."""

from __future__ import annotations

import json
import sqlite3
import time

import pytest

import worlds
from earwitness.cli import main
from earwitness.config import ConfigError, RunConfig
from earwitness.driver import drive
from earwitness.models.served import engine
from earwitness.models.served.call import ServerError
from earwitness.models.served.purse import BudgetReached
from faults import faulty
from servers import get

FAULTS = {"wait": 0.03, "busy": 0.02, "error": 0.03, "hang": 0.01, "malformed": 0.01, "cut": 0.01, "reset": 0.01}
VARIABLE = "EARWITNESS_TEST_KEY"
KEY = "sk-this-must-be-nowhere-0123456789"


def served_config(url: str, limit: int = 8, **sections) -> RunConfig:
    """A small run whose teacher and checker are asked of a server."""
    asked = {"kind": "served", "manner": "world", "base_url": f"{url}/v1", "timeout": 20.0, "concurrency": 8}
    models = {role: asked | {"name": role} for role in ("teacher", "checker")}
    models = {role: spec | sections.pop(role, {}) for role, spec in models.items()}
    models["student"] = {"kind": "world", "name": "student"}
    return worlds.world_config(models=models, questions={"limit": limit}, **sections)


def rows_of(run, stage: str) -> bytes:
    (path,) = run.glob(f"{stage}-*/rows.jsonl")
    return path.read_bytes()


def attempts(run) -> dict[str, int]:
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        return dict(ledger.execute("SELECT outcome, count(*) FROM attempts GROUP BY outcome"))


def answers(run) -> int:
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        return ledger.execute("SELECT count(*) FROM answers").fetchone()[0]


@pytest.fixture(scope="module")
def undisturbed(world_server, tmp_path_factory):
    """A run up to its lessons, with nothing in its way."""
    root = tmp_path_factory.mktemp("undisturbed")
    drive(served_config(world_server), root, until="select", quiet=True)
    return root / "small"


def test_a_served_checker_gives_the_verdicts_of_the_same_model_in_process(undisturbed, world_server, tmp_path):
    """Both judge the same traces: those that the served teacher wrote, put in the place of the local one's."""
    config = served_config(world_server)
    local = config.model_copy(update={"models": config.models | {"checker": worlds.world_config().models["checker"]}})
    (tmp_path / "small").mkdir()
    for name in ("ledger.sqlite", "ledger.sqlite-wal"):
        if (undisturbed / name).exists():
            (tmp_path / "small" / name).write_bytes((undisturbed / name).read_bytes())
    drive(local, tmp_path, until="verify", quiet=True)
    assert rows_of(tmp_path / "small", "sample") == rows_of(undisturbed, "sample")
    pairs = zip(
        rows_of(tmp_path / "small", "verify").splitlines(), rows_of(undisturbed, "verify").splitlines(), strict=True
    )
    seen = 0
    for here, there in ((json.loads(a)["out"], json.loads(b)["out"]) for a, b in pairs):
        assert [v["accepted"] for v in here] == [v["accepted"] for v in there]
        for mine, theirs in zip(here, there, strict=True):
            for a, b in zip(mine["claims"], theirs["claims"], strict=True):
                assert (a["text"], a["heard"]) == (b["text"], b["heard"])
                assert a["score"] == pytest.approx(b["score"], abs=2e-3)
                seen += 1
    assert seen > 10


def test_rows_are_the_same_through_every_fault(undisturbed, world_server, tmp_path):
    with faulty(world_server, seed=3, **FAULTS) as url:
        drive(served_config(url, teacher={"timeout": 5.0}, checker={"timeout": 5.0}), tmp_path, "select", quiet=True)
        done = get(f"{url}/faults")[1]["done"]
    assert sum(n for kind, n in done.items() if kind in FAULTS) > 0, "no fault came: the test tells nothing"
    for stage in ("sample", "verify", "select"):
        assert rows_of(tmp_path / "small", stage) == rows_of(undisturbed, stage)
    assert answers(tmp_path / "small") == answers(undisturbed), "an answer is kept once"


def test_a_run_that_was_killed_pays_again_at_most_for_what_was_under_way(undisturbed, world_server, tmp_path):
    with faulty(world_server) as url:
        config = worlds.save(served_config(url), tmp_path / "served.toml")
        for wait in (1.5, 3.0):
            process = worlds.start("run", config, "--root", tmp_path / "runs", "--until", "select")
            deadline = time.monotonic() + 60
            while not (tmp_path / "runs/small/ledger.sqlite").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(wait)
            worlds.kill_driver(process)
            worlds.kill_group(process)
        assert worlds.call("run", config, "--root", tmp_path / "runs", "--until", "select").returncode == 0
        came = get(f"{url}/faults")[1]["answered"]
    run = tmp_path / "runs" / "small"
    for stage in ("sample", "verify", "select"):
        assert rows_of(run, stage) == rows_of(undisturbed, stage)
    probes = 2 + 3 * 10  # a run that is started again tests its servers again
    again = sum(n - 1 for n in came.values())
    assert again <= 2 * 2 * 8 + probes, "two kills, two servers, eight requests under way at each"
    assert answers(run) == answers(undisturbed)


def test_what_a_run_was_answered_another_one_does_not_ask(undisturbed, tmp_path):
    """Nobody listens at the second run's address, and it is under another name, with other limits."""
    (tmp_path / "first").symlink_to(undisturbed)
    config = served_config("http://127.0.0.1:9", name="second", checker={"requests_per_minute": 7})
    drive(config, tmp_path, until="select", quiet=True)
    for stage in ("sample", "verify", "select"):
        assert rows_of(tmp_path / "second", stage) == rows_of(undisturbed, stage)


def test_a_key_is_in_no_artifact_of_a_run(world_server, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(VARIABLE, KEY)
    keyed = {"api_key_env": VARIABLE}
    config = served_config(world_server, 2, teacher=keyed, checker=keyed, arms={"label": worlds.ARMS["label"]})
    drive(config, tmp_path)
    broken = served_config(world_server, 2, name="broken", teacher=keyed | {"name": "nobody"}, checker=keyed)
    with pytest.raises(ServerError) as error:
        drive(broken, tmp_path)
    told = "".join(capfd.readouterr()) + str(error.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert VARIABLE in (tmp_path / "small" / "config.toml").read_text()
    assert KEY not in told
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_key_that_is_not_there_is_named_before_anything_is_spent(world_server, tmp_path):
    with pytest.raises(ConfigError, match=f"environment variable {VARIABLE}, which is not set"):
        drive(served_config(world_server, teacher={"api_key_env": VARIABLE}), tmp_path, quiet=True)
    assert not (tmp_path / "small").exists()


def test_a_password_in_an_address_is_written_nowhere(tmp_path):
    """The resolved configuration is kept in the run's folder: the address is refused before it is."""
    config = served_config("http://user:hunter2-hunter2@127.0.0.1:9")
    with pytest.raises(ServerError, match="leave the password out") as refused:
        drive(config, tmp_path, until="sample", quiet=True)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "hunter2" not in str(refused.value) and b"hunter2" not in written


def test_a_budget_stops_a_run_and_a_larger_one_goes_on(undisturbed, world_server, tmp_path):
    with pytest.raises(BudgetReached, match="of 2500 tokens are used"):
        drive(served_config(world_server, budget={"tokens": 2500}), tmp_path, until="select", quiet=True)
    paid = answers(tmp_path / "small")
    assert 0 < paid < answers(undisturbed)
    drive(served_config(world_server, budget={"tokens": 3_000_000}), tmp_path, until="select", quiet=True)
    assert rows_of(tmp_path / "small", "select") == rows_of(undisturbed, "select")
    assert answers(tmp_path / "small") == answers(undisturbed)
    assert set(attempts(tmp_path / "small")) == {"answered"}


def test_a_greedy_server_is_refused_before_it_fakes_unanimity(world_server, tmp_path):
    with faulty(world_server, equal=1.0) as url, pytest.raises(ServerError, match="samples are all the same"):
        drive(served_config(url), tmp_path, until="select", quiet=True)
    assert not list((tmp_path / "small").glob("sample-*/rows.jsonl")) or not rows_of(tmp_path / "small", "sample")


def test_nobody_at_the_address_ends_the_run_and_fails_no_question(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine, "NOBODY", 0.5)
    config = worlds.save(served_config("http://127.0.0.1:9"), tmp_path / "c.toml")
    assert main(["run", str(config), "--root", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err
    assert "nobody answers at 127.0.0.1:9" in told and "the same command continues" in told
    assert "Traceback" not in told
    (rows,) = (tmp_path / "runs").glob("small/sample-*/rows.jsonl")
    assert rows.stat().st_size == 0
