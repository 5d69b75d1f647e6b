"""Scores of tokens that somebody wrote, against a plain forward pass."""

from __future__ import annotations

import pytest
import torch

from earwitness.learn import losses
from earwitness.models import scoring
from earwitness.models.scoring import score, score_each
from tensors import random_ids, root

SAID = [random_ids(5, 1), random_ids(1, 2), random_ids(9, 3)]


def plain(local, here, said):
    """(C, V) log-probabilities of what follows, from the model's own forward over the whole sequence."""
    ids = torch.tensor([[*here.ids, *said]])
    with torch.no_grad():
        logits = local.model(input_ids=ids, attention_mask=torch.ones_like(ids), **here.media).logits
    return logits[0, len(here.ids) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("chunk, branches, tokens", [(2048, 4096, 16384), (4, 6, 40)])
def test_scores_equal_a_plain_forward(listener, monkeypatch, chunk, branches, tokens):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    monkeypatch.setattr(scoring, "BRANCHES", branches)
    monkeypatch.setattr(scoring, "TOKENS", tokens)
    roots = [root(listener, n, "so " * n) for n in range(3)]
    texts = [(roots[0], SAID), (roots[1], SAID[:1]), (roots[2], SAID[1:])]
    made = score_each(listener, texts, likeliest=4)
    assert [[[token.id for token in tokens] for tokens in each] for each in made] == [
        [list(said) for said in following] for _, following in texts
    ]
    pairs = [(here, said, tokens) for (here, following), each in zip(texts, made, strict=True)
             for said, tokens in zip(following, each, strict=True)]  # fmt: skip
    for here, said, tokens in pairs:
        for token, logprobs in zip(tokens, plain(listener, here, said), strict=True):
            assert token.logprob == pytest.approx(logprobs[token.id].item(), abs=2e-5)
            assert token.rank == 1 + int((logprobs > logprobs[token.id]).sum())
            best = logprobs.topk(4)
            assert [id for id, _ in token.likeliest] == best.indices.tolist()
            assert [p for _, p in token.likeliest] == pytest.approx(best.values.tolist(), abs=2e-5)


def test_no_more_tokens_are_listed_than_there_are(listener):
    (tokens,) = score(listener, root(listener, 1), SAID[:1], likeliest=10**6)
    size = listener.model.config.get_text_config().vocab_size
    assert {len(token.likeliest) for token in tokens} == {size}
    assert tokens[0].likeliest[tokens[0].rank - 1] == (tokens[0].id, pytest.approx(tokens[0].logprob))
    (bare,) = score(listener, root(listener, 1), SAID[:1])
    assert {token.likeliest for token in bare} == {()}
    assert [token.logprob for token in bare] == [token.logprob for token in tokens]
