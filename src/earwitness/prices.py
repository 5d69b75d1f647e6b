"""What tokens cost, by model: a dated table that ships, and a file of the user's own beside it.

Prices are USD per million tokens. A model that is in neither has no known price: its tokens are counted, its USD are
not, and a budget in USD refuses it. Whoever serves a model himself may price it at 0, or at what his machines cost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from earwitness.config import ConfigError, Section
from earwitness.ledger import Usage

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MILLION = 1_000_000


class Price(Section):
    """USD per million tokens of one model; `audio` and `cached` parts of the prompt cost as its text unless said.

    `date` (YYYY-MM or YYYY-MM-DD) and `source` say since when and from where it is known.
    """

    text: Usd
    completion: Usd
    audio: Usd | None = None
    cached: Usd | None = None
    date: str = Field("", pattern=r"^(\d{4}-\d\d(-\d\d)?)?$")
    source: str = ""

    def of(self, usage: Usage) -> float:
        """Return what a request cost, in USD. What a server did not count is free."""
        prompt, completion = usage.prompt or 0, usage.completion or 0
        audio = min(usage.audio or 0, prompt)
        cached = min(usage.cached or 0, prompt - audio)
        rates = (
            self.text,
            self.text if self.audio is None else self.audio,
            self.text if self.cached is None else self.cached,
        )
        parts = (prompt - audio - cached, audio, cached)
        return (sum(n * rate for n, rate in zip(parts, rates, strict=True)) + completion * self.completion) / MILLION

    def most(self, tokens: int) -> float:
        """Return the most that so many tokens can cost, in USD."""
        return tokens * max(self.text, self.completion, self.audio or 0.0, self.cached or 0.0) / MILLION


Prices = Mapping[str, Price]
_TABLE = TypeAdapter(dict[str, Price])


def load_prices(own: str = "") -> Prices:
    """Return the prices that ship, overruled by those in the file `own`. Raises ConfigError with file and key."""
    shipped = (resources.files("earwitness") / "prices.json").read_text(encoding="utf-8")
    return parse_prices(shipped, "prices.json") | (_read(Path(own)) if own else {})


def parse_prices(text: str, origin: str) -> dict[str, Price]:
    """Read a table of prices: a JSON object from model names to prices. Raises ConfigError."""
    try:
        value: Any = json.loads(text)
        return _TABLE.validate_python(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{origin} is not JSON ({error})") from None
    except ValidationError as error:
        said = "\n".join(f"  {'.'.join(str(p) for p in e['loc']) or 'the file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"{origin} is no table of prices:\n{said}\n"
            '  write {"MODEL": {"text": USD, "completion": USD}}, per million tokens; "audio", "cached" if they differ'
        ) from None


def _read(path: Path) -> dict[str, Price]:
    try:
        return parse_prices(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"budget.prices: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"budget.prices: {path} is not UTF-8: {error}") from None
