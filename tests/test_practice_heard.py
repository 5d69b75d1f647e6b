"""Practice that is rewarded for claiming only what the checker hears."""

from __future__ import annotations

import json

import numpy as np
import pytest

from earwitness.config import ConfigError, Model, Verify
from earwitness.driver import drive
from earwitness.memory import parameters
from earwitness.models.exchange import Unanswered, Unclear
from earwitness.needs import roles
from earwitness.plan import _needs
from earwitness.preflight import refuse
from earwitness.records import Clip, Question, Trace
from earwitness.sources.clips import scene_of
from earwitness.stages.verify import TOO_MANY, Listener, VerifyTraces, heard_as, score_claims
from earwitness.stages.workbench import StageError
from earwitness.table import Failed
from earwitness.world.questions import read_world
from earwitness.world.scenes import SOUNDS
from worlds import world_config

CHECKER = Model(kind="world", name="checker")
PRACTISED = {"practised": [{"stage": "grpo", "prompts": "labels", "checker_weight": 0.5}]}


@pytest.fixture(scope="module")
def listener():
    return Listener(CHECKER, Verify())


@pytest.fixture(scope="module")
def question():
    return read_world("world:validation", 1)[0]


def test_what_is_claimed_must_be_heard(listener, question):
    there = sorted(set(scene_of(question.clip).heard))
    absent = next(s for s in SOUNDS if s not in there)
    thinks = [f"i hear {' , '.join(there)} .", f"i hear {there[0]} , {absent} .", "so two .", None]
    assert listener.accepts(question, thinks) == [True, False, False, False]
    lenient = Listener(CHECKER, Verify(accept_without_claims=True))
    assert lenient.accepts(question, thinks) == [True, False, True, False]
    scores = score_claims(listener.model, heard_as(question.clip, None), there)
    strict = Listener(CHECKER, Verify(threshold=min(scores.values()) + 1e-4))
    assert strict.accepts(question, thinks[:1]) == [False]


def test_a_list_of_more_sounds_than_are_judged_passes_nowhere(question):
    """What stands behind the last claim that is judged would pass unheard."""
    anything = Verify(threshold=0.0)
    few, many = ("i hear " + " , ".join(f"sound {n}" for n in range(count)) + " ." for count in (2, 40))
    assert Listener(CHECKER, anything).accepts(question, [few, many]) == [True, False]
    traces = [Trace(index=n, raw=t, think=t, answer="x", finish="stop", by="t") for n, t in enumerate((few, many))]
    (verdicts,) = VerifyTraces(CHECKER, anything)([(question, traces)])
    assert [v.accepted for v in verdicts] == [True, False] and verdicts[1].reason == TOO_MANY


def test_words_that_cannot_be_put_to_the_checker_are_not_heard(listener, question):
    (there, *_) = scene_of(question.clip).heard
    assert listener.accepts(question, [f"i hear {there} , <|im_end|> .", f"i hear {there} ."]) == [False, True]


def test_a_claim_that_the_checker_says_neither_yes_nor_no_to_is_not_heard(listener, question, monkeypatch):
    """Practice that went on would draw the same claim, and a server's kept answer would be the same."""
    (there, *_) = scene_of(question.clip).heard
    choose = listener.model.choose

    def unsure(prompts, options):
        if any("bell" in prompt.text for prompt in prompts):
            raise Unclear("the checker was to say yes or no, and said 'well'")
        return choose(prompts, options)

    monkeypatch.setattr(listener.model, "choose", unsure)
    fresh = Listener(CHECKER, Verify())
    fresh.model = listener.model
    assert fresh.accepts(question, [f"i hear {there} , bell .", f"i hear {there} ."]) == [False, True]
    monkeypatch.setattr(listener.model, "choose", lambda *_: raising(Unanswered("no answer within 120 s")))
    with pytest.raises(Unanswered, match="120 s"):  # another time there is one: the reward would depend on the weather
        fresh.accepts(question, ["i hear horn ."])


def raising(error):
    raise error


def test_a_claim_about_a_clip_is_judged_once(listener, question, monkeypatch):
    asked = []
    choose = listener.model.choose
    monkeypatch.setattr(
        listener.model, "choose", lambda prompts, options: asked.append(len(prompts)) or choose(prompts, options)
    )
    fresh = Listener(CHECKER, Verify())
    fresh.model = listener.model
    for _ in range(2):
        fresh.accepts(question, ["i hear bell , dog .", "i hear dog ."])
    assert asked == [2]


def test_a_clip_that_the_checker_cannot_hear_is_left_out(listener, question, tmp_path):
    lost = Question(id="lost", clip=Clip(id="lost", media=str(tmp_path / "no.wav")), text="?", choices=("a", "b"))
    assert isinstance(listener.hears(lost), Failed)
    assert listener.hears(question) is None


def test_practice_shows_the_checkers_part_of_every_reward(tmp_path):
    config = world_config(arms=PRACTISED, variants={"strict": {"verify.threshold": 0.9}})
    assert "checker" in roles(config)
    drive(config, root=tmp_path)
    logs = list(tmp_path.glob("small/checkpoints/grpo-*/rollouts.jsonl"))
    assert len(logs) == 2, "another threshold is another reward"
    rows = [json.loads(line) for file in logs for line in file.open()]
    for row in rows:
        parts = row["parts"]
        assert row["reward"] == pytest.approx(parts["accuracy"] + parts["format"] + 0.5 * parts["checker"])
        assert parts["checker"] in (0.0, 1.0)


@pytest.mark.parametrize("lost", ["the first", "all"])
def test_practice_leaves_out_what_the_checker_cannot_hear(tmp_path, monkeypatch, lost):
    asked = []

    def hears(self, question):
        asked.append(question.id)
        return Failed("too long") if lost == "all" or question.id == asked[0] else None

    monkeypatch.setattr(Listener, "hears", hears)
    config = world_config(arms={"practised": [{"stage": "grpo", "prompts": "gold", "checker_weight": 0.5}]})
    if lost == "all":
        with pytest.raises(StageError, match="can be shown to the student: too long"):
            drive(config, root=tmp_path)
    else:
        drive(config, root=tmp_path)
        (log,) = tmp_path.glob("small/checkpoints/grpo-*/rollouts.jsonl")
        practised = {json.loads(line)["id"] for line in log.open()}
        assert practised and asked[0] not in practised


def test_the_checker_is_no_part_of_practice_that_does_not_ask_for_it():
    config = world_config(arms={"practised": [{"stage": "grpo", "prompts": "gold"}]})
    assert "checker" not in roles(config)


def test_a_reward_without_any_part_is_refused():
    nothing = {"stage": "grpo", "prompts": "labels", "accuracy_weight": 0.0, "format_weight": 0.0}
    with pytest.raises(ConfigError, match="nothing to practise for"):
        refuse(world_config(arms={"practised": [nothing]}))


def test_a_checker_in_noise_hears_worse_and_the_same_each_time(question):
    there = sorted(set(scene_of(question.clip).heard))
    think = [f"i hear {' , '.join(there)} ."]
    assert Listener(CHECKER, Verify(noise=-30.0)).accepts(question, think) == [True]
    clear, loud, again = (heard_as(question.clip, noise) for noise in (None, 40.0, 40.0))
    assert clear.wave is None and np.array_equal(loud.wave, again.wave)
    model = Listener(CHECKER, Verify()).model
    assert min(score_claims(model, loud, there).values()) < min(score_claims(model, clear, there).values())


def test_a_checker_that_judges_otherwise_cannot_reward():
    with pytest.raises(ConfigError, match="one by one"):
        refuse(world_config(arms=PRACTISED, verify={"unit": "trace"}))


def test_the_plan_counts_the_checker_that_stays_for_practice():
    plain = world_config(arms={"practised": [{"stage": "grpo", "prompts": "labels"}]})
    both = (plain, world_config(arms=PRACTISED))
    alone, together = ({name: need for name, _, need in _needs(c)}["grpo of practised"] for c in both)
    assert alone.company == 0 and together.company == 4 * parameters(CHECKER)
