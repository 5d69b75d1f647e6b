"""Which teachers can score a student's responses: by the names of its tokens, and by where it cuts a text."""

from __future__ import annotations

import re

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from earwitness.config import Model
from earwitness.learn.vocabularies import Cuts, SharedVocabulary, VocabularyError
from earwitness.models import connect
from teaching import world_tokenizer

NAMES = ("pupil", "reader")
RESPONSE = "<think>i hear dog , bell . so dog .</think>\n<answer>dog</answer>"
# How Qwen's tokenizers cut a text before they look for pairs: a line's end belongs to the signs before it.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def bytes_tokenizer(merges=(), added=()):
    """A byte-level tokenizer that cuts as Qwen's do, with some merges and added tokens."""
    vocab = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for a, b in merges:
        vocab[a + b] = len(vocab)
    core = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    built = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    built.add_tokens([AddedToken(token, normalized=False, special=False) for token in added])
    return built


def shared(student, teacher, sizes=None):
    return SharedVocabulary.of(student, teacher, sizes or (len(student), len(teacher)), NAMES)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_same_tokenizer_shares_everything_in_order():
    same = shared(world_tokenizer(), world_tokenizer())
    assert same.aligned and same.outside == 0 and torch.equal(same.student, torch.arange(len(same.student)))


def test_tokens_of_other_numbers_are_found_by_their_names():
    student, teacher = world_tokenizer(), world_tokenizer(order=3)
    both = shared(student, teacher)
    assert not both.aligned and both.outside == 0
    ids = ids_of(student, RESPONSE)
    there = both.translate(ids, student)
    assert list(there) != ids
    assert teacher.convert_ids_to_tokens(there) == student.convert_ids_to_tokens(ids)
    Cuts(teacher, student, NAMES).refuse_others(RESPONSE, there)


def test_rows_without_a_token_are_outside():
    """Tables are longer than vocabularies: both are cut to what can be scored."""
    student, teacher = world_tokenizer(), world_tokenizer()
    size = len(student)
    padded = shared(student, teacher, (size + 26, size + 6))
    assert padded.aligned and padded.outside == 26 and len(padded.teacher) == size
    short = shared(student, teacher, (size, size - 2))
    assert short.aligned and short.outside == 2 and int(short.teacher.max()) == size - 3


class Numbered:
    """As much of a tokenizer as is looked at: its tokens' numbers."""

    def __init__(self, tokens):
        self.get_vocab = lambda: {token: i for i, token in enumerate(tokens)}


def test_a_few_tokens_of_other_numbers_do_not_cost_the_slice():
    """Qwen2.5-Omni and Qwen3 number their special tokens each in their own way, behind 151,646 that are alike."""
    words = [f"w{i}" for i in range(500)]
    omni, qwen3 = Numbered([*words, "<audio>", "<tool>", "<image>"]), Numbered([*words, "<tool>", "<think>", "<image>"])
    both = SharedVocabulary.of(omni, qwen3, (510, 503), NAMES)
    assert both.aligned and len(both.student) == 500 and both.outside == 10
    assert both.translate([3, 501, 502], None) == (3, 500, 502), "responses may hold them all the same"
    many = SharedVocabulary.of(omni, Numbered([*words[:400], "<x>", *words[400:]]), (503, 501), NAMES)
    assert not many.aligned and len(many.student) == 500 and not many.renumbered


def test_a_token_that_the_teacher_lacks_is_named():
    student, teacher = world_tokenizer(), world_tokenizer(without=("dog", "bell"))
    both = shared(student, teacher)
    assert both.outside == 2
    with pytest.raises(VocabularyError) as error:
        both.translate(ids_of(student, RESPONSE), student)
    assert re.search(r"reader has no token for 2 of .* pupil .*\(15 'bell', 21 'dog'\)", str(error.value))
    both.translate(ids_of(student, "i hear drum ."), student)


def test_tokenizers_of_two_kinds_are_refused():
    with pytest.raises(VocabularyError, match="pupil and reader share no token at all"):
        shared(world_tokenizer(), world_tokenizer(), (1, 0))


def test_a_teacher_that_cuts_otherwise_is_refused():
    student = bytes_tokenizer(merges=[("d", "o"), ("do", "g")])
    teacher = bytes_tokenizer(merges=[("g", "e"), ("d", "o"), ("do", "g")])
    both, cuts = shared(student, teacher), Cuts(teacher, student, NAMES)
    cuts.refuse_others("a dog", both.translate(ids_of(student, "a dog"), student))
    there = both.translate(ids_of(student, "a doge"), student)
    with pytest.raises(
        VocabularyError, match=r"first at token 2: \['do', 'ge'\] where the student says \['dog', 'e'\]"
    ):
        cuts.refuse_others("a doge", there)
    with pytest.raises(VocabularyError, match=r"first at token 3: \[\] where the student says \['e'\]"):
        cuts.refuse_others("a dog", there)


def test_tags_that_are_one_token_in_the_teacher_alone_pass_as_pieces():
    """The student's pieces grow together with what follows: `>` and a line's end are one token to it."""
    merges = [(">", "Ċ"), ("t", "h"), ("<", "/"), ("Ċ", "Ċ"), ("s", "o"), (">", "so")]
    student = bytes_tokenizer(merges, added=["<|x|>", "<last>"])
    teacher = bytes_tokenizer(merges, added=["<tool>", "<think>", "</think>", "<|x|>", "<last>"])
    both, cuts = shared(student, teacher), Cuts(teacher, student, NAMES)
    text = "<think>so it is a dog</think>\n<answer>dog</answer><last>"
    ids = ids_of(student, text)
    said = student.convert_ids_to_tokens(ids)
    assert ">so" in said and ">Ċ" in said and "<last>" in said
    assert "<think>" in teacher.convert_ids_to_tokens(ids_of(teacher, text))
    cuts.refuse_others(text, both.translate(ids, student))


def test_tags_that_are_one_token_in_the_student_alone_are_refused():
    student, teacher = bytes_tokenizer(added=["<think>"]), bytes_tokenizer()
    with pytest.raises(VocabularyError, match="'<think>'"):
        shared(student, teacher).translate(ids_of(student, RESPONSE), student)


def test_the_embedded_reader_cuts_as_the_embedded_student_does():
    """Its files say how; the tokenizer that transformers takes for a Qwen2 would cut otherwise."""
    student = connect(Model(kind="world", name="student"), "student").tokenizer
    teacher = connect(Model(kind="world", name="text-core"), "textual_teacher").tokenizer
    assert student.get_vocab() == teacher.get_vocab()
    assert ids_of(student, RESPONSE) == ids_of(teacher, RESPONSE)
    assert student.unk_token_id not in ids_of(teacher, RESPONSE)
    ids = shared(student, teacher).translate(ids_of(student, RESPONSE), student)
    Cuts(teacher, student, NAMES).refuse_others(RESPONSE, ids)
