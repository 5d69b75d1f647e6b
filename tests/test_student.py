"""What of a student is trained, and which lessons a step sees together."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import open_model
from earwitness.config import Grpo, Model, Sft
from earwitness.models.places import ModelError
from earwitness.records import Lesson, Question
from earwitness.stages.grpo import Practice
from earwitness.stages.sft import Draw, Supervised, grow
from earwitness.stages.student import open_student
from earwitness.stages.training import TrainingJob
from earwitness.stages.workbench import StageError
from tensors import clip

TEXTS = ("which sound is the first one ?", "which sound is the last one ?")


def job(base: Path, material=(), **settings) -> TrainingJob:
    return TrainingJob("sft", Sft(**settings), Model(kind="local", name=str(base)), None, tuple(material), 1, base, "k")


def lessons(clips: int, questions: int, each: int):
    made = []
    for c in range(clips):
        for n in range(questions):
            question = Question(id=f"w/{c}/{n}", clip=clip(c), text=TEXTS[n % 2], choices=("bell", "dog"))
            made += [
                (question, Lesson(think=f"bell dog {i}", answer="bell", index=i, pools=("all",), by="test"))
                for i in range(each)
            ]
    return made


def trained_names(model) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_a_frozen_tower_leaves_only_the_language_model_to_be_trained(tiny_student):
    everything = trained_names(open_student(job(tiny_student)).local.model)
    left = trained_names(open_student(job(tiny_student, audio_tower="frozen")).local.model)
    assert any("audio_tower" in name for name in everything)
    assert left == [n for n in everything if "language_model" in n or n.startswith("lm_head")]


def test_adapters_are_put_on_the_tower_only_where_asked(tiny_student):
    spared = trained_names(open_student(job(tiny_student, tuning="lora")).local.model)
    asked = trained_names(open_student(job(tiny_student, tuning="lora", audio_tower="trained")).local.model)
    assert spared and all("language_model" in name for name in spared)
    assert set(spared) < set(asked) and any("audio_tower" in name for name in asked)


def test_four_bits_are_refused_without_a_gpu(tiny_student):
    with pytest.raises(ModelError, match="needs a CUDA GPU, not 'cpu': use 'lora'"):
        open_student(job(tiny_student, tuning="qlora"))


@pytest.mark.parametrize("together", [1, 2, 5])
def test_a_step_holds_as_many_lessons_as_asked_and_those_of_a_clip_stand_together(tiny_student, together):
    material = lessons(clips=12, questions=2, each=3)
    draw = Draw(job(tiny_student, material, batch=10, together=together))
    for step in range(5):
        items = draw(step)
        assert items == draw(step)
        assert len(items) == 10
        for start in range(0, 10, together):
            group = items[start : start + together]
            assert len({q.clip.id for q, _ in group}) == 1
            assert len({(q.id, lesson.index) for q, lesson in group}) == len(group)


def test_fewer_lessons_than_asked_are_filled_up_from_other_clips(tiny_student):
    draw = Draw(job(tiny_student, lessons(clips=3, questions=1, each=2), batch=7, together=4))
    assert [len(draw(step)) for step in range(4)] == [7] * 4


def test_questions_and_lessons_of_one_clip_become_one_tree(tiny_student):
    student = open_model(tiny_student, "student")
    material = lessons(clips=2, questions=2, each=2)
    grown = grow(student, material)
    assert len(grown.trees) == 2 and not grown.failures and grown.lessons == material
    assert [[len(fork.branches) for fork in tree.branches] for tree in grown.trees] == [[2, 2], [2, 2]]
    made = Supervised(student).prepare(student.model, material, 0)
    assert made.packed.media["input_features"].shape[0] == 2
    assert made.counts()["left_out"] == 0


def test_a_frozen_tower_hears_every_clip_once(tiny_student):
    """Under LoRA the sound of a clip is encoded for the first batch it is in, and remembered after that."""
    local = open_student(job(tiny_student, tuning="lora")).local
    objective, heard = Supervised(local), []
    hook = local.model.get_base_model().model.audio_tower.register_forward_hook(lambda *_: heard.append(1))
    try:
        for _ in range(3):
            batch = objective.prepare(local.model, lessons(clips=2, questions=2, each=1), 0)
            objective.terms(local.model, batch, batch.counts())["ce"].backward()
    finally:
        hook.remove()
    assert len(heard) == 2


def test_a_batch_of_which_nothing_can_be_shown_trains_nothing_and_is_counted(tiny_student):
    """Small micro-batches must survive a bad clip as large ones do; only a first batch without any good one stops."""
    local = open_student(job(tiny_student)).local
    bad = [(q.model_copy(update={"text": "<|AUDIO|>"}), lesson) for q, lesson in lessons(1, 1, 2)]
    with pytest.raises(StageError, match="no question of a training batch can be shown"):
        Supervised(local).prepare(local.model, bad, 0)
    objective = Supervised(local)
    objective.prepare(local.model, lessons(1, 1, 1), 0)
    empty = objective.prepare(local.model, bad, 1)
    assert empty.counts() == {"tokens": 0.0, "left_out": 2.0}
    loss = objective.terms(local.model, empty, {"tokens": 5.0})["ce"]
    loss.backward()
    assert float(loss) == 0
    assert all(p.grad is not None and not p.grad.any() for n, p in local.model.named_parameters() if "layers" in n)
    assert "media" in objective.why or "AUDIO" in objective.why


def test_practice_survives_a_batch_of_which_nothing_can_be_shown(tiny_student):
    practice_job = TrainingJob(
        "grpo", Grpo(group=2, max_tokens=4), Model(kind="local", name=str(tiny_student)), None, (), 1, tiny_student, "k"
    )
    student = open_student(practice_job)
    objective = Practice(practice_job, student)
    good = lessons(1, 1, 1)
    bad = [(q.model_copy(update={"text": "<|AUDIO|>"}), lesson) for q, lesson in good]
    with pytest.raises(StageError, match="no question of a practice batch can be shown"):
        objective.prepare(student.local.model, bad, 0)
    objective.spare = objective.tasks(good)[0]
    rollout = objective.prepare(student.local.model, bad, 0)
    assert rollout.rows == [] and rollout.counts()["left_out"] == 1
    assert not any(rollout.counts()[name] for name in ("sequences", "tokens", "reward", "groups"))
    assert len(objective.prepare(student.local.model, good, 1).rows) == 2
