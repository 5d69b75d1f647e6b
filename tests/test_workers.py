"""Worker processes: order, errors, deaths, and no orphans. Everything here runs real processes."""

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from earwitness.workers import Workers


def square(n):
    return n * n


def slow_when_early(n):
    time.sleep(0.3 if n == 0 else 0.0)
    return n, os.getpid()


def environment(_):
    return os.environ["OMP_NUM_THREADS"], signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def torch_threads(_):
    import torch

    return torch.get_num_threads()


def refuse(n):
    if n == 3:
        raise ValueError(f"number {n} is not welcome")
    return n


class AwkwardError(Exception):
    def __init__(self, code, where):
        super().__init__(f"code {code} at {where}")


def awkward(_):
    raise AwkwardError(7, "the gate")


def kill_itself(n):
    if n == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def leave(_):
    os._exit(5)


def with_a_child_of_its_own(n):
    process = multiprocessing.get_context("spawn").Process(target=square, args=(n,))
    process.start()
    process.join()
    return process.exitcode


def unpicklable(_):
    return lambda: None


@pytest.fixture(scope="module")
def two():
    with Workers(2) as workers:
        yield workers


def test_results_come_in_order_from_more_than_one_process(two):
    results = list(two.map(slow_when_early, range(12)))
    assert [n for n, _ in results] == list(range(12))
    pids = {pid for _, pid in results}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_a_long_list_is_not_read_ahead(two):
    read = []

    def items():
        for n in range(1000):
            read.append(n)
            yield n

    results = two.map(square, items())
    assert next(results) == 0
    assert len(read) <= 4
    results.close()
    assert list(two.map(square, [5])) == [25]


def test_submit_returns_futures(two):
    futures = [two.submit(pow, 2, n) for n in range(5)]
    assert [f.result() for f in futures] == [1, 2, 4, 8, 16]


def test_workers_have_one_thread_and_leave_ctrl_c_to_the_driver(two):
    assert set(two.map(environment, range(4))) == {("1", True)}


def test_workers_may_have_children(two):
    assert list(two.map(with_a_child_of_its_own, [1])) == [0]


def test_errors_travel_with_type_and_message_and_the_pool_goes_on(two):
    results = two.map(refuse, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="number 3 is not welcome") as caught:
        next(results)
    assert "in refuse" in "".join(caught.value.__notes__)
    with pytest.raises(RuntimeError, match="AwkwardError: code 7 at the gate"):
        list(two.map(awkward, [1]))
    with pytest.raises(Exception, match="lambda"):
        list(two.map(unpicklable, [1]))
    with pytest.raises(Exception, match="lambda"):
        list(two.map(lambda n: n, [1]))
    assert list(two.map(functools.partial(pow, 2), [3])) == [8]


def test_a_dead_worker_is_named_with_its_item_and_signal():
    with Workers(2) as workers, pytest.raises(RuntimeError, match=r"killed by SIGKILL .*during item 2 of kill_itself"):
        list(workers.map(kill_itself, range(8)))
    with Workers(2) as workers, pytest.raises(RuntimeError, match="ended with exit code 5 during leave"):
        workers.submit(leave, 0).result()


def test_one_worker_is_this_process():
    with Workers(1) as workers:
        assert list(workers.map(lambda n: (n, os.getpid()), [1, 2])) == [(1, os.getpid()), (2, os.getpid())]
        assert workers.submit(square, 3).result() == 9
        with pytest.raises(ValueError, match="number 3"):
            workers.submit(refuse, 3).result()


def test_used_outside_the_with_block():
    with pytest.raises(RuntimeError, match="outside"):
        Workers(2).submit(square, 1)


def test_the_block_ends_promptly_when_the_driver_raises():
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), Workers(2) as workers:
        futures = [workers.submit(time.sleep, 60) for _ in range(6)]
        time.sleep(0.2)
        raise ZeroDivisionError
    assert time.monotonic() - start < 20
    assert all(f.done() for f in futures)


# -- drivers of other kinds ------------------------------------------------------------------------------------------

SLEEPER = """
import os, sys, time
from earwitness.workers import Workers

def note_and_sleep(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(300)

def main():
    with Workers(2) as workers:
        list(workers.map(note_and_sleep, [sys.argv[1]] * 2))
"""
GUARD = "\nif __name__ == '__main__':\n    main()\n"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def sleeper(tmp_path):
    script, notes = tmp_path / "driver", tmp_path / "pids"
    script.write_text(SLEEPER + GUARD)
    notes.touch()
    process = subprocess.Popen([sys.executable, script, notes], stderr=subprocess.PIPE, start_new_session=True)
    wait_until(lambda: len(notes.read_text().split()) == 2)
    yield process, [int(pid) for pid in notes.read_text().split()]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also what a failed test has left
    process.communicate()


def test_a_killed_driver_leaves_no_orphan(sleeper):
    process, pids = sleeper
    assert all(alive(pid) for pid in pids)
    process.kill()
    process.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), seconds=3)


def test_ctrl_c_ends_driver_and_workers_promptly_with_one_traceback(sleeper):
    process, pids = sleeper
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group gets it
    _, words = process.communicate(timeout=10)
    assert process.returncode in (1, -signal.SIGINT)
    assert words.decode().count("Traceback") == 1
    assert "KeyboardInterrupt" in words.decode()
    wait_until(lambda: not any(alive(pid) for pid in pids), seconds=3)


def test_a_script_without_the_guard_is_told_so(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(SLEEPER + "\nmain()\n")
    done = subprocess.run([sys.executable, script, tmp_path / "pids"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr
    assert not (tmp_path / "pids").exists()


TORCH = """
from earwitness.workers import Workers
import os, sys
sys.path.insert(0, {tests!r})
import test_workers

if __name__ == "__main__":
    with Workers(2, preload=("torch",)) as workers:
        print(set(workers.map(test_workers.torch_threads, range(4))), "OMP_NUM_THREADS" in os.environ)
"""


def test_torch_computes_on_one_thread_and_the_driver_keeps_its_own(tmp_path):
    pytest.importorskip("torch")
    script = tmp_path / "driver.py"
    script.write_text(TORCH.format(tests=str(Path(__file__).parent)))
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout == "{1} False\n", done.stderr
