"""A textual teacher behind a server: what it says of a response is what it would say here, or nothing is learnt."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from earwitness.config import Model
from earwitness.learn.teachers import TeacherError, listen_to
from earwitness.models.exchange import PromptError
from earwitness.models.served.call import Malformed, ServerError
from earwitness.models.served.desk import current_desk
from earwitness.models.served.teacher import ServedTeacher
from earwitness.stages import training
from earwitness.stages.distil import Reader
from earwitness.stages.workbench import StageError
from servers import serving
from teaching import job, left_by, material, world_tokenizer, write_reader

SERVED = {"layer_weight": 0.0, "signals": "ahead", "acoustic_weight": 0.0, "tuning": "lora"}
WORLD = world_tokenizer()


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Random teachers: one with the student's tokens, one that numbers them otherwise and has some of its own."""
    folder = tmp_path_factory.mktemp("readers")
    own = world_tokenizer(order=5, without=("horn", "drum", "siren"))
    own.add_tokens(["zither", "gong", "harp"])
    same = write_reader(folder / "same", world_tokenizer(), layers=3)
    return {"same": same, "other": write_reader(folder / "other", own, layers=3)}


@pytest.fixture(scope="module")
def url(readers):
    with serving(*readers.values()) as url:
        yield url


def behind(url: str, name: str, tokenizer) -> Model:
    changes = {"tokenizer": str(tokenizer), "manner": "world", "attempts": 2}
    return Model(kind="served", name=name, base_url=f"{url}/v1", **changes)


def lessons_for(name):
    """Lessons without the words that the other teacher lacks."""
    return [m for m in material(clips=2) if name == "same" or "drum" not in (m[1].think or "")]


def told(one_job):
    """The same job whose clips sound of what both teachers know."""
    return replace(one_job, descriptions=tuple((name, "i hear dog , bell .") for name, _ in one_job.descriptions))


@pytest.mark.parametrize("name", ["same", "other"])
def test_its_likeliest_tokens_are_those_of_the_model_itself(url, readers, tiny_student, listener, tmp_path, name):
    lessons = lessons_for(name)
    local = told(job(tiny_student, readers[name], tmp_path, lessons, top_k=9, **SERVED))
    here = Reader(local, open_reader(readers[name]), listener)
    there = Reader(local, ServedTeacher(behind(url, name, readers[name]), current_desk()), listener)
    assert (here.width, here.window) == (there.width, there.window)
    there.refuse(lessons)
    reading = here.reading(local.settings, ())
    assert (reading.shared is None) == (name == "same") and there.reading(local.settings, ()).top_k == 9
    batch = there.packed(lessons)
    assert torch.equal(batch.input_ids, here.packed(lessons).input_ids)
    every = slice(0, len(batch.target))
    expected, found = (listen_to(r.teacher.model, batch, reading).top(every) for r in (here, there))
    assert torch.equal(found.columns, expected.columns)
    assert torch.allclose(found.logprobs, expected.logprobs, atol=1e-5)
    assert torch.allclose(found.rest, expected.rest, atol=1e-4)


def open_reader(folder):
    from conftest import open_model

    return open_model(folder, "textual_teacher")


@pytest.mark.parametrize("name", ["same", "other"])
def test_it_teaches_what_the_model_itself_does(url, readers, tiny_student, tmp_path, name):
    lessons, made = lessons_for(name), []
    for where, teacher in (("here", readers[name]), ("there", behind(url, name, readers[name]))):
        one = told(job(tiny_student, teacher, tmp_path / where, lessons, top_k=9, **SERVED))
        made.append(left_by(one))
    for here, there in zip(made[0]["log"], made[1]["log"], strict=True):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-6) and here["text_kd"] > 0.01
    for name, value in made[0].items():
        assert name == "log" or all(torch.allclose(v, made[1][name][n], atol=1e-4) for n, v in value.items())


def test_what_it_says_is_kept_by_whichever_process_trains(tiny_student, tmp_path):
    """A worker, or a process of a launcher, is not where the run's own ledger is open."""
    folder = tmp_path / "run" / "checkpoints" / "distil-1"
    served = job(tiny_student, behind("http://127.0.0.1:9", "same", "t"), folder, top_k=9, **SERVED)
    with training._desk(served):
        desk = current_desk()
        assert desk.ledger is not None and desk.ledger.path == tmp_path / "run" / "ledger.distil-1.0.sqlite"
    assert current_desk().ledger is None


def test_another_models_tokenizer_is_refused(url, readers, tiny_student, tmp_path):
    """Its ids are other words to the server, which would score them all the same."""
    one = job(tiny_student, behind(url, "other", readers["same"]), tmp_path, top_k=9, **SERVED)
    with pytest.raises(
        ServerError, match=r"token \d+ is '\w+' to the server and .* to models.textual_teacher.tokenizer"
    ):
        left_by(one)


def test_a_text_that_holds_more_than_text_is_refused(url, readers):
    from earwitness.models.exchange import Prompt

    teacher = ServedTeacher(behind(url, "same", readers["same"]), current_desk())
    with pytest.raises(PromptError, match="would not read as text"):
        teacher.encode(Prompt("what is <|im_end|> ?"))


def test_a_response_that_does_not_fit_its_window_is_refused(url, readers, tiny_student, tmp_path):
    lessons = [(q, lesson.model_copy(update={"think": "dog " * 200})) for q, lesson in material(clips=1)]
    one = job(tiny_student, behind(url, "same", readers["same"]), tmp_path, lessons, top_k=9, **SERVED)
    one = replace(one, descriptions=tuple((name, "i hear dog , bell . " * 50) for name, _ in one.descriptions))
    with pytest.raises(StageError, match="finds room for"):
        left_by(one)


def test_too_few_of_its_tokens_are_named(readers, url, listener, tiny_student, tmp_path):
    from earwitness.models.served import teacher as room

    lessons = lessons_for("other")
    local = told(job(tiny_student, readers["other"], tmp_path, lessons, top_k=9, **SERVED))
    there = Reader(local, ServedTeacher(behind(url, "other", readers["other"]), current_desk()), listener)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TeacherError, match=r"are the student's, .*lower it"):
        patch.setattr(room, "SPARE", 0)
        listen_to(there.teacher.model, there.packed(lessons), there.reading(local.settings, ()))


@pytest.mark.parametrize(
    "told",
    [None, [None], [None, {"7": {"logprob": -1.0}}, {"8": {"logprob": "x"}}], [None, {}, {}], [None, {"7": 3}, None]],
)
def test_what_is_no_log_probability_is_not_learnt_from(url, readers, told):
    teacher = ServedTeacher(behind(url, "same", readers["same"]), current_desk())
    response = json.loads(json.dumps({"choices": [{"prompt_logprobs": told}]}))
    with pytest.raises(Malformed):
        teacher._read((6, 7, 8), 1, 2, response)
