"""Several processes for one training step: what starts them, and keeping them no longer than whoever asked for them.

`accelerate launch` starts them, with the user's own accelerate config. What that config asks for is read here, so that
what this package cannot do is refused by name before anything is spent.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from earwitness.config import ConfigError
from earwitness.table import RunError

LIFELINE = "EARWITNESS_LIFELINE"  # set for processes that end when their standard input does
OUTPUT = "launch.log"
GRACE = 10.0  # seconds that processes have to end by themselves
Kind = Literal["one process", "data parallel", "FSDP", "DeepSpeed", "other"]
KINDS: dict[str, Kind] = {
    "NO": "one process",
    "MULTI_CPU": "one process",  # accelerate starts one of these, however many it is asked for (without MPI)
    "MULTI_GPU": "data parallel",
    "FSDP": "FSDP",
    "DEEPSPEED": "DeepSpeed",
}
NOISE = re.compile(r"^(\[?[WEI]\d{4} |Traceback|\[rank\d+\]|=====|\s*$)")  # where another's words begin


@dataclass(frozen=True)
class Launcher:
    """What an accelerate config (`file`, None: accelerate's defaults) or a launcher's environment asks for."""

    file: Path | None = None
    kind: Kind = "data parallel"
    processes: int | None = None
    machines: int = 1
    precision: str = "no"
    fsdp_version: int = 1
    state_dict: str = "FULL_STATE_DICT"
    zero_stage: int = 0
    port: int | None = None
    foreign: tuple[str, ...] = ()
    around: bool = False  # it started this process, and need not be started

    @property
    def shards(self) -> bool:
        """Whether no process holds the whole model."""
        return self.kind == "FSDP" or (self.kind == "DeepSpeed" and self.zero_stage == 3)

    @property
    def name(self) -> str:
        """What to call it in an error."""
        return str(self.file) if self.file else "the launcher"


def find_launcher(place: str) -> Launcher:
    """Return what `train.launcher` names; for an empty name the user's own accelerate config, or accelerate's defaults.

    Raises ConfigError for a file that is not there or cannot be read.
    """
    if place:
        return read_launcher(Path(place))
    default = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("HF_HOME", f"{default}/huggingface")).expanduser() / "accelerate"
    found = [home / name for name in ("default_config.yaml", "default_config.json") if (home / name).is_file()]
    return read_launcher(found[0]) if found else Launcher()


def read_launcher(file: Path) -> Launcher:
    """Read an accelerate config. Raises ConfigError where there is none, or none that can be read."""
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the accelerate config {file} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file} is not an accelerate config: `accelerate config` writes one")
    fsdp, deepspeed = data.get("fsdp_config") or {}, data.get("deepspeed_config") or {}
    foreign = [key for key in ("parallelism_config", "fp8_config") if data.get(key)]
    if _no((data.get("dynamo_config") or {}).get("dynamo_backend")) != "no":
        foreign.append("dynamo_config")
    if data.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        foreign.append("compute_environment")
    return Launcher(
        file=file,
        kind=KINDS.get(str(data.get("distributed_type", "NO")), "other"),
        processes=_whole(data.get("num_processes")),
        machines=_whole(data.get("num_machines")) or 1,
        precision=_no(data.get("mixed_precision")),
        fsdp_version=_whole(fsdp.get("fsdp_version")) or 1,
        state_dict=str(fsdp.get("fsdp_state_dict_type", "FULL_STATE_DICT")),
        zero_stage=_zero_stage(deepspeed),
        port=_whole(data.get("main_process_port")),
        foreign=tuple(foreign),
    )


def launcher_around() -> Launcher | None:
    """Return what the launcher that started this process asks for, None where no launcher did."""
    env = os.environ
    if int(env.get("WORLD_SIZE", "1")) < 2:
        return None
    sharding, deepspeed = (
        env.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" for name in ("FSDP", "DEEPSPEED")
    )
    compiled = env.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"
    parallel = env.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() == "true"
    return Launcher(
        kind="FSDP" if sharding else "DeepSpeed" if deepspeed else "data parallel",
        processes=int(env["WORLD_SIZE"]),
        precision=_no(env.get("ACCELERATE_MIXED_PRECISION")),
        fsdp_version=int(env.get("FSDP_VERSION", "1")),
        state_dict=env.get("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT"),
        zero_stage=int(env.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")) if deepspeed else 0,
        foreign=(("dynamo_config",) if compiled else ()) + (("parallelism_config",) if parallel else ()),
        around=True,
    )


def in_shards() -> bool:
    """Whether this process trains a share of a model: a forward pass then needs every process at once."""
    launcher = launcher_around()
    return launcher is not None and launcher.shards


def _zero_stage(deepspeed: Mapping[str, Any]) -> int:
    if "deepspeed_config_file" not in deepspeed:
        return _whole(deepspeed.get("zero_stage")) or 0
    try:
        inner = json.loads(Path(deepspeed["deepspeed_config_file"]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"deepspeed_config_file {deepspeed['deepspeed_config_file']} cannot be read: {error}"
        ) from None
    return _whole((inner.get("zero_optimization") or {}).get("stage")) or 0


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) or (isinstance(value, str) and value.isdigit()) else None


def _no(value: Any) -> str:
    """Return a precision's name; YAML reads a bare `no` as false."""
    return str(value).lower() if value else "no"


def launch_command(launcher: Launcher, processes: int, arguments: Sequence[str]) -> list[str]:
    """Return the command that starts `earwitness` with these arguments in several processes.

    A flag is added where the user's accelerate config leaves something open, or asks for another number of processes.
    """
    flags = []
    if launcher.file is None:
        # Without --multi_gpu accelerate starts one process on a machine without GPUs.
        flags += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    else:
        flags += ["--config_file", str(launcher.file)]
    if launcher.processes != processes:
        flags += ["--num_processes", str(processes)]
    if launcher.port is None:
        flags += ["--main_process_port", "0"]  # any free one: steps of other runs may be under way
    return [sys.executable, "-m", "accelerate.commands.launch", *flags, "--module", "earwitness", *arguments]


def launch(command: Sequence[str], folder: Path, watch: Callable[[], None] = lambda: None) -> None:
    """Run a launcher to its end, its output in the folder, and call `watch` now and then.

    Nothing that it started outlives this process, or this call. Raises RunError with the processes' own words where
    they fail.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / OUTPUT
    with file.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # nothing is ever written to it: its end is the sign to end
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {LIFELINE: "1"},
        )
        try:
            while process.poll() is None:
                watch()
                time.sleep(0.1)
        finally:
            _end(process)
    watch()
    if process.returncode:
        raise RunError(_words(file, process.returncode))
    file.unlink()


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def hold_lifeline() -> None:
    """End this process when whoever launched it is gone; nothing happens under a launcher of the user's own."""
    if os.environ.get(LIFELINE):
        threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _words(file: Path, code: int) -> str:
    """Return what the processes said of their failure: their own error, or the last lines before the launcher's."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("earwitness: "):
            end = next((n for n in range(number + 1, len(lines)) if _another(lines[n])), len(lines))
            return "\n".join([line.removeprefix("earwitness: "), *lines[number + 1 : end]])
    until = next((n for n, line in enumerate(lines) if "torch/distributed/elastic" in line), len(lines))
    last = [line for line in lines[:until] if line.strip()][-8:]
    words = "\n".join(last) or "they said nothing"
    return f"the training processes ended with exit code {code}; all of their output is in {file}:\n{words}"


def _another(line: str) -> bool:
    return line.startswith("earwitness: ") or bool(NOISE.match(line))
