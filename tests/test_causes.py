"""The report tells what was forgotten from what words mislead, and from neither."""

from __future__ import annotations

import random

import pytest

from earwitness.records import Clip, Question
from earwitness.report.causes import causes, verdict
from earwitness.report.document import write
from earwitness.report.gap import gaps
from earwitness.report.gap import section as gap_section
from earwitness.report.tables import Sitting
from test_report import grade

SIZE = 400


def questions() -> list[Question]:
    return [
        Question(
            id=f"mood/{i}",
            clip=Clip(id=f"mood/clip{i}", media="world:speech:1"),
            text="how does the speaker feel ?",
            choices=("happy", "sad"),
            answer="sad",
            tags={"words": ("agree", "conflict")[i % 2]},
        )
        for i in range(SIZE)
    ]


def sat(arm: str, seed: int | None, mode: str, agree: float, conflict: float) -> Sitting:
    rng = random.Random(f"{arm} {seed} {mode}")
    asked = questions()
    grades = {q.id: grade(rng.random() < (agree if q.tags["words"] == "agree" else conflict)) for q in asked}
    return Sitting("world-mood", "default", arm, seed, mode, asked, grades)


def both_ways(arm: str, direct: tuple[float, float], think: tuple[float, float], seeds=(1, 2)) -> list[Sitting]:
    return [sat(arm, s, mode, *share) for s in seeds for mode, share in (("direct", direct), ("think", think))]


BASE = both_ways("base", (0.85, 0.85), (0.85, 0.85), seeds=(None,))


@pytest.mark.parametrize(
    ("direct", "think", "said"),
    [
        ((0.85, 0.85), (0.85, 0.85), "neither"),
        ((0.6, 0.6), (0.6, 0.6), "forgotten"),
        ((0.85, 0.85), (0.9, 0.4), "misled by words"),
        ((0.6, 0.6), (0.65, 0.2), "both"),
        ((0.85, 0.85), (0.5, 0.5), "neither"),  # thinking costs as much where words agree: they are not the cause
    ],
)
def test_the_causes_are_told_apart(direct, think, said):
    (base, arm) = causes([*BASE, *both_ways("sft", direct, think)])
    assert base["forgotten"] is None and verdict(base) == "neither"
    assert verdict(arm) == said
    assert arm["seeds"] == 2
    assert arm["direct_conflict"] == pytest.approx(direct[1], abs=0.06)


def test_only_exams_with_such_words_and_arms_that_were_asked_both_ways_are_told_of():
    plain = [s for s in BASE if s.mode == "direct"]
    assert causes(plain) == []
    without = [q.model_copy(update={"tags": {}}) for q in questions()]
    assert causes([Sitting("x", "default", s.arm, s.seed, s.mode, without, s.grades) for s in BASE]) == []


def test_the_report_holds_them_and_says_them(tmp_path):
    sittings = [*BASE, *both_ways("sft", (0.85, 0.85), (0.9, 0.4))]
    meta = {"version": "1", "config_sha256": "a", "weights_sha256": "b"}
    report = write(tmp_path, "moods", sittings, [("base", "sft")], [], [], None, meta)
    assert [cell["arm"] for cell in report["causes"]] == ["base", "sft"]
    page = (tmp_path / "report.md").read_text()
    assert "## Forgotten, or misled by words?" in page and "| misled by words |" in page


def test_the_gap_between_hearing_and_reading_is_told_in_shares():
    def cell(arm: str, mean: float, seeds: int) -> dict:
        return {
            "exam": "world",
            "variant": "default",
            "category": "all",
            "mode": "think",
            "arm": arm,
            "mean": mean,
            "seeds": seeds,
        }

    summary = [cell("base", 0.5, 0), cell("reader", 0.9, 0), cell("sft", 0.8, 3), cell("worse", 0.4, 3)]
    assert [(c["arm"], c["share"]) for c in gaps(summary, ["reader"])] == [
        ("sft", pytest.approx(0.75)),
        ("worse", pytest.approx(-0.25)),
    ]
    behind = [cell("base", 0.5, 0), cell("reader", 0.45, 0), cell("sft", 0.8, 3)]
    assert [c["share"] for c in gaps(behind, ["reader"])] == [None]
    assert gaps(summary, []) == []
    helped = [cell("helped", 0.7, 0), *summary]
    assert gaps(helped, ["reader"], ["helped"])[0]["share"] == pytest.approx(0.75), "help is not hearing"
    page = "\n".join(gap_section(gaps([*summary, cell("truth", 0.98, 0)], ["reader", "truth"])))
    assert "| arm | it hears | to reader (90.0 %) | to truth (98.0 %) |" in page
    assert "| sft | 80.0 % | 75.0 % | 62.5 % |" in page
