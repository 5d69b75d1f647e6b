"""Prose that cannot drift."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_configuration_page_is_that_of_the_schema():
    tool = ROOT / "tools" / "configuration_docs.py"
    assert subprocess.run([sys.executable, tool, "--check"], check=False).returncode == 0, f"run {tool.name}"
