"""Sampling in process: the same tokens in any company, and only tokens that may be said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import open_model, under_lora
from earwitness.learn.cache import growing_cache
from earwitness.learn.noise import uniforms
from earwitness.learn.sampling import Decoding, draw, room, sample
from tensors import root

TEXTS = (
    "list the sounds",
    "which sound is the first one ?",
    "is the dog heard ?",
    "so what is heard right after the bell ?",
)


def decoding(local, **changes):
    base = Decoding(
        temperature=1.0, max_tokens=30, pad_id=local.pad, stop=(*local.stop, 15, 16, 17), forbidden=local.forbidden
    )
    return replace(base, **changes)


def roots(local):
    return [root(local, seed, text) for seed, text in enumerate(TEXTS)]


@pytest.fixture(params=["listener", "watcher"])
def local(request):
    return request.getfixturevalue(request.param)


def test_greedy_equals_the_librarys_own_generate(listener):
    settings = decoding(listener, temperature=0.0, stop=listener.stop, max_tokens=25)
    made = sample(listener.model, roots(listener), 1, settings, [()] * len(TEXTS))
    for one, group in zip(roots(listener), made, strict=True):
        ids = torch.tensor([one.ids])
        said = listener.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **one.media,
            max_new_tokens=25,
            do_sample=False,
            suppress_tokens=list(listener.forbidden),
            eos_token_id=list(listener.stop),
            pad_token_id=listener.pad,
        )
        assert said[0, len(one.ids) :].tolist() == list(group[0].ids)


def test_the_noise_depends_on_the_key_alone(local):
    """A batch equals one prompt at a time, in another order, and beside other prompts."""
    settings, all_roots = decoding(local), roots(local)
    keys = [("seed", i) for i in range(len(TEXTS))]
    together = sample(local.model, all_roots, 3, settings, keys)
    ends = {len(s.ids) for group in together for s in group}
    assert len(ends) > 3, "the samples must end at different times, or dropping finished ones is not tested"
    alone = [sample(local.model, [r], 3, settings, [k])[0] for r, k in zip(all_roots, keys, strict=True)]
    assert together == alone
    backwards = sample(local.model, all_roots[::-1], 3, settings, keys[::-1])
    assert together == backwards[::-1]
    fewer = sample(local.model, all_roots[1:3], 3, settings, keys[1:3])
    assert together[1:3] == fewer


def test_more_samples_go_on_where_fewer_ended(listener):
    one = roots(listener)[0]
    two, four = (sample(listener.model, [one], n, decoding(listener), [("k",)])[0] for n in (2, 4))
    assert four[:2] == two
    assert len({s.ids for s in four}) == 4


def test_another_key_says_something_else(listener):
    one = roots(listener)[0]
    a, b = sample(listener.model, [one, one], 1, decoding(listener), [("a",), ("b",)])
    assert a != b


def test_a_finished_sample_ends_with_its_stop_token_and_nothing_follows(local):
    settings = decoding(local)
    for group in sample(local.model, roots(local), 4, settings, [(i,) for i in range(len(TEXTS))]):
        for one in group:
            assert one.stopped == (one.ids[-1] in settings.stop)
            assert not set(one.ids[:-1]) & set(settings.stop)
            assert one.stopped or len(one.ids) == settings.max_tokens


def test_placeholders_are_never_sampled_even_where_they_are_likeliest(listener):
    """A sampled placeholder would be taken for sound when the text is scored."""
    tokenizer = listener.tokenizer
    audio = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    assert audio in listener.forbidden
    head = listener.model.lm_head
    hook = head.register_forward_hook(lambda m, i, logits: logits.index_fill(-1, torch.tensor([audio, 3, 5]), 1e4))
    try:
        for temperature in (0.0, 1.0, 5.0):
            settings = decoding(listener, temperature=temperature)
            for group in sample(listener.model, roots(listener), 2, settings, [(i,) for i in range(len(TEXTS))]):
                assert not {i for s in group for i in s.ids} & set(listener.forbidden)
    finally:
        hook.remove()


def test_a_long_neighbour_does_not_cut_a_sample_short(listener):
    """Room in the window is counted per prompt."""
    short, long = root(listener, 0, "list the sounds"), root(listener, 1, "so " * 40)
    text = listener.model.config.get_text_config()
    settings = decoding(listener, stop=listener.stop, max_tokens=20, temperature=0.3)
    alone = sample(listener.model, [short], 2, settings, [("k",)])[0]
    before, text.max_position_embeddings = text.max_position_embeddings, len(long.ids) + 4
    try:
        assert room(listener.model, short, 20) == 20
        assert room(listener.model, long, 20) == 4
        beside = sample(listener.model, [short, long], 2, settings, [("k",), ("l",)])
        text.max_position_embeddings = len(long.ids)
        with pytest.raises(ValueError, match="does not fit the model's window"):
            sample(listener.model, [short, long], 1, settings, [(), ()])
    finally:
        text.max_position_embeddings = before
    assert beside[0] == alone
    assert max(len(s.ids) for s in alone) > 4
    assert all(len(s.ids) <= 4 for s in beside[1])


def test_a_prompt_is_run_and_remembered_once_for_all_of_its_samples(local):
    """Its keys and values are not copied for each sample: that is most of the memory of sampling."""
    names = [name for name, _ in local.model.named_modules() if name.endswith("language_model.layers.0.self_attn")]
    layer = local.model.get_submodule(names[0])
    shapes = []

    def look(module, args, kwargs, output):
        shapes.append((tuple(kwargs["hidden_states"].shape[:2]), tuple(kwargs["past_key_values"].layers[0].keys.shape)))

    hook = layer.register_forward_hook(look, with_kwargs=True)
    try:
        two = roots(local)[:2]
        sample(local.model, two, 6, decoding(local, stop=(), max_tokens=5), [("a",), ("b",)])
    finally:
        hook.remove()
    longest = max(len(one.ids) for one in two)
    assert [asked for asked, _ in shapes] == [(2, longest), *[(2, 6)] * 4]
    assert all(kept[0] == 2 and kept[2] < 2 * (longest + 5 * 6) for _, kept in shapes)


def test_a_cache_that_grows_holds_what_was_put_into_it():
    cache = growing_cache()
    parts = [torch.randn(3, 2, n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 1, 1, 40, 2)]
    for n, part in enumerate(parts):
        keys, values = cache.update(part, part + 1, 0)
        whole = torch.cat(parts[: n + 1], -2)
        assert torch.equal(keys, whole)
        assert torch.equal(values, whole + 1)
        assert cache.get_seq_length() == whole.shape[-2]
    cache.batch_select_indices(torch.tensor([2, 0]))
    keys, _ = cache.update(parts[1][[2, 0]], parts[1][[2, 0]], 0)
    assert torch.equal(keys, torch.cat([*parts, parts[1]], -2)[[2, 0]])


def test_an_adapter_takes_part_in_sampling(tiny_student):
    fresh = open_model(tiny_student, "student")
    settings = decoding(fresh, temperature=0.0)
    plain = sample(fresh.model, roots(fresh), 1, settings, [()] * len(TEXTS))
    model = under_lora(fresh.model)
    assert sample(model, roots(fresh), 1, settings, [()] * len(TEXTS)) == plain
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    assert sample(model, roots(fresh), 1, settings, [()] * len(TEXTS)) != plain


def test_sampling_leaves_the_model_in_its_mode(listener):
    for mode in (True, False):
        listener.model.train(mode)
        sample(listener.model, roots(listener)[:1], 1, decoding(listener, max_tokens=2), [()])
        assert listener.model.training is mode


def test_no_prompts_no_samples(listener):
    assert sample(listener.model, [], 3, decoding(listener), []) == []


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_follow_the_softmax(temperature):
    """Chi-square of 40 000 draws against the softmax, with one token forbidden."""
    logits = torch.tensor([1.0, -0.5, 2.0, 0.3, -3.0, 1.2, 0.0, 0.9])
    count, settings = 40_000, Decoding(temperature, 1, 0, (), (2,))
    noise = torch.from_numpy(uniforms(count, "chi", temperature))
    drawn = draw(logits.expand(count, -1), noise, settings)
    expected = (logits / temperature).index_fill(0, torch.tensor(2), -torch.inf).softmax(0) * count
    observed = torch.bincount(drawn, minlength=8)
    assert observed[2] == 0
    keep = expected > 0
    chi = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert chi < 22.5  # the 99.8 % point of chi-square with 6 degrees of freedom is 20.8


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [(0, 1.0, {0, 1, 2, 3}), (2, 1.0, {0, 2}), (9, 1.0, {0, 1, 2, 3}), (0, 0.5, {0}), (0, 0.6, {0, 2}), (2, 0.6, {0}),
     (1, 1.0, {0}), (0, 1e-9, {0})],
)  # fmt: skip
def test_only_the_likeliest_tokens_are_drawn_in_their_proportions(top_k, top_p, kept):
    """Shares of .5, .12, .3 and .08; of two of them the first has .625 of what is left."""
    shares = torch.tensor([0.5, 0.12, 0.3, 0.08])
    settings = Decoding(1.0, 1, 0, (), (), top_k, top_p)
    noise = torch.from_numpy(uniforms(20_000, "likeliest", top_k, top_p))
    drawn = torch.bincount(draw(shares.log().expand(20_000, -1), noise, settings), minlength=4) / 20_000
    left = torch.tensor([float(i in kept) for i in range(4)]) * shares
    assert set(drawn.nonzero()[:, 0].tolist()) == kept
    assert (drawn - left / left.sum()).abs().max() < 0.015


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=9), st.floats(0, 1, exclude_max=True), st.floats(0.05, 3))
def test_a_draw_has_a_probability(values, noise, temperature):
    logits = torch.tensor([values])
    token = int(draw(logits, torch.tensor([noise], dtype=torch.float64), Decoding(temperature, 1, 0, (), (1,))))
    assert token != 1
    assert torch.equal(logits, torch.tensor([values])), "the caller's logits are not written to"
    probabilities = (logits[0] / temperature).index_fill(0, torch.tensor(1), -torch.inf).double().softmax(0)
    cumulative = probabilities.cumsum(0)
    assert cumulative[token] - probabilities[token] - 1e-9 <= noise <= cumulative[token] + 1e-9


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(temperature):
    logits = torch.tensor([[0.0, float("nan"), 1.0]])
    with pytest.raises(FloatingPointError, match="not finite"):
        draw(logits, torch.tensor([0.5], dtype=torch.float64), Decoding(temperature, 1, 0, (), ()))


def test_noise_is_a_function_of_its_key_and_begins_alike_at_any_length():
    assert uniforms(5, 1, "sample", "a/1", 0).tolist() == uniforms(9, 1, "sample", "a/1", 0).tolist()[:5]
    assert uniforms(5, 1, "a").tolist() != uniforms(5, 1, "b").tolist()
    assert uniforms(2, 1, "sample", "world/7", 0).tolist() == [
        0.5493072143806977,
        0.1122381971517844,
    ]  # or old runs cannot go on


def test_questions_about_one_clip_share_it_and_are_answered_as_alone(monkeypatch):
    from earwitness.config import Model
    from earwitness.learn import sampling
    from earwitness.models import open_local
    from earwitness.models.exchange import Drawing, Prompt
    from earwitness.prompts import question_prompt
    from earwitness.records import Clip

    model = open_local(Model(kind="world", name="student"), "student")
    asked = ["what is heard ?", "what is heard first ?", "what is heard last ?", "how many sounds are heard ?"]
    clips = [Clip(id=str(n), media=f"world:default:{n + 1}") for n in range(12)]
    prompts = [
        Prompt(question_prompt("world", mode, text, ("dog", "bell", "horn")), clip)
        for clip in clips
        for text in asked[: 4 if clip.id != "3" else 2]
        for mode in ("direct", "think")
    ]
    prompts = prompts[::2] + prompts[1::2]  # not side by side
    keys = [(1, number) for number in range(len(prompts))]
    rows = []
    prefill = sampling._prefill
    monkeypatch.setattr(
        sampling, "_prefill", lambda m, trees, *rest: rows.append(len(trees)) or prefill(m, trees, *rest)
    )
    for how in (Drawing(max_tokens=48), Drawing(3, 0.8, 24)):
        together = model.draw(prompts, how, keys)
        assert rows[-1] == len(clips)
        alone = [model.draw([prompt], how, [key])[0] for prompt, key in zip(prompts, keys, strict=True)]
        assert [[c.ids for c in group] for group in together] == [[c.ids for c in group] for group in alone]


def test_clips_with_one_question_each_do_not_wait_for_one_with_many(monkeypatch):
    from earwitness.config import Model
    from earwitness.learn import sampling
    from earwitness.models import open_local
    from earwitness.models.exchange import Drawing, Prompt
    from earwitness.records import Clip

    model = open_local(Model(kind="world", name="student"), "student")
    many, *others = [Clip(id=str(n), media=f"world:default:{n + 1}") for n in range(9)]
    prompts = [Prompt(f"what is heard ? {'. ' * n}", many) for n in range(8)] + [
        Prompt("what is heard ?", c) for c in others
    ]
    rows = []
    prefill = sampling._prefill
    monkeypatch.setattr(
        sampling, "_prefill", lambda m, trees, *rest: rows.append(len(trees)) or prefill(m, trees, *rest)
    )
    model.draw(prompts, Drawing(max_tokens=2), [(n,) for n in range(16)])
    assert rows == [16]
