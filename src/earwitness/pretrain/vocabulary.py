"""The words of the embedded world, and the tokenizer files that its models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from earwitness.world.puzzles import ORDINALS
from earwitness.world.scenes import SOUNDS
from earwitness.world.speech import MOODS, SAYINGS, VOICES

MEDIA = (
    "<|audio_bos|>",
    "<|AUDIO|>",
    "<|audio_eos|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
    "<|image_pad|>",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *MEDIA)
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<unk>")
WORDS = (  # noqa: SIM905 - as a sentence it can be read
    "user assistant system 1 2 3 4 5 6 7 8 yes no what is heard right after before the ? how many times which sound "
    "most often one of these sounds options i hear see , . : so in order guess list describe say think would be and "
    "not claim true it does at there count nothing silence a last louder softer or than loud soft look picture scene"
).split()
SPEECH_WORDS = "word words said who speaker feel".split()  # noqa: SIM905
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endif %} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)


def vocabulary() -> list[str]:
    """Return every token in order of its id."""
    return list(dict.fromkeys([*SPECIAL, *TAGS, *SOUNDS, *ORDINALS, *WORDS, *VOICES, *SAYINGS, *MOODS, *SPEECH_WORDS]))


def tokenizer() -> Any:
    """Build the word-level tokenizer (a transformers fast tokenizer) with its chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    built = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL),
    )
    built.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    built.chat_template = CHAT_TEMPLATE
    return built


class Words:
    """Fast encoding of text whose words are all known: `words("i hear dog")` gives ids."""

    def __init__(self) -> None:
        self.ids = {word: i for i, word in enumerate(vocabulary())}

    def __call__(self, text: str) -> tuple[int, ...]:
        """Return the ids of words that are separated by spaces."""
        return tuple(self.ids[word] for word in text.split())


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer's ordinary files."""
    tokenizer().save_pretrained(folder)
