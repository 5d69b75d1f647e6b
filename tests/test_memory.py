"""The estimate of memory is near what is kept, and told for the largest stage."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers

import tiny_families
from earwitness.config import Distil, Grpo, Model, Sft
from earwitness.learn.losses import hidden_states
from earwitness.learn.tree import Branch, Root, Tree, pack
from earwitness.memory import activations, distilling_need, operations, parameters, shape, training_need


def test_released_models_are_known_without_their_files():
    for name in ("Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen3-8B", "Qwen/Qwen2-Audio-7B-Instruct"):
        spec = Model(kind="local", name=name)
        size, sizes = parameters(spec), shape(spec)
        assert size is not None and sizes is not None
        attention = 2 * sizes.hidden * (sizes.queries + sizes.keys)
        text = sizes.layers * (attention + 3 * sizes.hidden * sizes.inner) + 2 * sizes.vocabulary * sizes.hidden
        assert text < size < text + 1.4e9, "what is above the language model are ears and eyes"
    assert parameters(Model(kind="local", name="nobody/nothing")) is None


def test_of_a_model_with_a_voice_the_thinker_is_counted(tmp_path):
    alone = tiny_families.write_family("qwen2_5_omni", tmp_path / "alone")
    whole = tiny_families.write_family("qwen2_5_omni", tmp_path / "whole", whole=True)
    named = [Model(kind="local", name=str(place)) for place in (alone, whole)]
    size = parameters(named[0])
    assert size and parameters(named[1]) == size
    for file in whole.glob("*.safetensors*"):
        file.unlink()
    assert parameters(named[1]) == size, "counted from the configuration"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A student of a few megabytes: large enough that what the language model keeps is most of it."""
    config = transformers.Qwen2AudioConfig(
        text_config={
            "model_type": "qwen2",
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "vocab_size": 500,
            "max_position_embeddings": 4096,
        },
        audio_config={"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64},
        audio_token_index=499,
    )
    place = tmp_path_factory.mktemp("model")
    transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(place)
    return place


def test_the_estimate_of_activations_is_near_what_autograd_keeps(folder):
    model = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").train()
    batch = pack([Tree(Root(tuple(range(400))), tuple(Branch.trained(range(50)) for _ in range(4)))], 0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive, kept = [], {}

    def keep(tensor):
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_states(model, batch)
    sizes = shape(Model(kind="local", name=str(folder)))
    assert activations(sizes, 600, 4, checkpointing=False) == pytest.approx(sum(kept.values()), rel=0.25)


def test_parameters_are_counted_in_the_files_or_without_memory(folder, tmp_path):
    whole = parameters(Model(kind="local", name=str(folder)))
    shutil.copy(folder / "config.json", tmp_path)
    assert parameters(Model(kind="local", name=str(tmp_path))) == whole
    assert parameters(Model(kind="local", name="nobody/nothing")) is None
    assert shape(Model(kind="local", name="nobody/nothing")) is None


def test_every_way_of_saving_memory_saves_some(folder):
    spec = Model(kind="local", name=str(folder))
    size, sizes = parameters(spec), shape(spec)

    def total(settings, processes=1):
        return training_need(size, sizes, settings, 256, wide=True, processes=processes).total

    assert total(Sft(tuning="lora")) < total(Sft())
    assert total(Sft(tuning="qlora")) < total(Sft(tuning="lora"))
    assert total(Sft(activation_checkpointing=True)) < 0.5 * total(Sft())
    assert total(Sft(micro_batch=2)) < 0.3 * total(Sft())
    assert total(Sft(), processes=4) < 0.6 * total(Sft())
    assert total(Grpo(beta=0, micro_batch=1)) < total(Grpo(micro_batch=1))


def test_seven_billion_parameters_under_lora_need_what_is_known_of_them():
    """Qwen2-Audio-7B's sizes: 8.4 billion parameters in 16 bits are 15.6 GiB before anything else."""
    from earwitness.memory import Shape

    sizes = Shape(layers=32, hidden=4096, inner=11008, queries=4096, keys=4096, vocabulary=156032, window=8192)
    need = training_need(8_400_000_000, sizes, Sft(tuning="lora", batch=1), 256, wide=False)
    assert 15 < need.weights / 2**30 < 16.5
    assert 20 < need.total / 2**30 < 40


def test_a_textual_teacher_takes_memory_where_it_is_asked(folder):
    spec = Model(kind="local", name=str(folder))
    size, sizes = parameters(spec), shape(spec)

    def need(**settings):
        asked = Distil(batch=4, **settings)
        plain = training_need(size, sizes, asked, 100, wide=True)
        return distilling_need(plain, sizes, (1000, sizes), asked, 100, number=2)

    alone = training_need(size, sizes, Sft(batch=4), 100, wide=True)
    nothing = need(text_weight=0, layer_weight=0, acoustic_weight=0)
    assert nothing.total == alone.total
    assert need(acoustic_weight=1e-3, text_weight=0, layer_weight=0).reference == 4 * size, "the parent is a copy"
    assert need(tuning="lora").reference == 0, "under LoRA the parent is the adapter switched off"
    assert need(match="distribution").company == 2 * 1000
    assert need(match="distribution", signals="ahead", top_k=4).company == 0, "it is let go before training"
    assert need(layers="1 in 2").company == 2 * 1000 + 16 * 2 * 256 * 256
    assert need().activations > need(layers="1 in 2").activations > need(layer_weight=0).activations


def test_operations_are_counted_per_weight_and_token():
    once = 2.0 * 1000 * (950 + 100)
    assert operations(1000, Sft(batch=1), 100) == 3 * once
    assert operations(1000, Sft(batch=2, tuning="lora", activation_checkpointing=True), 100) == 2 * 3 * once
    joint = Distil(batch=1, acoustic_weight=0.0)
    assert operations(1000, joint, 100, teacher=500) == 3 * once + 2 * 500 * (400 + 100)
    held = Distil(batch=1, acoustic_weight=0.1)
    assert operations(1000, held, 100) == 3 * once + 2 * 1000 * 950 + 0
