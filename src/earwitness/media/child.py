"""The child's side: answer requests from standard input until it is closed. Run it with `python -m`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

import numpy as np

from earwitness.media import wire
from earwitness.media.container import inspect
from earwitness.media.limits import Limits, MediaError
from earwitness.media.picture import read_frames
from earwitness.media.sound import read_sound

_GRACE = 5.0


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Carry out one request; raises MediaError without the file's name, which the parent adds."""
    limits, path, arguments = Limits(**request["limits"]), request["path"], request["arguments"]
    if request["action"] == "probe":
        return inspect(path, limits), []
    if request["action"] == "frames":
        images, times, duration = read_frames(path, limits=limits, **arguments)
        return {"duration": duration}, [images, times]
    return {}, [read_sound(path, limits=limits, **arguments)]


def bound(limits: Limits) -> None:
    """Set the memory limit, and an alarm that ends this process if its parent died and can no longer do so."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, limits.deadline + _GRACE)
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has the limit, or lets it be set
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = limits.memory if hard == resource.RLIM_INFINITY else min(limits.memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve until the parent closes the pipe. What anything else prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while (message := wire.receive(sys.stdin.buffer, 0)) is not None:
        request = message[0]
        bound(Limits(**request["limits"]))
        try:
            header, arrays = answer(request)
        except MediaError as error:
            header, arrays = {"error": str(error)}, []
        except MemoryError:
            size = request["limits"]["memory"] / (1 << 30)
            header, arrays = {"error": f"decoding needs more than {size:.1f} GiB of memory; scale the file down"}, []
        except Exception as error:  # an unforeseen failure must cost this file only, and say what it was
            header, arrays = {"error": f"could not be decoded ({type(error).__name__}: {error}); re-encode it"}, []
        wire.send(out, header, arrays)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
