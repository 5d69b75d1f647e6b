"""Shards as tasks of a Ray cluster: handed out, handed out again where a worker died, and waited for.

A task is one shard from its first question to its last. Ray moves no data: shards write into the run's folder, which
all machines see, and what a dead worker had written there is not made again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from earwitness import __version__
from earwitness.run import RunError
from earwitness.terminal import Progress, ProgressLine
from earwitness.workers import ONE_THREAD

DEATHS = 5
"""How many workers a shard may lose; with one more the run stops."""

STORE = 100 * 2**20  # bytes of shared memory for Ray's objects, of which there are none to speak of


def hand_out(make: Callable[[int], None], shards: int, workers: int, heavy: bool, line: ProgressLine | None) -> None:
    """Let a Ray cluster call `make(number)` for every shard, numbered from 1, and return when all have ended.

    The cluster is the one that RAY_ADDRESS names, or one of this machine with `workers` processes, which ends with this
    call. `heavy`: a shard holds models, and takes a GPU where the cluster has any. Raises RunError naming the shard for
    what is raised in one of them, and where one has lost too many workers.
    """
    import ray
    from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

    with _cluster(ray, min(workers, shards)) as (place, has):
        gpus = 1 if heavy and has.get("GPU") else 0
        # Tries are counted here, not by Ray.
        one = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0, "runtime_env": {"env_vars": ONE_THREAD}}
        task = ray.remote(_work).options(**one)
        there = f"{has.get('CPU', 0):.0f} CPUs and {has.get('GPU', 0):.0f} GPUs"
        _say(line, f"Ray {place} has {there}; a shard takes {'one of each' if gpus else 'one CPU'}")
        if not _has_room(ray.nodes(), gpus):
            _say(line, "no machine of the cluster has them: shards wait until one comes")
        begin, deaths, done = time.monotonic(), Counter[int](), 0
        here = str(Path.cwd()), __version__
        running = {task.remote(make, number, *here): number for number in range(1, shards + 1)}
        while running:
            _tell(line, done, shards, begin)
            for ended in ray.wait(list(running), timeout=60)[0]:
                number = running.pop(ended)
                try:
                    ray.get(ended)
                    done += 1
                except RayTaskError as error:
                    raise _travelling(error, f"shard {number} of {shards}") from error
                except (WorkerCrashedError, NodeDiedError, OutOfMemoryError, LocalRayletDiedError) as error:
                    deaths[number] += 1
                    _mourn(line, f"shard {number} of {shards}", deaths[number], error)
                    running[task.remote(make, number, *here)] = number
        _tell(line, done, shards, begin)


def _work(make: Callable[[int], None], number: int, folder: str, version: str) -> None:
    """In a worker: call `make` where the driver was started, so that the same relative paths lead to the same files."""
    host = socket.gethostname()
    if version != __version__:
        raise RunError(f"{host} has earwitness {__version__}, and the driver {version}: install the same everywhere")
    try:
        os.chdir(folder)
    except OSError as error:
        raise RunError(
            f"{host} has no folder {folder} ({error.strerror}), where the run was started: start it in a folder that "
            "all machines of the cluster see under the same path"
        ) from None
    make(number)


@contextlib.contextmanager
def _cluster(ray: Any, workers: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine, and leave it afterwards.

    A program that has joined one before stays in it. Yields where the cluster is and what it has.
    """
    joined, address = ray.is_initialized(), os.environ.get("RAY_ADDRESS") or "local"
    if not joined:
        _join(ray, address, workers)
    try:
        yield "on this machine" if address == "local" else f"at {address}", ray.cluster_resources()
    finally:
        if not joined:
            ray.shutdown()


def _join(ray: Any, address: str, workers: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's makers
    size = {"num_cpus": workers, "object_store_memory": STORE, "include_dashboard": False}
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for ten minutes
            socket.create_connection((host.strip("[]"), int(port)), 10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(size if address == "local" else {}))
    except OSError as error:
        raise RunError(
            f"no Ray cluster answers at {address}, which RAY_ADDRESS names: {error}. Start it, or mend the address; "
            "one that was started where ~/.ray holds a token asks for it: set RAY_AUTH_MODE=token here, too"
        ) from error


def _tell(line: ProgressLine | None, done: int, shards: int, begin: float) -> None:
    if line is not None:
        line(Progress("shards", done, shards, 0, time.monotonic() - begin))


def _say(line: ProgressLine | None, text: str) -> None:
    if line is not None:
        line.say(text)


def _has_room(nodes: list[Any], gpus: int) -> bool:
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return any(has.get("CPU", 0) >= 1 and has.get("GPU", 0) >= gpus for has in alive)


def _mourn(line: ProgressLine | None, shard: str, deaths: int, error: Exception) -> None:
    why = str(error).strip().partition("\n")[0]
    if deaths > DEATHS:
        raise RunError(f"{shard} has lost {deaths} workers, which is too many: {why} Rows that were made are safe")
    _say(line, f"{shard} has lost its worker, and goes on in another one ({deaths} of {DEATHS} times): {why}")


def _travelling(error: Any, shard: str) -> Exception:
    """Return what a shard has raised: in one line where it was written for people, with its traceback elsewhere."""
    cause = error.cause
    if type(cause).__module__.startswith("earwitness."):
        return RunError(f"{shard}: {cause}")
    travelling: Exception = error
    return travelling
