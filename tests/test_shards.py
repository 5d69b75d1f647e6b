"""Shards: who makes which block, what is taken over from whom, and how a run is not cut in two ways at once."""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import worlds
from earwitness.cli import main
from earwitness.disk import write_once
from earwitness.driver import _make_shard, drive
from earwitness.run import DamagedTable, Failed, Run, RunError, RunLocked, StaleRow
from test_table import IDENTITY, Counting, fill, folder_of, make, questions, rows_of, sources

# -- one stage --------------------------------------------------------------------------------------------------------


def fill_shard(root, n, number, count, function=make, chosen=None, salt="", **options):
    """Fill a shard's part of `n` questions, of which `chosen` are asked about, in blocks of 8."""
    with Run.open(root, "r", (number, count)) as run:
        mine = run.share(questions(n), 8)
        asked = [q for q in mine if chosen is None or q.id in chosen]
        run.agree(count, str(n))
        return run.table("sample", IDENTITY).fill(asked, sources(asked, salt), function, block=8, among=mine, **options)


def torn(root, part, lines):
    """Leave of a shard's rows so many lines, half a line more, and no word that they are finished."""
    path = folder_of(root) / f"rows.{part}.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:lines]) + whole[lines][:20])
    (folder_of(root) / f"done.{part}.json").unlink()


def test_an_unfinished_shard_is_taken_over_in_whole_blocks(tmp_path):
    fill_shard(tmp_path, 40, 1, 2)  # blocks 0, 2, 4
    torn(tmp_path, "1-of-2", 21)  # blocks 0 and 2, and the better part of 4
    count = Counting()
    fill(tmp_path, 40, count)
    assert count.ids == [f"world/{i}" for i in (*range(8, 16), *range(24, 40))]
    fill(tmp_path / "calm", 40)
    assert rows_of(tmp_path) == rows_of(tmp_path / "calm")


def test_a_finished_shard_is_taken_over_row_by_row(tmp_path):
    """A longer list later, cut otherwise: the last block of the shorter one is not made again to be whole."""
    for root, cuts in ((tmp_path / "calm", ()), (tmp_path, (2, 3))):
        for n, count in zip((20, 40), cuts or (0, 0), strict=True):
            made = Counting()
            for number in range(1, count + 1):
                fill_shard(root, n, number, count, made)
            fill(root, n, made)
            assert made.ids and len(made.ids) == 20
    assert rows_of(tmp_path) == rows_of(tmp_path / "calm")


@pytest.mark.parametrize("merged", [False, True])
def test_cut_otherwise_after_a_first_attempt_nothing_is_lost(tmp_path, merged):
    for number in (1, 2):
        fill_shard(tmp_path, 44, number, 2)
    torn(tmp_path, "2-of-2", 8)  # block 1, and not 3
    if merged:
        fill(tmp_path, 44)
    else:
        Run.open(tmp_path, "r").close()  # a driver that has seen that no shard is at work
    count = Counting()
    for number in (1, 2, 3):
        fill_shard(tmp_path, 44, number, 3, count)
    assert count.ids == ([] if merged else [f"world/{i}" for i in (*range(24, 32), *range(40, 44))])
    fill(tmp_path, 44, count)
    fill(tmp_path / "calm", 44)
    assert rows_of(tmp_path) == rows_of(tmp_path / "calm")
    assert len(count.ids) == (0 if merged else 12)


def test_shards_of_a_chosen_part_make_the_blocks_of_one_process(tmp_path):
    """A silent failure: with a block per 8 of the chosen, a shard's blocks would not be those of the whole list."""
    chosen = {f"world/{i}" for i in range(60) if i % 3}
    for number in (1, 2, 3):
        fill_shard(tmp_path / "cut", 60, number, 3, chosen=chosen)
    asked = [q for q in questions(60) if q.id in chosen]
    for root in ("whole", "cut"):
        with Run.open(tmp_path / root, "r") as run:
            table = run.table("sample", IDENTITY)
            table.fill(asked, sources(asked), make, block=8, among=questions(60))
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert rows_of(tmp_path / "whole").count(b"\n") == 40


def test_stale_rows_of_a_shard_are_named_and_never_made_again_in_silence(tmp_path):
    for number in (1, 2):
        fill_shard(tmp_path, 16, number, 2, salt="an older clip" if number == 2 else "")
    with pytest.raises(
        StaleRow, match=r"row 'world/8' in \S+ was made from other inputs .*8 such rows of 16.*--redo stale"
    ):
        fill(tmp_path, 16)
    count = Counting()
    fill(tmp_path, 16, count, redo="stale")
    assert count.ids == [f"world/{i}" for i in range(8, 16)]


def test_only_the_failed_rows_of_a_shard_are_made_again(tmp_path):
    def fail_one(block):
        return [Failed("no reply") if q.id == "world/3" else row for q, row in zip(block, make(block), strict=True)]

    fill_shard(tmp_path, 16, 1, 1, fail_one)
    count = Counting()
    rows = fill(tmp_path, 16, count, redo="failed")
    assert count.ids == ["world/3"] and all(row.error is None for row in rows.values())


def test_a_shard_does_not_read_what_the_others_are_writing(tmp_path):
    fill_shard(tmp_path, 16, 1, 2)
    table = folder_of(tmp_path) / "rows.1-of-2.jsonl"
    table.write_bytes(b"\0" * 64 + b"\n" + table.read_bytes())  # as another machine may see what is being appended
    fill_shard(tmp_path, 16, 2, 2)
    with pytest.raises(DamagedTable, match=r"rows.1-of-2.jsonl, line 1: not a row"):
        fill(tmp_path, 16)


# -- how a run is cut ------------------------------------------------------------------------------------------------


def test_a_shard_of_another_cut_or_another_list_is_refused(tmp_path):
    fill_shard(tmp_path, 44, 1, 2)
    with pytest.raises(RunError, match=r"run r is cut into 2 shards \(\S+shards.json\), not 3: go on with those"):
        fill_shard(tmp_path, 44, 1, 3)
    with pytest.raises(RunError, match=r"of another list of questions.*earwitness run.* without --shard"):
        fill_shard(tmp_path, 60, 2, 2)
    fill_shard(tmp_path, 44, 2, 2)
    fill(tmp_path, 44)
    fill_shard(tmp_path, 60, 1, 3)


def test_of_many_that_write_at_the_same_time_one_writes(tmp_path):
    start = threading.Barrier(8)

    def write(number):
        start.wait()
        return write_once(tmp_path / "cut.json", {"by": number})

    for _ in range(20):
        with ThreadPoolExecutor(8) as threads:
            wrote = list(threads.map(write, range(8)))
        assert sum(wrote) == 1
        assert json.loads((tmp_path / "cut.json").read_text()) == {"by": wrote.index(True)}
        (tmp_path / "cut.json").unlink()
    assert not list(tmp_path.iterdir())


def test_a_driver_lends_its_run_to_shards_and_takes_it_back(tmp_path):
    with Run.open(tmp_path, "r") as run:
        with pytest.raises(RunLocked, match="is being driven by process"):
            Run.open(tmp_path, "r", (1, 2))
        words = run.lend(2, "44")
        assert words and words == Run.lender(tmp_path, "r")
        fill_shard(tmp_path, 44, 1, 2)
        with pytest.raises(RunError, match="not 3"):
            fill_shard(tmp_path, 44, 1, 3)
        with pytest.raises(RunLocked, match=r"process \d+ on host"):
            Run.open(tmp_path, "r")
        shard = Run.open(tmp_path, "r", (2, 2))
        with pytest.raises(RunLocked, match=r"process \d+ on host .*shard 2-of-2"):
            run.take_back(0.2)
        run._lock("lock", 1)  # as before the attempt
        threading.Timer(0.5, shard.close).start()
        run.take_back(20.0)
        with pytest.raises(RunLocked):
            Run.open(tmp_path, "r", (1, 2))
    assert not (tmp_path / "r" / "shards.json").exists()


def test_shards_that_are_about_to_end_are_waited_for_and_a_living_driver_is_not(tmp_path):
    shard = Run.open(tmp_path, "r", (1, 2))
    threading.Timer(0.5, shard.close).start()
    with Run.open(tmp_path, "r", patience=20.0):
        begin = time.monotonic()
        with pytest.raises(RunLocked):
            Run.open(tmp_path, "r", patience=20.0)
        assert time.monotonic() - begin < 10


def test_a_machine_that_does_not_see_the_runs_folder_is_refused(tmp_path):
    """A silent failure: the shard would make a folder of the same name on its own disk, and nobody would look there."""
    config = worlds.world_config(pool="ray", shards=2)
    with Run.open(tmp_path / "here", config.name) as run:
        words = run.lend(2, "the questions")
        for elsewhere in ("nowhere", "there"):
            with pytest.raises(
                RunError, match=r"does not see the run's folder \S+small: --root must be a folder that all"
            ):
                _make_shard(config, tmp_path / elsewhere, words, None, None, 1)
            assert not (tmp_path / "nowhere").exists()
            Run.open(tmp_path / "there", config.name).close()  # a run of the same name, of an earlier day
            (tmp_path / "there" / "small" / "lock.driver").write_text("process 7 on host here since 1999-12-31")


# -- whole stages ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A configuration of all data stages with three blocks of questions, one of which fails, and its rows."""
    root = tmp_path_factory.mktemp("described")
    (root / "odd").mkdir()
    odd = {"id": "odd", "media": "gone.mp4", "question": "is the dog heard ?", "choices": ["yes", "no"]}
    (root / "odd" / "questions.jsonl").write_text(json.dumps(odd) + "\n")
    config = worlds.world_config(
        questions={"train": [f"folder:{root / 'odd'}", "world:train"], "limit": 70},
        sample={"traces": 1, "max_tokens": 40},
        describe={"max_tokens": 48},
        models=worlds.MODELS,
        arms={"layers": [{"stage": "distil", "lessons": "labels"}]},
    )
    drive(config, root / "alone", until="describe", quiet=True)
    rows = worlds.made(root / "alone" / "small")
    assert {name.split("-")[0] for name in rows} == {"sample", "vote", "verify", "select", "describe"}
    learnt = next(rows[name].count(b"\n") for name in rows if name.startswith("describe"))
    assert 32 < learnt < 71, "describe is to be about a part of the questions, and more than a block"
    assert all(b"gone.mp4" in rows[name] for name in rows if not name.startswith("describe"))
    return config, worlds.save(config, root / "small.toml"), rows


@pytest.mark.parametrize("count", [1, 3])
def test_shards_of_all_data_stages_are_merged_to_the_bytes_of_one_process(described, tmp_path, count):
    config, _, rows = described
    for number in range(count, 0, -1):
        drive(config, tmp_path, "describe", shard=(number, count), quiet=True)
    before = {p: p.read_bytes() for p in tmp_path.glob("small/*/rows.*-of-*.jsonl")}
    drive(config, tmp_path, until="describe", quiet=True)
    assert worlds.made(tmp_path / "small") == rows
    assert {p: p.read_bytes() for p in before} == before


def test_a_shard_that_was_killed_goes_on_with_other_workers(described, tmp_path, capsys):
    config, file, rows = described
    command = ["run", file, "--root", tmp_path, "--until", "describe", "--shard"]
    process = worlds.start(*command, "1/2")
    deadline = time.monotonic() + 120
    while not [p for p in tmp_path.glob("small/sample-*/rows.1-of-2.jsonl") if b"\n" in p.read_bytes()]:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    worlds.kill_driver(process)
    assert worlds.group_ends(process.pid)
    (table,) = tmp_path.glob("small/sample-*/rows.1-of-2.jsonl")
    killed = table.read_bytes()
    with table.open("ab") as torn_line:
        torn_line.write(b'{"id": "world/train/6')
    assert main(["show", str(tmp_path / "small")]) == 0
    assert f"{table.parent.name:26}      0 of 2 shards done" in capsys.readouterr().out
    other = worlds.start(*command, "2/2")
    try:
        again = worlds.call(*command, "1/2", "train.parallel=2")
        _, said = other.communicate(timeout=300)
    finally:
        worlds.kill_group(other)
    assert again.returncode == other.returncode == 0, again.stderr + said
    assert table.read_bytes().startswith(killed)
    drive(config, tmp_path, until="describe", quiet=True)
    assert worlds.made(tmp_path / "small") == rows


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, said",
    [
        (["shards=4"], "shards is 4, and pool is local: on one machine train.parallel workers share the blocks"),
        (["pool=ray"], "pool is ray, and shards is 0: say into how many parts"),
        (["pool=ray", "shards=4"], 'pool is ray, which is not installed; `pip install "earwitness[ray]"`'),
    ],
)
def test_a_pool_that_cannot_be_is_refused_before_anything_is_spent(settings, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    config = worlds.save(worlds.world_config(), tmp_path / "small.toml")
    for command in ("run", "check"):
        assert main([command, str(config), "--root", str(tmp_path), *settings]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def test_without_a_cluster_at_the_address_the_run_says_so(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    config = worlds.save(worlds.world_config(pool="ray", shards=2), tmp_path / "small.toml")
    assert main(["run", str(config), "--root", str(tmp_path)]) == 2
    assert "no Ray cluster answers at 127.0.0.1:1, which RAY_ADDRESS names" in capsys.readouterr().err
