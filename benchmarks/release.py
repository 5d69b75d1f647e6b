"""A random model in a folder, with tokenizer, feature extractor and chat template, as releases come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shapes import AUDIO, FIRST_WORD, FRAMES_A_SECOND, PAD, STOP, Shape, listener

SPECIAL = {PAD: "<|endoftext|>", STOP: "<|im_end|>", AUDIO: "<|AUDIO|>", 3: "<|audio_bos|>", 4: "<|audio_eos|>"}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %} <|im_end|> {% endfor %}{% if add_generation_prompt %} w7{% endif %}"
)


def write(shape: Shape, folder: Path) -> Path:
    """Write a model of this shape and all that is needed to ask it."""
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=shape.mels, chunk_length=shape.seconds, return_attention_mask=True)
    assert extractor.nb_max_frames == shape.seconds * FRAMES_A_SECOND
    tokenizer = word_tokenizer(shape.words)
    Qwen2AudioProcessor(extractor, tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    extractor.save_pretrained(folder)
    model = listener(shape)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = STOP, PAD
    model.save_pretrained(folder)
    return folder


def word_tokenizer(count: int) -> Any:
    """Return a tokenizer whose words are w5, w6, ... with these ids."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {SPECIAL.get(i, f"w{i}"): i for i in range(count)}
    raw = Tokenizer(models.WordLevel(words, unk_token=f"w{FIRST_WORD - 1}"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=SPECIAL[STOP],
        pad_token=SPECIAL[PAD],
        extra_special_tokens=list(SPECIAL.values()),
    )
