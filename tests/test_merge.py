"""earwitness merge: an ordinary folder that says what the adapted model said, or nothing at all."""

from __future__ import annotations

import json

import pytest
import torch

from conftest import under_lora
from earwitness.cli import main
from earwitness.config import Model
from earwitness.learn.losses import token_logprobs
from earwitness.learn.tree import pack
from earwitness.listen import model_spec
from earwitness.models import connect
from earwitness.models.merge import merge
from earwitness.models.places import CARD, ModelError
from tensors import tree


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A small random adapter of the embedded student, saved as a training stage saves it."""
    folder = tmp_path_factory.mktemp("merge") / "adapter"
    local = connect(Model(kind="world", name="student"), "student")
    model = under_lora(local.model)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02)
    model.save_pretrained(folder)
    (folder / CARD).write_text(json.dumps({"manner": "world", "prompt": "think"}))
    return folder


def logprobs(local):
    with torch.no_grad():
        return token_logprobs(local.model, pack([tree(local, seed, (4, 3)) for seed in range(3)], local.pad))


def test_the_merged_folder_is_an_ordinary_model_that_says_the_same(adapter, tmp_path, capsys):
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    assert "the largest change of a log-probability is" in capsys.readouterr().out
    adapted = connect(model_spec(str(adapter)), "student")
    merged = connect(Model(kind="local", name=str(tmp_path / "merged")), "student")
    assert not hasattr(merged.model, "peft_config")
    assert (merged.manner, merged.trained_prompt) == ("world", "think")
    assert merged.tokenizer.chat_template == adapted.tokenizer.chat_template
    plain = connect(Model(kind="world", name="student"), "student")
    gap = (logprobs(merged) - logprobs(adapted)).abs().max()
    assert gap < 0.05
    assert gap < 0.1 * (logprobs(plain) - logprobs(adapted)).abs().max(), "the adapter does nothing: this tests nothing"
    assert [f.name for f in tmp_path.iterdir()] == ["merged"]
    before, after = (model.model.model.audio_tower.state_dict() for model in (plain, merged))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_keep_the_precision_of_their_base(adapter, tmp_path):
    from safetensors import safe_open

    from earwitness.models.places import place_of

    merge(model_spec(str(adapter)), tmp_path / "merged")
    kinds = []
    for folder in (place_of(Model(kind="world", name="student")), tmp_path / "merged"):
        with safe_open(f"{folder}/model.safetensors", "pt") as file:
            kinds.append({file.get_slice(name).get_dtype() for name in file.keys()})  # noqa: SIM118
    assert kinds[0] == kinds[1]


def test_above_the_tolerance_nothing_is_left(adapter, tmp_path, capsys):
    assert main(["merge", str(adapter), str(tmp_path / "merged"), "--tolerance", "0"]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_merge_that_fails_half_way_leaves_nothing(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("earwitness.models.merge.Path.rename", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merge(model_spec(str(adapter)), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten_and_what_is_no_adapter_not_merged(adapter, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ModelError, match="is there already"):
        merge(model_spec(str(adapter)), tmp_path / "mine")
    with pytest.raises(ModelError, match="student is no adapter"):
        merge(model_spec("world:student"), tmp_path / "merged")


def test_an_adapter_names_its_base_and_no_machine(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "world:student"
    assert {p.name for p in adapter.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        CARD,
    }
    for file in adapter.glob("*.*"):
        assert b"site-packages" not in file.read_bytes() and b"/weights/" not in file.read_bytes()
