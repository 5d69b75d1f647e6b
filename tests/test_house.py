"""Who may import whom: a room imports only rooms on lower floors, and the core needs no heavy library."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import earwitness

PACKAGE = Path(earwitness.__file__).parent
FLOORS = {
    "configs": 0,
    "disk": 0,
    "fingerprints": 0,
    "forms": 0,
    "prompts": 0,
    "records": 0,
    "terminal": 0,
    "config": 1,
    "mentions": 1,
    "table": 1,
    "answers": 2,
    "claims": 2,
    "cota": 2,
    "descriptions": 2,
    "launcher": 2,
    "ledger": 2,
    "media": 2,
    "needs": 2,
    "run": 2,
    "statistics": 2,
    "workers": 2,
    "world": 2,
    "learn": 3,
    "pool": 3,
    "prices": 3,
    "sources": 3,
    "exams": 4,
    "models": 4,
    "costs": 5,
    "listen": 5,
    "memory": 5,
    "preflight": 5,
    "pretrain": 5,
    "report": 5,
    "serve": 5,
    "stages": 5,
    "export": 6,
    "flow": 6,
    "life": 6,
    "score": 6,
    "compare": 7,
    "driver": 7,
    "sit": 7,
    "demo": 8,
    "ask": 8,
    "plan": 8,
    "rehearsal": 8,
    "cli": 9,
    "__main__": 10,
}
HEAVY = ("torch", "transformers", "av")


def rooms_imported(source: str) -> set[str]:
    """The rooms that a file imports anywhere, inside functions too. What the package itself holds is no room."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a room begins: name the package"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in found if name.split(".")[0] == "earwitness"]
    return {part[1] for part in parts if len(part) > 1 and not part[1].startswith("__")}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_on_lower_floors(file):
    room = room_of(file)
    assert room in FLOORS, f"{room} has no floor yet: say in this test and in docs where it stands"
    for other in rooms_imported(file.read_text(encoding="utf-8")) - {room}:
        assert other in FLOORS, f"{file.name} imports {other}, which is no room"
        assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_stays_under_400_lines_and_a_function_under_60(file):
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long to be read at a glance"


def test_the_table_of_rooms_for_contributors_is_this_one():
    page = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", page, re.MULTILINE)
    told = {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)`", rooms)}
    assert told == {room: floor for room, floor in FLOORS.items() if room != "__main__"}


def test_the_package_itself_imports_no_room():
    assert not rooms_imported((PACKAGE / "__init__.py").read_text(encoding="utf-8"))


def test_every_way_of_importing_a_room_is_seen():
    source = """
import earwitness.flow
from earwitness import answers, __version__
def late():
    from earwitness.models.exchange import Prompt
    import torch, earwitness.run as run
"""
    assert rooms_imported(source) == {"flow", "answers", "models", "run"}


@pytest.mark.parametrize(
    "module", ["earwitness", "earwitness.config", "earwitness.records", "earwitness.answers", "earwitness.run"]
)
def test_the_core_is_light(module):
    """Configurations, tables and scores are read where no model could be."""
    assert not set(HEAVY) & modules_behind(module)


def test_data_stages_against_servers_need_no_torch():
    assert not {"torch", "transformers"} & modules_behind("earwitness.driver")


def modules_behind(module: str) -> set[str]:
    told = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split())
