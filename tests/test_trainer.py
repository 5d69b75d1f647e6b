"""The one trainer: exact under accumulation, and a resumed run that equals an undisturbed one bit for bit."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from conftest import open_model, under_lora
from earwitness.learn.losses import cross_entropy, token_logprobs
from earwitness.learn.trainer import COMPLETE, Steps, Trainer, TrainingError, complete_checkpoints, restore
from earwitness.learn.tree import Branch, Tree, pack
from earwitness.models.loading import attach_adapter
from objectives import LENGTHS, SCHEDULE, Batch, KilledError, Practised, Said, lessons, plan_of, tasks
from tensors import gradients, relative_error, root, tree


class Keep(transformers.TrainerCallback):
    """Remembers every step's gradients (as they were before clipping could bite) and learning rate."""

    def __init__(self):
        self.gradients, self.rates = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **_):
        self.gradients.append(gradients(model))
        self.rates.append(optimizer.param_groups[0]["lr"])


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def eight(listener):
    return lessons(listener)


def test_s1_gradient_accumulation_changes_neither_loss_nor_gradient(tiny_student, eight, tmp_path):
    """Trainer would multiply the loss by the number of micro-batches for this class of model."""
    made = []
    for accumulation in (1, 2, 4, 8):
        model = open_model(tiny_student, "student").model
        schedule = replace(SCHEDULE, steps=1, accumulation=accumulation, clip=1e9)
        trainer = Trainer(model, Said(), lambda step: eight, schedule, tmp_path / str(accumulation))
        kept = Keep()
        trainer.add_callback(kept)
        trainer.fit()
        made.append((log_of(tmp_path / str(accumulation)), kept.gradients[0]))
    model = open_model(tiny_student, "student").model
    batch = pack(eight, 0)
    loss = cross_entropy(token_logprobs(model, batch), batch.weight) / sum(LENGTHS)
    loss.backward()
    for log, gradient in made:
        assert [line["step"] for line in log] == [1]
        assert log[0]["ce"] == pytest.approx(loss.item(), abs=1e-6)
        assert log[0]["tokens"] == sum(LENGTHS)
        assert relative_error(gradient, gradients(model)) < 1e-5


def fresh(tiny_student, tiny_adapter, kind):
    model = open_model(tiny_student, "student").model
    if kind == "lora":
        torch.manual_seed(5)
        return under_lora(model)
    if kind == "from adapter":
        return attach_adapter(attach_adapter(model, str(tiny_adapter), trainable=True), str(tiny_adapter), "reference")
    return model


def everything(folder: Path, model) -> dict:
    return {"log": (folder / "log.jsonl").read_text(), "weights": {k: v.clone() for k, v in model.state_dict().items()}}


@pytest.mark.parametrize("kind", ["full", "lora", "from adapter"])
def test_s3_a_killed_and_resumed_run_equals_an_undisturbed_one(tiny_student, tiny_adapter, eight, tmp_path, kind):
    """Trainer's own way restores not one tensor of a fully trained listener."""

    def run(folder, stop_at=None):
        model = fresh(tiny_student, tiny_adapter, kind)
        Trainer(model, Said(), plan_of(eight, stop_at), replace(SCHEDULE, accumulation=2), tmp_path / folder).fit()
        return everything(tmp_path / folder, model)

    undisturbed = run("whole")
    with pytest.raises(KilledError):
        run("killed", 4)
    assert list(complete_checkpoints(tmp_path / "killed")) == [2]
    assert [line["step"] for line in log_of(tmp_path / "killed")] == [1, 2, 3]  # one more than was saved
    with pytest.raises(KilledError):
        run("killed", 5)
    assert list(complete_checkpoints(tmp_path / "killed")) == [2, 4]
    resumed = run("killed")
    assert resumed["log"] == undisturbed["log"]
    assert [line["step"] for line in log_of(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    for name, value in undisturbed["weights"].items():
        assert torch.equal(value, resumed["weights"][name]), name
    start = fresh(tiny_student, tiny_adapter, kind).state_dict()
    moved = {name for name, value in start.items() if not torch.equal(value, resumed["weights"][name])}
    if kind == "full":
        assert len(moved) > 0.9 * len(start)
    else:
        assert moved == {name for name in start if ".default." in name}


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def practise(tiny_student, folder, stop_at=None, updates=1, **changes):
    """Train by practice; return the weights, and every step's gradients."""
    local = open_model(tiny_student, "student")
    plan = plan_of(tasks(local), stop_at, updates)
    trainer = Trainer(local.model, Practised(local, updates), plan, replace(SCHEDULE, **changes), folder)
    trainer.add_callback(kept := Keep())
    trainer.fit()
    return everything(folder, local.model), kept.gradients


def test_practice_does_not_change_with_the_micro_batches(tiny_student, tmp_path):
    """Not its samples, whose noise is each question's own, and so not its loss and gradient."""
    made = []
    for accumulation in (1, 2, 4):
        folder = tmp_path / str(accumulation)
        _, (gradient,) = practise(tiny_student, folder, steps=1, accumulation=accumulation, clip=1e9)
        made.append((log_of(folder)[0], rows_of(folder), gradient))
    log, rows, gradient = made[0]
    assert log["equal_groups"] < log["groups"] == len(rows) == 4  # else nothing would be learnt
    for other in made[1:]:
        assert other[0] == pytest.approx(log, abs=1e-5)
        assert other[1] == rows
        assert relative_error(other[2], gradient) < 1e-5


def test_practice_killed_between_two_updates_on_the_same_samples_ends_as_if_undisturbed(tiny_student, tmp_path):
    undisturbed, _ = practise(tiny_student, tmp_path / "whole", updates=2, accumulation=2)
    with pytest.raises(KilledError):
        practise(tiny_student, tmp_path / "killed", 4, updates=2, accumulation=2)
    assert [line["step"] for line in log_of(tmp_path / "killed")] == [1, 2, 3]
    assert {row["step"] for row in rows_of(tmp_path / "killed")} == {1, 3}
    resumed, _ = practise(tiny_student, tmp_path / "killed", updates=2, accumulation=2)
    assert resumed["log"] == undisturbed["log"]
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert [row["step"] for row in rows_of(tmp_path / "whole")] == 4 * [1] + 4 * [3] + 4 * [5]
    assert all(torch.equal(v, resumed["weights"][k]) for k, v in undisturbed["weights"].items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 1e-3}, "learning_rate was 0.01 and is 0.001"),
        ({"steps": 7}, "steps was 6 and is 7"),
        ({"schedule": "linear", "seed": 2}, "schedule was 'cosine' and is 'linear'; seed was 1 and is 2"),
        ({"identity": {"batch": 5}}, "batch was 4 and is 5"),
        ({"objective": Practised}, "objective was 'Said' and is 'Practised'; weights was"),
    ],
)
def test_a_resume_with_other_settings_is_refused_by_name(begun, changes, said):
    local, folder = begun
    changes = dict(changes)
    objective = Practised(local) if "objective" in changes else Said()
    changes.pop("objective", None)
    identity = changes.pop("identity", {"batch": 4})
    with pytest.raises(TrainingError, match=re.escape(said)):
        Trainer(local.model, objective, plan_of([]), replace(SCHEDULE, **changes), folder, identity=identity).fit()
    assert list(complete_checkpoints(folder)) == [2]


@pytest.fixture(scope="module")
def begun(tiny_student, eight, tmp_path_factory):
    """A training that was killed after its first checkpoint."""
    folder = tmp_path_factory.mktemp("begun")
    local = open_model(tiny_student, "student")
    with pytest.raises(KilledError):
        Trainer(local.model, Said(), plan_of(eight, 3), SCHEDULE, folder, identity={"batch": 4}).fit()
    return local, folder


def test_a_resume_may_cut_its_work_up_otherwise(begun, eight, tmp_path):
    """Neither micro-batches nor the number of checkpoints decide what is learnt."""
    local, folder = begun
    folder = shutil.copytree(folder, tmp_path / "copy")
    schedule = replace(SCHEDULE, accumulation=4, checkpoint_every=3, checkpointing=True)
    Trainer(local.model, Said(), plan_of(eight), schedule, folder, identity={"batch": 4}).fit()
    assert [line["step"] for line in log_of(folder)] == [1, 2, 3, 4, 5, 6]


def test_trackers_are_told_every_step_by_name(tiny_student, eight, tmp_path):
    class Tracker(transformers.TrainerCallback):
        told = []

        def on_log(self, args, state, control, logs=None, **_):
            self.told.append((state.global_step, logs))

    trainer = Trainer(open_model(tiny_student, "student").model, Said(), plan_of(eight), SCHEDULE, tmp_path)
    trainer.add_callback(Tracker())
    trainer.fit()
    told = [{"step": step, **logs} for step, logs in Tracker.told if "ce" in logs]
    assert [{k: v for k, v in line.items() if k != "epoch"} for line in told] == log_of(tmp_path)
    assert set(told[0]) >= {"ce", "tokens", "gradient_norm", "learning_rate"}


def test_in_bfloat16_what_is_trained_stays_in_32_bits(tiny_student, eight, tmp_path):
    made = {}
    for bf16 in (False, True):
        model = open_model(tiny_student, "student").model
        Trainer(model, Said(), plan_of(eight), replace(SCHEDULE, bf16=bf16), tmp_path / str(bf16)).fit()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        made[bf16] = [line["ce"] for line in log_of(tmp_path / str(bf16))]
    assert made[True] == pytest.approx(made[False], rel=0.1)
    assert made[True][0] != made[False][0]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_activation_checkpointing_changes_neither_loss_nor_gradient(tiny_student, tiny_adapter, eight, tmp_path, kind):
    made = []
    for checkpointing in (False, True):
        model = fresh(tiny_student, tiny_adapter, kind)
        layer, calls = next(m for n, m in model.named_modules() if n.endswith("language_model.layers.1.mlp")), []
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        schedule = replace(SCHEDULE, steps=1, checkpointing=checkpointing)
        trainer = Trainer(model, Said(), plan_of(eight), schedule, tmp_path / str(checkpointing))
        trainer.add_callback(kept := Keep())
        trainer.fit()
        made.append((len(calls), log_of(tmp_path / str(checkpointing))[0]["ce"], kept.gradients[0]))
    assert [calls for calls, *_ in made] == [1, 2]
    assert made[1][1] == pytest.approx(made[0][1], abs=1e-6)
    assert relative_error(made[1][2], made[0][2]) < 1e-5


def test_fsdp_that_would_not_shard_is_refused(tiny_student, eight, tmp_path, monkeypatch):
    """On a CPU accelerate would train a whole copy in every process, and not say so."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TrainingError, match="the parameters are not sharded"):
        Trainer(open_model(tiny_student, "student").model, Said(), plan_of(eight), SCHEDULE, tmp_path).fit()
    assert not (tmp_path / "log.jsonl").exists()


def test_another_precision_than_the_launchers_is_refused(tiny_student, eight, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(TrainingError, match="the launcher asks for mixed precision 'fp16', this training for none"):
        Trainer(open_model(tiny_student, "student").model, Said(), plan_of(eight), SCHEDULE, tmp_path)


def test_a_finished_run_is_not_trained_further(tiny_student, eight, tmp_path):
    schedule = replace(SCHEDULE, steps=3)
    made = []
    for _ in range(2):
        model = open_model(tiny_student, "student").model
        Trainer(model, Said(), plan_of(eight), schedule, tmp_path).fit()
        made.append(everything(tmp_path, model))
    assert made[0]["log"] == made[1]["log"]
    assert all(torch.equal(v, made[1]["weights"][k]) for k, v in made[0]["weights"].items())


def test_restore_brings_back_every_tensor_or_says_what_is_missing(tiny_student, tmp_path):
    from safetensors.torch import load_file, save_file

    model = open_model(tiny_student, "student").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    other = open_model(tiny_student, "student").model
    restore(other, tmp_path)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    weights = load_file(tmp_path / "model.safetensors")
    dropped = next(name for name in weights if "q_proj" in name)
    save_file({k: v for k, v in weights.items() if k != dropped}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeError, match=r"does not restore this model.*missing_keys.*q_proj"):
        restore(other, tmp_path)


def test_restore_brings_back_the_adapter_and_not_the_one_beside_it(tiny_student, tiny_adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    model = fresh(tiny_student, tiny_adapter, "from adapter")
    reference = {k: v.clone() for k, v in model.state_dict().items() if ".reference." in k}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    model.save_pretrained(tmp_path)
    other = fresh(tiny_student, tiny_adapter, "from adapter")
    restore(other, tmp_path)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in reference.items())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    dropped = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != dropped}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(RuntimeError, match=r"does not restore this adapter.*lora_"):
        restore(other, tmp_path)


def test_a_torn_checkpoint_is_ignored_and_removed(tiny_student, eight, tmp_path):
    model = open_model(tiny_student, "student").model
    with pytest.raises(KilledError):
        Trainer(model, Said(), plan_of(eight, 3), SCHEDULE, tmp_path).fit()
    torn = tmp_path / "checkpoint-4"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "ce"')
    assert list(complete_checkpoints(tmp_path)) == [2]
    Trainer(open_model(tiny_student, "student").model, Said(), plan_of(eight), SCHEDULE, tmp_path).fit()
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert list(complete_checkpoints(tmp_path)) == [4, 6]  # and of complete ones the last two are kept
    assert json.loads((tmp_path / "checkpoint-6" / COMPLETE).read_text())["step"] == 6


def test_every_candidate_is_kept_where_asked(tiny_student, eight, tmp_path):
    Trainer(
        open_model(tiny_student, "student").model, Said(), plan_of(eight), replace(SCHEDULE, keep_all=True), tmp_path
    ).fit()
    assert list(complete_checkpoints(tmp_path)) == [2, 4, 6]


def test_training_leaves_nothing_outside_its_folder(tiny_student, eight, tmp_path, monkeypatch):
    cwd, folder, temporary = tmp_path / "cwd", tmp_path / "run", tmp_path / "temporary"
    for place in (cwd, temporary):
        place.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    Trainer(open_model(tiny_student, "student").model, Said(), plan_of(eight), replace(SCHEDULE, steps=2), folder).fit()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cwd", "run", "temporary"]
    assert not list(cwd.iterdir()) and not list(temporary.iterdir())
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-2", "log.jsonl"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, *(0.5 + 0.5 * math.cos(math.pi * i / 4) for i in range(4))]),
    ],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(tiny_student, eight, tmp_path, schedule, expected):
    """Also the constant one; and it goes on where it was after a resume."""
    rates = []
    for stop_at in (5, None):
        model = open_model(tiny_student, "student").model
        trainer = Trainer(model, Said(), plan_of(eight, stop_at), replace(SCHEDULE, schedule=schedule), tmp_path)
        kept = Keep()
        trainer.add_callback(kept)
        try:
            trainer.fit()
        except KilledError:
            kept.rates = kept.rates[:4]  # the checkpoint it goes on from
        rates += kept.rates
    assert rates == pytest.approx([SCHEDULE.learning_rate * share for share in expected])


def test_the_gradient_is_clipped_to_the_norm_asked_for(tiny_student, eight, tmp_path):
    trainer = Trainer(
        open_model(tiny_student, "student").model,
        Said(),
        plan_of(eight),
        replace(SCHEDULE, steps=1, clip=0.01),
        tmp_path,
    )
    kept = Keep()
    trainer.add_callback(kept)
    trainer.fit()
    norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in kept.gradients[0].values()))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_no_number_stops_the_run_before_the_step(tiny_student, eight, tmp_path):
    class Broken(Said):
        def terms(self, model, batch, totals):
            scale = float("nan") if batch.packed.target[0] == eight[3].branches[0].ids[0] else 1.0
            return {"ce": super().terms(model, batch, totals)["ce"] * scale}

    model = open_model(tiny_student, "student").model
    with pytest.raises(FloatingPointError, match=r"step 2: the loss is not finite"):
        Trainer(model, Broken(), plan_of(eight), SCHEDULE, tmp_path).fit()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert [line["step"] for line in log_of(tmp_path)] == [1]


def test_a_step_is_cut_into_parts_of_neighbours_and_too_few_items_are_an_error():
    steps = Steps(lambda step: [10 * step + i for i in range(7)], steps=3, parts=3)
    assert len(steps) == 9
    assert [steps[i] for i in range(3, 6)] == [(1, [10, 11]), (1, [12, 13]), (1, [14, 15, 16])]
    with pytest.raises(ValueError, match=r"step 0 holds 7 items, too few for 8 micro-batches"):
        Steps(lambda step: list(range(7)), steps=1, parts=8)[0]


def test_the_loss_goes_down_and_progress_is_told(tiny_student, eight, tmp_path):
    told = []
    trainer = Trainer(
        open_model(tiny_student, "student").model, Said(), lambda step: eight, SCHEDULE, tmp_path,
        lambda step, terms: told.append((step, terms["ce"])),
    )  # fmt: skip
    trainer.fit()
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1][1] < 0.8 * told[0][1]


def test_s4_trained_tokens_are_found_by_position(listener):
    """Every lesson trains exactly what is to be said, the end of the turn included."""
    from earwitness.records import Lesson, Question
    from earwitness.stages.sft import grow
    from earwitness.stages.spelling import spell
    from tensors import clip

    material = []
    for seed, think in enumerate([None, "i hear dog .", "i hear bell , dog ."]):
        question = Question(id=f"world/{seed}", clip=clip(seed), text="which sound is heard ?", choices=("dog", "bell"))
        material.append((question, Lesson(think=think, answer="dog", index=None, pools=("all",), by="teacher")))
    grown = grow(listener, material)
    assert not grown.failures
    batch = pack(grown.trees, listener.pad)
    assert (batch.weight == 1).all()
    for number, (_, lesson) in enumerate(material):
        said = batch.target[batch.branch == number]
        assert said.tolist() == list(listener.response_ids(spell(lesson)))
        assert (
            listener.tokenizer.decode(said, skip_special_tokens=True).split()
            == " ".join(listener.tokenizer.tokenize(spell(lesson))).split()
        )
        assert said[-1] == listener.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_tree_of_context_alone_trains_nothing_and_is_seen_in_its_counts(listener):
    batch = Batch(pack([Tree(root(listener, 0), (Branch((20, 21), (0.0, 0.0)),))], 0))
    assert batch.counts() == {"tokens": 0.0}
    assert tree(listener, 0, (1,)).branches[0].weights == (1.0,)
