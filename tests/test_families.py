"""The families of real students: one set of promises, kept by a tiny random model of every class."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import tiny_families
from earwitness.config import Model
from earwitness.learn.attention import unwrapped
from earwitness.learn.deaf import DeafModel, deaf_test
from earwitness.learn.families import FAMILIES, Ears, listener
from earwitness.learn.hearing import frozen_ears, hear
from earwitness.learn.inputs import EMBEDDINGS, EMBEDDINGS_MASK
from earwitness.learn.losses import cross_entropy, token_logprobs
from earwitness.learn.sampling import Decoding, sample
from earwitness.learn.tree import Branch, Fork, Tree, pack
from earwitness.models import connect
from earwitness.models.adapters import lora_targets
from earwitness.models.exchange import Drawing, MediaLimit, Prompt
from earwitness.models.loading import merge_adapter, refuse_old
from earwitness.models.places import ModelError
from earwitness.stages.student import LINEAR
from tensors import gradients, relative_error
from tiny_families import LISTENERS, RATE, write_family

OMNI = ["qwen2_5_omni", "qwen3_omni_moe"]
SEVERAL_WINDOWS = ["audioflamingo3", "voxtral"]


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 0.1).astype(np.float32)


def open_family(folder, **more):
    return connect(Model(kind="local", name=str(folder), **more), "student")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = write_family(kind, tmp_path_factory.mktemp("families") / kind)
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def opened(folders):
    made = {}

    def model(kind):
        if kind not in made:
            made[kind] = open_family(folders(kind))
        return made[kind]

    return model


@pytest.fixture(params=LISTENERS)
def kind(request):
    return request.param


@pytest.fixture
def local(kind, opened):
    """The family's model: read it, do not train it."""
    return opened(kind)


@pytest.fixture
def fresh(kind, folders):
    return open_family(folders(kind))


def words(count: int, seed: int) -> tuple[int, ...]:
    drawn = torch.randint(60, 200, (count,), generator=torch.Generator().manual_seed(seed))
    return tuple(drawn.tolist())


def trees(local, longest: float = 0.9) -> list[Tree]:
    """A bush of branches, and one with forks, about clips of unequal length."""
    first = local.encode(Prompt("what is heard?", wave=sound(longest, 1)))
    second = local.encode(Prompt("and here?", wave=sound(0.4, 2)))
    leaf = [Branch.trained(words(n, n)) for n in (3, 5, 2, 4)]
    return [Tree(first, (leaf[0], leaf[1])), Tree(second, (Fork(words(3, 9), (leaf[2], leaf[3])), leaf[0]))]


def separate(tree: Tree) -> list[Tree]:
    """Every branch as a tree of its own, what it is below made part of its prompt."""
    found = []

    def walk(root, node):
        if isinstance(node, Branch):
            found.append(Tree(root, (node,)))
            return
        for child in node.branches:
            walk(replace(root, ids=root.ids + node.ids), child)

    for node in tree.branches:
        walk(tree.root, node)
    return found


def naive(model, forest) -> torch.Tensor:
    """The log-probabilities of every branch as a row of its own, by the library's ordinary forward."""
    made = []
    for one in (t for tree in forest for t in separate(tree)):
        (branch,) = one.branches
        ids = torch.tensor([[*one.root.ids, *branch.ids]])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **one.root.media).logits
        scores = logits[0, len(one.root.ids) - 1 : -1].float().log_softmax(-1)
        made.append(scores.gather(-1, torch.tensor(branch.ids)[:, None])[:, 0])
    return torch.cat(made)


def adapted(local, scale: float = 0.05):
    """The model under LoRA as a training stage puts it, its adapter already saying something."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    targets = lora_targets(local.model, local.family.language_model + LINEAR)
    model = get_peft_model(local.model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, scale)
    return model


# The sequence


def test_the_tree_equals_separate_rows(local):
    model, forest = local.model, trees(local)
    batch = pack(forest, local.pad)
    made = []
    for score in (lambda: token_logprobs(model, batch), lambda: naive(model, forest)):
        model.zero_grad()
        logprobs = score()
        cross_entropy(logprobs, batch.weight).backward()
        made.append((logprobs.detach(), gradients(model)))
    model.zero_grad()
    (packed, packed_gradients), (plain, plain_gradients) = made
    assert (packed - plain).abs().max() < 2e-5
    assert relative_error(packed_gradients, plain_gradients) < 2e-5
    assert any("audio_tower" in name for name in packed_gradients), "the gradient must reach the ears"


def test_a_batch_equals_one_by_one(local):
    forest = trees(local)
    with torch.no_grad():
        together = token_logprobs(local.model, pack(forest, local.pad))
        alone = torch.cat([token_logprobs(local.model, pack([tree], local.pad)) for tree in forest])
    assert (together - alone).abs().max() < 2e-5


def test_sound_changes_the_logits(local):
    same = Prompt("what?", wave=sound(0.5, 1))
    said = [local.choose([Prompt("what?", wave=w)], ["dog"])[0][0] for w in (sound(0.5, 1), sound(0.5, 2) * 3)]
    assert local.choose([same], ["dog"])[0][0] == said[0]
    assert abs(said[0] - said[1]) > 1e-3


@pytest.mark.parametrize("kind", OMNI)
def test_without_a_picture_the_three_axes_count_up_alike(local, kind):
    """What the table states instead of making (3, P) positions: against the model's own rule, two clips in a prompt."""
    model = local.model
    once = local.encode(Prompt("what is heard in there?", wave=sound(0.9))).ids
    ids = torch.tensor([once + once[1:]])
    frames = torch.tensor([round(0.9 * RATE / tiny_families.HOP)] * 2)
    positions, delta = model.model.get_rope_index(ids, None, None, torch.ones_like(ids), False, frames)
    assert torch.equal(positions, torch.arange(ids.shape[1]).expand(3, 1, -1))
    assert int(delta) == 0
    assert local.encode(Prompt("what is heard in there?", wave=sound(0.9))).positions is None


# Sampling


def decoding(local, **changes) -> Decoding:
    return replace(Decoding(0.0, 12, local.pad, local.stop, local.forbidden), **changes)


def test_greedy_equals_the_librarys_own_generate(local):
    roots = [local.encode(Prompt("what is heard?", wave=sound(s, 3))) for s in (0.9, 0.5)]
    made = sample(local.model, roots, 1, decoding(local), [()] * 2)
    for root, (ours,) in zip(roots, made, strict=True):
        ids = torch.tensor([root.ids])
        theirs = local.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **root.media,
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=list(local.forbidden),
            eos_token_id=list(local.stop),
            pad_token_id=local.pad,
        )
        assert theirs[0, len(root.ids) :].tolist() == list(ours.ids)


def test_the_placeholder_is_never_sampled(local):
    audio = local.model.config.audio_token_id
    assert audio in local.forbidden
    hook = local.model.lm_head.register_forward_hook(
        lambda m, i, logits: logits.index_fill(-1, torch.tensor(audio), 1e4)
    )
    try:
        root = local.encode(Prompt("what?", wave=sound(0.5)))
        for one in sample(local.model, [root], 4, decoding(local, temperature=2.0), [("k",)])[0]:
            assert audio not in one.ids
    finally:
        hook.remove()


# Adapters and files


def test_lora_targets_the_language_model_alone(fresh):
    model = adapted(fresh)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("language_model" in name and "lora_" in name for name in trained)
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert any(part in name for name in trained)


def test_what_is_saved_is_what_is_loaded_and_merging_leaves_the_ears_alone(fresh, folders, kind, tmp_path):
    batch = pack(trees(fresh), fresh.pad)
    ears = {k: v.clone() for k, v in fresh.model.state_dict().items() if "audio_tower" in k}
    model = adapted(fresh)
    with torch.no_grad():
        said = token_logprobs(model, batch)
    model.save_pretrained(tmp_path / "adapter")
    again = open_family(folders(kind), adapter=str(tmp_path / "adapter"))
    with torch.no_grad():
        assert torch.equal(token_logprobs(again.model, batch), said)
    merged = merge_adapter(open_family(folders(kind)).model, str(tmp_path / "adapter"))
    merged.save_pretrained(tmp_path / "merged")
    fresh.tokenizer.save_pretrained(tmp_path / "merged")
    fresh.extractor.save_pretrained(tmp_path / "merged")
    whole = open_family(tmp_path / "merged")
    with torch.no_grad():
        assert (token_logprobs(whole.model, batch) - said).abs().max() < 2e-5
    for name, tensor in ears.items():
        assert torch.equal(whole.model.state_dict()[name], tensor)
    assert whole.encode(Prompt("what?", wave=sound(0.5))).ids == fresh.encode(Prompt("what?", wave=sound(0.5))).ids


@pytest.mark.parametrize("kind", OMNI)
def test_of_a_whole_omni_checkpoint_only_the_thinker_is_loaded(kind, opened, tmp_path):
    whole = open_family(write_family(kind, tmp_path / "whole", whole=True))
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model_type"] == kind
    assert type(whole.model).__name__ == FAMILIES[kind].model_class
    thinker = opened(kind)
    assert set(whole.model.state_dict()) == set(thinker.model.state_dict())
    batch = pack(trees(thinker), thinker.pad)
    with torch.no_grad():
        assert torch.equal(token_logprobs(whole.model, batch), token_logprobs(thinker.model, batch))


# Hearing a clip once


def ahead(local, forest) -> list[Tree]:
    count = {id(t): t.root.ids.count(unwrapped(local.model).config.audio_token_id) for t in forest}
    return [replace(t, root=replace(t.root, media=hear(local.model, t.root.media, count[id(t)]))) for t in forest]


def test_what_was_heard_before_trains_like_what_is_heard_now(fresh):
    forest = trees(fresh)
    fresh.model = adapted(fresh)
    assert frozen_ears(fresh.model)
    made = []
    for batch in (pack(forest, fresh.pad), pack(ahead(fresh, forest), fresh.pad)):
        fresh.model.zero_grad()
        logprobs = token_logprobs(fresh.model, batch)
        cross_entropy(logprobs, batch.weight).backward()
        made.append((logprobs.detach(), gradients(fresh.model)))
    assert set(batch.media) == {EMBEDDINGS, EMBEDDINGS_MASK}
    assert (made[0][0] - made[1][0]).abs().max() < 1e-5
    assert relative_error(made[1][1], made[0][1]) < 1e-5


def test_the_encoder_works_once_a_clip_and_sampling_stays_the_same(fresh):
    calls = []
    before = fresh.draw([Prompt("what?", wave=sound(0.5))], Drawing(2, 1.0, 6), [("k",)])
    tower = fresh.model.get_submodule(fresh.family.ears.tower)
    tower.register_forward_hook(lambda *_: calls.append(1))
    fresh.model.requires_grad_(False)
    fresh.hear_ahead()
    root = fresh.encode(Prompt("what?", wave=sound(0.5)))
    calls.clear()
    token_logprobs(fresh.model, pack([Tree(root, (Branch.trained(words(3, 1)),))] * 2, fresh.pad))
    after = [[c.ids for c in group] for group in fresh.draw_roots([root], Drawing(2, 1.0, 6), [("k",)])]
    assert not calls
    assert after == [[c.ids for c in group] for group in before]


def test_ears_that_are_trained_are_not_heard_ahead(fresh):
    assert not frozen_ears(fresh.model.requires_grad_(True))
    with pytest.raises(ModelError, match=r"encoder of .* is trained"):
        fresh.hear_ahead()


def test_the_deaf_test_hears_what_was_heard_before(fresh):
    fresh.model = adapted(fresh)
    batch = pack(ahead(fresh, trees(fresh)), fresh.pad)
    assert deaf_test(fresh.model, batch).change > 1e-3
    text = fresh.model.get_base_model().get_submodule(fresh.family.text)
    silence = {"inputs_embeds": torch.zeros(*batch.input_ids.shape, tiny_families.HIDDEN)}
    text.register_forward_pre_hook(lambda _, given, named: (given, named | silence), with_kwargs=True)
    with pytest.raises(DeafModel, match="does not hear the sound"):
        deaf_test(fresh.model, batch)


def test_embeddings_that_do_not_fit_are_refused(local):
    (tree, _) = trees(local)
    heard = ahead(local, [tree])[0]
    short = {k: v[..., :-1] for k, v in heard.root.media.items()}
    with pytest.raises(ValueError, match=r"\d+ audio embeddings do not fit the batch's \d+ audio tokens"):
        token_logprobs(local.model, pack([replace(heard, root=replace(heard.root, media=short))], local.pad))


def test_features_come_in_the_encoders_precision(folders, kind):
    """In 16 bits on GPUs; Audio Flamingo 3 does not see to it itself."""
    half = open_family(folders(kind), dtype="bfloat16")
    root = half.encode(Prompt("what?", wave=sound(0.5)))
    assert root.media["input_features"].dtype == torch.float32
    with torch.no_grad():
        found = token_logprobs(half.model, pack([Tree(root, (Branch.trained(words(3, 1)),))], half.pad))
    assert found.isfinite().all()
    assert half.draw_roots([root], Drawing(max_tokens=2), [()])


# Long clips


def test_a_clip_beyond_the_window_is_refused_unless_told_otherwise(opened):
    for kind, seconds in (("qwen2_audio", 1.5), ("qwen2_5_omni", 11)):
        with pytest.raises(MediaLimit, match="long_clips"):
            opened(kind).encode(Prompt("what?", wave=sound(seconds)))


def test_truncating_says_so_once_a_clip(folders):
    local = open_family(folders("qwen2_audio"), long_clips="truncate")
    long, short = sound(2.5), sound(1.0)
    with pytest.warns(UserWarning, match=r"a given waveform: only the first 1 s of 2\.5 s were heard"):
        cut = local.encode(Prompt("what?", wave=long))
    assert local.notes == {None: "only the first 1 s of 2.5 s were heard"}
    whole = local.encode(Prompt("what?", wave=long[:RATE]))
    assert torch.equal(cut.media["input_features"], whole.media["input_features"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        local.encode(Prompt("what?", wave=short))
        local.encode(Prompt("what?", wave=long))


def test_chunks_have_a_run_of_placeholders_each(folders):
    local = open_family(folders("qwen2_audio"), long_clips="chunk")
    root = local.encode(Prompt("what?", wave=sound(2.5)))
    assert root.media["input_features"].shape[0] == 3
    audio = local.model.config.audio_token_id
    runs = [len(run) for run in "".join("a" if i == audio else " " for i in root.ids).split()]
    assert len(runs) == 3 and max(runs) - min(runs) <= 1
    assert not local.notes
    forest = [Tree(root, (Branch.trained(words(3, 1)), Branch.trained(words(2, 2))))]
    forest += trees(local)
    with torch.no_grad():
        found = token_logprobs(local.model, pack(forest, local.pad))
        assert (found - naive(local.model, forest)).abs().max() < 2e-5
        local.model.requires_grad_(False)
        again = token_logprobs(local.model, pack(ahead(local, forest), local.pad))
    assert (found - again).abs().max() < 1e-5


def test_chunks_are_refused_by_name_where_a_prompt_takes_one_clip(folders):
    with pytest.raises(ModelError, match=r'long_clips = "chunk" needs .* audioflamingo3 takes one'):
        open_family(folders("audioflamingo3"), long_clips="chunk")


@pytest.mark.parametrize("kind", [*SEVERAL_WINDOWS, "qwen3_omni_moe"])
def test_families_that_hear_long_clips_by_themselves_do(local):
    with torch.no_grad():
        forest = trees(local, longest=2.5)
        found = token_logprobs(local.model, pack(forest, local.pad))
        assert (found - naive(local.model, forest)).abs().max() < 2e-5


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_too_short_to_be_heard_is_refused_by_all(local, seconds):
    with pytest.raises(MediaLimit, match="too short to be heard"):
        local.encode(Prompt("what?", wave=sound(seconds)))


# What does not fit together


def test_a_checkpoint_that_lacks_weights_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_family("qwen2_audio", tmp_path / "torn")
    file = folder / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if "multi_modal_projector" not in k}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 2 weights of a Qwen2AudioForConditionalGeneration .*projector"):
        open_family(folder)


def test_a_tokenizer_of_another_family_is_refused(tmp_path):
    folder = write_family("audioflamingo3", tmp_path / "mixed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"audio_token_id": 1}))
    with pytest.raises(ModelError, match=r"reads <sound> as token \d+, its model takes 1 for sound"):
        open_family(folder)


def test_a_sliding_window_is_refused(tmp_path):
    folder = write_family("audioflamingo3", tmp_path / "sliding")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["layer_types"] = ["full_attention", "sliding_attention"]
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="sliding window, which the prefix tree"):
        open_family(folder)


def test_another_family_is_a_line_in_the_table(tmp_path, monkeypatch):
    """As docs/students.md tells: here Music Flamingo, which no line of ours names."""
    from earwitness.learn import ears

    folder = write_family("musicflamingo", tmp_path / "music")
    with pytest.raises(ModelError, match="'musicflamingo' are not known here"):
        open_family(folder)
    music = Ears(ears.cut_windows, ears.seconds(1200), several=False)
    monkeypatch.setitem(FAMILIES, "musicflamingo", listener("MusicFlamingoForConditionalGeneration", "<sound>", music))
    local = open_family(folder)
    forest = trees(local, longest=1.7)
    with torch.no_grad():
        assert (token_logprobs(local.model, pack(forest, local.pad)) - naive(local.model, forest)).abs().max() < 2e-5


def test_the_page_of_students_has_every_family():
    page = (Path(__file__).parent.parent / "docs" / "students.md").read_text(encoding="utf-8")
    for name, family in FAMILIES.items():
        if family.ears is not None:
            assert f"`{name}`" in page
            assert family.placeholder.replace("|", "\\|") in page


def test_a_family_that_this_transformers_builds_otherwise_is_refused():
    refuse_old(FAMILIES["qwen2_audio"], "5.17.0")
    refuse_old(FAMILIES["qwen2_5_omni"], "5.21.1")
    with pytest.raises(ModelError, match=r"needs transformers 5\.21 or newer, and this is 5\.17\.0"):
        refuse_old(FAMILIES["qwen3_omni_moe"], "5.17.0")
