"""Runs on real files, with real drivers that die."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from earwitness.run import Failed, Run, RunError, RunLocked, row_source, write_json
from earwitness.table import Noted
from earwitness.workers import Workers
from test_table import IDENTITY, Counting, fill, folder_of, make, questions, rows_of, sources

# -- processes -------------------------------------------------------------------------------------------------------

DRIVER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_table

log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def slow(block):
    os.write(log, (" ".join(q.id for q in block) + "\\n").encode())
    time.sleep({pause})
    return test_table.make(block)

test_table.fill(Path({root!r}), {n}, slow)
"""


def driver(root, log, n, pause):
    text = DRIVER.format(tests=str(Path(__file__).parent), log=str(log), root=str(root), n=n, pause=pause)
    return subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE)


def wait_for(path, lines):
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, "the driver does not get on"
        time.sleep(0.002)


def test_killed_at_random_moments_the_rows_are_those_of_an_undisturbed_run(tmp_path):
    n, kills, log, dice = 96, 8, tmp_path / "log", random.Random(7)
    fill(tmp_path / "calm", n)
    whole = rows_of(tmp_path / "calm")
    for _ in range(kills):
        begun = log.read_bytes().count(b"\n") if log.exists() else 0
        process = driver(tmp_path, log, n, 0.02)
        wait_for(log, begun + 1)
        time.sleep(dice.uniform(0.0, 0.04))
        complete = rows_of(tmp_path).count(b"\n")
        process.kill()
        process.wait()
        assert whole.startswith(rows_of(tmp_path))
        assert rows_of(tmp_path).count(b"\n") >= complete
    process = driver(tmp_path, log, n, 0.0)
    assert process.wait() == 0
    assert rows_of(tmp_path) == whole
    blocks = log.read_text().splitlines()
    assert len(set(blocks)) == n / 8, "a block was made in parts"
    assert len(blocks) <= n / 8 + kills, "a block that was complete was made again"


def test_a_second_driver_stops_and_names_the_first_and_a_dead_one_needs_no_hand(tmp_path):
    log = tmp_path / "log"
    process = driver(tmp_path, log, 8, 60)
    wait_for(log, 1)
    with pytest.raises(RunLocked, match=rf"run r is being driven by process {process.pid} on host \S+ since .*--root"):
        Run.open(tmp_path, "r")
    assert Run.read(tmp_path, "r").path == tmp_path / "r"
    second = driver(tmp_path, log, 8, 60)
    assert f"process {process.pid}" in second.communicate()[1].decode()
    process.kill()
    process.wait()
    with Run.open(tmp_path, "r"):
        pass


def test_shards_work_side_by_side_and_a_whole_driver_takes_their_rows_over(tmp_path):
    asked = questions(44)
    with Run.open(tmp_path, "r", (1, 2)) as one, Run.open(tmp_path, "r", (2, 2)) as two:
        for run in (one, two):
            mine = run.share(asked, 8)
            run.table("sample", IDENTITY).fill(mine, sources(mine), make, block=8)
            with run.timed("sample"):
                pass
        with pytest.raises(RunLocked, match=r"process \d+ on host .*shard 1-of-2"):
            Run.open(tmp_path, "r")
        with pytest.raises(RunLocked, match="shard 2-of-2"):
            Run.open(tmp_path, "r", (2, 2))
        assert sorted(q.id for run in (one, two) for q in run.share(asked, 8)) == sorted(q.id for q in asked)
    assert rows_of(tmp_path) == b"" if (folder_of(tmp_path) / "rows.jsonl").exists() else True
    assert len(Run.read(tmp_path, "r").table("sample", IDENTITY).read(q.id for q in asked)) == 44
    count = Counting()
    fill(tmp_path, 44, count)
    assert count.ids == []
    fill(tmp_path / "calm", 44)
    assert rows_of(tmp_path) == rows_of(tmp_path / "calm")
    with Run.open(tmp_path, "r"), pytest.raises(RunLocked):
        Run.open(tmp_path, "r", (1, 2))


def test_a_note_stays_with_its_row_also_when_a_shard_made_it(tmp_path):
    def note_the_second(block):
        return [
            Noted(made, "a part") if q.id == "world/1" else made for q, made in zip(block, make(block), strict=True)
        ]

    asked = questions(8)
    with Run.open(tmp_path, "r", (1, 1)) as run:
        run.table("sample", IDENTITY).fill(asked, sources(asked), note_the_second, block=8)
    taken = fill(tmp_path, 8, Counting())
    assert {i: row.note for i, row in taken.items() if row.note} == {"world/1": "a part"}
    assert fill(tmp_path / "calm", 8, note_the_second) == fill(tmp_path / "calm", 8) == taken
    assert rows_of(tmp_path) == rows_of(tmp_path / "calm")
    keys = [list(json.loads(line)) for line in rows_of(tmp_path).splitlines()]
    assert keys == [["id", "from", "out", *(["note"] if n == 1 else [])] for n in range(8)]


def test_failed_rows_of_a_shard_are_not_taken_over_when_they_are_to_be_made_again(tmp_path):
    asked = questions(8)
    with Run.open(tmp_path, "r", (1, 1)) as run:
        table = run.table("sample", IDENTITY)
        table.fill(asked, sources(asked), lambda block: [Failed("no reply") for _ in block], block=8)
    assert all(row.error is None for row in fill(tmp_path, 8, redo="failed").values())


# -- the run's other files -------------------------------------------------------------------------------------------


def test_reading_names_what_is_missing(tmp_path):
    fill(tmp_path, 3)
    run = Run.read(tmp_path, "r")
    assert list(run.table("sample", IDENTITY).read(["world/2", "world/0"])) == ["world/2", "world/0"]
    with pytest.raises(RunError, match=r"stage sample has no row for 'world/8' \(1 of 2"):
        run.table("sample", IDENTITY).read(["world/1", "world/8"])
    with pytest.raises(RunError, match="stage vote has no row"):
        run.table("vote", {}).read(["world/1"])
    assert not list((tmp_path / "r").glob("vote-*"))
    with pytest.raises(RunError, match=r"no run 'q' under .*; there: r"):
        Run.read(tmp_path, "q")
    with pytest.raises(RunError, match="without slashes"):
        Run.open(tmp_path, "../r")


def test_reading_beside_a_driver_leaves_a_torn_line_alone(tmp_path):
    fill(tmp_path, 5)
    path = folder_of(tmp_path) / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    assert len(Run.read(tmp_path, "r").table("sample", IDENTITY).read(f"world/{i}" for i in range(4))) == 4
    assert path.read_bytes().endswith(b'"t"')


def test_a_training_stage_is_finished_when_it_says_so(tmp_path):
    with Run.open(tmp_path, "r") as run:
        folder = run.folder("sft", {"steps": 3})
        assert folder.parent == tmp_path / "r" / "checkpoints"
        assert run.finished(folder) is None
        run.finish(folder, {"steps": 3, "loss": 0.5})
        assert run.finished(folder) == {"steps": 3, "loss": 0.5}
        run.save_config("name = 'r'\n")
    assert (tmp_path / "r" / "config.toml").read_text() == "name = 'r'\n"
    assert (folder / "done.json").read_text() == '{\n "loss": 0.5,\n "steps": 3\n}\n'


def old(path, text, age=60):
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)


def test_digests_are_remembered_and_follow_the_content(tmp_path):
    weights = tmp_path / "model"
    weights.mkdir()
    old(weights / "a.safetensors", "one")
    old(weights / "b.safetensors", "two")
    with Run.open(tmp_path, "r") as run:
        first = run.digests.of_folder(weights, ["*.safetensors"])
        old(weights / "notes.txt", "not weights")
        assert run.digests.of_folder(weights, ["*.safetensors"]) == first
        assert run.digests.of(weights / "a.safetensors") == (
            "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
        )
    saved = json.loads((tmp_path / "r" / "digests.json").read_text())
    assert len(saved) == 2
    # The cache is really asked: a planted digest comes back while path, size and time agree, and not after a change.
    key = str((weights / "a.safetensors").resolve())
    saved[key][2] = "planted"
    write_json(tmp_path / "r" / "digests.json", saved)
    with Run.open(tmp_path, "r") as run:
        assert run.digests.of(weights / "a.safetensors") == "planted"
        old(weights / "a.safetensors", "uno", age=30)
        assert run.digests.of(weights / "a.safetensors") != "planted"
        assert run.digests.of_folder(weights, ["*.safetensors"]) != first
        (weights / "b.safetensors").rename(weights / "c.safetensors")
        old(weights / "a.safetensors", "one")
        assert run.digests.of_folder(weights, ["*.safetensors"]) != first
        with pytest.raises(RunError, match=r"no file named like \*.bin"):
            run.digests.of_folder(weights, ["*.bin"])
        with pytest.raises(RunError, match="wav cannot be read"):
            run.digests.of(weights / "missing.wav")


def test_a_file_rewritten_in_the_same_tick_is_read_again(tmp_path):
    tick = time.time_ns()
    with Run.open(tmp_path, "r") as run:
        path = tmp_path / "clip.wav"
        seen = set()
        for text in ("one", "two", "six"):
            path.write_text(text)
            os.utime(path, ns=(tick, tick))
            seen.add(run.digests.of(path))
        assert len(seen) == 3


def test_timings_add_up_over_sittings(tmp_path):
    for _ in range(2):
        with Run.open(tmp_path, "r") as run, run.timed("sample"):
            time.sleep(0.02)
    assert 0.04 <= Run.read(tmp_path, "r").timings["sample"] < 5


def test_write_json_leaves_the_old_file_when_the_value_is_bad(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": "ü"})
    assert (tmp_path / "x.json").read_text() == '{\n "a": "ü",\n "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_row_source_tells_parts_and_order_apart():
    assert row_source("ab", "c") != row_source("a", "bc")
    assert row_source({"a": 1, "b": 2}) == row_source({"b": 2, "a": 1})
    assert len(row_source(None)) == 32


def test_two_tables_are_filled_from_threads_without_mixing(tmp_path):
    asked = questions(40)
    with Run.open(tmp_path, "r") as run:
        tables = [run.table("answer", {"arm": arm}) for arm in range(3)]
        threads = [threading.Thread(target=t.fill, args=(asked, sources(asked), make)) for t in tables]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({table.path.read_bytes() for table in tables}) == 1


def test_a_table_filled_by_workers_equals_one_filled_here(tmp_path):
    with Workers(2) as workers:
        fill(tmp_path / "two", 40, over=workers.map)
    with Workers(1) as workers:
        fill(tmp_path / "one", 40, over=workers.map)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
