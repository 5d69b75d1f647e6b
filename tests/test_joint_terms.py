"""The terms of joint training: a packed tree of responses gives what rows computed one by one do."""

from __future__ import annotations

import pytest
import torch

import tiny_families
from conftest import open_model
from earwitness.learn.layers import audio_places, decoder
from earwitness.learn.tree import branches_below
from earwitness.records import Checkpoint
from earwitness.stages.spelling import spell
from earwitness.stages.workbench import StageError
from teaching import job, material, naive, opened, shaken, world_tokenizer, write_reader
from tensors import relative_error

WEIGHTS = {"ce": 0.5, "text_kd": 1.0, "layer_kd": 0.7, "acoustic_kd": 0.3}
CASES = {
    "all layers through projections": {"mixture": 0.3},
    "next-token distributions of some": {
        "match": "distribution", "layers": (1, 3), "layer_weights": (2.0, 0.5), "top_k": 5, "divergence": "reverse",
        "softness": 2.0, "tuning": "lora",
    },
    "by squared differences": {
        "distance": "mse", "layers": "1 in 2", "teacher_layers": (1, 6), "acoustic_layers": (2, 4),
        "divergence": "forward", "audio_tower": "frozen",
    },
    "from an adapter": {"tuning": "lora", "top_k": 3, "layers": (4,)},
}  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A random Qwen3 of another depth and width, whose tokens have other numbers."""
    return write_reader(tmp_path_factory.mktemp("readers") / "other", world_tokenizer(order=5))


def moved(one_job):
    """A student that is no longer its own parent, and what it is trained for."""
    student, objective = opened(one_job)
    shaken(student.local.model)
    return student, objective


def gradients_of(terms, student, objective):
    """The gradients of the weighted sum of some terms, by name; those of the projections among them."""
    modules = {"model": student.local.model, "projections": objective.projections}
    named = {
        f"{part}.{name}": p
        for part, module in modules.items()
        if module is not None
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    loss = sum(WEIGHTS[name] * term for name, term in terms.items() if name in WEIGHTS)
    made = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), made, strict=True)}


def equal_row_by_row(student, objective, lessons, folder, tolerance=3e-5):
    model = student.local.model
    batch = objective.prepare(model, lessons, 0)
    terms = objective.terms(model, batch, batch.counts())
    made, expected = (
        gradients_of(terms, student, objective),
        naive(objective, student, lessons, open_model(folder, "student")),
    )
    assert set(expected) == objective.comparison.terms
    for name, term in expected.items():
        assert terms[name].item() == pytest.approx(term.item(), rel=tolerance, abs=1e-7), name
        assert term.item() > 1e-5, f"{name} is nothing to compare"
    by_rows = gradients_of(expected, student, objective)
    assert relative_error(made, by_rows) < 10 * tolerance
    for name, gradient in made.items():
        if name.startswith("projections"):
            assert gradient.abs().max() > 0
            assert torch.allclose(gradient, by_rows[name], rtol=1e-3, atol=1e-6)
    return batch, terms


@pytest.mark.parametrize("case", CASES)
def test_a_tree_of_responses_equals_rows_one_by_one(tiny_student, tiny_adapter, reader, tmp_path, case):
    parent = None
    if case == "from an adapter":
        parent = Checkpoint(key="p", path=str(tiny_adapter), kind="adapter", parent="student")
    student, objective = moved(job(tiny_student, reader, tmp_path, parent=parent, **CASES[case]))
    lessons = material(clips=2, questions=2, each=2)
    batch, _ = equal_row_by_row(student, objective, lessons, tiny_student)
    assert batch.packed.input_ids.shape[0] == 2 and int(branches_below(batch.packed).max()) == 4


@pytest.mark.parametrize("kind", ["qwen3_omni_moe", "audioflamingo3"])
def test_so_it_is_for_other_families(kind, tmp_path):
    folder = tiny_families.write_family(kind, tmp_path / kind)
    teacher = write_reader(tmp_path / "reader", tiny_families.byte_tokenizer(kind), layers=3, width=32)
    more = {"top_k": 20} if kind == "audioflamingo3" else {"match": "distribution", "layers": (1,)}
    student, objective = moved(job(folder, teacher, tmp_path, **more))
    lessons = material(clips=2, questions=1, each=2)
    _, terms = equal_row_by_row(student, objective, lessons, folder, 1e-4)
    assert ("router" in terms) == (kind == "qwen3_omni_moe")


def test_sharing_a_clip_changes_no_term(tiny_student, reader, tmp_path):
    """A position above four responses counts as the four that it stands for."""
    student, objective = moved(job(tiny_student, reader, tmp_path))
    model, lessons = student.local.model, material(clips=2, questions=2, each=2)
    whole = objective.prepare(model, lessons, 0)
    together = objective.terms(model, whole, whole.counts())
    apart = [objective.prepare(model, [one], 0) for one in lessons]
    totals = {name: sum(part.counts()[name] for part in apart) for name in whole.counts()}
    assert totals == whole.counts() and totals["sound"] == 16 * len(lessons)
    parts = [objective.terms(model, part, totals) for part in apart]
    for name, term in together.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(term.item(), rel=1e-4, abs=1e-9)
    (row, _), below = audio_places(whole.packed, objective.comparison.placeholder)
    assert len(row) == 32 and below.tolist() == [4] * 32


def test_activations_that_are_computed_again_change_nothing(tiny_student, reader, tmp_path):
    from earwitness.learn.arguments import checkpoint_activations

    for number, more in enumerate(({}, {"match": "distribution", "layers": (1, 2), "tuning": "lora"})):
        made = []
        for again in (False, True):
            student, objective = moved(job(tiny_student, reader, tmp_path / f"{number}{again}", **more))
            model = student.local.model
            if again:
                checkpoint_activations(model)
            model.train()
            batch, passes = objective.prepare(model, material(), 0), []
            decoder(model).layers[0].mlp.register_forward_pre_hook(lambda *_, seen=passes: seen.append(1))
            terms = objective.terms(model, batch, batch.counts())
            made.append((terms, gradients_of(terms, student, objective)))
            assert len(passes) == 1 + again + ("tuning" in more)  # the parent's own
        for name, term in made[0][0].items():
            assert made[1][0][name].item() == pytest.approx(term.item(), rel=1e-5, abs=1e-9)
        assert relative_error(made[1][1], made[0][1]) < 1e-5


def test_tokens_that_the_target_does_not_name_are_counted(tiny_student, reader, tmp_path):
    student, objective = moved(job(tiny_student, reader, tmp_path, top_k=4))
    batch = objective.prepare(student.local.model, material(), 0)
    terms = objective.terms(student.local.model, batch, batch.counts())
    target = objective.signals(batch).top(slice(0, len(batch.packed.target)))
    said = torch.tensor([i for _, lesson in batch.lessons for i in student.local.response_ids(spell(lesson))])
    missing = (target.columns != said[:, None]).all(-1).float().mean()
    assert 0 < missing.item() == pytest.approx(terms["outside"].item())


@pytest.mark.parametrize(
    "more", [{}, {"sft_weight": 0.0, "text_weight": 0.0}, {"match": "distribution", "layers": (2,)}]
)
def test_a_batch_of_which_nothing_can_be_shown_trains_nothing(tiny_student, reader, tmp_path, more):
    """Every trained weight has a part in it: processes that train together wait for all of them."""
    student, objective = moved(job(tiny_student, reader, tmp_path, **more))
    model, good = student.local.model, material(clips=1, questions=1, each=2)
    bad = [(q.model_copy(update={"id": q.id + "x", "text": "<|AUDIO|>"}), lesson) for q, lesson in good]
    with pytest.raises(StageError, match="no question of a training batch can be shown"):
        objective.prepare(model, bad, 0)
    whole = objective.prepare(model, good, 0)
    empty = objective.prepare(model, bad, 1)
    assert empty.counts() == {"tokens": 0.0, "left_out": 2.0, "sound": 0.0}
    totals = {name: n + empty.counts()[name] for name, n in whole.counts().items()}
    for batch in (whole, empty):
        terms = objective.terms(model, batch, totals)
        loss = sum(WEIGHTS.get(name, 0.0) * term for name, term in terms.items())
        loss.backward()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        if batch is empty:
            assert loss.item() == 0
            assert not any(p.grad.any() for p in [*model.parameters()] if p.grad is not None)
        for module in (model, objective.projections):
            if module is not None:
                assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
                module.zero_grad()


def test_a_router_does_not_learn_from_a_batch_of_which_nothing_can_be_shown(tmp_path):
    folder = tiny_families.write_family("qwen3_omni_moe", tmp_path / "moe")
    student, objective = moved(job(folder, None, tmp_path, text_weight=0, layer_weight=0))
    good = material(clips=1, questions=1, each=2)
    bad = [(q.model_copy(update={"text": "<|audio_pad|>"}), lesson) for q, lesson in good]
    model = student.local.model
    whole, empty = (objective.prepare(model, items, 0) for items in (good, bad))
    assert not any(n for name, n in empty.counts().items() if name != "left_out")
    for totals in (whole.counts(), empty.counts()):
        assert objective.terms(model, empty, totals)["router"].item() == 0


def test_a_term_of_weight_nothing_is_not_computed(tiny_student, tmp_path):
    student, objective = moved(job(tiny_student, None, tmp_path, text_weight=0, layer_weight=0, acoustic_weight=0))
    assert student.parent is None and objective.reader is None and objective.projections is None
    batch = objective.prepare(student.local.model, material(), 0)
    terms = objective.terms(student.local.model, batch, batch.counts())
    assert set(terms) == {"ce", "outside"} and terms["outside"].item() == 0


def test_the_hand_over_multiplies_as_it_says(tiny_student, reader, tmp_path):
    settings = {"steps": 20, "layer_schedule": "handover", "handover": 0.2}
    _, objective = moved(job(tiny_student, reader, tmp_path, **settings))
    shares = [objective.schedule(step) for step in range(6)]
    assert [s["layer_kd"] for s in shares] == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])
    assert [s["text_kd"] for s in shares] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    _, steady = moved(job(tiny_student, reader, tmp_path))
    assert steady.schedule(0) == {}
