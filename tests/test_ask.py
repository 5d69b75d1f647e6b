"""ask: what a teacher writes about silent clips, what stays of it, and the file that people can edit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import worlds
from earwitness.ask import ask
from earwitness.cli import main
from earwitness.config import Ask, ConfigError, Model, RunConfig
from earwitness.media import write_clip, write_sound
from earwitness.models.exchange import Completion, Drawing, Prompt, PromptError, Unanswered
from earwitness.pretrain.tiny import write_tiny
from earwitness.records import Clip, Draft, Question
from earwitness.run import RunError
from earwitness.sources.drafts import SCHEMA, DraftError, read_draft
from earwitness.sources.footage import footage_id, media_in, read_footage, spans, write_questions
from earwitness.sources.questions import SourceError, clip_in, read_folder, read_questions
from earwitness.stages.ask import BLIND, SURPLUS, TWICE, AskAboutClips
from earwitness.table import Failed
from media_files import beeps, numbered, write_pictures
from test_drafts import GOOD, OTHER

THREE = Ask(questions=2, choices=3, blind=2)


def clip_file(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.stack([numbered(i) for i in range(round(4 * seconds))])
    write_clip(path, frames, 4, beeps([0.2], seconds, 16_000), 16_000)
    return path


class Teller:
    """A model that says what it is told to: `written` of a clip, `guess` (by the question's words) without one."""

    name, manner = "teller", "plain"

    def __init__(self, *items: object, guess=lambda text, n: "no idea", finish="stop") -> None:
        self.written, self.guess, self.finish = json.dumps({"questions": items}), guess, finish
        self.prompts: list[tuple[Prompt, Drawing]] = []

    def check(self, prompt):
        raise NotImplementedError

    def choose(self, prompts, options):
        raise NotImplementedError

    def draw(self, prompts, how, keys):
        self.prompts += [(prompt, how) for prompt in prompts]
        return [self._say(prompt, how) for prompt in prompts]

    def _say(self, prompt, how):
        if prompt.clip is not None:
            return [Completion(self.written, (), self.finish)]
        said = [self.guess(prompt.text, n) for n in range(how.samples)]
        failed = next((s for s in said if isinstance(s, Exception)), None)
        return failed or [Completion(text, (), "stop") for text in said]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Clip:
    folder = tmp_path_factory.mktemp("clips")
    return clip_in(folder, clip_file(folder / "kitchen.mp4").name)


def written(clip: Clip, teller: Teller, settings: Ask = THREE) -> list[Draft] | Failed:
    return AskAboutClips(Model(kind="served", name="x", base_url="http://x/v1"), settings, 1).write(teller, [clip])[0]


# the stage


def test_the_teacher_is_shown_silent_frames_and_then_nothing(clip):
    teller = Teller(GOOD, OTHER)
    drafts = written(clip, teller)
    assert [(d.number, d.text, d.proposed, d.dropped, d.by) for d in drafts] == [
        (1, GOOD["question"], "a kettle", "", "teller"),
        (2, OTHER["question"], "twice", "", "teller"),
    ]
    (shown, how), *blind = teller.prompts
    assert (shown.clip, shown.wave, shown.frames, how.schema) == (clip, None, THREE.frames, SCHEMA)
    assert "Write 2 multiple-choice questions" in shown.text and "has 3 choices" in shown.text
    assert len(blind) == 2 and all(p == Prompt(p.text) and h.samples == 2 for p, h in blind)  # no clip, wave or film
    assert json.loads(SCHEMA)["required"] == ["questions"]


def test_the_right_answer_stands_in_every_place_and_the_same_each_time(clip):
    places = set()
    for number in range(40):
        one = clip.model_copy(update={"id": f"{number}.mp4"})
        first, second = (written(one, Teller(GOOD), THREE.model_copy(update={"blind": 0})) for _ in range(2))
        assert first == second and sorted(first[0].choices) == sorted(GOOD["choices"])
        places.add(first[0].choices.index("a kettle"))
    assert places == {0, 1, 2}


@pytest.mark.parametrize(
    "answers, dropped",
    [
        (["a kettle", "<answer>A Kettle.</answer>"], BLIND),
        (["a kettle", "a dog"], ""),
        (["a dog", "a dog"], ""),
        (["no idea", "a kettle"], ""),
        ([PromptError("a token")] * 2, "it cannot be put to a model"),
    ],
)
def test_what_is_answered_right_every_time_without_the_clip_is_dropped(clip, answers, dropped):
    teller = Teller(GOOD, OTHER, guess=lambda text, n: answers[n] if "bell" in text else "no idea")
    assert [d.dropped for d in written(clip, teller)] == [dropped, ""]


def test_bad_questions_are_dropped_beside_good_ones_and_none_left_is_a_failure(clip):
    drafts = written(clip, Teller(GOOD, "?", GOOD, OTHER, OTHER | {"question": "Who barks, and how often?"}))
    assert [d.dropped for d in drafts] == ["", "not an object with question, choices and answer", TWICE, "", SURPLUS]
    none = written(clip, Teller(GOOD, "?", OTHER, guess=lambda text, n: "twice" if "often" in text else "a kettle"))
    assert none.why == (
        f"none of the 3 questions that were written can be asked: 2 x {BLIND}; "
        "1 x not an object with question, choices and answer"
    )


def test_a_clip_fails_alone_and_says_why(clip, tmp_path):
    silent, broken = write_pictures(tmp_path / "silent.mp4", [0, 1]), tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    clips = [clip_in(tmp_path, silent.name), clip, clip_in(tmp_path, broken.name), clip_in(tmp_path, "gone.mp4")]
    asker = AskAboutClips(Model(kind="served", name="x", base_url="http://x/v1"), THREE, 1)
    mute, fine, damaged, gone = asker.write(Teller(GOOD), clips)
    assert [d.dropped for d in fine] == [""]
    assert mute.why.startswith("silent.mp4: has no sound track")
    assert damaged.why.startswith("broken.mp4: is not a media file") and str(tmp_path) not in damaged.why
    assert gone.why.startswith("gone.mp4: cannot be read")
    assert "raise ask.max_tokens" in written(clip, Teller(GOOD, finish="length")).why
    assert "no JSON list" in written(clip, Teller()).why
    unanswered = written(clip, Teller(GOOD, guess=lambda text, n: Unanswered("the server was busy")))
    assert unanswered.why == "question 1 could not be asked without the clip: the server was busy"


def test_a_teacher_that_is_asked_without_a_clip_sees_nothing(watcher):
    assert watcher.sense == "sight" and watcher.encode(Prompt("which sound is the last one ?")).media == {}


# folders


@given(st.floats(0, 1e4), st.floats(0.5, 1e3))
def test_spans_follow_each_other_and_leave_less_than_a_second_out(seconds, length):
    cut = spans(seconds, length)
    starts, ends = [s for s, _ in cut], [e if e is not None else seconds for _, e in cut]
    assert starts[0] == 0 and starts[1:] == ends[:-1]
    assert all(e - s <= length + 2e-6 for s, e in zip(starts, ends, strict=True))
    assert seconds - ends[-1] < 1 and ends[-1] <= seconds + 2e-6


def test_a_folder_is_listed_in_order_and_long_clips_are_cut(tmp_path):
    folder = tmp_path / "home videos"
    clip_file(folder / "b" / "long.mp4", 5.0)
    clip_file(folder / "a.MP4")
    shutil.copy(folder / "a.MP4", folder / "._a.mp4")
    clip_file(tmp_path / "elsewhere.mp4")
    (folder / "link.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (folder / "notes.txt").touch()
    (folder / "empty.mp4").touch()
    write_sound(folder / "song.wav", beeps([0.5], 3, 16_000), 16_000)
    assert media_in(folder) == ["a.MP4", "b/long.mp4", "empty.mp4", "link.mp4", "song.wav"]
    found = read_footage(folder, 2.0)
    assert [f.clip.id for f in found] == [
        *("a.MP4", "b/long.mp4@0-2", "b/long.mp4@2-4", "b/long.mp4@4-"),
        *("empty.mp4", "link.mp4", "song.wav"),
    ]
    assert {f.clip.id: f.refused for f in found if f.refused} == {
        "link.mp4": "media 'link.mp4' is a link that leaves its folder; name a file inside the folder of the "
        "questions, relative to it"
    }
    assert len(read_footage(folder, 0.0)) == 5
    with pytest.raises(SourceError, match="is not a folder"):
        read_footage(tmp_path / "nowhere", 0.0)


def test_file_names_of_every_kind_become_ids_of_their_own(tmp_path):
    names = [
        "ab.mp4",
        "a b.mp4",
        "a_b.mp4",
        "a  b.mp4",
        "{x}.mp4",
        "日本.mp4",
        "e\u0301.mp4",
        "x" * 150 + ".mp4",
        "-.mp4",
    ]
    names += ["x" * 150 + "y.mp4"]
    good = clip_file(tmp_path / "ab.mp4")
    for name in names[1:]:
        shutil.copy(good, tmp_path / name)
    bad = os.fsencode(tmp_path) + b"/bad\xff.mp4"
    Path(os.fsdecode(bad)).write_bytes(good.read_bytes())
    found = read_footage(tmp_path, 0.0)
    assert {f.clip.id for f in found if f.refused} == {"{x}.mp4", "bad\\udcff.mp4"}
    ids = [f.id for f in found]
    assert len(set(ids)) == len(names) + 1
    lines = [{"id": f"{i}-1", "media": "ab.mp4", "question": "what ?"} for i in ids]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [q.id for q in read_folder(tmp_path)] == [f"{i}-1" for i in ids]
    assert footage_id(tmp_path, "ab.mp4") == f"{tmp_path.name}/ab.mp4"


def test_a_file_of_questions_is_never_overwritten_and_read_back_before_it_is_there(tmp_path, clip):
    folder = Path(clip.media).parent
    question = read_questions(_file(tmp_path, {"id": "q", "media": "kitchen.mp4", "question": "what ?"}))[0]
    ours = question.model_copy(update={"clip": clip_in(folder, "kitchen.mp4", 0.25, None), "choices": ("a", "b")})
    path = write_questions(folder, [ours])
    try:
        assert read_folder(folder) == [ours]
        before = path.read_bytes()
        with pytest.raises(SourceError, match="is there already and is not overwritten"):
            write_questions(folder, [ours.model_copy(update={"id": "r"})])
        assert path.read_bytes() == before
        with pytest.raises(SourceError, match="holds a space"):
            write_questions(folder, [ours.model_copy(update={"id": "r s"})])
        assert sorted(p.name for p in folder.iterdir()) == ["kitchen.mp4", "questions.jsonl"]
    finally:
        path.unlink()


def _file(folder: Path, row: dict) -> Path:
    (folder / "q.jsonl").write_text(json.dumps(row))
    return folder / "q.jsonl"


words = st.text(st.characters(codec="utf-8"), max_size=20)


@given(words, st.lists(words, min_size=2, max_size=2))
def test_whatever_passes_the_rules_can_be_written_and_read_back(tmp_path_factory, text, offered):
    item = {"question": f"what {text}", "choices": [f"a {choice}" for choice in offered]}
    try:
        question, choices, right = read_draft(item | {"answer": item["choices"][0]}, 2)
    except DraftError:
        return
    folder = tmp_path_factory.mktemp("written")
    asked = Question(id="q", clip=clip_in(folder, "a.mp4"), text=question, choices=choices, tags={"proposed": right})
    write_questions(folder, [asked])
    assert read_folder(folder) == [asked]


# the command


def asking(*folders: Path, **sections) -> RunConfig:
    served = {"kind": "served", "name": "a/teller", "base_url": "http://127.0.0.1:9/v1"}
    models = {role: {"kind": "world", "name": role} for role in ("checker", "student")}
    small = {"ask": THREE.model_dump(), "models": models | {"teacher": served}, "arms": {}}
    train = [f"folder:{folder}" for folder in folders]
    return worlds.world_config(**small | {"questions": {"train": train, "limit": 0}} | sections)


@pytest.fixture
def tell(monkeypatch):
    """Let a teller stand behind every model of a server."""

    def be(teller: Teller) -> Teller:
        monkeypatch.setattr("earwitness.stages.ask.connected", lambda spec, role: teller)
        return teller

    return be


def rows_of(root: Path) -> dict[str, dict]:
    lines = [line for table in root.glob("small/ask-*/rows.jsonl") for line in table.read_text().splitlines()]
    return {row["id"]: row for row in map(json.loads, lines)}


def test_videos_become_questions_that_people_can_edit_and_nobody_takes_for_gold(tmp_path, tell, capsys):
    folder = tmp_path / "videos"
    for name in ("a.mp4", "b.mp4"):
        clip_file(folder / name, 3.0)
    (folder / "c.mp4").write_bytes(b"no film")
    tell(Teller(GOOD, OTHER, "?", guess=lambda text, n: "twice"))
    file = worlds.save(asking(folder, ask=THREE.model_dump() | {"span": 2.0}), tmp_path / "small.toml")
    command = ["ask", str(file), "--root", str(tmp_path / "runs")]
    assert main(command) == 1  # one of five clips failed
    said = capsys.readouterr()
    assert "ask: 1 of 5 questions failed, first videos/c.mp4: c.mp4: is not a media file" in said.err
    assert f"{folder}/questions.jsonl: 4 questions" in said.out and "5 clips asked about, 1 of them" in said.out
    assert f"4 x {BLIND}; 4 x not an object" in said.out and "nobody's gold answer" in said.out
    asked = read_folder(folder)
    assert [q.id for q in asked] == [f"videos/{n}.mp4@{s}-1" for n in "ab" for s in ("0-2", "2-")]
    assert all(q.answer is None and q.think is None for q in asked)
    assert {(q.tags["asked_by"], q.tags["proposed"]) for q in asked} == {("teller", "a kettle")}
    lines = (folder / "questions.jsonl").read_text().splitlines()
    assert list(json.loads(lines[0])) == ["id", "media", "end", "question", "choices", "tags"]
    assert str(tmp_path) not in "".join(lines) + json.dumps(rows_of(tmp_path / "runs"))
    assert main(["show", str(tmp_path / "runs" / "small"), "videos/a.mp4@0-2"]) == 0
    assert "proposed: twice)  DROPPED: the same model" in capsys.readouterr().out
    # Once more: nothing is asked again, and an edited file stays as it is.
    (folder / "questions.jsonl").write_text(lines[0] + "\n")
    assert main(command) == 0
    assert "is there already and stays as it is" in capsys.readouterr().out
    assert (folder / "questions.jsonl").read_text() == lines[0] + "\n"


def test_what_was_answered_is_not_asked_again_when_a_clip_is_mended(tmp_path, tell):
    folder = tmp_path / "videos"
    clip_file(folder / "a.mp4")
    (folder / "b.mp4").write_bytes(b"no film")
    teller = tell(Teller(GOOD))
    config = asking(folder)
    assert ask(config, tmp_path, quiet=True).failing
    paid = len(teller.prompts)
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    (folder / "questions.jsonl").rename(folder / "before.jsonl")
    with pytest.raises(RunError, match="--redo stale"):
        ask(config, tmp_path, quiet=True)
    assert len(teller.prompts) == paid
    outcome = ask(config, tmp_path, redo="stale", quiet=True)
    assert not outcome.failing and list(outcome.written.values()) == [2]
    assert {p.clip.id for p, _ in teller.prompts[paid:] if p.clip} == {"b.mp4"}
    assert read_questions(folder / "before.jsonl") == read_folder(folder)[:1]


def test_folders_that_have_questions_are_left_alone_and_the_others_are_asked_about(tmp_path, tell):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        clip_file(folder / "a.mp4")
    (one / "questions.jsonl").write_text("mine")
    tell(Teller(GOOD))
    outcome = ask(asking(one, two), tmp_path, quiet=True)
    assert (one / "questions.jsonl").read_text() == "mine" and outcome.kept == [one / "questions.jsonl"]
    assert outcome.written == {two / "questions.jsonl": 1} and outcome.clips == 1


def test_a_real_teacher_that_writes_no_questions_leaves_rows_that_say_so_and_no_file(tmp_path, capsys):
    write_tiny(Model(kind="local", name="none"), "qwen2_5_vl", tmp_path / "teacher")
    teacher = {"kind": "local", "name": str(tmp_path / "teacher"), "dtype": "float32"}
    clip_file(tmp_path / "videos" / "a.mp4")
    write_sound(tmp_path / "videos" / "b.wav", beeps([0.5], 3, 16_000), 16_000)
    config = asking(tmp_path / "videos", models={"teacher": teacher}, ask={"max_tokens": 8, "frames": 2})
    file = worlds.save(config, tmp_path / "small.toml")
    assert main(["ask", str(file), "--root", str(tmp_path)]) == 1
    assert "no question came of it, and questions.jsonl was not written" in capsys.readouterr().out
    rows = rows_of(tmp_path)
    assert rows["videos/a.mp4"]["error"].startswith(("the questions were cut off after 8", "the answer holds no JSON"))
    assert rows["videos/b.wav"]["error"].startswith("b.wav: has no picture track")
    assert not (tmp_path / "videos" / "questions.jsonl").exists()


def test_what_cannot_be_asked_is_refused_before_anything_is_spent(tmp_path, tell):
    teller = tell(Teller(GOOD))
    clip_file(tmp_path / "videos" / "a.mp4")
    clip_file(tmp_path / "other" / "videos" / "a.mp4")
    (tmp_path / "empty").mkdir()
    world = {"teacher": {"kind": "world", "name": "teacher"}}
    for config, error, said in [
        (asking(tmp_path / "videos", models=world), ConfigError, "cannot write questions: name a real model"),
        (
            asking(tmp_path / "videos").model_copy(update={"models": {}}),
            ConfigError,
            r"needs a teacher: add \[models.teacher\]",
        ),
        (asking(questions={"train": "world:train"}), ConfigError, "names none"),
        (asking(tmp_path / "videos", tmp_path / "other" / "videos"), ConfigError, "several folders called 'videos'"),
        (asking(tmp_path / "empty"), SourceError, "holds no media file"),
        (asking(tmp_path / "nowhere"), SourceError, "is not a folder"),
    ]:
        with pytest.raises(error, match=said):
            ask(config, tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists() and not teller.prompts


def test_a_run_on_videos_without_questions_names_the_command(tmp_path, capsys):
    clip_file(tmp_path / "videos" / "a.mp4")
    file = worlds.save(asking(tmp_path / "videos", arms=worlds.ARMS), tmp_path / "small.toml")
    for command in ("check", "run"):
        assert main([command, str(file), "--root", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "has no questions.jsonl; write" in said and "write them: earwitness ask CONFIG" in said, command
