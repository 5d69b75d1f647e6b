"""The verbs between the teacher and the student: vote, verify, select, calibrate, grade, and the prompts' slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import worlds
from earwitness.config import Model, Select, Verify, Vote
from earwitness.flow import Lessons, train_arms
from earwitness.media import MediaError
from earwitness.models.exchange import Completion
from earwitness.prompts import fill, question_prompt
from earwitness.records import Ballot, Claim, Clip, Lesson, Question, Reply, Trace, Verdict
from earwitness.run import Run
from earwitness.stages import verify
from earwitness.stages.calibrate import CalibrateChecker, mix, rates
from earwitness.stages.grade import grade
from earwitness.stages.select import select
from earwitness.stages.verify import VerifyTraces
from earwitness.stages.vote import vote
from earwitness.stages.workbench import Rows, Workbench
from earwitness.workers import Workers
from earwitness.world.questions import read_world

CHOICES = ("dog", "bell", "A clock")
CHECKER = Model(kind="world", name="checker")
ANSWERS = st.lists(st.sampled_from([*CHOICES, None]), min_size=1, max_size=8)


def trace(index: int, answer: str | None, think: str | None = "I hear: dog.") -> Trace:
    return Trace(index=index, raw="", think=think, answer=answer, finish="stop" if answer else "length", by="t")


def traces(answers) -> list[Trace]:
    return [trace(i, answer) for i, answer in enumerate(answers)]


def question(answer: str | None = "dog", sounds=("dog", "rain")) -> Question:
    return Question(
        id="q", clip=Clip(id="c", media="c.mp4", sounds=sounds), text="what ?", choices=CHOICES, answer=answer
    )


# vote


@given(ANSWERS, st.floats(0.05, 1))
def test_the_vote_counts_every_trace_and_agrees_from_its_share_on(answers, share):
    ballot = vote(traces(answers), Vote(share=share))
    counts = {a: answers.count(a) for a in answers if a is not None}
    assert ballot.share == round(max(counts.values(), default=0) / len(answers), 6)
    assert ballot.agreed == (bool(counts) and max(counts.values()) >= share * len(answers) - 1e-6)
    assert [answers[i] for i in ballot.indexes] == [ballot.answer] * counts.get(ballot.answer, 0)


@given(ANSWERS, st.randoms())
def test_the_order_of_traces_decides_only_ties(answers, dice):
    shuffled = dice.sample(answers, len(answers))
    one, other = vote(traces(answers), Vote()), vote(traces(shuffled), Vote())
    assert (one.share, one.agreed) == (other.share, other.agreed)
    assert one.answer == other.answer or answers.count(one.answer) == answers.count(other.answer)


def test_the_vote_reads_spellings_alike_and_the_first_so_many_traces_alone():
    ballot = vote(traces(["A clock", "a  Clock", "bell"]), Vote(traces=2))
    assert ballot == Ballot(answer="A clock", share=1.0, indexes=(0, 1), agreed=True)
    assert not vote(traces(["dog", None]), Vote()).agreed  # unanimity: what was cut off agrees with nobody


# select


@given(ANSWERS, st.sets(st.integers(0, 7)), st.integers(0, 3))
def test_pools_hold_what_they_say(answers, accepted, limit):
    made = traces(answers)
    ballot = vote(made, Vote(share=0.5))
    verdicts = [Verdict(index=t.index, claims=(), accepted=t.index in accepted, reason="", by="c") for t in made]
    lessons = select(question(), made, ballot, verdicts, Select(traces=limit))
    pools = {p: [x for x in lessons if p in x.pools] for p in ("all", "agreed", "heard", "verified", "labels", "gold")}
    behind = set(ballot.indexes) if ballot.agreed else set()
    readable = {i for i, answer in enumerate(answers) if answer is not None}
    members = {"all": readable, "agreed": behind, "heard": readable & accepted, "verified": behind & accepted}
    for pool, expected in members.items():
        assert [x.index for x in pools[pool]] == sorted(expected)[: limit or None]
        assert all(x.answer == answers[x.index] and x.think for x in pools[pool])
    assert [(x.answer, x.think) for x in pools["labels"]] == [(ballot.answer, None)] * bool(ballot.answer)
    assert [(x.answer, x.think) for x in pools["gold"]] == [("dog", None)]


@pytest.mark.parametrize(
    "answer, think, expected", [("dog", "a bark", True), ("dog", None, False), (None, "a bark", False)]
)
def test_given_lessons_are_the_datas_reasoning_and_answer_with_or_without_a_teacher(answer, think, expected):
    own = question(answer).model_copy(update={"think": think})
    alone = select(own, [], None, [], Select(traces=1))
    taught = select(own, traces(["dog"]), vote(traces(["dog"]), Vote()), [], Select(traces=1))
    given = Lesson(think=think, answer="dog", index=None, pools=("given",), by="data") if expected else None
    assert [x for x in alone if "given" in x.pools] == ([given] if given else [])
    assert [x.pools for x in alone] == [("gold",)] * bool(answer) + [("given",)] * expected
    assert taught[-len(alone) :] == alone if alone else all(x.by != "data" for x in taught)


def test_a_trace_without_thinking_is_no_lesson():
    bare = [trace(0, "dog", think=None)]
    assert [x.pools for x in select(question(None), bare, vote(bare, Vote()), [], Select())] == [("labels",)]


# verify and calibrate, by the embedded checker that hears


@pytest.fixture(scope="module")
def heard() -> Question:
    return next(q for q in read_world("world:validation", 8) if q.clip.sounds)


def verdicts_of(asked: Question, *thoughts: str | None, **settings) -> list[Verdict]:
    written = [trace(i, "dog", think) for i, think in enumerate(thoughts)]
    (made,) = VerifyTraces(CHECKER, Verify(**settings))([(asked, written)])
    return made


def test_a_claim_is_judged_by_the_sound_and_no_claim_is_no_proof(heard):
    present = heard.clip.sounds[0]
    good, none, bare = verdicts_of(heard, f"I hear: {present}.", "it must be so", None)
    assert (good.accepted, good.reason, good.claims[0].heard) == (True, "", True)
    assert (none.accepted, none.reason) == (False, "claims no sound")
    assert (bare.accepted, bare.reason) == (False, "has no reasoning to verify")
    (lenient,) = verdicts_of(heard, "it must be so", accept_without_claims=True)
    assert lenient.accepted
    (strict,) = verdicts_of(heard, f"I hear: {present}.", threshold=1.0)
    assert strict.reason in ("", f"claims what is not heard: {present}")
    assert strict.accepted == (good.claims[0].score >= 1.0)


def test_a_clip_that_cannot_be_heard_fails_by_its_id_and_spares_its_neighbour(heard):
    gone = question().model_copy(update={"clip": Clip(id="the clip", media="/nowhere/gone.mp4")})
    failed, fine = VerifyTraces(CHECKER, Verify())([(gone, traces(["dog"])), (heard, [trace(0, "dog")])])
    assert failed.why.startswith("the clip: cannot be read") and "/nowhere" not in failed.why
    assert len(fine) == 1


@dataclass
class Lister:
    """A teacher that lists what it is shown, and says in how many parts it was asked."""

    finish: str = "stop"
    asked: list[int] = field(default_factory=list)
    manner: str = "plain"

    def draw(self, prompts, how, keys):
        self.asked.append(len(prompts))
        return [[Completion("I hear: dog, bell.", (), self.finish)] for _ in prompts]


def extracting(block, lister, monkeypatch):
    teacher = Model(kind="served", name="lister", base_url=("http://127.0.0.1:9/v1",))
    known = verify.connected
    monkeypatch.setattr(verify, "connected", lambda spec, role: lister if spec is teacher else known(spec, role))
    return VerifyTraces(CHECKER, Verify(source="extracted"), teacher)(block)


def test_the_claims_of_a_block_are_extracted_at_once_and_none_for_what_cannot_be_heard(heard, monkeypatch):
    """One by one, a server would have one request at a time."""
    gone = question().model_copy(update={"clip": Clip(id="the clip", media="/nowhere/gone.mp4")})
    lister, other = Lister(), heard.model_copy(update={"id": "other"})
    block = [
        (heard, traces(["dog", "dog"])),
        (gone, traces(["dog"])),
        (other, [trace(0, "dog"), trace(1, "dog", None)]),
    ]
    one, failed, two = extracting(block, lister, monkeypatch)
    assert lister.asked == [3] and failed.why.startswith("the clip")
    assert [[c.text for c in verdict.claims] for verdict in (*one, *two)] == [["dog", "bell"]] * 3 + [[]]


def test_a_list_of_claims_that_was_cut_off_passes_nothing(heard, monkeypatch):
    (failed,) = extracting([(heard, traces(["dog"]))], Lister("length"), monkeypatch)
    assert "claims of trace 0 were cut off" in failed.why


def test_calibration_mixes_in_what_nobody_claimed(heard):
    (row,) = CalibrateChecker(CHECKER, Verify(), seed=1)([(heard, ("dog",))])
    mixed, foreign = (claim.text for claim in row)
    assert mixed != foreign and not {mixed, foreign} & {"dog", *heard.clip.sounds}
    assert CalibrateChecker(CHECKER, Verify(), seed=1)([(heard, ("dog",))]) == [row]


def test_rates_count_what_was_added_and_missed_and_what_was_foreign_and_heard():
    def row(added: bool, foreign: bool) -> list[Claim]:
        return [Claim(text="a", score=0.5, heard=added), Claim(text="b", score=0.5, heard=foreign)]

    made = [row(True, False), row(True, True), row(False, False), row(True, False)]
    assert rates(made) == {"false_accept": 0.25, "false_reject": 0.25, "n": 4}
    assert rates([]) == {"false_accept": None, "false_reject": None, "n": 0}


@given(st.integers(1, 400), st.integers(1, 600), st.floats(-20, 40), st.integers(0, 99))
def test_a_mixture_has_the_clips_length_and_the_sound_stands_at_its_level(length, added, level, seed):
    wave = np.full(length, 0.01, np.float32)
    mixed = mix(wave, np.ones(added, np.float32), level, np.random.default_rng(seed))
    assert mixed.shape == wave.shape and mixed.dtype == np.float32 and np.abs(mixed).max() <= 1
    changed = mixed[mixed != wave] - 0.01
    np.testing.assert_allclose(changed, min(0.01 * 10 ** (-level / 20), 0.99), rtol=1e-3, atol=1e-7)


def test_an_empty_sound_cannot_be_mixed():
    with pytest.raises(MediaError, match="empty sound"):
        mix(np.zeros(0, np.float32), np.ones(3, np.float32), 0.0, np.random.default_rng(0))


# grade


def reply(answer: str | None, think: str | None = None, finish="stop") -> Reply:
    return Reply(raw="", think=think, answer=answer, rule="x", finish=finish)


@pytest.mark.parametrize(
    "given, right, parsed, hallucinated",
    [
        (reply("dog"), True, True, None),
        (reply(" Dog ", "I hear: rain, dog."), True, True, False),
        (reply("bell", "I hear: rain, siren."), False, True, True),
        (reply(None, "I hear: rain"), False, False, False),
        (None, False, False, None),
    ],
)
def test_a_reply_is_right_parsed_and_hallucinated_or_not(given, right, parsed, hallucinated):
    graded = grade(question(), given)
    assert (graded.right, graded.parsed, graded.hallucinated) == (right, parsed, hallucinated)
    assert grade(question(sounds=None), given).hallucinated is None
    assert not grade(question(None), given).right


def test_a_reply_that_was_cut_off_is_marked():
    assert grade(question(), reply(None, finish="length")).truncated


# prompts


@given(st.text(), st.text(), st.text())
def test_slots_are_filled_once_whatever_the_values_hold(before, value, after):
    around = (before + after).replace("{", "").replace("}", "")
    assert fill("{a}" + around + "{b}", a=value, b="{a}") == value + around + "{a}"


def test_unknown_slots_stay_and_open_questions_have_wording_of_their_own():
    assert fill("{question} {other}", question="{other}") == "{other} {other}"
    closed = question_prompt("plain", "think", "Who {claim} barks?", ["dog {question}", "bell"])
    assert closed.startswith("Who {claim} barks? Please choose") and "dog {question}, bell" in closed
    assert "choose" not in question_prompt("plain", "think", "Who barks?", None)


# equal steps of several arms


def test_equal_steps_are_one_checkpoint_and_other_settings_another(tmp_path):
    first = {"stage": "sft", "lessons": "all", "steps": 1}
    arms = {
        "one": [first],
        "same": [first | {"micro_batch": 1}],  # how much at a time, not what
        "more": [first, {"stage": "grpo", "prompts": "labels", "steps": 1}],
        "other": [first | {"learning_rate": 1e-5}],
    }
    config = worlds.world_config(arms=arms)
    asked = read_world("world:train", 3)
    lesson = Lesson(think="I hear: dog.", answer="dog", index=0, pools=("all",), by="t")
    label = lesson.model_copy(update={"think": None, "index": None, "pools": ("labels",)})
    nothing = Rows("x", "x-0", {}, {}, {})
    made = Lessons(asked, nothing, nothing, nothing, Rows("x", "x-0", {q.id: [lesson, label] for q in asked}, {}, {}))
    with Run.open(tmp_path, "small") as run:
        ends = train_arms(Workbench(config, run, Workers(1)), made, config.arms)
    keys = SimpleNamespace(**{arm: end.key for (arm, _), end in ends.items()})
    assert keys.one == keys.same != keys.other and keys.more.startswith("grpo-")
    assert ends["more", 1].parent == keys.one and ends["one", 1].parent == "student"
    trained = {p.parent.name for p in tmp_path.glob("small/checkpoints/*/done.json")}
    assert trained == {keys.one, keys.other, keys.more}
