"""Adapters by name, and weights that are replaced while a model is served."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import servers
from conftest import open_model
from earwitness.config import Model
from earwitness.models.exchange import Drawing, Prompt
from earwitness.models.loading import attach_adapter
from earwitness.models.places import ModelError
from earwitness.serve.asks import Ask
from earwitness.serve.host import Host
from earwitness.serve.refusals import Refused
from earwitness.sources.clips import load_sound
from servers import chat, post, serving, sound, text
from tensors import clip

LIST = "list the sounds"


@pytest.fixture(scope="module")
def places(tiny_student, tiny_adapter, tmp_path_factory):
    """A folder of adapters and weights that may be loaded, beside one that may not."""
    place = tmp_path_factory.mktemp("weights")
    shutil.copytree(tiny_adapter, place / "allowed" / "step-1")
    shutil.copytree(tiny_adapter, place / "elsewhere" / "step-1")
    (place / "allowed" / "link").symlink_to(place / "elsewhere" / "step-1")
    second = shutil.copytree(tiny_adapter, place / "allowed" / "step-2")
    changed = load_file(second / "adapter_model.safetensors")
    save_file({name: tensor.neg() if "lora_B" in name else tensor for name, tensor in changed.items()},
              second / "adapter_model.safetensors")  # fmt: skip
    pickled = shutil.copytree(tiny_adapter, place / "allowed" / "pickled")
    (pickled / "adapter_model.safetensors").unlink()
    torch.save(changed, pickled / "adapter_model.bin")
    narrow = shutil.copytree(tiny_adapter, place / "allowed" / "narrow")
    settings = json.loads((narrow / "adapter_config.json").read_text())
    (narrow / "adapter_config.json").write_text(json.dumps(settings | {"r": 2}))
    half = shutil.copytree(tiny_adapter, place / "allowed" / "half")
    save_file(dict(list(changed.items())[::2]), half / "adapter_model.safetensors")
    full = shutil.copytree(tiny_student, place / "allowed" / "full")
    weights = load_file(full / "model.safetensors")
    save_file({name: tensor * 1.3 for name, tensor in weights.items()}, full / "model.safetensors", {"format": "pt"})
    cut = shutil.copytree(tiny_student, place / "allowed" / "cut")
    save_file(dict(list(weights.items())[1:]), cut / "model.safetensors", {"format": "pt"})
    return place


@pytest.fixture(scope="module")
def url(tiny_student, places):
    with serving(f"student={tiny_student}", "world:textual-teacher", adapters=places / "allowed") as url:
        yield url


def said(url, name):
    content = [sound(load_sound(clip(1))), text(LIST)]
    return chat(url, name, content, temperature=0, max_tokens=12)["choices"][0]["message"]["content"]


def in_process(model):
    return model.draw([Prompt(LIST, wave=load_sound(clip(1)))], Drawing(max_tokens=12), [()])[0][0].text


def load(url, name, path, **more):
    return post(f"{url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path), **more})


def unload(url, name):
    return post(f"{url}/v1/unload_lora_adapter", {"lora_name": name})


def names(url):
    return {model["id"]: model["parent"] for model in servers.get(f"{url}/v1/models")[1]["data"]}


def answered(host, name):
    ask = Ask(name, Prompt(LIST, wave=load_sound(clip(1))), Drawing(max_tokens=12), 0)
    return host.answer([ask])[0].completions[0].text


def worn(folder, adapter):
    model = open_model(folder, "student")
    model.model = attach_adapter(model.model, str(adapter)).eval()
    return in_process(model)


def test_an_adapter_is_spoken_to_by_its_name_and_leaves_nothing_behind(url, tiny_student, places):
    bare, first, second = (
        in_process(open_model(tiny_student, "student")),
        *(worn(tiny_student, places / "allowed" / f"step-{n}") for n in (1, 2)),
    )
    assert len({bare, first, second}) == 3, "the adapters change nothing: this tests nothing"
    assert said(url, "student") == bare
    assert load(url, "now.1", places / "allowed" / "step-1") == (
        200, "Success: LoRA adapter 'now.1' added successfully.",
    )  # fmt: skip
    assert load(url, "now.2", places / "allowed" / "step-2")[0] == 200
    assert names(url) == {"student": None, "textual-teacher": None, "now.1": "student", "now.2": "student"}
    assert [said(url, name) for name in ("now.1", "student", "now.2", "now.1")] == [first, bare, second, first]
    status, answer = load(url, "now.1", places / "allowed" / "step-2")
    assert (status, "already" in answer["error"]["message"]) == (400, True)
    assert unload(url, "now.1")[0] == 200
    assert [said(url, name) for name in ("now.2", "student")] == [second, bare]
    assert unload(url, "now.2")[0] == 200
    assert said(url, "student") == bare
    assert (
        post(f"{url}/v1/chat/completions", {"model": "now.1", "messages": [{"role": "user", "content": LIST}]})[1][
            "error"
        ]["code"]
        == "model_not_found"
    )
    assert unload(url, "now.1")[0] == 404
    assert load(url, "now.1", places / "allowed" / "step-2")[0] == 200, "the name is free again"
    assert said(url, "now.1") == second
    assert unload(url, "now.1")[0] == 200


@pytest.mark.parametrize(
    "inside", ["../elsewhere/step-1", "link", "nothing", "pickled", "full", "narrow", "half", "\0"]
)
def test_nothing_is_loaded_that_may_not_be(url, places, inside):
    before = said(url, "student")
    status, answer = load(url, "foreign", f"{places}/allowed/{inside}", base_model_name="student")
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert "foreign" not in names(url)
    assert said(url, "student") == before
    assert load(url, "foreign", places / "allowed" / "step-1", base_model_name="nobody")[0] == 404
    assert load(url, "foreign", places / "allowed" / "step-1", base_model_name="textual-teacher")[0] == 400
    assert "foreign" not in names(url), "and what does not fit is gone"


def test_an_adapter_that_breaks_while_it_is_put_on_leaves_the_model_as_it_was(tiny_student, places):
    """A first one, a second one, and before weights are replaced."""
    host = Host("student", Model(kind="local", name=str(tiny_student)))
    modules = [name for name, _ in host.local.model.named_modules()]
    for broken in ("narrow", "half"):
        with pytest.raises(ModelError, match=r"does not fit student|was made for another model"):
            host.load_adapter("broken", places / "allowed" / broken)
        assert [name for name, _ in host.local.model.named_modules()] == modules
    host.load_adapter("fine", places / "allowed" / "step-1")
    for broken in ("narrow", "half"):
        with pytest.raises(ModelError):
            host.load_adapter("broken", places / "allowed" / broken)
    assert list(host.local.model.peft_config) == [host.worn["fine"]]
    assert answered(host, "fine") == worn(tiny_student, places / "allowed" / "step-1")
    host.unload_adapter("fine")
    assert [name for name, _ in host.local.model.named_modules()] == modules
    host.reload(places / "allowed" / "full")
    assert answered(host, "student") == in_process(open_model(places / "allowed" / "full", "student"))


def test_a_server_that_was_given_no_folders_loads_nothing(world_server, places):
    status, answer = load(world_server, "now", places / "allowed" / "step-1")
    assert (status, "--adapters" in answer["error"]["message"]) == (400, True)
    weights = {"model_path": str(places / "allowed" / "full"), "model": "student"}
    status, answer = post(f"{world_server}/update_weights_from_disk", weights)
    assert (status, "--adapters" in answer["error"]["message"]) == (400, True)


def test_a_model_that_has_an_adapter_of_its_own_keeps_it(tiny_student, places):
    one, two = (places / "allowed" / f"step-{n}" for n in (1, 2))
    host = Host("own", Model(kind="local", name=str(tiny_student), adapter=str(one)))
    assert host.base == str(tiny_student)
    first, second = worn(tiny_student, one), worn(tiny_student, two)
    assert answered(host, "own") == first
    host.load_adapter("other", two)
    assert [answered(host, name) for name in ("other", "own")] == [second, first]
    host.unload_adapter("other")
    assert answered(host, "own") == first
    with pytest.raises(Refused, match="no model 'other' any more"):
        answered(host, "other")
    assert not any(parameter.requires_grad for parameter in host.local.model.parameters())


def test_weights_are_replaced_while_a_model_is_served(url, tiny_student, places):
    def update(inside, **more):
        return post(f"{url}/update_weights_from_disk", {"model_path": f"{places}/allowed/{inside}", **more})

    before, after = (in_process(open_model(f, "student")) for f in (tiny_student, places / "allowed" / "full"))
    assert before != after
    assert "say which with model" in update("full")[1]["error"]["message"]
    assert update("full", model="nobody")[0] == 404
    assert load(url, "now", places / "allowed" / "step-1")[0] == 200
    assert "unload them first" in update("full", model="student")[1]["error"]["message"]
    assert unload(url, "now")[0] == 200
    for inside in ("cut", "step-1", "../elsewhere/step-1"):
        assert update(inside, model="student")[0] == 400
        assert said(url, "student") == before, "what does not fit changes nothing"
    assert update("full", model="student") == (
        200, {"success": True, "message": "the weights were updated", "num_paused_requests": 0},
    )  # fmt: skip
    assert said(url, "student") == after
