"""The deaf test refuses what would train without the sound, and passes what hears."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import open_model, under_lora
from earwitness.learn.deaf import DeafModel, deaf_test
from earwitness.learn.sampling import Decoding, sample
from earwitness.learn.tree import pack
from earwitness.models.exchange import Prompt
from tensors import clip, root, tree


def batch_of(local, seeds=(0, 1, 2)):
    return pack([tree(local, seed, (4, 2)) for seed in seeds], local.pad)


@pytest.fixture
def student(tiny_student):
    return open_model(tiny_student, "student")


def deafen(model):
    """Failure S2: the forward that trains, which knows no cache, loses the sound; the one that samples does not."""
    hearing = model.forward

    def forward(past_key_values=None, input_features=None, feature_attention_mask=None, **rest):
        sound = {"input_features": input_features, "feature_attention_mask": feature_attention_mask}
        return hearing(past_key_values=past_key_values, **({} if past_key_values is None else sound), **rest)

    model.forward = forward


def test_a_hearing_model_passes(student):
    hearing = deaf_test(student.model, batch_of(student))
    assert hearing.gradient > 0
    assert hearing.change > 1e-3
    assert hearing.noise < 1e-6
    assert set(hearing.facts()) == {"gradient", "change", "noise", "label_drop"}


def test_a_hearing_model_under_lora_passes(student):
    assert deaf_test(under_lora(student.model), batch_of(student)).gradient > 0


def test_s2_sound_in_sampling_but_none_in_the_loss_is_refused(student):
    deafen(student.model)
    settings = Decoding(1.0, 30, student.pad, student.stop, student.forbidden)
    silence = student.encode(Prompt("list the sounds", clip(0), wave=torch.zeros(64000).numpy()))
    heard, silent = (
        sample(student.model, [one], 2, settings, [("k",)]) for one in (root(student, 0, "list the sounds"), silence)
    )
    assert heard != silent, "sampling must hear, or this is not the failure that is meant"
    with pytest.raises(DeafModel, match=r"does not hear the sound.*Training was not started"):
        deaf_test(student.model, batch_of(student))


def test_sound_that_arrives_too_faintly_is_refused(student):
    """A gradient alone is no proof: here it is there, and changes nothing that could be learnt from."""
    whole = student.model.model.multi_modal_projector.forward
    student.model.model.multi_modal_projector.forward = lambda x: whole(x) * 1e-7
    with pytest.raises(DeafModel, match="move by"):
        deaf_test(student.model, batch_of(student))


def test_a_gradient_that_is_cut_off_is_refused(student):
    whole = student.model.model.multi_modal_projector.forward
    student.model.model.multi_modal_projector.forward = lambda x: whole(x).detach()
    with pytest.raises(DeafModel, match="gradient at the audio features 0"):
        deaf_test(student.model, batch_of(student))


def test_a_batch_without_sound_is_refused(student):
    with pytest.raises(DeafModel, match="carries no sound at all"):
        deaf_test(student.model, replace(batch_of(student), media={}))


@pytest.mark.parametrize("seeds", [(0,), (0, 0, 0)])
def test_a_batch_of_one_clip_passes(student, seeds):
    """Several questions on one clip: there is no other clip to swap in, and still the model hears."""
    assert deaf_test(student.model, batch_of(student, seeds)).change > 1e-3


def test_a_silent_clip_passes(student):
    silence = Prompt("list the sounds", clip(0), wave=torch.zeros(64000).numpy())
    one = replace(tree(student, 0, (3,)), root=student.encode(silence))
    assert deaf_test(student.model, pack([one, one], student.pad)).change > 1e-3


def test_weights_that_are_no_numbers_are_refused(student):
    student.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(DeafModel):
        deaf_test(student.model, batch_of(student))


def test_it_leaves_no_trace(student):
    student.model.train()
    before = {k: v.clone() for k, v in student.model.state_dict().items()}
    batch = batch_of(student)
    deaf_test(student.model, batch)
    assert student.model.training
    assert all(p.grad is None for p in student.model.parameters())
    assert not batch.media["input_features"].requires_grad
    assert all(torch.equal(v, student.model.state_dict()[k]) for k, v in before.items())
