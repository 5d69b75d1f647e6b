"""Whole trainings by two teachers: what they must not depend on, what they leave, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from conftest import open_model
from earwitness.learn.distillation import anchor
from earwitness.learn.teachers import TeacherError
from earwitness.models.loading import merge_adapter
from earwitness.records import Checkpoint
from earwitness.stages import distil
from earwitness.stages.distil import joint_objective
from earwitness.stages.student import open_student
from earwitness.stages.training import train
from earwitness.stages.workbench import StageError
from objectives import KilledError
from teaching import job, left_by, log_of, material, naive, opened, shaken, world_tokenizer, write_reader

PROJECTIONS = "projections.safetensors"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return write_reader(tmp_path_factory.mktemp("readers") / "other", world_tokenizer(order=5), layers=3)


@pytest.fixture(scope="module")
def starts(tiny_student, tiny_adapter, tmp_path_factory):
    """What a training can start from: nothing but the base, a trained model, an adapter."""
    local = open_model(tiny_student, "student")
    folder = tmp_path_factory.mktemp("full")
    shaken(local.model).save_pretrained(folder)
    local.tokenizer.save_pretrained(folder)
    local.extractor.save_pretrained(folder)
    made = {"full": folder, "adapter": tiny_adapter}
    return {"base": None} | {
        kind: Checkpoint(key=kind, path=str(place), kind=kind, parent="student") for kind, place in made.items()
    }


# What it must not depend on


def test_micro_batches_change_nothing(tiny_student, reader, tmp_path):
    lessons, made = material(clips=3, questions=2, each=2), []
    for size in (0, 4, 2, 1):
        settings = {"batch": 8, "together": 3, "micro_batch": size, "clip": 1e9, "steps": 1}
        made.append(left_by(job(tiny_student, reader, tmp_path / str(size), lessons, **settings)))
    for other in made[1:]:
        assert other["log"][0] == pytest.approx(made[0]["log"][0], rel=1e-5, abs=1e-9)
        for name, value in made[0][PROJECTIONS].items():
            assert torch.allclose(other[PROJECTIONS][name], value, atol=2e-4)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_killed_and_resumed_training_equals_an_undisturbed_one(tiny_student, reader, tmp_path, monkeypatch, tuning):
    settings = {"steps": 5, "tuning": tuning, "checkpoint_every": 2, "projection_learning_rate": 1e-2}
    whole = left_by(job(tiny_student, reader, tmp_path / "whole", **settings))
    killed = job(tiny_student, reader, tmp_path / "killed", **settings)

    class Deadly(distil.Draw):
        def __call__(self, step):
            if step == 4:  # the loader is a step ahead
                raise KilledError
            return super().__call__(step)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(distil, "Draw", Deadly)
        train(killed)
    assert [line["step"] for line in log_of(killed.folder)] == [1, 2, 3]
    saved = {file.name for file in (killed.folder / "checkpoint-2").iterdir()}
    assert "beside.safetensors" in saved and "optimizer.pt" in saved
    resumed = left_by(killed)
    assert resumed["log"] == whole["log"]
    for file in set(whole) - {"log"}:
        for name, value in whole[file].items():
            assert torch.equal(resumed[file][name], value), (file, name)
    student, objective = opened(job(tiny_student, reader, tmp_path / "first", **settings))
    for name, value in objective.projections.state_dict().items():
        assert not torch.equal(whole[PROJECTIONS][name], value)
    student.local.model.save_pretrained(tmp_path / "published")  # what a model is published as: no projections in it
    (file,) = (tmp_path / "published").glob("*.safetensors")
    assert set(whole[file.name]) == set(load_file(file)) and len(whole) == 3


# The acoustic teacher


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("start", ["base", "full", "adapter"])
def test_the_student_is_held_to_its_parent_which_does_not_move(tiny_student, starts, tmp_path, start, tuning):
    settings = {"tuning": tuning, "text_weight": 0, "layer_weight": 0}
    one_job = job(tiny_student, None, tmp_path, parent=starts[start], **settings)
    student, objective = opened(one_job)
    model = student.local.model
    batch = objective.prepare(model, one_job.material, 0)

    def acoustic():
        return objective.terms(model, batch, batch.counts())["acoustic_kd"].item()

    def parents_states():
        return student.parent(lambda parent: anchor(parent, batch.packed, objective.comparison))

    before = parents_states()
    assert acoustic() < 1e-10
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    for _ in range(2):
        terms = objective.terms(model, batch, batch.counts())
        (terms["ce"] + terms["acoustic_kd"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert acoustic() > 1e-6
    assert all(torch.equal(a, b) for a, b in zip(before, parents_states(), strict=True))
    local = open_model(starts["full"].path if start == "full" else tiny_student, "student")
    if start == "adapter":  # not the base, which says other things
        base = objective.prepare(local.model, one_job.material, 0)
        there = anchor(local.model, base.packed, objective.comparison)
        assert (there[-1] - before[-1]).abs().max() > 1e-3
        local.model = merge_adapter(local.model, starts["adapter"].path)
    expected = anchor(local.model, batch.packed, objective.comparison)
    for ours, theirs in zip(before, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-4)


# What is trained beside the student


def test_projections_have_a_pace_of_their_own_and_do_not_decay(tiny_student, reader, tmp_path):
    settings = {"learning_rate": 1e-9, "projection_learning_rate": 1e-2, "weight_decay": 40.0, "warmup": 0.0}
    made = left_by(job(tiny_student, reader, tmp_path / "fast", **settings))
    first = opened(job(tiny_student, reader, tmp_path / "first"))[1].projections.state_dict()
    for name, value in made[PROJECTIONS].items():
        moved = (value - first[name]).abs()
        assert 5e-3 < moved.max() < 3e-2  # two steps; 40 times 1e-2 of every weight would have gone otherwise
        assert (first[name] - value).norm() < 0.5 * first[name].norm()


# What is refused


def test_a_teacher_whose_signals_are_no_numbers_is_told_by_its_layer(tiny_student, reader, tmp_path):
    student, objective = opened(job(tiny_student, reader, tmp_path))
    objective.reader.teacher.model.model.layers[1].mlp.down_proj.weight.data[0, 0] = torch.nan
    batch = objective.prepare(student.local.model, material(), 0)
    with pytest.raises(TeacherError, match=r"signals are not numbers \(layer 2\): load it with dtype"):
        objective.terms(student.local.model, batch, batch.counts())


def test_a_teacher_whose_head_is_no_number_is_told(tiny_student, reader, tmp_path):
    student, objective = opened(job(tiny_student, reader, tmp_path))
    objective.reader.teacher.model.lm_head.weight.data[3, 0] = torch.nan
    batch = objective.prepare(student.local.model, material(), 0)
    with pytest.raises(TeacherError, match="signals are not numbers"):
        objective.terms(student.local.model, batch, batch.counts())


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_parent_hears_in_the_same_precision(tiny_student, tmp_path, tuning):
    alone = {"text_weight": 0.0, "layer_weight": 0.0, "sft_weight": 0.0, "acoustic_weight": 1.0}
    train(job(tiny_student, None, tmp_path, steps=1, precision="bfloat16", tuning=tuning, **alone))
    (first, *_) = log_of(tmp_path)
    assert abs(first["acoustic_kd"]) < 1e-6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": (2, 9)}, r"distil.layers: the student has layers 1 to 4, there is no layer 9"),
        ({"layers": "1 in 5"}, r"distil.layers: '1 in 5' takes no layer at all"),
        ({"acoustic_layers": (5,)}, r"distil.acoustic_layers: the student has layers 1 to 4, there is no layer 5"),
        ({"layers": (1, 2), "teacher_layers": (1, 4)}, r"teacher_layers: the textual teacher has layers 1 to 3"),
        ({"layers": (1, 2), "teacher_layers": (1,)}, r"teacher_layers has 1 layers for the student's 2: \(1, 2\)"),
        ({"layer_weights": (1.0, 2.0)}, r"layer_weights has 2 numbers for 4 layers: \(1, 2, 3, 4\)"),
        ({"match": "distribution", "layer_weights": (1.0,) * 4}, r"has 4 numbers for 3 layers: \(1, 2, 3\)"),
        ({"match": "distribution", "layers": (2, 4)}, r"names layer 4, the student's last: .*compared by text_kd"),
        ({"match": "distribution", "layers": "1 in 4"}, r"'1 in 4' takes no layer below the student's last \(4\)"),
        ({"top_k": 10_000}, r"distil.top_k is 10000, and student and other have \d+ tokens in common"),
    ],
)
def test_settings_that_ask_for_what_is_not_there_are_refused(tiny_student, reader, tmp_path, settings, said):
    with pytest.raises(StageError, match=said):
        train(job(tiny_student, reader, tmp_path, **settings))
    assert not (tmp_path / "log.jsonl").exists()


def test_lessons_that_the_teacher_cannot_score_are_refused_before_anything_is_spent(tiny_student, reader, tmp_path):
    lessons = material()
    whole = job(tiny_student, reader, tmp_path, lessons)
    long = lessons[0][1].model_copy(update={"think": "dog " * 600})
    lacking = write_reader(tmp_path / "lacking", world_tokenizer(without=("before",)), layers=1)
    cases = [
        (replace(whole, descriptions=whole.descriptions[1:]), r"other as a teacher of w/0/0: there is no description"),
        (
            replace(whole, descriptions=((whole.descriptions[0][0], "dog " * 600), *whole.descriptions[1:])),
            r"a teacher of w/0/0: a prompt of 6\d\d tokens leaves other no room",
        ),
        (
            replace(whole, material=((lessons[0][0], long), *lessons[1:])),
            r"a teacher of w/0/0: a response of 6\d\d tokens finds room for 4\d\d in its window",
        ),
        (job(tiny_student, lacking, tmp_path, lessons), r"lacking has no token for 1 of the tokens .*'before'"),
    ]
    for one_job, said in cases:
        student = open_student(one_job)
        with pytest.raises(StageError, match=said):
            joint_objective(one_job, one_job.settings, student)


# Vocabularies


def test_the_numbers_of_a_teachers_tokens_change_nothing(tiny_student, tmp_path):
    """The same teacher with its rows in another order, and with rows of no token behind them."""
    tokenizer, shuffled = world_tokenizer(), world_tokenizer(order=9)
    plain = write_reader(tmp_path / "plain", tokenizer, layers=3)
    write_reader(tmp_path / "shuffled", shuffled, layers=3)
    write_reader(tmp_path / "padded", tokenizer, layers=3, size=len(tokenizer) + 26)
    weights, size = load_file(plain / "model.safetensors"), len(tokenizer)
    order = [tokenizer.convert_tokens_to_ids(shuffled.convert_ids_to_tokens(i)) for i in range(size)]
    made = {}
    for name in ("plain", "shuffled", "padded"):
        student, objective = opened(job(tiny_student, tmp_path / name, tmp_path, match="distribution", layers=(1, 3)))
        inside = objective.reader.teacher.model.state_dict()
        for key, value in weights.items():
            if name == "shuffled" and key.endswith(("embed_tokens.weight", "lm_head.weight")):
                value = value[order]
            inside[key].zero_()[: len(value)].copy_(value)
        batch = objective.prepare(student.local.model, material(), 0)
        made[name] = objective.terms(student.local.model, batch, batch.counts())
        assert (objective.reader.reading(objective.settings, ()).shared is None) == (name == "plain")
    expected = naive(objective, student, material(), open_model(tiny_student, "student"))
    for term in ("text_kd", "layer_kd"):
        # What rows of nothing have of the teacher's probability is part of the rest.
        assert made["padded"][term].item() == pytest.approx(expected[term].item(), rel=1e-4)
        assert made["shuffled"][term].item() == pytest.approx(made["plain"][term].item(), rel=1e-5)
