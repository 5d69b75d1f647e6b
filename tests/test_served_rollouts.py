"""Practice whose samples a server draws: the same loss, the policy of each round, nothing learnt from a stranger."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import under_lora
from earwitness.config import Grpo, Model
from earwitness.learn.importance import StrangeSamples
from earwitness.learn.policy import policy_terms, roll_out
from earwitness.learn.sampling import sample
from earwitness.models import open_local
from earwitness.models.served.call import ServerError
from earwitness.models.served.weights import Keeper
from earwitness.records import Checkpoint, Lesson
from earwitness.stages.served_rollouts import ServedRollouts, refuse_other_prompt
from earwitness.stages.training import TrainingJob, train
from earwitness.world.questions import read_world
from servers import get, serving
from tensors import gradients, relative_error
from test_policy import USUAL, decoding, settings, tasks

LORA = {"tuning": "lora", "lora_rank": 4, "keep_equal_groups": True, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder that runs are in, and below which the server may read weights."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def url(runs):
    with serving("world:student", adapters=runs) as url:
        yield url


def job(url: str, folder: Path, seed: int = 1, parent: Checkpoint | None = None, **changes) -> TrainingJob:
    """Two steps of practice on three questions of the world."""
    chosen = {"steps": 2, "batch": 2, "group": 3, "max_tokens": 20, "rollouts": "served", "micro_batch": 1}
    material = tuple(
        (q, Lesson(think=None, answer=q.choices[0], index=None, pools=("labels",), by="teacher"))
        for q in read_world("world:train", 3)
    )
    base = Model(kind="world", name="student", base_url=f"{url}/v1", attempts=2)
    place = folder / "checkpoints" / f"grpo-{seed}"
    return TrainingJob("grpo", Grpo(**chosen | LORA | changes), base, parent, material, seed, place, place.name)


def log_of(one: TrainingJob) -> list[dict]:
    return [json.loads(line) for line in (one.folder / "log.jsonl").read_text().splitlines()]


def served(url: str, run: str) -> list[str]:
    """The versions of a run's policy that the server has; what a refused practice was given stays there."""
    names = [entry["id"] for entry in get(f"{url}/v1/models")[1]["data"]]
    assert names[0] == "student"
    return [name for name in names if name.startswith(f"{run}-grpo-1-")]


@pytest.fixture
def seen(url, monkeypatch):
    """What the server had at each draw, and whose samples were asked for."""
    found, draw = [], ServedRollouts.__call__

    def watched(self, tasks, round_number):
        groups = draw(self, tasks, round_number)
        folders = sorted(folder.name for folder in self.folder.iterdir())
        found.append((served(url, self.name.split("-")[0]), self.asked_for, folders))
        return groups

    monkeypatch.setattr(ServedRollouts, "__call__", watched)
    return found


def test_each_round_is_drawn_by_the_policy_of_that_round(url, runs, seen):
    """The adapter goes on under a new name, and the last one is dropped: on the server and on the disk."""
    one = job(url, runs / "versions", steps=4, updates=2)
    train(one)
    names = [f"versions-grpo-1-{n}" for n in (0, 0, 1, 1)]
    assert [asked for _, asked, _ in seen] == names
    assert [(there, folders) for there, _, folders in seen] == [([n], [n]) for n in names]
    assert not served(url, "versions") and not list((one.folder / "served").iterdir())
    assert len(log_of(one)) == 4
    for line in log_of(one):
        assert math.isfinite(line["policy"]) and line["tokens"] > 0
        assert line["importance"] == pytest.approx(1, abs=0.01) and line["capped"] == 0
        assert 0 < line["gap"] < 0.01 and line["gap"] <= line["largest_gap"] < 0.5  # sound is sent in 16 bits


def test_what_practice_goes_on_from_is_what_is_served(url, runs, tmp_path, seen, monkeypatch):
    """From an adapter: did the server draw from the base, or the trainer go on from it, they would be strangers."""
    model = under_lora(open_local(Model(kind="world", name="student"), "student").model)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.5)
    model.save_pretrained(tmp_path)
    parent = Checkpoint(key="first", path=str(tmp_path), kind="adapter", parent="student")
    one = job(url, runs / "second", parent=parent, steps=1)
    train(one)
    assert [asked for _, asked, _ in seen] == ["second-grpo-1-0"] * 2
    (line,) = log_of(one)
    assert line["gap"] < 0.01 and line["kl_ref"] == pytest.approx(0, abs=1e-6)
    with monkeypatch.context() as patch, pytest.raises(StrangeSamples, match="does not use the adapter"):
        patch.setattr(Keeper, "named", lambda self, adapter: "student")
        train(job(url, runs / "third", parent=parent, steps=1))


def test_practice_that_was_killed_goes_on_and_drops_what_it_left(url, runs, seen, monkeypatch):
    one = job(url, runs / "killed", checkpoint_every=1)
    draw = ServedRollouts.__call__

    def killed(self, tasks, round_number):
        if round_number == 1:
            raise KeyboardInterrupt
        return draw(self, tasks, round_number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ServedRollouts, "__call__", killed)
        train(one)
    assert served(url, "killed") == ["killed-grpo-1-0"]
    del seen[:]
    train(one)
    assert [asked for _, asked, _ in seen] == ["killed-grpo-1-1"] * 2
    assert [line["step"] for line in log_of(one)] == [1, 2] and not served(url, "killed")


def test_under_full_tuning_the_server_reads_the_weights_again(runs, seen, tmp_path):
    with serving("world:student", adapters=runs) as url:
        one = job(url, runs / "full", tuning="full", steps=3, reload_every=2, learning_rate=1e-5, micro_batch=0)
        handed = []
        with pytest.MonkeyPatch.context() as patch:
            hand_over = ServedRollouts._hand_over

            def watched(self, round_number):
                hand_over(self, round_number)
                handed.append((self.round, self.asked_for))

            patch.setattr(ServedRollouts, "_hand_over", watched)
            train(one)
    assert handed == [(0, "student"), (0, "student"), (2, "student")]
    gaps = [line["gap"] for line in log_of(one)]
    assert gaps[1] > 3 * gaps[0] and gaps[1] > 3 * gaps[2], "the second round is drawn by the first one's policy"


def test_a_server_of_other_weights_is_refused(runs, tiny_student, tmp_path):
    """Nothing is learnt from the samples of a stranger, however well they are worth something."""
    words = r"\d\.\d\d nats a token from the trainer's.*other weights"
    with serving(f"student={tiny_student}", adapters=runs) as url, pytest.raises(StrangeSamples, match=words):
        train(job(url, runs / "strange", keep_equal_groups=False))
    assert not (runs / "strange" / "checkpoints" / "grpo-1" / "log.jsonl").read_text()


def test_a_server_that_does_not_hear_is_refused(url, runs, monkeypatch):
    import earwitness.stages.served_rollouts as stage
    from earwitness.models.served.requests import body
    from earwitness.sources.encoded import encode_sound, samples_of

    def deaf(spec, shown, *rest):
        silence = tuple(encode_sound(0 * samples_of(sound)) for sound in shown.sounds)
        return body(spec, replace(shown, sounds=silence), *rest)

    monkeypatch.setattr(stage, "body", deaf)
    with pytest.raises(StrangeSamples, match=r"samples are [1-9]\.\d\d nats .*does not hear the sound"):
        train(job(url, runs / "deaf"))


def test_a_server_that_gives_log_probabilities_before_the_temperature_is_refused(url, runs):
    with pytest.raises(StrangeSamples, match="processed_logprobs"):
        train(job(url, runs / "tempered", temperature=0.5))


def test_a_server_that_takes_no_weights_is_refused_in_words(world_server, runs):
    with pytest.raises(ServerError, match=r"refused load_lora_adapter: 400 .*folders"):
        train(job(world_server, runs / "closed"))


def test_nobody_there_is_said_at_once(runs):
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"no server answers at 127\.0\.0\.1:9"):
        train(job("http://127.0.0.1:9", runs / "nobody"))
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_two_processes_draw_what_one_does(url, runs):
    """Each its share of the questions, from the adapter that the first one hands over."""
    alone = job(url, runs / "alone", checkpoint_every=1)
    train(alone)
    script = Path(__file__).parent / "distributed_rollouts.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, url, str(runs / "two")], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-5000:]
    two = job(url, runs / "two")
    assert (two.folder / "rollouts.jsonl").read_text() == (alone.folder / "rollouts.jsonl").read_text()
    for ours, theirs in zip(log_of(alone), log_of(two), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-5)
    assert not served(url, "two") + served(url, "alone")


def test_another_prompt_is_refused_where_it_begins(listener):
    sound = listener.tokenizer.convert_tokens_to_ids(listener.family.placeholder)
    ours = [15, sound, sound, sound, 20, 21]
    refuse_other_prompt(listener, ours, ours)
    refuse_other_prompt(listener, ours, [15, sound, 20, 21])  # as it was before the clip's length was known
    for theirs in ([15, 20, 21], [15, sound, sound, 20, 21], [*ours, 22]):
        with pytest.raises(ServerError, match="reads another prompt than the trainer"):
            refuse_other_prompt(listener, ours, theirs)


# The loss, without a server


def drawn_with(local, shift=0.0, unknown=False):
    """What a server would say that drew the samples that are drawn in process: log-probabilities off by `shift`."""
    from earwitness.learn.losses import token_logprobs
    from earwitness.learn.tree import Branch, Tree, pack

    def draw(these, round_number):
        keys = [(*task.key, round_number) for task in these]
        groups = sample(local.model, [t.root for t in these], USUAL.group, decoding(local), keys)
        for task, group in zip(these, groups, strict=True):
            for n, one in enumerate(group):
                with torch.no_grad():
                    batch = pack([Tree(task.root, (Branch.trained(one.ids),))], local.pad)
                    said = token_logprobs(local.model, batch, USUAL.temperature) - shift
                group[n] = replace(one, logprobs=tuple([math.nan] * len(said) if unknown else said.tolist()))
        return groups

    return draw


def terms_of(local, sampler=None, **changes):
    chosen = settings(**changes)
    local.model.zero_grad()
    rollout = roll_out(local.model, tasks(local), chosen, decoding(local), 0, None, False, sampler)
    terms = policy_terms(local.model, rollout, rollout.counts(), chosen)
    terms["policy"].backward()
    made = gradients(local.model)
    local.model.zero_grad()
    return {name: float(term) for name, term in terms.items()}, made, rollout


@pytest.mark.parametrize("unknown", [False, True])
def test_samples_of_an_equal_drawer_have_the_loss_of_our_own(listener, unknown):
    own, gradient, _ = terms_of(listener)
    theirs, their_gradient, rollout = terms_of(listener, drawn_with(listener, unknown=unknown))
    assert {name: theirs[name] for name in own} == pytest.approx(own, abs=1e-5)
    assert relative_error(their_gradient, gradient) < 1e-4
    assert theirs["importance"] == pytest.approx(1, abs=1e-5) and theirs["capped"] == 0
    assert rollout.facts["largest_gap"] < 1e-5


def test_a_token_counts_by_how_much_likelier_it_is_here_than_there_up_to_a_cap(listener):
    own, gradient, _ = terms_of(listener)
    for shift, cap, factor in ((0.2, 2.0, math.exp(0.2)), (0.2, 1.1, 1.1), (-0.2, 1.1, math.exp(-0.2))):
        theirs, made, rollout = terms_of(listener, drawn_with(listener, shift), importance_cap=cap)
        assert theirs["importance"] == pytest.approx(factor, rel=1e-4)
        assert theirs["gap"] == pytest.approx(0.2, rel=1e-4)
        assert theirs["capped"] == pytest.approx(float(factor == cap), abs=1e-6)
        assert rollout.facts["largest_gap"] == pytest.approx(0.2, rel=1e-4)
        expected = {name: factor * g for name, g in gradient.items()}
        assert relative_error(made, expected) < 1e-3
        assert theirs["kl_ref"] == own["kl_ref"] == 0


def test_samples_that_are_too_far_off_are_refused(listener):
    with pytest.raises(StrangeSamples, match=r"0\.50 nats"):
        terms_of(listener, drawn_with(listener, 0.5))
