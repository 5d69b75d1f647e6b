"""The embedded world: deterministic, fair, and answerable by whoever hears it."""

import hashlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.world import render
from earwitness.world.puzzles import KINDS, LOOKUPS, draw_puzzle, reason, seen_tag
from earwitness.world.questions import read_world
from earwitness.world.scenes import CELLS, SLOTS, SOUNDS, draw_scene
from earwitness.world.selections import (
    BUILD_SEEDS,
    CROWDED,
    DEFAULT,
    DIFFICULTIES,
    EASY,
    HELD_OUT_SEEDS,
    SELECTIONS,
    draw,
)

SEEN = {"world:train": "657c183188f0", "world-easy:exam": "73685d864799", "world-ood:validation": "5c9e6aaa9d50"}
HEARD = {
    "world:train": [0.0706944391, -0.0465827906, 0.1147817969, 0.1125619337, 0.0518239476],
    "world-easy:exam": [0.0249078106, 0.0453978812, -0.316732496, -0.0144608757, 0.0029474637],
    "world-ood:validation": [-0.0335693583, 0.108156696, 0.1908603758, -0.0368125662, 0.0626573563],
}

SEEDS = st.integers(0, 10**9)
ANY = st.sampled_from([EASY, DEFAULT, CROWDED])


@given(SEEDS, ANY)
@settings(max_examples=60, deadline=None)
def test_a_scene_is_consistent(seed, difficulty):
    scene = draw_scene(seed, difficulty)
    slots = [e.slot for e in scene.events]
    assert slots == sorted(set(slots)) and all(0 <= s < SLOTS for s in slots)
    assert len(scene.cells) <= CELLS and len(set(scene.cells.values())) == len(scene.cells)
    assert scene.off_screen not in scene.cells
    heard = set(scene.heard)
    for name in scene.silent_movers:
        assert name not in heard and name in scene.cells
    assert {n for _, n in scene.movers} <= set(scene.cells)
    assert {e.sound for e in scene.events} - {scene.off_screen} <= set(scene.cells)
    assert set(scene.blurred) <= heard


@given(SEEDS, ANY)
@settings(max_examples=60, deadline=None)
def test_who_hears_the_scene_reasons_to_the_answer(seed, difficulty):
    scene = draw_scene(seed, difficulty)
    puzzle = draw_puzzle(scene, random.Random(seed), (*KINDS, "last"), deepest=5)
    assert puzzle.answer in puzzle.choices and len(set(puzzle.choices)) == len(puzzle.choices)
    assert reason(puzzle, scene.events)[1] == puzzle.answer


def test_the_same_seed_gives_the_same_sound_and_picture():
    scene = draw_scene(7, DEFAULT)
    assert np.array_equal(render.sound(scene), render.sound(draw_scene(7, DEFAULT)))
    assert np.array_equal(render.picture(scene), render.picture(draw_scene(7, DEFAULT)))
    assert not np.array_equal(render.sound(scene), render.sound(draw_scene(8, DEFAULT)))


def test_sound_and_picture_have_the_stated_shapes():
    scene = draw_scene(3, EASY)
    wave, frames = render.sound(scene), render.picture(scene)
    assert wave.shape == (64_000,) and wave.dtype == np.float32 and abs(wave).max() <= 1
    assert frames.shape == (16, 32, 32, 3) and frames.dtype == np.uint8


def test_no_two_purposes_share_a_seed():
    parts = [part for s in SELECTIONS.values() for part in (s, s.besides) if part is not None]
    ranges = [range(s.first_seed, s.first_seed + s.size) for s in parts]
    ranges += [range(BUILD_SEEDS, BUILD_SEEDS + 10**7), range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + 10**7)]
    ranges.sort(key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))


def test_only_an_ear_can_tell_what_is_tagged_audible_only():
    questions = read_world("world:validation", 300)
    tags = {q.tags["seen"] for q in questions}
    assert tags == {"visible", "off-screen", "audible-only"}
    assert all((q.tags["type"] == "louder") == (q.tags["seen"] == "audible-only") for q in questions)


def test_louder_and_softer_look_alike():
    scene, _ = draw(SELECTIONS["world:train"], 0)
    flipped = type(scene)(
        **{**scene.__dict__, "events": tuple(type(e)(e.slot, e.sound, not e.loud) for e in scene.events)}
    )
    assert np.array_equal(render.picture(scene), render.picture(flipped))
    assert not np.array_equal(render.sound(scene), render.sound(flipped))


def test_off_screen_questions_cannot_be_answered_from_the_picture():
    for index in range(200):
        scene, puzzle = draw(SELECTIONS["world:validation"], index)
        if seen_tag(puzzle, scene) == "off-screen":
            seen = [e for e in scene.events if e.sound != scene.off_screen]
            assert reason(puzzle, seen)[1] != puzzle.answer
            return
    pytest.fail("no off-screen question among 200")


def test_the_easy_world_asks_the_six_kinds_and_the_strange_one_a_new_kind():
    assert {q.tags["type"] for q in read_world("world-easy:train", 200)} == set(LOOKUPS)
    assert "last" in {q.tags["type"] for q in read_world("world-ood:exam", 200)}
    assert all(q.tags["type"] != "last" for q in read_world("world:train", 500))


def test_more_questions_only_add():
    few, many = read_world("world:train", 10), read_world("world:train", 30)
    assert many[:10] == few


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("world:train", "edb38c909ae49fae"),
        ("world-easy:exam", "58344d1355f836fd"),
        ("world-ood:validation", "4223bcbb69ddcea1"),
    ],
)
def test_scenes_and_their_questions_stay_as_they_were(name, digest):
    """Results on the world's exams can be compared only while these are the same."""
    drawn = [draw(SELECTIONS[name], i) for i in range(12)]
    said = [
        (s.seed, s.events, s.movers, s.cells, s.blurred, s.off_screen, p.kind, p.operand, p.text, p.choices, p.answer)
        for s, p in drawn
    ]
    assert hashlib.sha256(repr(said).encode()).hexdigest()[:16] == digest
    scene = drawn[0][0]
    assert hashlib.sha256(render.picture(scene).tobytes()).hexdigest()[:12] == SEEN[name]
    heard = render.sound(scene)[[100, 9000, 20000, 33333, 50000]]
    assert heard == pytest.approx(HEARD[name], abs=1e-5)


def test_twins_differ_in_colour_only():
    for a, b in zip(SOUNDS[::2], SOUNDS[1::2], strict=True):
        assert render.SHAPE[a] == render.SHAPE[b] and render.COLOUR[a] != render.COLOUR[b]
    assert set(DIFFICULTIES) == {d.name for d in DIFFICULTIES.values()}
