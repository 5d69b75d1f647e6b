"""The report: what its tables hold, what it claims, and that equal runs write equal files."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from earwitness.claims import WHOLE_TRACE
from earwitness.records import Claim, Clip, Grade, Lesson, Question, Verdict
from earwitness.report.document import table_text, write
from earwitness.report.hearing import judged, section
from earwitness.report.pools import left_rows
from earwitness.report.tables import MOST_VALUES, Sitting, categories, claimed, comparisons, rows_and_summary
from earwitness.report.wording import arm_names, escaped, p_value, stable, text_table

META = {"version": "0.1.0", "config_sha256": "ab" * 32, "weights_sha256": "cd" * 32}
CHECKER = {"false_accept": 0.125, "false_reject": 0.05, "n": 80}
STAGES = [{"name": "sample", "in": 10, "out": 9, "failed": 1}]
TRACES = [
    {
        "variant": "default",
        "pool": "labels",
        "questions": 9,
        "traces": 9,
        "label_right": 0.7,
        "absent_sound": None,
        "answers": 1.0,
        "claim_lists": None,
    },
    {
        "variant": "default",
        "pool": "verified",
        "questions": 4,
        "traces": 8,
        "label_right": 0.9,
        "absent_sound": 0.1,
        "answers": 1.0,
        "claim_lists": 1.5,
    },
]


def questions(n: int = 40, per_clip: int = 1, exam: str = "world") -> list[Question]:
    return [
        Question(
            id=f"{exam}/{i}",
            clip=Clip(id=f"{exam}/clip{i // per_clip}", media="world:easy:1"),
            text="which ?",
            choices=("dog", "cat", "horn", "bell"),
            answer="dog",
            tags={
                "type": ("count", "after")[i % 2],
                "seen": ("visible", "off-screen", "audible-only", "visible")[i % 4],
            },
        )
        for i in range(n)
    ]


def grade(right: bool, **other: bool | None) -> Grade:
    facts = {"parsed": True, "truncated": False, "hallucinated": None} | other
    return Grade(right=right, claims=(), **facts)  # type: ignore[arg-type]


def sitting(
    arm: str, seed: int | None, right: list[bool], mode: str = "think", asked: list[Question] | None = None
) -> Sitting:
    asked = asked or questions(len(right))
    return Sitting(
        asked[0].id.split("/")[0], "default", arm, seed, mode, asked,
        {q.id: grade(r) for q, r in zip(asked, right, strict=True)},
    )  # fmt: skip


def first(n: int, of: int = 40) -> list[bool]:
    return [i < n for i in range(of)]


def run(n: int = 60, seed: int = 0) -> list[Sitting]:
    rng = random.Random(seed)
    shares = {"base": 0.3, "verified": 0.6, "gold": 0.9}
    return [
        sitting(arm, s, [rng.random() < share for _ in range(n)], "direct" if arm == "gold" else "think", asked)
        for asked in (questions(n), questions(n, 2, "world-ood"))
        for arm, share in shares.items()
        for s in ([None] if arm == "base" else [1, 2, 3])
    ]


def test_a_row_counts_what_was_right_unparsed_cut_and_hallucinated() -> None:
    asked = questions(4)
    grades = {
        asked[0].id: grade(True, hallucinated=True),
        asked[1].id: grade(True, hallucinated=False),
        asked[2].id: grade(False, parsed=False, truncated=True),
    }
    rows, summary = rows_and_summary([Sitting("world", "default", "base", None, "think", asked, grades)])
    assert [row["category"] for row in rows] == [
        "all", "type:after", "type:count", "tag:audible-only", "tag:off-screen", "tag:visible",
    ]  # fmt: skip
    everything = rows[0]
    assert everything.items() >= {
        "n": 4, "correct": 2, "accuracy": 0.5, "unparsed": 2, "truncated": 1, "hallucinated": 0.5, "seed": None,
    }.items()  # fmt: skip
    assert rows[2]["n"] == 2 and rows[2]["correct"] == 1 and rows[2]["hallucinated"] == 1.0
    assert rows[3]["hallucinated"] is None
    assert everything["low"] < 0.5 < everything["high"]
    assert summary[0]["seeds"] == 0 and summary[0]["sd"] is None and summary[0]["seed_low"] is None


def test_the_summary_averages_over_seeds_and_says_how_they_differ() -> None:
    _, summary = rows_and_summary([sitting("verified", s, first(n)) for s, n in ((1, 10), (2, 20), (3, 30))])
    cell = summary[0]
    assert (cell["mean"], cell["seeds"], cell["arm"], cell["category"]) == (0.5, 3, "verified", "all")
    assert cell["sd"] == pytest.approx(0.25)
    assert (cell["seed_low"], cell["seed_high"]) == pytest.approx((0.5 - 0.621, 0.5 + 0.621), abs=1e-3)


def test_a_tag_that_names_questions_makes_no_categories() -> None:
    asked = [
        q.model_copy(update={"tags": {"row": str(i), "task": "sound"}})
        for i, q in enumerate(questions(MOST_VALUES + 1))
    ]
    assert list(categories(asked)) == ["all", "task:sound"]
    assert "row:0" in categories(asked[:-1])


def test_each_seed_is_tested_with_mcnemar_and_all_together_by_clip() -> None:
    sittings = [sitting("base", None, first(10))] + [sitting("verified", s, first(30)) for s in (1, 2, 3)]
    found = comparisons(sittings, [("base", "verified")])
    assert [c["seed"] for c in found] == [1, 2, 3, "pooled"]
    assert {c["test"] for c in found[:3]} == {"mcnemar"} and found[3]["test"] == "permutation"
    assert (found[0]["a_only"], found[0]["b_only"], found[0]["difference"]) == (0, 20, 0.5)
    assert found[0]["p"] == pytest.approx(2 / 2**20)
    assert found[0]["same_sign"] is None and found[3]["same_sign"] is True
    assert (found[3]["a_only"], found[3]["b_only"], found[3]["difference"]) == (0, 60, 0.5)
    assert claimed(found[3])
    with pytest.raises(ValueError, match="pooled"):
        claimed(found[0])


def test_clips_with_several_questions_are_tested_by_clip() -> None:
    asked = questions(40, per_clip=4)
    a, b = sitting("a", 1, first(0), asked=asked), sitting("b", 1, first(20), asked=asked)
    per_seed, pooled = comparisons([a, b], [("a", "b")])
    assert per_seed["test"] == pooled["test"] == "permutation"
    assert 0.05 < per_seed["p"] < 0.08, "five clips, all of the same sign: 2/32"


def test_a_gain_that_one_seed_denies_is_not_claimed() -> None:
    base = [sitting("base", s, first(10)) for s in (1, 2, 3)]
    better = [sitting("better", s, first(n)) for s, n in ((1, 40), (2, 40), (3, 9))]
    pooled = comparisons(base + better, [("base", "better")])[-1]
    assert pooled["p"] < 0.01 and pooled["same_sign"] is False
    assert not claimed(pooled)
    level = [sitting("better", s, first(n)) for s, n in ((1, 40), (2, 40), (3, 10))]
    assert comparisons(base + level, [("base", "better")])[-1]["same_sign"] is False, "no difference has no sign"


def test_arms_are_compared_across_prompts_only_where_they_share_none() -> None:
    direct, think = sitting("base", None, first(9), "direct"), sitting("base", None, first(9), "think")
    other = sitting("verified", 1, first(20), "think")
    assert {c["mode"] for c in comparisons([direct, think, other], [("base", "verified")])} == {"think"}
    assert {c["mode"] for c in comparisons([direct, other], [("base", "verified")])} == {"direct/think"}


def test_categories_are_compared_only_if_asked() -> None:
    sittings = [sitting("a", 1, first(10)), sitting("b", 1, first(20))]
    assert {c["category"] for c in comparisons(sittings, [("a", "b")])} == {"all"}
    assert "tag:off-screen" in {c["category"] for c in comparisons(sittings, [("a", "b")], by_category=True)}


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    a = sitting("a", 1, first(10))
    with pytest.raises(ValueError, match="no such arm"):
        comparisons([a], [("a", "missing")])
    with pytest.raises(ValueError, match="share no training seed"):
        comparisons([a, sitting("b", 2, first(10))], [("a", "b")])
    with pytest.raises(ValueError, match="other questions"):
        rows_and_summary([a, sitting("b", 1, first(10, 20))])
    with pytest.raises(ValueError, match="given twice"):
        rows_and_summary([a, a])
    with pytest.raises(ValueError, match="not asked"):
        Sitting("world", "default", "a", 1, "think", questions(2), {"elsewhere/1": grade(True)})
    with pytest.raises(ValueError, match="needs questions"):
        Sitting("world", "default", "a", 1, "think", [], {})


def test_equal_runs_write_equal_files_with_exactly_the_agreed_keys(tmp_path: Path) -> None:
    pairs = [("base", "verified"), ("verified", "gold")]
    for name in ("one", "two"):
        report = write(tmp_path / name, "trial", run(), pairs, TRACES, STAGES, CHECKER, META)
    for name in ("report.json", "report.md", "ladder.png", "by-type.png", "pools.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "one/report.json").read_text()) == report
    assert set(report) == {
        "run", "version", "config_sha256", "weights_sha256",
        "rows", "summary", "comparisons", "causes", "gaps", "traces", "stages", "controls", "checker", "judged",
        "left", "losses",
    }  # fmt: skip
    assert set(report["rows"][0]) == {
        "exam", "category", "mode", "variant", "arm", "seed", "n", "correct", "accuracy", "low", "high", "unparsed",
        "truncated", "hallucinated",
    }  # fmt: skip
    assert set(report["summary"][0]) == {
        "exam", "category", "mode", "variant", "arm", "seeds", "mean", "sd", "low", "high", "seed_low", "seed_high",
    }  # fmt: skip
    assert set(report["comparisons"][0]) == {
        "exam", "category", "mode", "variant", "arm_a", "arm_b", "seed", "a_only", "b_only", "difference", "p", "test",
        "same_sign",
    }  # fmt: skip


def test_the_page_tells_what_was_found_and_marks_the_control(tmp_path: Path) -> None:
    report = write(
        tmp_path, "trial", run(), [("base", "verified"), ("verified", "gold")], TRACES, STAGES, CHECKER, META
    )
    page = (tmp_path / "report.md").read_text()
    assert "base \u2192 verified on world: **a gain is claimed** (" in page
    assert "guessing gives 25.0 %" in page
    assert "1 rows failed" in page
    assert "it heard 12.5 %" in page
    assert "by type" in page and "off-screen" in page and "![accuracy of every arm](ladder.png)" in page
    for line in (page + table_text(report)).splitlines():
        assert "gold" not in line or "gold (control)" in line or "gold (control" in line


def test_the_terminal_gets_the_same_ladder_aligned(tmp_path: Path) -> None:
    report = write(tmp_path, "trial", run(), [("base", "verified")], [], [], None, META)
    lines = table_text(report).splitlines()
    ladder = lines[1 : lines.index("")]
    mean = next(c["mean"] for c in report["summary"] if c["arm"] == "verified" and c["category"] == "all")
    assert f"{100 * mean:.1f} %" in next(line for line in ladder if "verified" in line)
    assert len({line.find("%") for line in ladder[1:]}) == 1
    assert any("a gain is claimed" in line for line in lines)


def test_a_run_without_exams_has_a_report(tmp_path: Path) -> None:
    report = write(tmp_path, "trial", [], [], [], [], {"false_accept": None, "false_reject": None, "n": 0}, META)
    page = (tmp_path / "report.md").read_text()
    assert "No exam was sat." in page and "Not calibrated" in page
    assert table_text(report) == "" and not list(tmp_path.glob("*.png"))


def test_what_a_reader_must_know_is_said(tmp_path: Path) -> None:
    asked = [q.model_copy(update={"choices": None}) for q in questions(4)]
    missing = Sitting("world", "default", "base", None, "direct", asked, {asked[0].id: grade(True)})
    write(tmp_path, "trial", [missing], [], [], [], None, META)
    page = (tmp_path / "report.md").read_text()
    assert "has 3 questions without a grade; they count as wrong" in page
    assert "4 questions of world are open" in page
    assert "guessing gives" not in page


HOSTILE = "a|b`c`<img src=x onerror=alert(1)>[x](http://evil)**z**\n# head\x1b[31m\u202e $x$"


def test_no_name_can_put_markup_into_the_page(tmp_path: Path) -> None:
    asked = [q.model_copy(update={"tags": {"type": HOSTILE}}) for q in questions(8)]
    sittings = [Sitting("world", "default", arm, 1, "think", asked, {}) for arm in (HOSTILE, "other")]
    stages = [{"name": HOSTILE, "in": 1, "out": 1, "failed": 0}]
    report = write(
        tmp_path, HOSTILE, sittings, [(HOSTILE, "other")], [TRACES[1] | {"pool": HOSTILE}], stages, None, META
    )
    page = (tmp_path / "report.md").read_text()
    assert "<img" not in page and "http://" not in page
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", page + table_text(report))
    assert not re.search(r"(?<!\\)(?:\\\\)*\[x", page) and "\n# head" not in page
    table = [line for line in page.splitlines() if line.startswith("| a\\|b")]
    assert table and all(len(re.findall(r"(?<!\\)\|", line)) in (5, 7, 9, 10) for line in table)


def test_escaping_leaves_ordinary_names_alone() -> None:
    assert escaped("grpo-only") == "grpo-only"
    assert escaped("acoustic_guitar") == "acoustic_guitar"
    assert escaped("type:count 2.5") == "type:count 2.5"
    assert escaped("_x_ `y`") == r"\_x\_ \`y\`"
    assert len(escaped("x" * 500)) == 60


def test_an_arm_in_two_modes_says_which() -> None:
    cells = [{"arm": "base", "mode": m} for m in ("direct", "think")] + [{"arm": "gold-think", "mode": "think"}]
    assert list(arm_names(cells).values()) == ["base (direct)", "base (think)", "gold-think (control)"]


def test_floats_are_stable_and_nothing_unknown_hides_as_a_number() -> None:
    assert stable({"a": [0.1234567890, 1 / 3, 5, None, "x"]}) == {"a": [0.123457, 0.333333, 5, None, "x"]}
    assert stable(1.23456789e-12) == 1.23457e-12
    with pytest.raises(ValueError, match="None"):
        stable([float("nan")])


def test_numbers_are_written_as_people_write_them() -> None:
    assert [p_value(p) for p in (0.5, 0.0432, 0.00012, 9.999e-5)] == ["0.50", "0.0432", "0.0001", "< 0.0001"]
    assert text_table(["a", "n"], [["北京", "1"], ["x", "22"]]) == ["a      n", "北京   1", "x     22"]


def test_the_checker_is_measured_on_what_the_traces_claim() -> None:
    asked = Question(
        id="q", clip=Clip(id="c", media="world:easy:1", sounds=("dog", "bell")), text="?", choices=("a", "b")
    )
    again = asked.model_copy(update={"id": "again"})
    unknown = Question(id="u", clip=Clip(id="u", media="u.wav"), text="?", choices=("a", "b"))
    claims = {"dog": True, "bell": False, "horn": True, "drum": False, "siren": False, "saw": False}
    verdict = Verdict(
        index=0, claims=tuple(Claim(text=t, score=0.5, heard=h) for t, h in claims.items()), accepted=False,
        reason="", by="checker",
    )  # fmt: skip
    (row,) = judged("default", [asked, again, unknown], lambda _: [verdict, verdict])
    assert row == {"variant": "default", "claims": 6, "false_accept": 0.25, "false_reject": 0.5}
    assert judged("default", [unknown], lambda _: [verdict]) == []
    whole = verdict.model_copy(update={"claims": (Claim(text=WHOLE_TRACE, score=0.9, heard=True),)})
    assert judged("default", [asked], lambda _: [whole]) == [], "a trace judged as one names no sound"
    page = "\n".join(section({"n": 0}, [row]))
    assert "| default | 6 | 25.0 % | 50.0 % |" in page and "Not calibrated" in page


def test_the_page_says_where_training_hurts(tmp_path: Path) -> None:
    asked = questions(80)
    seen = [q.tags["seen"] == "audible-only" for q in asked]
    sat = [sitting("base", None, [s or i % 4 == 1 for i, s in enumerate(seen)], "direct", asked)]
    sat += [sitting("verified", s, [not s for s in seen], "think", asked) for s in (1, 2, 3)]
    sat.append(sitting("teacher", None, [True] * 80, "think", asked))
    report = write(tmp_path, "trial", sat, [], [], [], None, META | {"helped": ["teacher"]})
    (loss,) = (c for c in report["losses"] if c["category"].startswith("tag:"))
    assert (loss["category"], loss["arm_a"], loss["arm_b"]) == ("tag:audible-only", "base", "verified")
    assert (loss["before"], loss["after"], loss["difference"]) == (1, 0, -1)
    assert "| world | tag:audible-only | verified | 100.0 % | 0.0 % | -100.0 |" in (tmp_path / "report.md").read_text()
    assert not write(tmp_path, "trial", sat[1:], [], [], [], None, META | {"helped": ["teacher"]})["losses"]


def test_the_page_says_what_is_left_of_each_kind_of_question(tmp_path: Path) -> None:
    asked = questions(8)

    def lessons_of(question: Question) -> list[Lesson]:
        hard = question.tags["type"] == "after"
        made = Lesson(think="i hear cat .", answer="cat" if hard else "dog", index=0, pools=("all",), by="teacher")
        return [made] if hard else [made.model_copy(update={"pools": ("all", "agreed")})]

    left = left_rows(asked, lessons_of)
    of = {(c["category"], c["pool"]): c for c in left}
    assert (of["all", "all"]["left"], of["all", "all"]["label_right"]) == (1, 0.5)
    assert (of["type:count", "agreed"]["left"], of["type:count", "agreed"]["label_right"]) == (1, 1)
    assert (of["type:after", "agreed"]["left"], of["type:after", "agreed"]["label_right"]) == (0, None)
    write(tmp_path, "trial", [], [], [], [], None, META, left=left)
    assert "| type:after | 4 | 0.0 % | 100.0 % (0.0 %) | 0.0 % |" in (tmp_path / "report.md").read_text()
