"""Attention by blocks: who trains with it, and that it learns what dense masks learn.

The kernels are for GPUs. PyTorch's own reference implementation of them runs here in their place, gradients included.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
import transformers
from transformers.integrations import flex_attention as wrapped

import tiny_families
from conftest import open_model
from earwitness.config import Grpo, Model
from earwitness.learn import sampling
from earwitness.learn.attention import BLOCKS, DENSE, kind, prefer_blocks
from earwitness.learn.deaf import deaf_test
from earwitness.learn.losses import cross_entropy, token_logprobs
from earwitness.learn.tree import Branch, Tree, pack
from earwitness.models.exchange import Prompt
from earwitness.records import Lesson, Question
from earwitness.stages.grpo import Practice
from earwitness.stages.sft import Supervised
from earwitness.stages.student import open_student
from earwitness.stages.training import TrainingJob, told
from tensors import clip, gradients, random_ids, relative_error

CPU = "attention with a dense mask (no block masks on this device)"
GPU = "attention with block masks (FlexAttention)"
QUESTION = Question(id="q", clip=clip(1), text="which sound is the first one ?", choices=("bell", "dog"))
LESSON = Lesson(think="bell dog", answer="bell", index=0, pools=("all",), by="test")


@contextmanager
def as_if_on_a_gpu():
    """Let models say that they lie on a GPU, for as long as one is opened."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.PreTrainedModel, "device", torch.device("cuda"))
        yield


@pytest.fixture
def reference_kernel(monkeypatch):
    from torch.nn.attention import flex_attention as flex

    monkeypatch.setattr(wrapped.WrappedFlexAttention, "__call__", lambda self: flex.flex_attention)
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)  # it refuses gradients on a CPU


def job(base, **settings) -> TrainingJob:
    grpo = Grpo(**{"group": 4, "max_tokens": 6, "lora_rank": 4, "keep_equal_groups": True} | settings)
    return TrainingJob("grpo", grpo, Model(kind="local", name=str(base)), None, ((QUESTION, LESSON),), 1, base, "k")


def learnt(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    logprobs = token_logprobs(model, batch)
    cross_entropy(logprobs, batch.weight).backward()
    return logprobs.detach(), gradients(model)


def test_on_a_cpu_a_student_is_opened_dense_and_says_so(tiny_student):
    student = open_student(job(tiny_student))
    assert student.attention == CPU
    assert kind(student.local.model) == DENSE
    heard = {"change": 0.5}
    assert told({"deaf_test": heard, "attention": CPU}).endswith(f"0.5 nats; {CPU}")
    assert "attention" not in told({"deaf_test": heard}), "a step that was trained before it was noted"


@pytest.mark.parametrize("family", tiny_families.LISTENERS)
def test_a_family_whose_language_model_takes_blocks_learns_the_same_with_them(family, tmp_path, reference_kernel):
    local = open_model(tiny_families.write_family(family, tmp_path), "student")
    sound = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    prompt = local.encode(Prompt("what?", wave=sound))
    batch = pack([Tree(prompt, tuple(Branch.trained(random_ids(n, n)) for n in (3, 5)))], local.pad)
    dense, gradient = learnt(local.model, batch)
    with as_if_on_a_gpu():
        said = prefer_blocks(local.model)
    if "omni" in family:
        assert said == "attention with a dense mask (no block masks for this model)"
        return
    assert said == GPU and kind(local.model) == BLOCKS
    blocks, same = learnt(local.model, batch)
    assert (blocks - dense).abs().max() < 2e-5
    assert relative_error(same, gradient) < 1e-5


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_practice_with_blocks_is_practice_without(tiny_student, reference_kernel, monkeypatch, tuning):
    """Samples come one token at a time, under dense masks; the reference copy and the deaf test attend by blocks."""
    attended = []
    run = sampling._run
    monkeypatch.setattr(sampling, "_run", lambda model, *rest: attended.append(kind(model)) or run(model, *rest))
    made = {}
    for name, where in (("dense", pytest.MonkeyPatch.context), ("blocks", as_if_on_a_gpu)):
        with where():
            student = open_student(job(tiny_student, tuning=tuning), with_parent=True)
        model = student.local.model
        lessons = Supervised(student.local).prepare(model, [(QUESTION, LESSON)], 0)
        practice = Practice(job(tiny_student, tuning=tuning), student)
        rollout = practice.prepare(model, [(QUESTION, LESSON)], 0)
        terms = practice.terms(model, rollout, rollout.counts())
        (terms["policy"] + terms["kl_ref"]).backward()
        hearing = deaf_test(model, lessons.packed)
        made[name] = student.attention, rollout, terms, hearing, kind(model)
        assert float(terms["kl_ref"].detach()) == pytest.approx(0, abs=1e-9)
    (_, dense, ours, heard, _), (said, blocks, theirs, also, left) = made["dense"], made["blocks"]
    assert said == GPU and left == BLOCKS
    assert attended and set(attended) == {DENSE}
    assert [g.samples for g in dense.drawn] == [g.samples for g in blocks.drawn]
    assert (dense.reference - blocks.reference).abs().max() < 2e-5
    assert float(ours["entropy"]) == pytest.approx(float(theirs["entropy"]), rel=1e-4)
    assert also.gradient == pytest.approx(heard.gradient, rel=1e-3)
    assert also.change == pytest.approx(heard.change, rel=1e-3)


def test_a_saved_student_is_opened_dense_again(tiny_student, tmp_path):
    with as_if_on_a_gpu():
        student = open_student(job(tiny_student))
    for part in (student.local.model, student.local.tokenizer, student.local.extractor):
        part.save_pretrained(tmp_path)
    assert kind(open_model(tmp_path, "student").model) == DENSE


def test_what_the_kernel_cannot_do_stays_dense(tiny_student):
    for change in ({"attention_dropout": 0.1}, {"head_dim": 24}, {"head_dim": 8}):
        local = open_model(tiny_student, "student")
        for name, value in change.items():
            setattr(local.model.config.get_text_config(), name, value)
        with as_if_on_a_gpu():
            assert prefer_blocks(local.model) == "attention with a dense mask (no block masks for this model)"
        assert kind(local.model) == DENSE
