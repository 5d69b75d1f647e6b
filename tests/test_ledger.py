"""What was paid for is kept: through kills, torn files, and beside ledgers that are damaged or somebody else's."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.ledger import Attempt, Ledger, Spent, Usage, call_key, spent
from earwitness.run import RunError

ATTEMPT = Attempt("qwen@main", "localhost:8000", "answered", 0.25, Usage(10, 5, 2, 4), usd=0.5)


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "mine" / "ledger.sqlite")
    yield made
    made.close()


def fill(path: Path, **answers: str) -> Path:
    ledger = Ledger(path)
    ledger.record(ATTEMPT, {key: {"text": text} for key, text in answers.items()}).result()
    ledger.close()
    return path


def test_answers_are_there_after_closing_and_the_first_one_stands(tmp_path):
    path = fill(tmp_path / "a.sqlite", k="one")
    again = Ledger(path)
    again.record(ATTEMPT, {"k": {"text": "another"}, "l": {"text": "two"}}).result()
    assert again.answered(["k", "l", "m"]) == {"k": {"text": "one"}, "l": {"text": "two"}}
    again.close()
    with pytest.raises(RunError, match="closed"):
        again.record(ATTEMPT, {})


def test_thousands_of_keys_are_looked_up_at_once(ledger):
    answers = {call_key(n=n): {"n": n} for n in range(5000)}
    ledger.record(ATTEMPT, answers).result()
    assert ledger.answered([*answers, "unknown"]) == answers


def test_other_runs_answers_are_found_and_their_ledgers_left_as_they_are(tmp_path):
    other = fill(tmp_path / "other" / "ledger.sqlite", k="theirs", both="theirs")
    before = other.read_bytes()
    mine = Ledger(tmp_path / "mine" / "ledger.sqlite", [other, tmp_path / "mine" / "ledger.sqlite"])
    mine.record(ATTEMPT, {"both": {"text": "mine"}}).result()
    assert mine.answered(["k", "both"]) == {"k": {"text": "theirs"}, "both": {"text": "mine"}}
    mine.close()
    assert other.read_bytes() == before
    assert not mine.notes


def test_answers_of_a_run_under_way_are_found(tmp_path, ledger):
    ledger.record(ATTEMPT, {"k": {"text": "now"}}).result()
    second = Ledger(tmp_path / "second.sqlite", [ledger.path])
    ledger.record(ATTEMPT, {"l": {"text": "later"}}).result()
    assert set(second.answered(["k", "l"])) == {"k", "l"}
    second.close()


def test_what_is_forgotten_is_asked_anew_and_its_cost_stays(tmp_path):
    for run, key in (("one", "a"), ("two", "b")):
        made = Ledger(tmp_path / run / "ledger.sqlite")
        made.record(ATTEMPT, {key: {"refused": "no"}, f"{key}-good": {"text": "refused"}}).result()
        made.close()
    keys = ["a", "a-good", "b", "b-good"]
    ledger = Ledger(tmp_path / "one" / "ledger.sqlite", tmp_path.glob("*/ledger.sqlite"))
    assert set(ledger.answered(keys)) == set(keys)
    ledger.forget(lambda answer: "refused" in answer)
    assert set(ledger.answered(keys)) == {"a-good", "b-good"}
    ledger.record(ATTEMPT, {"a": {"text": "now"}, "b": {"refused": "still"}}).result()
    assert ledger.answered(["a", "b"]) == {"a": {"text": "now"}, "b": {"refused": "still"}}, (
        "asked once more, not twice"
    )
    ledger.close()
    assert spent([ledger.path]).tokens == 2 * spent([tmp_path / "two" / "ledger.sqlite"]).tokens > 0


def test_damaged_and_foreign_ledgers_are_left_out_and_named(tmp_path):
    good = fill(tmp_path / "good" / "ledger.sqlite", **{f"k{n}": "x" * 500 for n in range(60)})
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(good.read_bytes()[:8192] + b"\xff" * (good.stat().st_size - 8192))
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"not a database" * 100)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE answers (key, answer, attempt)")
    connection.close()
    before = [path.read_bytes() for path in (damaged, garbage, foreign)]
    mine = Ledger(tmp_path / "mine.sqlite", [damaged, garbage, foreign, tmp_path / "missing.sqlite", good])
    assert len(mine.answered([f"k{n}" for n in range(60)])) == 60
    mine.close()
    for path in (damaged, garbage, foreign, tmp_path / "missing.sqlite"):
        assert any(str(path) in note for note in mine.notes)
    assert [path.read_bytes() for path in (damaged, garbage, foreign)] == before
    for path in (garbage, foreign):
        with pytest.raises(RunError, match=r"cannot be used|not a ledger"):
            Ledger(path)
    assert [path.read_bytes() for path in (damaged, garbage, foreign)] == before


def test_of_very_many_ledgers_the_nearest_and_latest_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("earwitness.ledger.OTHERS", 3)
    others = [fill(tmp_path / str(n) / "ledger.sqlite", **{f"k{n}": "x"}) for n in range(4)]
    for age, path in enumerate(others):
        os.utime(path, (10**9 - age, 10**9 - age))
    shard = fill(tmp_path / "mine" / "ledger.1-of-2.sqlite", s="x")
    os.utime(shard, (1, 1))
    mine = Ledger(tmp_path / "mine" / "ledger.sqlite", [*others, shard])
    assert set(mine.answered(["k0", "k1", "k2", "k3", "s"])) == {"s", "k0", "k1"}
    assert mine.notes == ["of 5 other ledgers the 3 latest are read"]
    mine.close()


def test_another_format_is_refused(tmp_path):
    path = fill(tmp_path / "a.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(RunError, match="format 99"):
        Ledger(path)


def test_a_ledger_that_is_only_just_made_costs_nothing_yet(tmp_path):
    (tmp_path / "new.sqlite").touch()
    assert spent([tmp_path / "new.sqlite"]) == Spent()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.37, 0.5, 0.93, 0.9999])
def test_a_torn_log_loses_no_integrity(tmp_path, ledger, share):
    for n in range(40):
        ledger.record(ATTEMPT, {f"k{n}": {"text": "x" * 300}}).result()
    torn = tmp_path / "torn.sqlite"
    shutil.copy(ledger.path, torn)
    log = Path(f"{ledger.path}-wal").read_bytes()
    Path(f"{torn}-wal").write_bytes(log[: int(share * len(log))])
    opened = Ledger(torn)
    known = opened.answered([f"k{n}" for n in range(40)])
    assert set(known) == {f"k{n}" for n in range(len(known))}  # a beginning of what was written
    opened.record(ATTEMPT, {"new": {}}).result()
    opened.close()
    with sqlite3.connect(torn) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_full_disk_is_told_to_whoever_waits(ledger):
    ledger._writer_side.execute("PRAGMA max_page_count=8")
    futures = [ledger.record(ATTEMPT, {f"k{n}": {"text": "x" * 5000}}) for n in range(20)]
    with pytest.raises(RunError, match="free the disk"):
        [future.result() for future in futures]


def test_many_threads_write_and_read(ledger):
    def work(name: int) -> None:
        for n in range(50):
            ledger.record(ATTEMPT, {f"{name}-{n}": {"n": n}}).result()
            assert ledger.answered([f"{name}-{n}"]) == {f"{name}-{n}": {"n": n}}

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.answered([f"{name}-{n}" for name in range(8) for n in range(50)])) == 400
    assert spent([ledger.path]) == Spent(8 * 50 * 15, 8 * 50 * 0.5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(parts=st.dictionaries(st.text("abc", min_size=1), JSON, max_size=4))
def test_a_key_is_a_function_of_what_the_parts_say(parts):
    key = call_key(**parts)
    assert len(key) == 40
    assert call_key(**dict(reversed(parts.items()))) == key
    assert call_key(**json.loads(json.dumps(parts))) == key
    assert call_key(**parts, more=1) != key


def test_a_shards_ledger_is_read_beside_its_writer_without_a_log_of_one_machine(tmp_path):
    mine = Ledger(tmp_path / "ledger.1-of-2.sqlite", shared=True)
    mine.record(ATTEMPT, {"k": {"text": "x"}}).result()
    other = Ledger(tmp_path / "ledger.2-of-2.sqlite", [mine.path], shared=True)
    try:
        assert other.answered(["k"]) == {"k": {"text": "x"}}
        mine.record(ATTEMPT, {"l": {"text": "y"}}).result()
        assert other.answered(["l"]) == {"l": {"text": "y"}}
        assert spent([mine.path]).tokens == 30
        assert not list(tmp_path.glob("*-wal")) and not list(tmp_path.glob("*-shm"))
    finally:
        mine.close()
        other.close()


def test_a_shard_passes_over_a_log_that_another_machine_may_have_open(tmp_path, ledger):
    ledger.record(ATTEMPT, {"k": {"text": "x"}}).result()
    shard = Ledger(tmp_path / "shard" / "ledger.1-of-2.sqlite", [ledger.path], shared=True)
    try:
        assert shard.answered(["k"]) == {} and "perhaps another machine" in shard.notes[0]
    finally:
        shard.close()


HALF_WRITTEN = """
import os, sqlite3, sys
ledger = sqlite3.connect(sys.argv[1])
ledger.execute("PRAGMA cache_size=1")
for n in range(2000):
    ledger.execute("INSERT INTO answers VALUES (?, ?, 1)", (f"torn{n}", "x" * 500))
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_shard_left_half_written_is_no_answer(tmp_path):
    path = tmp_path / "ledger.1-of-2.sqlite"
    shard = Ledger(path, shared=True)
    shard.record(ATTEMPT, {"k": {"text": "x"}}).result()
    shard.close()
    subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(path)], check=False)
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0, "the kill left nothing half-written"
    assert spent([path]) == Spent(15, 0.5)
    reader = Ledger(tmp_path / "ledger.2-of-2.sqlite", [path], shared=True)
    try:
        assert reader.answered(["k", "torn0"]) == {"k": {"text": "x"}} and not reader.notes
    finally:
        reader.close()
