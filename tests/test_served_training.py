"""What training may take from servers: everything else is refused by name, before anybody is asked."""

from __future__ import annotations

import pytest

from earwitness.config import ConfigError, Model
from earwitness.launcher import Launcher
from earwitness.models.served.call import ServerError
from earwitness.models.served.training import refuse_served_training, refuse_unfit_servers
from earwitness.models.served.weights import Keeper
from worlds import MODELS, world_config

STUDENT = {"kind": "world", "name": "student", "base_url": "http://localhost:9/v1"}
TEACHER = {"kind": "served", "name": "text-core", "base_url": "http://localhost:9/v1", "tokenizer": "world:text-core"}
FSDP = Launcher(kind="FSDP", fsdp_version=2)
ZERO = Launcher(kind="DeepSpeed", zero_stage=3)
FULL_SFT = {"stage": "sft", "lessons": "labels", "tuning": "full"}


def practising(student=STUDENT, before=(), parallel=1, **settings):
    step = {"stage": "grpo", "prompts": "labels", "rollouts": "served", "tuning": "lora", **settings}
    models = {**MODELS, "student": student}
    return world_config(arms={"practised": [*before, step]}, models=models, train={"parallel": parallel})


def reading(teacher=TEACHER, **settings):
    step = {"stage": "distil", "lessons": "given", "layer_weight": 0.0, "top_k": 20, "signals": "ahead", **settings}
    return world_config(arms={"taught": [step]}, models={**MODELS, "textual_teacher": teacher})


@pytest.mark.parametrize(
    ("config", "launcher", "words"),
    [
        (practising({"kind": "world", "name": "student"}), None, "names no server"),
        (practising({**STUDENT, "kind": "served"}), None, "must be here"),
        (practising({**STUDENT, "profile": "openai"}), None, "takes no weights while it runs"),
        (practising({**STUDENT, "profile": "transformers-serve"}), None, "takes no weights while it runs"),
        (practising(tuning="qlora"), None, "4 bits here"),
        (practising(audio_tower="trained"), None, "adapters on the language model alone"),
        (practising(tuning="full", parallel=2), None, "set train.parallel to 1"),
        (practising(before=[FULL_SFT]), None, "full weights of a step before"),
        (practising(), FSDP, "under FSDP no process has the whole model"),
        (practising(), ZERO, "under ZeRO-3 no process has the whole model"),
        (reading(layer_weight=0.05), None, "no server gives hidden states"),
        (reading(top_k=0, signals="live"), None, "set distil.top_k"),
        (reading(signals="live"), None, 'set signals = "ahead"'),
        (reading(softness=2.0), None, "set softness to 1"),
        (reading({k: v for k, v in TEACHER.items() if k != "tokenizer"}), None, "textual_teacher.tokenizer"),
    ],
)
def test_what_a_server_cannot_give_is_refused(config, launcher, words):
    with pytest.raises(ConfigError, match=words):
        refuse_served_training(config, launcher)


@pytest.mark.parametrize(
    "config",
    [
        practising(),
        practising(before=[{"stage": "sft", "lessons": "labels", "tuning": "lora"}]),
        practising(tuning="full", before=[FULL_SFT], reload_every=4),
        practising({**STUDENT, "profile": "sglang"}),
        practising(STUDENT, before=[FULL_SFT], rollouts="local"),
        reading(),
        reading({"kind": "world", "name": "text-core"}, layer_weight=0.05, top_k=0, signals="live"),
    ],
)
def test_what_it_can_give_is_not(config):
    refuse_served_training(config, Launcher())


def test_servers_are_asked_whether_they_take_weights(world_server):
    here = {**STUDENT, "base_url": f"{world_server}/v1"}
    refuse_unfit_servers(practising(here))
    refuse_unfit_servers(practising(here, tuning="full"))
    keeper = Keeper(Model(**here, profile="sglang"))  # its calls for adapters are beside /v1: here there are none
    with pytest.raises(ServerError, match=r"takes no adapters while it runs.*--max-lora-rank 16"):
        keeper.refuse_unfit("lora", 16)
    assert Keeper(Model(**here)).base() == "student" and keeper.named("a") == "student:a"
    assert Keeper(Model(**here)).window() > 100
    with pytest.raises(ServerError, match="no server answers at localhost:9"):
        refuse_unfit_servers(practising())
