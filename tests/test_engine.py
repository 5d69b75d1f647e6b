"""Requests over a real wire to a server with the faults of real ones: each is answered once, or its row says why."""

from __future__ import annotations

import email.utils
import random
import sqlite3
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fault_server
import worlds
from earwitness.config import Budget, Model
from earwitness.ledger import Ledger, Spent
from earwitness.media import MediaError
from earwitness.models.exchange import Unanswered
from earwitness.models.served import engine as engine_module
from earwitness.models.served.call import Call, ServerError
from earwitness.models.served.desk import Desk, current_desk, open_desk
from earwitness.models.served.endpoint import LONGEST, Bucket, Endpoint, place_of_url, retry_after
from earwitness.models.served.purse import BudgetReached, Purse
from earwitness.models.served.reply import excerpt, offered, read_reply, read_usage
from earwitness.run import RunError
from earwitness.terminal import clean
from fault_server import KEY, call, engine

FAULTS = {"429": 0.03, "429 0.05": 0.02, "500": 0.03, "hang": 0.01, "malformed": 0.02, "reset": 0.01}


@pytest.fixture(scope="module")
def running():
    server = fault_server.start()
    yield server
    server.kill()


@pytest.fixture
def server(running):
    running.plan(turns=[], shares={}, rest="ok", delay=0.0, of={})
    return running


@pytest.fixture
def other():
    server = fault_server.start()
    yield server
    server.kill()


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "ledger.sqlite")
    yield made
    made.close()


@pytest.fixture
def asking():
    """Makes engines that are closed at the end."""
    made = []

    def make(*servers, **settings):
        made.append(engine(*servers, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def fresh():
    """Texts that no other test asks."""
    start = time.time_ns()
    return lambda count: [call(f"q{start}-{n}") for n in range(count)]


def rows(ledger: Ledger, columns: str) -> list[tuple]:
    with sqlite3.connect(ledger.path) as connection:
        return connection.execute(f"SELECT {columns} FROM attempts ORDER BY id").fetchall()


def outcomes(ledger: Ledger) -> list[str]:
    return [outcome for (outcome,) in rows(ledger, "outcome")]


def right(calls, answers) -> bool:
    return [[{"text": call.what.upper()}] for call in calls] == answers


def asked_once(server, calls) -> bool:
    asked = server.told()["asked"]
    return all(asked[call.what] == 1 for call in calls)


def drill(server, engine, ledger, calls) -> None:
    """Ask under all faults at once from many threads; every answer is right, and paid for once."""
    parts = [calls[n::8] for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for part, answers in zip(parts, pool.map(engine.ask, parts), strict=True):
            assert right(part, answers)
    told, count = server.told(), Counter(outcomes(ledger))
    assert count["answered"] == len(calls)
    assert all(told["answered"][call.what] == 1 for call in calls)
    asked = sum(told["asked"][call.what] for call in calls)
    assert sum(count.values()) - count["hang"] <= asked <= sum(count.values()), (
        "a busy server may not hear all that hangs"
    )
    assert set(count) > {"429", "500", "malformed"}


def test_under_every_fault_each_item_is_answered_rightly_and_once(server, asking, ledger, fresh):
    server.plan(shares={kind: 2 * share for kind, share in FAULTS.items()})
    drill(server, asking(server, ledger=ledger, timeout=0.5, attempts=8), ledger, fresh(300))


@pytest.mark.slow
def test_four_thousand_items_under_every_fault(server, asking, ledger, fresh):
    server.plan(shares=FAULTS, delay=0.02)
    drill(server, asking(server, ledger=ledger, timeout=1.0, attempts=8), ledger, fresh(4000))


@pytest.mark.parametrize(
    "kind, outcome, charged",
    [
        ("429", "429", 0),
        ("429 0.01", "429", 0),
        ("408", "408", 0),
        ("409", "409", 0),
        ("500", "500", 0),
        ("503 0.01", "503", 0),
        ("hang", "hang", 20),
        ("drip", "hang", 20),
        ("reset", "reset", 20),
        ("cut", "cut", 20),
        ("malformed", "malformed", 20),
        ("empty", "malformed", 10),
        ("error", "malformed", 20),
    ],
)
def test_a_fault_is_a_row_and_is_asked_again(server, asking, ledger, fresh, kind, outcome, charged):
    """What may have been charged without being told counts at its most; what was told, as told."""
    server.plan(turns=[kind])
    calls, purse = fresh(1), Purse(Budget(), {})
    answers = asking(server, ledger=ledger, purse=purse, timeout=0.5).ask(calls)
    assert right(calls, answers)
    assert rows(ledger, "outcome, coalesce(prompt, 0) + coalesce(completion, 0) + untold") == [
        (outcome, charged),
        ("answered", 15),
    ]
    assert purse.spent.tokens == charged + 15


def test_after_its_attempts_a_question_is_a_row_that_says_what_was_tried(server, asking, ledger, fresh, monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    server.plan(turns=["500", "malformed", "500"])
    (given_up,) = asking(server, ledger=ledger, api_key_env="A_KEY").ask(calls := fresh(1))
    assert isinstance(given_up, Unanswered)
    said = str(given_up)
    assert said.startswith(
        f"{calls[0].what}: given up after 3 tries (500 x 2, malformed); the last: 500 from 127.0.0.1:"
    )
    assert "QUJD" not in said and "\x1b" not in said and KEY not in said and "***" in said and len(said) < 600
    assert outcomes(ledger) == ["500", "malformed", "500"]


def test_a_question_that_breaks_its_server_does_not_break_the_others(server, asking, ledger, fresh):
    calls = fresh(200)
    server.plan(of={calls[0].what: "500", calls[100].what: "error"}, delay=0.005)
    answers = asking(server, ledger=ledger, concurrency=16).ask(calls)
    poisoned = [answers.pop(100), answers.pop(0)]
    assert right([call for call in calls if call not in (calls[0], calls[100])], answers)
    assert "malformed from 127.0.0.1" in str(poisoned[0]) and "no such voice" in str(poisoned[0])
    assert "500 x 3" in str(poisoned[1])


def test_a_question_that_is_put_off_for_ever_is_a_row(server, asking, fresh, monkeypatch):
    monkeypatch.setattr(engine_module, "PATIENCE", 0.3)
    calls = fresh(40)
    server.plan(of={calls[0].what: "429 0.01"}, delay=0.05)
    put_off, *answers = asking(server, concurrency=2, attempts=1).ask(calls)
    assert right(calls[1:], answers)
    assert "429 x" in str(put_off)


def test_a_rest_between_stages_is_no_time_of_being_refused(server, asking, fresh):
    asked, calls = asking(server), fresh(3)
    assert right(calls[:1], asked.ask(calls[:1]))
    asked._served -= 10_000.0  # as if training had gone on meanwhile
    server.plan(turns=["429 0.01"])
    assert right(calls[1:], asked.ask(calls[1:]))


def test_a_server_that_refuses_everything_ends_the_run(server, asking, fresh, monkeypatch):
    monkeypatch.setattr(engine_module, "PATIENCE", 0.3)
    server.plan(rest="429 0.01")
    with pytest.raises(ServerError, match=r"has refused everything.*the same command continues"):
        asking(server, concurrency=2).ask(fresh(3))


def test_large_bodies_arrive_whole_and_warn_of_nothing(server, asking):
    text = "x" * 3_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        server.plan(turns=["500"])
        assert right([call(text)], asking(server, timeout=20).ask([call(text)]))


def test_refusals_for_haste_use_up_no_attempts(server, asking, ledger, fresh):
    server.plan(turns=["429 0.01"] * 6)
    calls = fresh(1)
    assert right(calls, asking(server, ledger=ledger, attempts=1).ask(calls))
    assert outcomes(ledger) == ["429"] * 6 + ["answered"]


@pytest.mark.parametrize("status", ["400", "413", "422"])
def test_a_request_that_a_server_cannot_take_is_asked_once(server, asking, ledger, fresh, status):
    server.plan(turns=[status])
    answers = asking(server, ledger=ledger).ask(calls := fresh(2))
    refused = [answer for answer in answers if isinstance(answer, Unanswered)]
    assert len(refused) == 1
    assert f": {status} from 127.0.0.1:" in str(refused[0])
    assert sorted(outcomes(ledger)) == [status, "answered"]
    assert asked_once(server, calls)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("401", "refuses the key in A_KEY (401)"),
        ("403", "refuses the key in A_KEY (403)"),
        ("402", "money or quota"),
        ("404", "does not know the model canned, or not this path (404)"),
        ("404", "It offers: canned, other."),
        ("redirect", "redirects (307) to http://127.0.0.1:9/v1/elsewhere?Bearer ***, which is not followed"),
    ],
)
def test_what_no_second_try_mends_ends_the_run(server, asking, ledger, fresh, monkeypatch, kind, words):
    monkeypatch.setenv("A_KEY", KEY)
    server.plan(rest=kind)
    asked = asking(server, ledger=ledger, api_key_env="A_KEY", concurrency=1)
    with pytest.raises(ServerError) as ended:
        asked.ask(fresh(20))
    assert words in str(ended.value)
    assert KEY not in str(ended.value) and "\x1b" not in str(ended.value) and "QUJD" not in str(ended.value)
    assert len(outcomes(ledger)) == 1
    with pytest.raises(ServerError):
        asked.ask(fresh(1))
    assert f"Bearer {KEY}" in server.told()["keys"]
    assert not any(KEY.encode() in file.read_bytes() for file in ledger.path.parent.iterdir())


def test_a_key_that_is_not_set_or_no_key_is_named_by_its_variable(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ServerError, match="NO_KEY"):
        engine("http://127.0.0.1:1/v1", api_key_env="NO_KEY")
    monkeypatch.setenv("NO_KEY", "two\nlines")
    with pytest.raises(ServerError, match="NO_KEY") as refused:
        engine("http://127.0.0.1:1/v1", api_key_env="NO_KEY")
    assert "lines" not in str(refused.value)


def test_a_key_that_a_server_repeats_is_kept_nowhere(server, asking, ledger, fresh, monkeypatch):
    """Its answers are made of what it was sent: here the key itself, as if it had read it."""
    monkeypatch.setenv("A_KEY", "REPEATED-KEY-1234")
    calls = [call("repeated-key-1234")]
    answers = asking(server, ledger=ledger, api_key_env="A_KEY").ask(calls)
    assert answers == [[{"text": "***"}]]
    assert not any(b"REPEATED-KEY" in file.read_bytes() for file in ledger.path.parent.iterdir())


def test_an_endless_reply_is_not_taken(server, asking, ledger, fresh):
    server.plan(turns=["huge"])
    (refused,) = asking(server, ledger=ledger, timeout=20).ask(fresh(1))
    assert "more than 32 MiB" in str(refused)
    assert outcomes(ledger) == ["too large"]


def test_no_more_requests_are_under_way_than_allowed(other, asking, fresh):
    other.plan(delay=0.01)
    calls = fresh(60)
    assert right(calls, asking(other, concurrency=3).ask(calls))
    assert other.told()["most"] == 3


def test_what_is_asked_twice_at_once_is_sent_once(server, asking, ledger, fresh):
    server.plan(delay=0.05)
    calls, asked = fresh(30), asking(server, ledger=ledger)
    with ThreadPoolExecutor(6) as pool:
        assert all(right(calls, answers) for answers in pool.map(asked.ask, [calls] * 6))
    assert right(calls * 2, asked.ask(calls * 2))
    assert asked_once(server, calls)


def test_a_clip_that_is_gone_when_its_turn_comes_is_a_row_and_costs_nothing(server, asking, ledger, fresh):
    def gone():
        raise MediaError("a clip is not there any more")

    good, other = fresh(2)
    bad = Call(("gone",), good.path, gone, good.read, 20, "bad")
    first, failed, last = asking(server, ledger=ledger).ask([good, bad, other])
    assert right([good, other], [first, last])
    assert isinstance(failed, Unanswered) and "not there any more" in str(failed)
    assert sorted(rows(ledger, "outcome, untold")) == [("answered", 0), ("answered", 0), ("unsent", 0)]


def test_whoever_still_asks_when_a_run_has_ended_is_told_so(server, tmp_path, fresh):
    """A thread that was left behind starts no engine of its own."""
    spec = Model(kind="served", name="m", base_url=(server.base_url,))
    desk = Desk(Ledger(tmp_path / "ledger.sqlite"), Purse(Budget(), {}))
    desk.close()
    with pytest.raises(ServerError, match="were stopped"):
        desk.ask(spec, fresh(1))


def test_what_is_asked_while_calls_are_made_is_sent_at_once(server, asking, fresh):
    calls = fresh(2)

    def made():
        yield calls[0]
        deadline = time.monotonic() + 20
        while not server.told()["asked"].get(calls[0].what) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.told()["asked"].get(calls[0].what), "the first call waits for the second to be made"
        yield calls[1]

    assert right(calls, asking(server).ask(made()))


def test_a_bug_in_reading_travels(server, asking, fresh):
    (good,) = fresh(1)
    bad = Call(("k",), good.path, good.body, lambda reply: [reply["nothing"]], 20, "bad")
    none = Call(("l",), good.path, good.body, lambda reply: [], 20, "none")
    asked = asking(server)
    with pytest.raises(KeyError):
        asked.ask([bad])
    single, calls = asking(server, concurrency=1), fresh(5)[1:]
    with pytest.raises(KeyError):
        single.ask([bad, *calls])  # the others are not left waiting
    assert asked_once(server, calls)
    with pytest.raises(ValueError, match="none: 0 answers"):
        asked.ask([none])
    assert right([good], asked.ask([good]))


def test_a_server_that_wants_to_be_left_alone_does_not_stop_the_other(server, other, asking, ledger, fresh):
    other.plan(rest="429 600")
    calls = fresh(200)
    assert right(calls, asking(server, other, ledger=ledger, concurrency=8).ask(calls))
    assert outcomes(ledger).count("429") <= 8


def test_a_run_is_not_kept_waiting_for_hours(server, asking, fresh):
    server.plan(rest="429 7200")
    with pytest.raises(ServerError, match=r"left alone for 120 minutes.*the same command continues"):
        asking(server).ask(fresh(5))


def kill_at_work(server) -> None:
    while len(server.told()["answered"]) < 20:
        time.sleep(0.01)
    server.kill()


def test_when_one_of_two_servers_dies_the_other_does_its_work(server, other, asking, ledger, fresh):
    server.plan(delay=0.01)
    other.plan(delay=0.01)
    calls, asked = fresh(400), asking(server, other, ledger=ledger, concurrency=8, attempts=3)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(asked.ask, calls)
        kill_at_work(other)
        assert right(calls, answers.result(60))
    places = Counter(rows(ledger, "endpoint, outcome"))
    assert places[f"127.0.0.1:{other.port}", "answered"] > 0
    assert sum(n for (place, kind), n in places.items() if kind == "gone") < 20
    assert set(outcomes(ledger)) <= {"answered", "reset", "gone", "cut"}


def test_a_server_that_is_started_again_is_found_again(asking, fresh):
    first = fault_server.start()
    first.plan(delay=0.02)
    calls, asked = fresh(200), asking(first, concurrency=4)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(asked.ask, calls)
        kill_at_work(first)
        second = fault_server.start(first.port)
        try:
            assert right(calls, answers.result(60))
        finally:
            second.kill()


def test_where_nobody_is_a_run_ends_and_no_question_fails(server, asking, ledger, fresh, monkeypatch):
    monkeypatch.setattr(engine_module, "NOBODY", 0.6)
    dead = fault_server.start()
    dead.kill()
    with pytest.raises(ServerError, match=rf"nobody answers at 127.0.0.1:{dead.port}.*the same command continues"):
        asking(dead, ledger=ledger).ask(fresh(100))
    assert set(outcomes(ledger)) == {"gone"}


def test_a_server_that_stays_broken_ends_a_run(server, asking, ledger, fresh, monkeypatch):
    monkeypatch.setattr(engine_module, "GONE", 0.8)
    calls, asked = fresh(3), asking(server, ledger=ledger, attempts=20)
    assert right(calls, asked.ask(calls))
    server.plan(rest="500")
    with pytest.raises(ServerError, match="has failed for"):
        asked.ask(fresh(50))


def test_when_the_budget_is_reached_what_is_under_way_is_kept(server, asking, ledger, fresh):
    server.plan(delay=0.02)
    calls = fresh(40)
    purse = Purse(Budget(tokens=150), {})
    with pytest.raises(BudgetReached, match=r"of 150 tokens are used.*same command continues"):
        asking(server, ledger=ledger, purse=purse, concurrency=4).ask(calls)
    assert 130 < purse.spent.tokens <= 150
    done = len(ledger.answered([key for call in calls for key in call.keys]))
    assert done == purse.spent.tokens // 15 == len(outcomes(ledger))
    larger = Purse(Budget(tokens=10_000), {}, ledger.path)
    assert right(calls, asking(server, ledger=ledger, purse=larger).ask(calls))
    assert asked_once(server, calls)
    assert larger.spent == Spent(15 * 40, 0.0)


def test_a_full_disk_ends_the_run_before_more_is_paid(server, asking, ledger):
    ledger._writer_side.execute("PRAGMA max_page_count=12")
    calls = [call(f"{'disk' * 500} {n}") for n in range(300)]
    with pytest.raises(RunError, match="free the disk"):
        asking(server, ledger=ledger, concurrency=4).ask(calls)
    assert sum(text.startswith("disk") for text in server.told()["asked"]) < 60


def test_closing_ends_whoever_waits_and_counts_what_was_under_way(server, ledger, fresh):
    server.plan(rest="hang")
    asked = engine(server, ledger=ledger, timeout=60, concurrency=2)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(asked.ask, fresh(5))
        while server.told()["kinds"].get("hang", 0) < 2:
            time.sleep(0.01)
        asked.close()
        with pytest.raises(ServerError, match="were stopped"):
            answers.result(10)
    asked.close()
    ledger.close()
    assert rows(ledger, "outcome, untold") == [("stopped", 20)] * 2


def test_what_one_run_was_answered_no_other_run_asks(server, tmp_path, fresh):
    served = {"kind": "served", "name": "canned", "base_url": [server.base_url]}
    config = worlds.world_config(models={"teacher": served})
    calls = fresh(10)
    for name, part in (("one", ""), ("two", ".1-of-2"), ("one", "")):
        with open_desk(config, tmp_path, name, part) as desk:
            assert current_desk() is desk
            assert desk.engine(config.model("teacher")) is desk.engine(config.model("teacher"))
            assert right(calls, desk.engine(config.model("teacher")).ask(calls))
        assert current_desk() is not desk
    assert asked_once(server, calls)
    assert (tmp_path / "two" / "ledger.1-of-2.sqlite").is_file()
    assert current_desk().ledger is None


CHILD = """
import sys, threading
from pathlib import Path
from earwitness.ledger import Ledger
from fault_server import call, engine
path, url, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
asked = engine(url, ledger=Ledger(path), concurrency=8, attempts=8)
def work(first):
    for n in range(first, count, 4):
        asked.ask([call(f"kill {n} {part}") for part in range(4)])
        sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
asked.close(); print("done", flush=True)
"""


def test_after_kills_nothing_acknowledged_is_lost_and_only_what_was_under_way_is_paid_again(server, tmp_path):
    server.plan(delay=0.01, shares={"500": 0.02, "429": 0.02, "reset": 0.01})
    path, dice, said, kills = tmp_path / "ledger.sqlite", random.Random(3), set(), 0
    command = [sys.executable, "-c", CHILD, str(path), server.base_url, "120"]
    for _ in range(20):
        environment = {"PYTHONPATH": ":".join(sys.path)}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        first = child.stdout.readline()
        if kills < 3:
            time.sleep(dice.uniform(0, 0.25))
            kills += child.poll() is None
            child.kill()
        lines = [first, *child.stdout]
        child.wait()
        said |= {line.strip() for line in lines if line.endswith("\n")}
        after = Ledger(path)
        keys = {n: call(f"kill {n} {part}").keys[0] for n in said - {"done", ""} for part in range(4)}
        assert len(after.answered(list(keys.values()))) == len(keys)
        after.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        if "done" in said:
            break
    assert kills
    answered = {text: n for text, n in server.told()["answered"].items() if text.startswith("kill ")}
    assert len(answered) == 480
    assert sum(answered.values()) - 480 <= kills * 8
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT key) FROM answers").fetchone() == (480, 480)
    connection.close()


# An endpoint by itself, on a clock of our own.


def test_a_bucket_lets_through_what_flows_in():
    bucket, now, passed = Bucket(60, 0.0), 0.0, 0
    while now < 120:
        if bucket.wait(1, now) == 0:
            bucket.take(1, now)
            passed += 1
        now += 0.1
    assert 120 <= passed <= 131  # one a second, and ten seconds' worth at once
    assert Bucket(0, 0.0).wait(10**9, 0.0) == 0
    large = Bucket(600, 0.0)  # capacity 100
    assert large.wait(5000, 0.0) == 0  # else it would wait for ever
    large.take(5000, 0.0)
    assert large.wait(1, 0.0) == pytest.approx(490.1)
    large.take(-5000, 0.0)
    assert large.wait(100, 0.0) == 0


def endpoint(most: int = 16) -> Endpoint:
    return Endpoint("http://h/v1", most, 0, 0, 0.0)


def end(one: Endpoint, *how) -> None:
    one.end(*how)
    one.leave()


def test_a_full_server_is_asked_slower_and_then_faster_again():
    one = endpoint()
    for n in range(100):
        one.start(1, n)
        end(one, "refused", n, n + 1)
    assert one.pace == 1
    for n in range(100, 400):
        one.start(1, n)
        end(one, "served", n, n + 1)
    assert one.pace == 16


def test_a_flaky_server_keeps_its_pace_and_a_round_of_refusals_slows_it_once():
    one, dice = endpoint(64), random.Random(1)
    for n in range(2000):
        one.start(1, n)
        end(one, "refused" if dice.random() < 0.05 else "served", n, n + 1)
    assert one.pace > 55
    one = endpoint(16)
    for _ in range(16):
        one.start(1, 0)
    for _ in range(16):
        end(one, "refused", 0.0, 1.0)  # all were sent before the first came back
    assert one.pace == pytest.approx(16 * 0.7)


def test_a_breaker_opens_lets_one_try_and_closes():
    one = endpoint()
    for n in range(10):
        one.start(1, n)
        end(one, "failed" if n > 3 else "served", n, n)
    assert 0 < one.wait(1, 9.0) < 1
    assert one.wait(1, 20.0) == 0
    one.start(1, 20.0)
    assert one.wait(1, 20.0) == float("inf")
    end(one, "failed", 20.0, 21.0)
    assert one.wait(1, 21.0) == pytest.approx(1.0)
    one.start(1, 22.0)
    end(one, "refused", 22.0, 22.0)  # whoever refuses is alive
    assert one.wait(1, 22.0) == 0
    one.start(1, 22.0)
    end(one, "gone", 22.0, 22.0)
    assert one.wait(1, 22.0) > 0


@given(st.text(max_size=80) | st.floats().map(str) | st.integers().map(str))
def test_any_retry_after_is_seconds_within_bounds_or_nothing(header):
    seconds = retry_after(header, 1.7e9)
    assert seconds is None or 0 <= seconds <= LONGEST


@given(st.integers(0, 6 * 24 * 3600))
def test_retry_after_is_read_as_seconds_and_as_a_date(seconds):
    now = 1_700_000_000
    assert retry_after(str(seconds), now) == seconds
    assert retry_after(email.utils.formatdate(now + seconds, usegmt=True), now) == seconds
    assert retry_after(email.utils.formatdate(now - seconds, usegmt=True), now) == 0


@given(st.binary(max_size=3000))
def test_any_words_of_a_server_are_short_and_harmless(body):
    said = excerpt(body)
    assert len(said) <= 303
    assert clean(said) == said and len(said.splitlines()) <= 1
    offered(body)


@pytest.mark.parametrize("key, kept", [("EMPTY", "EMPTY 1"), ("e", "EMPTY 1"), ("sk-0123456789", "EMPTY 1")])
def test_a_key_that_is_no_secret_changes_no_answer(key, kept):
    """Many servers want any key at all: "EMPTY" in an answer is a word like another."""
    one = Call(("k",), "/p", b"", lambda reply: [{"text": reply["text"]}], 1, "what")
    assert read_reply(200, {}, b'{"text": "EMPTY 1"}', one, key).answers == ({"text": kept},)


def test_an_answer_that_json_cannot_hold_is_malformed():
    one = Call(("k",), "/", b"", lambda reply: [{"score": reply["score"]}], 20, "one")
    assert read_reply(200, {}, b'{"score": -Infinity}', one, "").outcome == "malformed"
    assert read_reply(200, {}, b"[" * 100_000, one, "").outcome == "malformed"
    assert read_reply(200, {}, b'{"score": -1}', one, "").answers == ({"score": -1},)


def test_counts_that_are_none_are_not_believed():
    assert read_usage({"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None}).told
    for bad in (None, [], {"prompt_tokens": 3}, {"prompt_tokens": -1, "completion_tokens": 1}):
        assert not read_usage(bad).told
    assert not read_usage({"prompt_tokens": True, "completion_tokens": 10**30}).told


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h/v1", "http://", "http://h:x/v1", "http://h/v1?key=1"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ServerError, match="base_url"):
        place_of_url(url)


def test_an_address_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(ServerError, match="api_key_env") as refused:
        place_of_url("http://me:hunter2@h/v1")
    assert "hunter2" not in str(refused.value)
    assert place_of_url("https://h/v1") == "h:443"
    assert place_of_url("http://[::1]:8000/v1") == "[::1]:8000"
