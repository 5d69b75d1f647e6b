"""Tables on real files: resume, growth, failed and stale rows, damage, a full disk."""

import json
import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from earwitness.records import Clip, Question, Trace
from earwitness.run import DamagedTable, Failed, Run, RunError, StaleRow, row_source
from earwitness.terminal import Progress

IDENTITY = {"temperature": 0.7, "prompt": "Bitte, höre"}


def questions(n):
    return [Question(id=f"world/{i}", clip=Clip(id=f"c{i}", media="world:easy:1"), text="What?") for i in range(n)]


def sources(asked, salt=""):
    return {q.id: row_source(q.model_dump(mode="json"), salt) for q in asked}


def make(block):
    # What is made depends on the whole block, as a batched forward pass does: a block made in parts would show.
    company = " ".join(q.id for q in block)
    return [
        [Trace(index=0, raw=f"{q.id} ü\u2028 {company}", think=None, answer="a", finish="stop", by="t")] for q in block
    ]


class Counting:
    def __init__(self, inner=make):
        self.inner, self.ids = inner, []

    def __call__(self, block):
        self.ids += [q.id for q in block]
        return self.inner(block)


def fill(root, n, function=make, salt="", **options):
    asked = questions(n)
    with Run.open(root, "r") as run:
        return run.table("sample", IDENTITY).fill(asked, sources(asked, salt), function, block=8, **options)


def folder_of(root):
    (folder,) = (root / "r").glob("sample-*")
    return folder


def rows_of(root):
    return (folder_of(root) / "rows.jsonl").read_bytes()


def done_of(root):
    return json.loads((folder_of(root) / "done.json").read_text())


# -- what is written -------------------------------------------------------------------------------------------------


def test_rows_are_one_json_line_each_in_order_and_settings_are_beside_them(tmp_path):
    rows = fill(tmp_path, 20)
    lines = rows_of(tmp_path).decode().split("\n")[:-1]
    assert [json.loads(line)["id"] for line in lines] == [q.id for q in questions(20)] == list(rows)
    assert all(list(json.loads(line)) == ["id", "from", "out"] for line in lines)
    assert lines[3].startswith('{"id": "world/3", "from": "')
    assert json.loads((folder_of(tmp_path) / "settings.json").read_text()) == IDENTITY
    assert done_of(tmp_path) == {"rows": 20, "failed": 0}
    assert rows["world/3"].out[0]["raw"].startswith("world/3 ü\u2028")


def test_a_second_fill_makes_nothing_and_returns_the_same(tmp_path):
    first, count = fill(tmp_path, 20), Counting()
    assert fill(tmp_path, 20, count) == first
    assert count.ids == []


def test_other_settings_get_another_folder(tmp_path):
    with Run.open(tmp_path, "r") as run:
        paths = {run.table("sample", identity).folder for identity in (IDENTITY, {"temperature": 1.0})}
        assert run.table("sample", IDENTITY) is run.table("sample", IDENTITY)
    assert len(paths) == 2


def test_a_larger_limit_only_adds_lines_and_a_smaller_one_deletes_none(tmp_path):
    fill(tmp_path, 20)
    before, count = rows_of(tmp_path), Counting()
    assert list(fill(tmp_path, 50, count)) == [q.id for q in questions(50)]
    assert rows_of(tmp_path).startswith(before)
    assert count.ids == [f"world/{i}" for i in range(20, 50)]
    after = rows_of(tmp_path)
    assert list(fill(tmp_path, 5)) == [q.id for q in questions(5)]
    assert rows_of(tmp_path) == after


def test_order_is_kept_when_later_blocks_finish_first(tmp_path):
    def slow_at_first(block):
        time.sleep(0.15 if block[0].id == "world/0" else 0.0)
        return make(block)

    with ThreadPoolExecutor(4) as pool:
        fill(tmp_path / "a", 40, slow_at_first, over=pool.map)
    fill(tmp_path / "b", 40)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_progress_counts_what_was_owed(tmp_path):
    seen = []
    fill(tmp_path, 8)
    fill(tmp_path, 20, progress=seen.append)
    assert [(p.done, p.owed, p.failed) for p in seen] == [(0, 12, 0), (8, 12, 0), (12, 12, 0)]
    assert isinstance(seen[0], Progress)
    assert seen[0].stage == "sample"


def test_equal_ids_and_short_results_are_refused(tmp_path):
    asked = questions(2)
    with Run.open(tmp_path, "r") as run:
        table = run.table("sample", IDENTITY)
        with pytest.raises(RunError, match="two questions have the id 'world/0'"):
            table.fill([*asked, asked[0]], sources(asked), make)
        with pytest.raises(RunError, match="made 1 results for a block of 2"):
            table.fill(asked, sources(asked), lambda block: make(block)[:1])
    assert rows_of(tmp_path) == b""


def test_what_make_raises_travels_and_earlier_blocks_stay(tmp_path):
    def breaks(block):
        if block[0].id == "world/16":
            raise ZeroDivisionError("in block three")
        return make(block)

    with pytest.raises(ZeroDivisionError, match="block three"):
        fill(tmp_path, 30, breaks)
    assert rows_of(tmp_path).count(b"\n") == 16
    assert not (folder_of(tmp_path) / "done.json").exists()
    count = Counting()
    fill(tmp_path, 30, count)
    assert len(count.ids) == 14


# -- failed and stale rows -------------------------------------------------------------------------------------------


def test_failed_rows_say_why_stay_and_are_made_again_on_request(tmp_path):
    def sometimes(block):
        made = make(block)
        return [
            Failed("no reply \udc80") if q.id in ("world/3", "world/9") else m for q, m in zip(block, made, strict=True)
        ]

    rows = fill(tmp_path, 20, sometimes)
    assert rows["world/3"].error == "no reply \udc80"
    assert rows["world/3"].out == []
    assert done_of(tmp_path) == {"rows": 20, "failed": 2}
    count = Counting()
    assert fill(tmp_path, 20, count) == rows
    assert count.ids == []
    healed = fill(tmp_path, 20, count, redo="failed")
    assert count.ids == ["world/3", "world/9"]
    assert all(row.error is None for row in healed.values())
    assert list(healed) == list(rows)
    assert done_of(tmp_path) == {"rows": 20, "failed": 0}
    assert rows_of(tmp_path).count(b"\n") == 20


def test_stale_rows_are_named_and_never_reused(tmp_path):
    fill(tmp_path, 20)
    before = rows_of(tmp_path)
    asked = questions(20)
    changed = sources(asked) | {q.id: "0" * 32 for q in asked[4:7]}
    with Run.open(tmp_path, "r") as run:
        table = run.table("sample", IDENTITY)
        with pytest.raises(StaleRow, match=r"'world/4'.*3 such rows.*--redo stale"):
            table.fill(asked, changed, make, block=8)
        with pytest.raises(StaleRow):
            table.fill(asked, changed, make, block=8, redo="failed")
        assert rows_of(tmp_path) == before
        count = Counting()
        rows = table.fill(asked, changed, count, block=8, redo="stale")
    assert count.ids == ["world/4", "world/5", "world/6"]
    assert {i: row.source for i, row in rows.items()} == changed
    lines = rows_of(tmp_path).split(b"\n")
    assert lines[:4] == before.split(b"\n")[:4]
    assert len(lines) == 21
    assert not list(folder_of(tmp_path).glob(".*"))


def test_a_redo_that_is_interrupted_goes_on_where_it_was(tmp_path):
    fill(tmp_path, 20)
    asked = questions(20)
    changed = sources(asked) | dict.fromkeys(("world/1", "world/9", "world/10"), "0" * 32)

    def breaks(block):
        if block[0].id == "world/9":
            raise ZeroDivisionError
        return make(block)

    with Run.open(tmp_path, "r") as run:
        with pytest.raises(ZeroDivisionError):
            run.table("sample", IDENTITY).fill(asked, changed, breaks, block=8, redo="stale")
        count = Counting()
        rows = run.table("sample", IDENTITY).fill(asked, changed, count, block=8)
    assert count.ids == ["world/9", "world/10"]
    assert {i: row.source for i, row in rows.items()} == changed


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_torn_at_every_byte_of_the_last_three_lines(tmp_path, finished):
    def brief(block):  # short lines, which still show how many questions were made together
        return [Failed(str(len(block))) for _ in block]

    fill(tmp_path, 20, brief)
    whole, folder = rows_of(tmp_path), folder_of(tmp_path)
    assert finished or (folder / "done.json").unlink() is None
    lines = whole.splitlines(keepends=True)
    asked = questions(20)
    made_from = sources(asked)
    done = (folder / "done.json").read_bytes() if finished else None
    for size in range(sum(map(len, lines[:17])), len(whole)):
        (folder / "rows.jsonl").write_bytes(whole[:size])
        if done:
            (folder / "done.json").write_bytes(done)
        else:
            (folder / "done.json").unlink(missing_ok=True)
        count = Counting(brief)
        with Run.open(tmp_path, "r") as run:
            run.table("sample", IDENTITY).fill(asked, made_from, count, block=8)
        assert rows_of(tmp_path) == whole, size
        assert count.ids == [q.id for q in asked[16:]], size


def test_a_torn_block_of_an_unfinished_larger_limit_spares_the_finished_rows(tmp_path):
    fill(tmp_path / "calm", 12)
    fill(tmp_path / "calm", 30)
    fill(tmp_path, 12)
    finished = (folder_of(tmp_path) / "done.json").read_bytes()
    fill(tmp_path, 30)
    folder = folder_of(tmp_path)
    lines = rows_of(tmp_path).splitlines(keepends=True)
    for keep in range(12, 30):
        (folder / "rows.jsonl").write_bytes(b"".join(lines[:keep]) + lines[keep][:9])
        (folder / "done.json").write_bytes(finished)
        fill(tmp_path, 30)
        assert rows_of(tmp_path) == rows_of(tmp_path / "calm"), keep


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b"\x00\x00", b'{"id": 1, "from": "x", "out": []}', b'{"id": "x"}', b"\xff"]
)
def test_a_damaged_line_in_the_middle_is_refused_with_its_place(tmp_path, damage):
    fill(tmp_path, 5)
    path = folder_of(tmp_path) / "rows.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DamagedTable, match=r"rows.jsonl, line 3"):
        fill(tmp_path, 5)
    assert path.read_bytes() == b"\n".join(lines)


def test_a_repeated_row_is_refused_with_its_place(tmp_path):
    fill(tmp_path, 5)
    path = folder_of(tmp_path) / "rows.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().split(b"\n")[1] + b"\n")
    with pytest.raises(DamagedTable, match=r"line 6: a second row for 'world/1'"):
        fill(tmp_path, 5)


def test_a_large_table_opens_in_seconds(tmp_path):
    fill(tmp_path, 1)
    line = '{"id": "avqa/%d", "from": "%032x", "out": [{"index": 0, "raw": "' + "word " * 60 + '"}]}\n'
    with (folder_of(tmp_path) / "rows.jsonl").open("w") as file:
        file.writelines(line % (i, i) for i in range(200_000))
    start = time.process_time()
    rows = Run.read(tmp_path, "r").table("sample", IDENTITY).read(["avqa/199999"])
    assert rows["avqa/199999"].source == f"{199_999:032x}"
    assert time.process_time() - start < 10


def limited_driver(root, size):
    """Fill a table in a child whose files may not grow beyond `size` bytes, as on a full disk."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            fill(root, 40)
        except RunError as error:
            (root / "words").write_text(str(error))
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_full_disk_costs_nothing_that_was_made(tmp_path):
    fill(tmp_path / "calm", 40)
    whole = rows_of(tmp_path / "calm")
    block = len(b"".join(whole.splitlines(keepends=True)[:8]))
    assert limited_driver(tmp_path, block * 2 + 700) == 3
    words = (tmp_path / "words").read_text()
    assert "rows.jsonl could not be written" in words
    assert "make room on the disk" in words
    assert "same command continues" in words
    assert rows_of(tmp_path).count(b"\n") == 16
    assert whole.startswith(rows_of(tmp_path))
    count = Counting()
    fill(tmp_path, 40, count)
    assert rows_of(tmp_path) == whole
    assert len(count.ids) == 24
