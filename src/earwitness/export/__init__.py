"""What a run has made, in the forms that other tools read: replies for official scripts, lessons for other trainers."""

from __future__ import annotations

from pathlib import Path

from earwitness.config import ConfigError, RunConfig
from earwitness.run import Run, RunError


def open_run(folder: Path) -> tuple[Run, RunConfig]:
    """Return a run and its configuration. Raises RunError where the folder holds none."""
    folder = folder.resolve()
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder} is not a run: it holds no config.toml")
    return Run.read(folder.parent, folder.name), RunConfig.load(folder / "config.toml")


def new_file(path: Path) -> Path:
    """Return the path of a file that does not exist yet, with its folder made. Raises ConfigError if it does."""
    if path.exists():
        raise ConfigError(f"{path} exists; name another folder with --out, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
