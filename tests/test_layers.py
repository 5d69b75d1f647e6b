"""Which layers are chosen, how two models' are paired, and the maps between their spaces."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earwitness.config import Distil
from earwitness.learn.layers import Projections, choose_layers, cosine_distance, normalised_mse, paired


@pytest.mark.parametrize(
    ("students", "student", "teacher", "expected"),
    [
        ((7, 14, 21, 28), 28, 36, (9, 18, 27, 36)),
        ((7, 14, 21, 28), 28, 28, (7, 14, 21, 28)),
        ((1, 2, 3, 4), 4, 2, (1, 1, 2, 2)),  # halves go upwards
        ((1,), 36, 4, (1,)),  # never layer 0
        ((1, 2, 3), 3, 6, (2, 4, 6)),
    ],
)
def test_layers_are_paired_by_their_relative_depth(students, student, teacher, expected):
    assert paired(students, student, teacher) == expected


@given(st.integers(1, 100), st.integers(1, 100))
def test_pairs_are_in_order_within_range_and_end_together(student, teacher):
    found = paired(range(1, student + 1), student, teacher)
    assert list(found) == sorted(found)
    assert found[0] >= 1 and found[-1] == teacher
    for i, j in enumerate(found, 1):
        assert j == 1 or abs(j - i * teacher / student) <= 0.5
    if student == teacher:
        assert found == tuple(range(1, student + 1))


def test_layers_are_chosen_by_name_by_distance_or_by_number():
    assert choose_layers("all", 4) == (1, 2, 3, 4)
    assert choose_layers("1 in 7", 28) == (7, 14, 21, 28)
    assert choose_layers("1 in 3", 7) == (3, 6)
    assert choose_layers((4, 2), 4) == (4, 2)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("1 in 5", "'1 in 5' takes no layer at all: the student has 4"),
        ((2, 5), "the student has layers 1 to 4, there is no layer 5"),
        ((0,), "there is no layer 0"),
        ((), "there is no layer named"),
    ],
)
def test_layers_that_are_not_there_are_refused(choice, said):
    with pytest.raises(ValueError, match=said):
        choose_layers(choice, 4)


@pytest.mark.parametrize(("student", "teacher"), [(8, 8), (8, 12), (12, 8)])
def test_projections_keep_lengths_at_first_and_are_drawn_by_seed(student, teacher):
    maps, states = Projections((2, 5), student, teacher, seed=3), torch.randn(20, student)
    assert [name for name, _ in maps.named_parameters()] == ["2.weight", "5.weight"]
    for layer in (2, 5):
        weight = maps[str(layer)].weight
        tall = weight if teacher >= student else weight.T
        assert torch.allclose(tall.T @ tall, torch.eye(min(student, teacher)), atol=1e-5)
        assert torch.equal(maps.of(layer, states), states @ weight.T)
    again, other = Projections((5,), student, teacher, seed=3), Projections((5,), student, teacher, seed=4)
    assert torch.equal(again["5"].weight, maps["5"].weight)
    assert not torch.equal(other["5"].weight, maps["5"].weight)


def test_distances_do_not_depend_on_length():
    a, b = torch.randn(6, 16), torch.randn(6, 16)
    assert torch.allclose(cosine_distance(3 * a, b), cosine_distance(a, b), atol=1e-6)
    assert torch.allclose(normalised_mse(5 * a, b), normalised_mse(a, b), atol=1e-4)
    assert cosine_distance(a, a).abs().max() < 1e-6 and normalised_mse(a, 2 * a).abs().max() < 1e-6
    assert torch.allclose(cosine_distance(a, -a), torch.full((6,), 2.0))
    # For directions alone the one is the other: mean (u - v)^2 = 2 (1 - cos).
    assert torch.allclose(normalised_mse(a, b), 2 * cosine_distance(a, b), atol=1e-4)
    low = normalised_mse(a.bfloat16(), b.bfloat16())
    assert low.dtype == torch.float32 and torch.allclose(low, normalised_mse(a, b), rtol=0.05)


def test_a_students_layer_is_named_once_and_a_teachers_may_serve_twice():
    with pytest.raises(ValueError, match="a layer is named twice"):
        choose_layers((1, 2, 2), 4)
    assert choose_layers((3, 3), 4, "the textual teacher") == (3, 3)


@pytest.mark.parametrize("witnesses", [[{}, {}], [{"weight": 0.5}]])
def test_witnesses_that_are_not_built_yet_are_refused_and_not_passed_over(witnesses):
    with pytest.raises(ValueError, match="are not built yet"):
        Distil.model_validate({"witnesses": witnesses})
