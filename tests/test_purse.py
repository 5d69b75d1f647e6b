"""Money: what a table of prices may say, what attempts cost, and a budget that is kept."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.config import Budget, ConfigError
from earwitness.ledger import Attempt, Ledger, Spent, Usage
from earwitness.models.served.purse import BudgetReached, Purse
from earwitness.prices import Price, load_prices, parse_prices
from earwitness.run import RunError
from test_ledger import JSON

PRICE = Price(text=2.0, completion=10.0, audio=40.0, cached=0.5)


def test_each_kind_of_token_has_its_price():
    usage = Usage(prompt=1_000_000, completion=100_000, audio=200_000, cached=300_000)
    assert PRICE.of(usage) == pytest.approx(0.5 * 2 + 0.2 * 40 + 0.3 * 0.5 + 0.1 * 10)
    assert Price(text=2.0, completion=10.0).of(usage) == pytest.approx(3.0)
    assert PRICE.of(Usage()) == 0


counts = st.none() | st.integers(0, 10**9)


@given(prompt=counts, completion=counts, audio=counts, cached=counts)
def test_no_request_costs_less_than_nothing_or_more_than_its_most(prompt, completion, audio, cached):
    cost = PRICE.of(Usage(prompt, completion, audio, cached))
    assert 0 <= cost <= PRICE.most((prompt or 0) + (completion or 0)) * (1 + 1e-9)


def test_the_prices_that_ship_are_dated_and_say_their_source():
    prices = load_prices()
    assert prices
    assert all(price.date and price.source for price in prices.values())


def test_a_file_of_ones_own_overrules(tmp_path):
    file = tmp_path / "prices.json"
    file.write_text('{"gpt-4o": {"text": 1, "completion": 2}, "mine": {"text": 0, "completion": 0}}')
    prices = load_prices(str(file))
    assert prices["gpt-4o"] == Price(text=1, completion=2)
    assert prices["mine"].most(10**6) == 0
    assert set(prices) == set(load_prices()) | {"mine"}
    with pytest.raises(ConfigError, match=r"budget.prices: .*cannot be read"):
        load_prices(str(tmp_path / "missing.json"))


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is not JSON"),
        ("[]", "valid dictionary"),
        ('{"m": {"text": 1}}', "m.completion: Field required"),
        ('{"m": {"text": -1, "completion": 1}}', "m.text: Input should be greater"),
        ('{"m": {"text": NaN, "completion": 1}}', "m.text"),
        ('{"m": {"text": 1, "completion": Infinity}}', "m.completion"),
        ('{"m": {"text": 1, "completion": 1, "sound": 1}}', "m.sound: Extra inputs"),
        ('{"m": {"text": 1, "completion": 1, "date": "may"}}', "m.date"),
    ],
)
def test_a_table_that_is_none_is_refused_by_model_and_key(text, words):
    with pytest.raises(ConfigError) as refused:
        parse_prices(text, "my.json")
    assert "my.json" in str(refused.value)
    assert words in str(refused.value)


@given(value=JSON)
def test_any_json_is_prices_or_a_clear_error(value):
    try:
        prices = parse_prices(json.dumps(value), "my.json")
    except ConfigError as error:
        assert "my.json" in str(error)
    else:
        assert all(math.isfinite(price.most(1)) for price in prices.values())


def test_what_is_under_way_is_held_until_it_is_settled():
    purse = Purse(Budget(tokens=100), {})
    first, second = purse.take(40, None), purse.take(40, None)
    assert purse.take(40, None) is None  # might fit once the others used less
    purse.settle(first, Usage(5, 5), 0, None)
    third = purse.take(40, None)
    assert third is not None
    purse.settle(second, Usage(), 40, None)  # a server that hung may have charged for all of it
    purse.settle(third, Usage(20, 20), 0, None)
    with pytest.raises(BudgetReached, match=r"90 of 100 tokens.*may use 40.*same command"):
        purse.take(40, None)
    assert purse.take(10, None) is not None


def test_a_budget_in_usd_counts_requests_at_their_most():
    purse = Purse(Budget(usd=1.0), {"m": PRICE})
    hold = purse.take(20_000, purse.price("m"))  # 0.8 at 40 USD per million
    assert purse.take(10_000, PRICE) is None
    purse.settle(hold, Usage(20_000, 0), 0, 0.04)
    assert purse.spent == Spent(20_000, 0.04)
    with pytest.raises(BudgetReached, match=r"0\.0400 of 1 USD"):
        purse.take(30_000, PRICE)


def test_a_budget_in_usd_refuses_a_model_without_a_price():
    with pytest.raises(RunError, match=r"price of mine is not known.*budget\.prices"):
        Purse(Budget(usd=1.0), {}).price("mine")
    assert Purse(Budget(tokens=1), {}).price("mine") is None


def test_what_was_spent_before_counts_failed_attempts_and_other_shards_too(tmp_path):
    paths = [tmp_path / f"ledger.{n}-of-2.sqlite" for n in (1, 2)]
    for path in paths:
        ledger = Ledger(path)
        ledger.record(Attempt("m", "h:1", "malformed", 1.0, Usage(10, 5), usd=0.25), {}).result()
        ledger.record(Attempt("m", "h:1", "hang", 1.0, untold=30, usd=0.5), {}).result()
        ledger.close()
    purse = Purse(Budget(tokens=100), {}, paths[0], lambda: paths[1:])
    assert purse.take(10, None) is not None
    assert purse.spent == Spent(90, 1.5)
    assert purse.take(1, None) is None
    assert Purse(Budget(), {}, paths[0]).spent == Spent(45, 0.75)
    assert Purse(Budget(), {}, tmp_path / "none.sqlite").spent == Spent()
