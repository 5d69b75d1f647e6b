"""What the arms of a run ask for: which data stages, which models, and which of them are controls."""

from __future__ import annotations

import pytest

from earwitness.config import RunConfig
from earwitness.needs import controls, data_stages, roles
from worlds import READERS, reading_config


def steps(**arms) -> RunConfig:
    return reading_config(arms={name: [{"stage": stage, key: pool}] for name, (stage, key, pool) in arms.items()})


GIVEN = {"given": ("sft", "lessons", "given"), "gold": ("grpo", "prompts", "gold")}
VERIFIED = {"verified": ("sft", "lessons", "verified")}
DISTIL = {"both": ("distil", "lessons", "verified")}


@pytest.mark.parametrize(
    "config, until, expected",
    [
        (steps(**VERIFIED), None, "sample vote verify select"),
        (steps(**VERIFIED, **GIVEN), None, "sample vote verify select"),
        (steps(**GIVEN), None, "select"),
        (steps(**GIVEN), "select", "select"),
        (steps(**GIVEN), "vote", "sample vote"),
        (steps(**GIVEN), "describe", "select describe"),
        (steps(**DISTIL), None, "sample vote verify select describe"),
        (steps(**DISTIL), "select", "sample vote verify select"),
        (steps(given=("distil", "lessons", "given")), None, "select describe"),
        (reading_config(arms={}), "verify", "sample vote verify"),
        (reading_config(arms={}), "select", "sample vote verify select"),
        (reading_config(arms={}), "describe", "describe"),
    ],
)
def test_the_arms_say_which_data_stages_are_made(config, until, expected):
    assert " ".join(data_stages(config, until)) == expected


def test_a_teacher_that_sees_nothing_needs_no_description():
    blind = [{"stage": "distil", "lessons": "given", "witnesses": [{"sees": "nothing"}]}]
    assert data_stages(reading_config(arms={"x": blind})) == ("select",)
    untaught = [{"stage": "distil", "lessons": "given", "text_weight": 0.0, "layer_weight": 0.0}]
    assert data_stages(reading_config(arms={"x": untaught})) == ("select",)
    assert roles(reading_config(arms={"x": untaught})) == ["student"]


def test_the_stages_say_which_models_are_needed():
    assert roles(steps(**VERIFIED)) == ["teacher", "checker", "student"]
    assert roles(steps(**GIVEN)) == ["student"]
    assert roles(steps(**VERIFIED), "sample") == ["teacher"]
    assert roles(reading_config(arms={}), "describe") == ["describer"]
    assert roles(reading_config(arms={}, describe={"source": "field"}), "describe") == []
    assert roles(reading_config()) == ["textual_teacher", "student", "describer"]
    chosen = {"x": [{"stage": "sft", "lessons": "given", "candidates": 2}]}
    assert roles(reading_config(arms=chosen)) == ["teacher", "student"]
    assert roles(reading_config(arms=chosen, questions={"choose_by": "gold"})) == ["student"]


def test_arms_that_are_told_more_are_controls():
    assert controls(steps(**VERIFIED, **GIVEN, **DISTIL)) == ["given", "gold"]
    assert controls(reading_config()) == ["told"]
    told = reading_config(describe={"source": "oracle"}, arms=READERS | {"both": [{"stage": "distil"}], "base": []})
    assert controls(told) == [*READERS, "both"]
