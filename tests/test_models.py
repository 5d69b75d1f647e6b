"""The models' door: who is shown what, what is refused before it is loaded, and what is read and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import open_model
from earwitness.config import Model
from earwitness.learn.tree import pack
from earwitness.models import connect, connected, fingerprint, local, open_local
from earwitness.models.exchange import Drawing, MediaLimit, Prompt, PromptError
from earwitness.models.loading import VideoSettings, attach_adapter, load, video_settings
from earwitness.models.local import admit
from earwitness.models.places import ModelError
from tensors import clip, root

ASK = Prompt("list the sounds", clip(1))
TONE = np.sin(np.arange(32000) * 0.3).astype(np.float32)


def local_spec(folder, **more) -> Model:
    return Model(kind="local", name=str(folder), **more)


@pytest.fixture
def copied(tiny_student, tmp_path):
    """A copy of the tiny student's folder, to be damaged."""
    return Path(shutil.copytree(tiny_student, tmp_path / "copy"))


def change(file: Path, **entries) -> None:
    data = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(data | entries))


# Who is shown what


def test_the_teacher_is_shown_no_sound_and_the_student_no_picture(listener, watcher):
    assert set(watcher.encode(ASK).media) == {"pixel_values_videos", "video_grid_thw"}
    assert set(listener.encode(ASK).media) == {"input_features", "feature_attention_mask"}


@pytest.mark.parametrize("name", ["input_features", "feature_attention_mask", "input_values"])
def test_sound_does_not_pass_the_door_of_sight(name):
    with pytest.raises(ModelError, match=f"here for its sight must not be given {name}"):
        admit("sight", {"pixel_values_videos": torch.zeros(1), name: torch.zeros(1)})


@pytest.mark.parametrize("name", ["pixel_values_videos", "pixel_values", "video_grid_thw", "image_grid_thw"])
def test_a_picture_does_not_pass_the_door_of_hearing(name):
    with pytest.raises(ModelError, match=f"here for its hearing must not be given {name}"):
        admit("hearing", {"input_features": torch.zeros(1), name: torch.zeros(1)})


def test_nothing_reaches_a_model_but_through_its_door(watcher, monkeypatch):
    """Whatever a careless change to the features lets slip in."""
    heard = {"pixel_values_videos": torch.zeros(1), "input_features": torch.zeros(1)}
    monkeypatch.setattr(watcher, "_perceive", lambda prompt: (heard, 32))
    with pytest.raises(ModelError, match="here for its sight must not be given input_features"):
        watcher.encode(ASK)


def test_nothing_but_text_passes_the_door_of_reading():
    admit("reading", {})
    with pytest.raises(ModelError, match="reading must not be given input_features"):
        admit("reading", {"input_features": torch.zeros(1)})


def test_a_listener_as_teacher_and_a_watcher_as_student_are_refused(tiny_student, tiny_teacher):
    with pytest.raises(ModelError, match="student is asked for sight, and its class is capable of hearing"):
        connect(local_spec(tiny_student), "teacher")
    for role in ("student", "checker", "describer"):
        with pytest.raises(ModelError, match="teacher is asked for hearing, and its class is capable of sight"):
            connect(local_spec(tiny_teacher), role)


def test_a_waveform_for_a_teacher_is_refused_and_not_forgotten(watcher):
    with pytest.raises(ModelError, match="here for its sight and must not be given a sound"):
        watcher.encode(Prompt("list the sounds", clip(1), wave=TONE))


def test_a_reader_is_given_the_text_alone(tiny_reader):
    reader = open_model(tiny_reader, "textual_teacher")
    assert reader.encode(ASK).media == {}
    assert reader.encode(ASK).ids == reader.encode(Prompt("list the sounds")).ids


def test_the_student_hears_the_given_sound_and_nothing_of_the_picture(listener):
    """Of two scenes with the same sound the student is shown the same, and a sound can replace the clip's own."""
    own, silent, other = (
        listener.encode(Prompt("list the sounds", clip(seed), wave=wave)).media["input_features"]
        for seed, wave in ((1, None), (1, np.zeros(64000, np.float32)), (2, np.zeros(64000, np.float32)))
    )
    assert torch.equal(silent, other)
    assert not torch.equal(own, silent)


# What prompts become


def test_a_prompt_holds_one_placeholder_for_every_audio_token(listener):
    ids = listener.encode(Prompt("list the sounds", clip(1), wave=TONE)).ids
    audio = listener.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    frames = 32  # two of four seconds
    assert ids.count(audio) == ((frames - 1) // 2 + 1 - 2) // 2 + 1
    text = listener.tokenizer.decode([i for i in ids if i != audio])
    assert " ".join(text.split()) == (
        "<|im_start|> user <|audio_bos|> <|audio_eos|> list the sounds <|im_end|> <|im_start|> assistant"
    )


def test_sound_changes_the_logits(listener):
    with torch.no_grad():
        said = [
            listener.choose([Prompt("list the sounds", clip(1), wave=wave)], ["dog", "bell"])[0]
            for wave in (TONE, TONE, TONE[::-1].copy() * 0.1)
        ]
    assert said[0] == said[1]
    assert max(abs(a - b) for a, b in zip(said[0], said[2], strict=True)) > 1e-3


def test_the_picture_changes_the_logits(watcher):
    a, b = watcher.choose([Prompt("list the sounds", clip(1)), Prompt("list the sounds", clip(2))], ["dog", "bell"])
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) > 1e-3


def _cannot(*_):
    raise ValueError("the words come before the clip")


def test_choose_equals_a_plain_forward(listener):
    options = ["yes", "no", "first dog second bell"]
    prompts = [ASK, Prompt("is the dog heard ?", clip(2)), Prompt("list the sounds", clip(2)), ASK]
    made = listener.choose(prompts, options)
    for prompt, scores in zip(prompts, made, strict=True):
        encoded = listener.encode(prompt)
        for option, score in zip(options, scores, strict=True):
            said = listener.tokenizer(option, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*encoded.ids, *said]])
            with torch.no_grad():
                logits = listener.model(input_ids=ids, attention_mask=torch.ones_like(ids), **encoded.media).logits
            logprobs = logits[0, len(encoded.ids) - 1 : -1].log_softmax(-1)
            expected = sum(logprobs[i, token].item() for i, token in enumerate(said))
            assert score == pytest.approx(expected, abs=2e-5)
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "pack", lambda trees, pad: rows.append(len(trees)) or pack(trees, pad))
        listener.choose(prompts, options)
        listener.choose([Prompt("is the dog heard ?", wave=TONE), Prompt("list the sounds", wave=TONE)], options)
        patch.setattr(local, "share", _cannot)
        assert listener.choose(prompts, options) == pytest.approx(np.array(made), abs=2e-5), "one by one where it must"
    assert rows == [2, 1, 4], "a clip is heard once for all that is asked about it"
    assert listener.choose([], options) == []
    with pytest.raises(ValueError, match="an option without a token"):
        listener.choose(prompts, ["yes", ""])


def test_a_completion_says_how_it_ended(listener):
    made = listener.draw([ASK, ASK], Drawing(3, 1.0, 40), [("a",), ("b",)])
    for completion in (c for group in made for c in group):
        assert (completion.finish == "stop") == (completion.ids[-1] in listener.stop)
        assert "<|" not in completion.text


@pytest.mark.parametrize("token", ["<|AUDIO|>", "<|im_end|>", "<|video_pad|>", "<|endoftext|>"])
def test_a_placeholder_in_the_text_is_refused_by_name(listener, watcher, token):
    for model in (listener, watcher):
        with pytest.raises(PromptError) as refused:
            model.encode(Prompt(f"is the dog {token} heard ?", clip(1)))
        assert token in str(refused.value)


def test_tags_and_unknown_words_are_text(listener):
    listener.encode(Prompt("<think> zebra </think> <answer> dog </answer>", clip(1)))


def test_special_tokens_that_no_attribute_names_are_refused_and_never_said(copied):
    """Real tokenizers have dozens that are only marked special in their table of added tokens."""
    data = json.loads((copied / "tokenizer_config.json").read_text())
    for name in ("additional_special_tokens", "extra_special_tokens"):
        data.pop(name, None)
    (copied / "tokenizer_config.json").write_text(json.dumps(data))
    model = open_model(copied, "student")
    audio = model.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    assert audio not in model.tokenizer.all_special_ids, "the copy still names it: this tests nothing"
    assert audio in model.forbidden
    with pytest.raises(PromptError, match="AUDIO"):
        model.encode(Prompt("is the dog <|AUDIO|> heard ?", clip(1)))


def test_a_prompt_too_long_for_the_window_is_refused(listener):
    with pytest.raises(PromptError, match=r"tokens leaves .* no room to answer in its window of 512"):
        listener.encode(Prompt("so " * 500, clip(1)))


def test_a_clip_too_long_for_the_ears_is_refused(listener):
    with pytest.raises(MediaLimit, match=r"5.0 s of sound do not fit the model's window of 4 s"):
        listener.encode(Prompt("list the sounds", wave=np.zeros(80000, np.float32)))


def test_an_answer_ends_with_the_templates_own_token(copied):
    """The first of several stop tokens need not be the one that ends a turn."""
    change(copied / "generation_config.json", eos_token_id=[0, 2])
    model = open_model(copied, "student")
    assert model.stop == (0, 2)
    assert model.response_ids("dog")[-1] == model.tokenizer.convert_tokens_to_ids("<|im_end|>") == 2


def test_stop_token_zero_is_a_stop_token(copied):
    change(copied / "generation_config.json", eos_token_id=0)
    assert open_model(copied, "student").stop == (0,)


def test_the_processors_chat_template_serves_a_tokenizer_without_one(copied):
    (copied / "chat_template.jinja").unlink()
    model = open_model(copied, "student")
    ids = model.encode(ASK).ids
    audio = model.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    assert ids.count(audio) == 16


def test_a_template_that_places_no_clip_is_an_error(copied):
    (copied / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] }}{% endfor %}")
    with pytest.raises(ModelError, match=r"does not place one <\|AUDIO\|> per clip"):
        open_model(copied, "student").encode(ASK)


def test_without_any_chat_template_a_model_is_refused(tiny_teacher, tmp_path):
    copy = Path(shutil.copytree(tiny_teacher, tmp_path / "copy"))
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        open_model(copy, "teacher")


# What is refused before it is loaded


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_code_of_a_models_own_is_refused(copied, file):
    change(copied / file, auto_map={"AutoModel": "modeling.Evil"})
    with pytest.raises(ModelError, match=rf"{file} asks for code of its own \(auto_map\)"):
        load(local_spec(copied))


def test_code_named_deep_inside_is_refused(copied):
    data = json.loads((copied / "config.json").read_text())
    data["text_config"]["inner"] = [{"auto_map": {"AutoModel": "modeling.Evil"}}]
    (copied / "config.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match="auto_map"):
        load(local_spec(copied))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("value", ["someone/kernel", {"text_config": "someone/kernel:flash"}])
def test_foreign_attention_is_refused(copied, key, value):
    change(copied / "config.json", **{key: value})
    with pytest.raises(ModelError, match="foreign attention code"):
        load(local_spec(copied))


def test_whatever_attention_the_file_names_the_tree_gets_what_it_needs(copied):
    change(copied / "config.json", attn_implementation="eager", _attn_implementation="eager")
    assert open_model(copied, "student").model.config.get_text_config()._attn_implementation == "sdpa"


def test_weights_only_as_pickles_are_refused(copied):
    class Planted:
        def __reduce__(self):
            return (Path.touch, (copied / "planted",))

    (copied / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Planted()}, copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match="never loaded from pickles"):
        load(local_spec(copied))
    assert not (copied / "planted").exists()


def test_pickles_beside_safetensors_are_not_opened(copied):
    (copied / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load(local_spec(copied))


def test_an_unreadable_configuration_is_named(copied):
    (copied / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config.json cannot be read"):
        load(local_spec(copied))


def test_an_unknown_type_is_refused_with_those_that_are_known(copied):
    change(copied / "config.json", model_type="whisper")
    with pytest.raises(ModelError, match=r"'whisper' are not known here; known: audioflamingo3, qwen2,"):
        load(local_spec(copied))


def test_a_name_that_is_nowhere_is_an_error_that_says_so():
    for name in ("no/such-model", "/no/such/folder"):
        with pytest.raises(ModelError, match=f"{name!r} is not a folder, and not to be had from the hub"):
            load(local_spec(name))


def test_a_served_model_is_not_opened_in_this_process():
    with pytest.raises(ModelError, match="teacher: x is behind a server"):
        open_local(Model(kind="served", name="x", base_url="http://localhost:1"), "teacher")


# Adapters


def test_an_adapter_changes_what_is_said_and_is_loaded_frozen(tiny_student, tiny_adapter):
    plain = open_model(tiny_student, "student")
    adapted = connect(local_spec(tiny_student, adapter=str(tiny_adapter)), "student")
    assert plain.choose([ASK], ["dog"]) != adapted.choose([ASK], ["dog"])
    assert not any(p.requires_grad for p in adapted.model.parameters())
    short = Drawing(max_tokens=8)
    assert plain.draw([ASK], short, [()]) != adapted.draw([ASK], short, [()])


def test_adapters_are_loaded_from_safetensors_only(tiny_student, tiny_adapter, tmp_path):
    copy = Path(shutil.copytree(tiny_adapter, tmp_path / "adapter"))
    (copy / "adapter_model.safetensors").unlink()
    torch.save({}, copy / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"holds no adapter_model.safetensors"):
        connect(local_spec(tiny_student, adapter=str(copy)), "student")


def test_an_adapter_that_asks_for_an_import_is_refused(tiny_student, tiny_adapter, tmp_path):
    copy = Path(shutil.copytree(tiny_adapter, tmp_path / "adapter"))
    change(copy / "adapter_config.json", megatron_config={"a": 1}, megatron_core="evil")
    with pytest.raises(ModelError, match="asks for a module to be imported"):
        attach_adapter(open_model(tiny_student, "student").model, str(copy))


# Facts about models


def test_a_fingerprint_is_of_content_and_for_what_cannot_be_hashed_of_name_and_revision(tiny_student):
    def digest(folder, patterns):
        return f"digest of {folder.name} {' '.join(patterns)}"

    spec = local_spec(tiny_student)
    assert fingerprint(spec, digest) == "digest of student *.safetensors *.json"
    adapted = fingerprint(local_spec(tiny_student, adapter="somewhere/adapter"), digest)
    assert adapted == "digest of student *.safetensors *.json+digest of adapter *.safetensors *.json"
    assert fingerprint(Model(kind="local", name="org/model", revision="abc"), digest) == "org/model@abc"
    served = Model(kind="served", name=str(tiny_student), base_url="http://localhost:1", adapter="lora-1")
    assert fingerprint(served, digest) == f"{tiny_student}@unstated+lora-1", "a name is no folder of this machine"
    assert fingerprint(Model(kind="local", name="org/model"), digest) == "org/model@unstated"
    cut = Model(kind="local", name="org/model", revision="abc", long_clips="truncate")
    assert fingerprint(cut, digest) == "org/model@abc+truncate", "the same clips are heard otherwise"


def test_a_model_in_a_folder_is_called_by_the_folders_name(tiny_student, listener):
    """What is written into rows as the author must not be a path of one machine."""
    assert listener.name == "student"


def test_a_worker_opens_a_model_once(tiny_student):
    assert connected(local_spec(tiny_student), "student") is connected(local_spec(tiny_student), "student")


def test_video_settings_are_found_wherever_a_release_keeps_them(tmp_path):
    assert video_settings(tmp_path) == VideoSettings()
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 12845056}')
    assert video_settings(tmp_path) == VideoSettings(3136, 12845056)
    nested = {"video_processor": {"size": {"shortest_edge": 10, "longest_edge": 20}, "image_mean": [0, 0, 0]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert video_settings(tmp_path) == VideoSettings(10, 20, mean=(0, 0, 0))
    (tmp_path / "video_preprocessor_config.json").write_text('{"size": {"shortest_edge": 1, "longest_edge": 2}}')
    assert video_settings(tmp_path) == VideoSettings(1, 2)


def test_a_clip_is_read_once(listener):
    first, second = root(listener, 7), root(listener, 7)
    assert first.media["input_features"] is second.media["input_features"]
