"""`earwitness costs`: everything that was asked, over all sittings and shards, whether it was of use or not."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fault_server
from earwitness.cli import main
from earwitness.config import Budget
from earwitness.costs import costs, costs_text
from earwitness.ledger import Attempt, Ledger, Usage
from earwitness.models.served.purse import Purse
from earwitness.prices import Price
from earwitness.run import RunError


def fill(path, *attempts: tuple[Attempt, int]) -> None:
    ledger = Ledger(path)
    for number, (attempt, answers) in enumerate(attempts):
        ledger.record(attempt, {f"{path.name} {number} {n}": {} for n in range(answers)}).result()
    ledger.close()


def test_all_sittings_and_shards_are_counted(tmp_path, capsys):
    answered = Attempt("qwen@main", "a:1", "answered", 0.5, Usage(100, 20, 30, 40), usd=0.25)
    fill(tmp_path / "ledger.1-of-2.sqlite", (answered, 4), (Attempt("qwen@main", "a:1", "429", 0.5), 0))
    fill(tmp_path / "ledger.2-of-2.sqlite", (answered, 3))
    hung = Attempt("qwen@main", "b:1", "hang", 2.0, untold=70, usd=0.125)
    fill(tmp_path / "ledger.sqlite", (hung, 0), (Attempt("mine\x1b[2J", "c:1", "answered", 1.0, Usage(7, 1)), 1))
    fill(tmp_path / "ledger.sqlite", (answered, 0))
    assert main(["costs", str(tmp_path)]) == 0
    mine, qwen = capsys.readouterr().out.split("\n\n")
    assert qwen.splitlines() == [
        "qwen@main",
        "  calls     3 answered, with 7 answers",
        "  attempts  5: 3 answered, 1 429, 1 hang",
        "  tokens    300 of prompts (90 sound, 120 cached), 60 of completions, and at most 70 in 1 attempts whose "
        "usage the server did not tell",
        "  USD       0.8750, what was not told counted at its most; 1 attempts were made without a known price",
        "  seconds   4.0 of waiting for the server, 0.80 an attempt",
    ]
    assert mine.splitlines()[0] == "mine"
    assert "  USD       no price known (a file named by budget.prices can tell)" in mine.splitlines()


def test_costs_after_a_second_sitting_are_those_of_both(tmp_path):
    """What curators of other kinds tell after a resume is the last sitting's cost alone."""
    server = fault_server.start()
    try:
        for sitting, turns in enumerate((["500", "empty"], ["429"])):
            server.plan(turns=turns)
            ledger = Ledger(tmp_path / "ledger.sqlite")
            purse = Purse(Budget(), {"canned": Price(text=1000, completion=10_000)}, ledger.path)
            asked = fault_server.engine(server, ledger=ledger, purse=purse)
            asked.ask([fault_server.call(f"{n}") for n in range(5 + 5 * sitting)])
            asked.close()
            ledger.close()
    finally:
        server.kill()
    (cost,) = costs(tmp_path).values()
    assert dict(cost.outcomes) == {"answered": 10, "500": 1, "malformed": 1, "429": 1}
    assert cost.answers == 10
    assert (cost.counts["prompt"], cost.counts["completion"], cost.counts["untold"]) == (110, 50, 0)
    assert cost.usd == pytest.approx(0.61) == purse.spent.usd


def test_a_folder_without_a_ledger_says_so(tmp_path):
    with pytest.raises(RunError, match="holds no ledger"):
        costs_text(tmp_path)
    Ledger(tmp_path / "ledger.sqlite").close()
    assert costs_text(tmp_path) == "nothing was asked of served models yet"
    (tmp_path / "ledger.2-of-2.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(RunError, match=r"ledger\.2-of-2\.sqlite"):
        costs_text(tmp_path)


def test_costs_need_no_heavy_library(tmp_path):
    Ledger(tmp_path / "ledger.sqlite").close()
    told = (
        "import sys; from earwitness.cli import main; main(['costs', sys.argv[1]]);"
        "print(*sorted({'torch', 'transformers', 'av', 'aiohttp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", told, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [""]


def test_served_models_need_no_torch():
    told = "import sys, earwitness.models.served.desk; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
