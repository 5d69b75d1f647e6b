"""The decoding processes: children that are started when they are first needed, replaced when they die or hang.

A container can crash or hang the native libraries that read it, and nothing in Python can catch that. Behind a process
boundary it costs one MediaError. The child reads requests from its standard input and dies when that is closed.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from earwitness.media import wire
from earwitness.media.limits import Limits, MediaError

COMMAND = [sys.executable, "-P", "-m", "earwitness.media.child"]
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
Answer = tuple[dict[str, Any], list[np.ndarray[Any, Any]]]
MOST = 8  # children; what asks servers about large films needs a few clips a second
_HEADROOM = 1 << 16  # times of the frames travel beside the images


class Decoder:
    """One child process. Calls from several threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, path: Path | str, action: str, limits: Limits, **arguments: Any) -> Answer:
        """Ask the child for `action` on the file at `path`. Raises MediaError, whatever goes wrong."""
        place = str(Path(path).absolute())
        request = {"action": action, "path": place, "arguments": arguments, "limits": asdict(limits)}
        with self._lock:
            answer = self._exchange(request, limits)
        if "error" in answer[0]:
            raise MediaError(f"{path}: {answer[0]['error']}")
        return answer

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._stop()

    def forget(self) -> None:
        """Let go of a child that belongs to the process that this one was forked from."""
        self._lock = threading.Lock()
        if self._process is not None and self._process.stdin and self._process.stdout:
            os.close(self._process.stdin.fileno())
            os.close(self._process.stdout.fileno())
            _FORKED.append(self._process)
        self._process = None

    def _exchange(self, request: dict[str, Any], limits: Limits) -> Answer:
        process = self._start()
        late = threading.Event()
        timer = threading.Timer(limits.deadline, _kill, (process, late))
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            wire.send(process.stdin, request)
            answer = wire.receive(process.stdout, limits.bytes + _HEADROOM)
        except BrokenPipeError:
            answer = None
        except wire.WireError as error:
            self._stop()
            return {"error": f"the decoder answered with {error}; re-encode the file"}, []
        except BaseException:  # an interrupt in the middle of an answer would leave the pipe out of step
            self._stop()
            raise
        finally:
            timer.cancel()
        if answer is None:
            return {"error": self._obituary(late.is_set(), limits)}, []
        if late.is_set():
            self._stop()
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._process is None:
            path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
            one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | one_thread | {"PYTHONPATH": path},
            )
        return self._process

    def _stop(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was still in the buffer has nowhere to go
                pass
        return process.wait()

    def _obituary(self, late: bool, limits: Limits) -> str:
        assert self._process is not None
        if late:
            self._stop()
            return f"decoding took more than {limits.deadline:g} s and was stopped; cut the file into shorter clips"
        status = self._process.wait()
        self._stop()
        if status < 0:
            return f"the file crashed the decoder ({signal.Signals(-status).name}); re-encode it or leave it out"
        return f"the decoder ended with status {status}; run `{' '.join(COMMAND)}` to see why"


class Decoders:
    """At most `count` children; as many as threads have ever decoded side by side."""

    def __init__(self, count: int) -> None:
        self._count, self._all = count, [Decoder()]
        self._free, self._changed = list(self._all), threading.Condition()

    def call(self, path: Path | str, action: str, limits: Limits, **arguments: Any) -> Answer:
        """Ask a child for `action` on the file at `path`. Raises MediaError, whatever goes wrong."""
        with self._changed:
            if not self._free and len(self._all) < self._count:
                self._all.append(Decoder())
                self._free.append(self._all[-1])
            self._changed.wait_for(lambda: self._free)
            one = self._free.pop()
        try:
            return one.call(path, action, limits, **arguments)
        finally:
            with self._changed:
                self._free.append(one)
                self._changed.notify()

    def close(self) -> None:
        """End all children."""
        for one in self._all:
            one.close()

    def forget(self) -> None:
        """Let go of children that belong to the process that this one was forked from."""
        for one in self._all:
            one.forget()
        self._free, self._changed = list(self._all), threading.Condition()


def _kill(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


_FORKED: list[subprocess.Popen[bytes]] = []  # kept, so that their finalisers do not close pipes twice

decoder = Decoders(min(MOST, os.cpu_count() or 1))
atexit.register(decoder.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=decoder.forget)
