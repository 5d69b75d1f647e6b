"""The list of claimed sounds, as the teacher's prompt asks for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.claims import LONGEST, MOST, listed


@pytest.mark.parametrize(
    ("think", "claims"),
    [
        (None, ()),
        ("", ()),
        ("so dog .", ()),
        ("i hear dog , horn , dog . so the dog is twice .", ("dog", "horn")),
        ("I hear: a dog, the horn and RAIN.\nThe cat, of course, is silent.", ("dog", "horn", "rain")),
        ("Well.\n**I hear:** a church bell; then an owl", ("church bell", "owl")),
        ("Sounds heard: dog, cat\nhorn", ("dog", "cat")),
        ("sounds: dog, and cat.", ("dog", "cat")),
        ("I hear:\ndog.", ("dog",)),
        ("I hear a 2.5 kHz tone.", ("2.5 khz tone",)),
        ("I hear dog. I hear cat.", ("dog",)),
        ("It sounds like a dog", ()),
        ("I hear: nothing.", ()),
        ("I hear nothing else, no dog, none and silence.", ()),
        ("I hear: do\x00g\x1b, c\u200bat.", ("dog", "cat")),
        ("I hear: sandbox, bandsaw.", ("sandbox", "bandsaw")),
    ],
)
def test_claims_are_read_from_the_list_and_nowhere_else(think: str | None, claims: tuple[str, ...]) -> None:
    assert listed(think) == claims


def test_a_flood_of_claims_is_bounded() -> None:
    claims = listed("I hear: " + ", ".join(f"sound {i} {'x' * 500}" for i in range(1000)))
    assert len(claims) == MOST
    assert max(map(len, claims)) == LONGEST
    assert claims[0].startswith("sound 0 x")


@given(st.text(), st.sampled_from(["I hear ", "sounds: ", ""]), st.text())
def test_any_text_gives_clean_bounded_distinct_claims(before: str, opening: str, after: str) -> None:
    claims = listed(before + opening + after)
    assert len(claims) == len(set(claims)) <= MOST
    assert all(claim == claim.strip() and 0 < len(claim) <= LONGEST for claim in claims)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for claim in claims for c in claim)


@given(st.lists(st.sampled_from(["dog", "church bell", "siren", "rain"]), min_size=1, unique=True), st.booleans())
def test_a_list_written_as_asked_comes_back_in_order(sounds: list[str], articles: bool) -> None:
    written = ", ".join(f"a {sound}" if articles else sound for sound in sounds)
    assert listed(f"I hear: {written}.\nSo the horn is silent.") == tuple(sounds)
