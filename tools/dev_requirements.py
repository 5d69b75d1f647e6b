"""Print the development dependencies of pyproject.toml, for installers that do not read dependency groups."""

import tomllib
from pathlib import Path

data = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
print(" ".join(data["dependency-groups"]["dev"]))
