"""Where the public files that some tests read may lie: none of them is in this repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def public(name: str) -> Path:
    """Return a public file or folder, or skip the test where it is not on this machine.

    They lie in the folder named by EARWITNESS_DATA, or in `shared/data` beside or above the repository.
    """
    if folder := os.environ.get("EARWITNESS_DATA"):
        places = [Path(folder)]
    else:
        places = [root / "shared" / "data" for root in (ROOT, ROOT.parent, ROOT.parent.parent)]
    found = next((place / name for place in places if (place / name).exists()), None)
    if found is None:
        pytest.skip(f"{name} is not here; name the folder of public files in EARWITNESS_DATA")
    return found
