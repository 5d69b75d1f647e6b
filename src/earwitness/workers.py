"""One-thread worker processes: blocks of questions, and training steps side by side, on the CPU.

Each worker is one process of the `forkserver` kind, served by one thread of this process, so that it is always known
which worker had which item when it died. Workers never outlive the process that started them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""The environment in which libraries compute in one thread; they read it when they are imported."""


class WorkerDied(RuntimeError):  # noqa: N818 - named for what it is
    """A worker process ended before its work did: the message says which, how, and during what."""


class Workers:
    """A pool of `count` worker processes; with `count` at most 1 everything runs in this process.

    `preload` names modules that are imported once for all workers ("torch", "transformers"); it counts for the first
    pool of a process, whose server later pools share. Functions and arguments travel by pickle, so a function must be
    importable by name. A script that starts workers needs the usual `if __name__ == "__main__":`.
    """

    def __init__(self, count: int, preload: tuple[str, ...] = ()) -> None:
        self.count = max(count, 1)
        self._preload = preload
        self._children: list[_Child] = []
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count == 1:
            return self
        _start_server(self._preload)
        try:
            for _ in range(self.count):
                self._children.append(_Child("torch" in self._preload))
            for child in self._children:
                child.wait_until_ready()
                self._idle.put(child)
        except BaseException:
            self._kill()
            raise
        self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="worker")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._kill()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=kind is not None)
            self._threads = None
        for child in self._children:
            child.close()
        self._children = []

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """Yield `function(item)` in the order of the items, with at most twice `count` items under way.

        Raises what the function raised, or RuntimeError naming the item (from 0) whose worker died.
        """
        if self.count == 1:
            yield from map(function, items)
            return
        yield from _in_order(
            lambda number, item: self._submit(f"item {number} of {_name(function)}", function, (item,)),
            items,
            self.count,
        )

    def submit(self, function: Callable[..., Out], *args: Any) -> Future[Out]:
        """Start `function(*args)` in a free worker and return its future; without workers it runs at once, here."""
        if self.count > 1:
            return self._submit(_name(function), function, args)
        future: Future[Out] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _submit(self, what: str, function: Callable[..., Out], args: tuple[Any, ...]) -> Future[Out]:
        if self._threads is None:
            raise RuntimeError("workers are used outside their `with` block")
        return self._threads.submit(self._call, what, function, args)

    def _call(self, what: str, function: Callable[..., Out], args: tuple[Any, ...]) -> Out:
        child = self._idle.get()
        try:
            result: Out = child.call(what, pickle.dumps((function, args)))
        finally:
            self._idle.put(child)
        return result

    def _kill(self) -> None:
        for child in self._children:
            child.process.kill()


def waiting_map(function: Callable[[In], Out], items: Iterable[In], threads: int) -> Iterator[Out]:
    """Yield `function(item)` in the order of the items, `threads` of them under way: for work that waits for servers.

    Whoever stops early does not wait for what is under way.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="asking")
    try:
        yield from _in_order(lambda _, item: pool.submit(function, item), items, threads)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(submit: Callable[[int, In], Future[Out]], items: Iterable[In], count: int) -> Iterator[Out]:
    """Yield the results of what is submitted in the order of the items, with at most twice `count` under way."""
    pending: deque[Future[Out]] = deque()
    try:
        for number, item in enumerate(items):
            pending.append(submit(number, item))
            if len(pending) >= 2 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class _Child:
    """One worker process and this end of its pipe."""

    def __init__(self, torch: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, torch))  # not a daemon: it may have children
        self.process.start()
        theirs.close()  # else the death of the worker would not end the pipe

    def wait_until_ready(self) -> None:
        try:
            self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise WorkerDied(
                f"a worker process could not start ({self._end()}; its own words are above). A script that starts "
                'workers must do so under `if __name__ == "__main__":`'
            ) from None

    def call(self, what: str, request: bytes) -> Any:
        try:
            self._pipe.send_bytes(request)
            reply = self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise WorkerDied(f"worker process {self.process.pid} {self._end()} during {what}") from None
        good, value = pickle.loads(reply)
        if not good:
            raise value
        return value

    def _end(self) -> str:
        self.process.join(10)
        code = self.process.exitcode
        if code is None:
            return "closed its pipe"
        if code >= 0:
            return f"ended with exit code {code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"

    def close(self) -> None:
        self._pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _start_server(preload: tuple[str, ...]) -> None:
    # The server's environment is that of its children: thread counts must stand before it imports anything.
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
    os.environ.update(ONE_THREAD)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Connection, torch: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    os.environ.update(ONE_THREAD)
    if torch or "torch" in sys.modules:
        import torch as loaded

        loaded.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the driver is done with this worker, or gone
        pipe.send_bytes(b"ready")
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _end_with_the_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _answer(request: bytes) -> bytes:
    try:
        function, args = pickle.loads(request)
        return pickle.dumps((True, function(*args)))
    except Exception as error:
        error.add_note(f"In worker process {os.getpid()}:\n{traceback.format_exc()}")
        return _portable(error)


def _portable(error: Exception) -> bytes:
    # Some exceptions pickle but cannot be built again; better to find out here than to break the pipe's other end.
    try:
        data = pickle.dumps((False, error))
        pickle.loads(data)
    except Exception:
        text = "".join(traceback.format_exception_only(error)).strip()
        return pickle.dumps((False, RuntimeError(text)))
    return data


def _name(function: Callable[..., Any]) -> str:
    inner = getattr(function, "func", function)  # functools.partial has no name of its own
    return str(getattr(inner, "__qualname__", type(inner).__qualname__))
