"""Prose that cannot drift."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
prose = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
NAMED = re.compile(r"(?<![\w/.-])((?:docs|benchmarks|examples|tools|tests|configs)/[\w/.-]+\.(?:md|py|toml))\b")


def test_the_configuration_page_is_that_of_the_schema():
    tool = ROOT / "tools" / "configuration_docs.py"
    assert subprocess.run([sys.executable, tool, "--check"], check=False).returncode == 0, f"run {tool.name}"


@prose
def test_every_link_within_the_repository_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{link} leads nowhere"
        assert not heading or heading in map(anchor, headings(target)), f"{link}: there is no such heading"


@prose
def test_every_page_and_program_that_prose_names_is_there(page):
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def anchor(heading: str) -> str:
    """How a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
