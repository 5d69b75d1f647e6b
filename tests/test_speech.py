"""The world's speech: who says what can be reasoned out; how it is meant can only be heard."""

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.claims import listed
from earwitness.config import Exams
from earwitness.exams import load_exam
from earwitness.pretrain.text_tasks import exercise, heard_tokens, misheard, text_clip, thought
from earwitness.pretrain.vocabulary import Words, vocabulary
from earwitness.prompts import question_prompt
from earwitness.sources.clips import load_frames, load_sound, scene_of
from earwitness.world import render
from earwitness.world.puzzles import SPOKEN, draw_puzzle, puzzle_of, reason
from earwitness.world.questions import read_world
from earwitness.world.selections import CHATTER, FEELING, SPEECH, SPEECH_SCHOOL
from earwitness.world.speech import MEANING, MOODS, SAYINGS, SLOTS, VOICES, draw_utterance
from earwitness.world.voices import LEXICON, MANNERS, RATE, TIMBRE, draw_prosody, pronounce

OLD_WORDS, OLD_DIGEST = 102, "3fa85e15d35724a1"  # of the vocabulary before there was speech
SEEDS = st.integers(0, 10**9)
ANY = st.sampled_from([SPEECH, CHATTER, FEELING, SPEECH_SCHOOL])


@given(SEEDS, ANY)
@settings(max_examples=80, deadline=None)
def test_an_utterance_is_consistent(seed, talk):
    utterance = draw_utterance(seed, talk)
    slots = [said.slot for said in utterance.events]
    assert slots == sorted(set(slots)) and all(0 <= slot < SLOTS for slot in slots)
    assert talk.words[0] <= len(slots) <= talk.words[1]
    assert len({said.voice for said in utterance.events}) <= talk.voices[1]
    assert {said.sound for said in utterance.events} <= set(SAYINGS)
    assert utterance == draw_utterance(seed, talk)
    if utterance.theme is not None:  # most words mean it
        meant = [MEANING[said.sound] for said in utterance.events]
        assert meant.count(utterance.theme) > len(meant) / 2


@given(SEEDS, ANY)
@settings(max_examples=80, deadline=None)
def test_who_hears_the_words_reasons_to_the_answer(seed, talk):
    utterance = draw_utterance(seed, talk)
    puzzle = draw_puzzle(utterance, random.Random(seed), (*SPOKEN, "last", "nth"))
    assert puzzle.answer in puzzle.choices and len(set(puzzle.choices)) == len(puzzle.choices)
    think, answer = reason(puzzle, utterance.events)
    assert answer == puzzle.answer
    assert set(listed(think)) == set(utterance.heard)


def test_the_same_words_sound_otherwise_in_every_mood_and_look_alike():
    utterance = draw_utterance(5, SPEECH)
    waves = [render.sound(replace(utterance, mood=mood)) for mood in MOODS]
    for i, wave in enumerate(waves):
        assert wave.shape == (64_000,) and wave.dtype == np.float32 and abs(wave).max() <= 1
        assert not any(np.array_equal(wave, other) for other in waves[:i])
    pictures = {render.picture(replace(utterance, mood=mood)).tobytes() for mood in MOODS}
    assert len(pictures) == 1 and render.picture(utterance).shape == (16, 32, 32, 3)
    assert np.array_equal(waves[0], render.sound(replace(utterance, mood=MOODS[0])))


def test_no_mood_can_always_be_told_from_the_prosody_and_mostly_it_can():
    rng = np.random.default_rng(0)
    fields = ("pitch", "slope", "seconds", "level")
    drawn = {
        mood: np.array([[getattr(draw_prosody(mood, rng), f) for f in fields] for _ in range(500)]) for mood in MOODS
    }
    scale = np.mean([values.std(0) for values in drawn.values()], 0)
    centres = np.array([[getattr(MANNERS[mood], f) for f in fields] for mood in MOODS])
    told = []
    for i, mood in enumerate(MOODS):
        nearest = (((drawn[mood][:, None] - centres) / scale) ** 2).sum(-1).argmin(1)
        told.append((nearest == i).mean())
    assert min(told) > 0.85 and np.mean(told) < 0.985


@pytest.mark.parametrize("voice", VOICES)
def test_words_and_voices_can_be_told_apart(voice):
    rng = np.random.default_rng(1)

    def spectra(word):
        wave = pronounce(word, voice, draw_prosody("calm", rng), rng)
        parts = np.array_split(wave, 4)
        bands = [np.log(np.abs(np.fft.rfft(part, 4096))[:1500].reshape(30, 50).mean(1) + 1e-3) for part in parts]
        return np.concatenate(bands)

    known = {word: np.mean([spectra(word) for _ in range(8)], 0) for word in LEXICON}
    for word in LEXICON:
        nearest = min(known, key=lambda k: np.abs(known[k] - spectra(word)).sum())
        assert nearest == word
    wave = pronounce("alone", voice, replace(MANNERS["calm"], slope=0.0), rng)
    spectrum = np.abs(np.fft.rfft(wave, 1 << 16))
    pitch = next(
        f for f in range(80, 400) if spectrum[int(f * 65536 / RATE)] > 0.2 * spectrum[: int(400 * 65536 / RATE)].max()
    )
    assert min(TIMBRE, key=lambda v: abs(np.log(TIMBRE[v][0] / pitch))) == voice


def test_words_agree_with_the_prosody_as_often_as_they_contradict_it():
    questions = read_world("world-mood:validation", 300)
    assert {q.tags["type"] for q in questions} == {"mood"}
    agree = [q for q in questions if q.tags["words"] == "agree"]
    assert 0.4 < len(agree) / len(questions) < 0.6
    for question in questions:
        utterance = scene_of(question.clip)
        puzzle = puzzle_of("mood", utterance, random.Random(0))
        by_words = reason(puzzle, utterance.events)[1]
        assert (by_words == question.answer) == (question.tags["words"] == "agree")
        assert question.think is None


def test_no_training_question_asks_about_moods_and_all_carry_their_reasoning():
    for name, kinds in (("world-speech:train", set(SPOKEN)), ("world-given:train", None)):
        questions = read_world(name, 200)
        assert all(q.think and not {*q.think.split()} & set(MOODS) and q.tags["type"] != "mood" for q in questions)
        assert kinds in (None, {q.tags["type"] for q in questions})
        assert all(q.answer in q.think.split()[-4:] for q in questions), "the reasoning ends in the answer"
    spoken = ["seen" not in q.tags for q in read_world("world-given:train", 100)]
    assert sum(spoken) == 50
    assert all(q.think is None for q in read_world("world:train", 50))


def test_the_strange_exam_is_longer_and_asks_a_new_kind():
    asked = read_world("world-speech-ood:exam", 200)
    assert {q.tags["type"] for q in asked} == {*SPOKEN, "last"}
    assert min(len(scene_of(q.clip).events) for q in asked) >= SPEECH.words[1]


def test_clips_of_speech_are_heard_and_seen_like_any_other():
    question = load_exam("world-speech", Exams(limit=1))[0]
    assert question.clip.media.startswith("world:speech:")
    assert load_sound(question.clip).shape == (64_000,)
    assert load_frames(question.clip, 4).images.shape == (4, 32, 32, 3)
    heard = scene_of(question.clip).heard
    assert question.clip.sounds == tuple(dict.fromkeys(heard))
    assert set(listed(f"i hear {' , '.join(heard)} .")) == set(question.clip.sounds)


def test_the_models_know_every_word_and_old_words_keep_their_places():
    known = vocabulary()
    assert hashlib.sha256(" ".join(known[:OLD_WORDS]).encode()).hexdigest()[:16] == OLD_DIGEST
    words = Words()
    for name in ("world-speech:train", "world-speech-ood:exam", "world-mood:exam", "world-given:train"):
        for question in read_world(name, 60):
            assert words(question_prompt("world", "think", question.text, question.choices))
            assert words(f"{question.answer} {question.think or ''} {' '.join(question.clip.sounds)}")


def test_exercises_are_weighed_word_by_word_and_speech_shows_its_mood_on_what_is_said():
    rng, words = random.Random(0), Words()
    for _ in range(300):
        item = exercise(rng)
        assert len(words(" ".join(item.words))) == len(item.weights) == len(item.positions) == len(item.shades)
    utterance = draw_utterance(3, SPEECH)
    shown, shades = heard_tokens(utterance)
    said = [f"{shown[i]} {shown[i + 1]}" for i in range(0, 16, 2) if shown[i] != "silence"]
    assert said == utterance.heard
    assert {shade for word, shade in zip(shown, shades, strict=True) if word != "silence"} == {utterance.mood}
    assert {shade for word, shade in zip(shown, shades, strict=True) if word == "silence"} <= {""}


def test_who_hears_goes_by_the_prosody_and_who_reads_by_the_words():
    utterance = next(u for i in range(99) if (u := draw_utterance(i, FEELING)).theme != u.mood)
    puzzle = puzzle_of("mood", utterance, random.Random(0))
    for sense, answer in (("heard", utterance.mood), ("read", utterance.theme)):
        response = [word for word, _ in thought(puzzle, utterance, sense, random.Random(0))[1]]
        assert response[-2] == answer and ("sounds" in response) == (sense == "heard")


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_what_is_misheard_differs_in_one_place_at_most(seed):
    rng = random.Random(seed)
    clip = text_clip(rng.choice(("sound", "speech")), rng)
    wrong = misheard(clip, rng)
    changed = [a for a in clip.events if a not in wrong.events]
    assert len(changed) <= 1 and len(clip.events) - len(wrong.events) in (0, 1)
    user, response = thought(draw_puzzle(clip, rng, ("after", "count", "nth")), wrong, "read", rng)
    answer = [word for word, _ in response][-2]
    assert answer in user.split(" options ")[1].split()
