"""A transformers model in this process, embedded or real: it reads prompts, samples, and chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from earwitness.learn.losses import token_logprobs
from earwitness.learn.sampling import Decoding, sample
from earwitness.learn.tree import Branch, Root, Tree, pack
from earwitness.models.features import FeatureCache, Media, audio_tensors, video_tensors
from earwitness.models.loading import Loaded
from earwitness.models.places import ModelError
from earwitness.records import Clip, FinishReason
from earwitness.sources.clips import load_frames, load_sound

Sense = Literal["sight", "hearing", "reading"]
# What may pass the door of each sense. A teacher that heard, or a student that saw, would prove nothing.
ADMITTED: dict[Sense, frozenset[str]] = {
    "sight": frozenset({"pixel_values_videos", "video_grid_thw", "second_per_grid_ts"}),
    "hearing": frozenset({"input_features", "feature_attention_mask"}),
    "reading": frozenset(),
}
PART = {"sight": "video", "hearing": "audio"}
POSITION_ONLY = ("second_per_grid_ts",)  # needed to place tokens, not by the forward pass


class PromptError(Exception):
    """A prompt that must not be sent: its text would be taken for media or for the frame of the conversation."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked. Of the clip it gets what its sense can take: `frames` silent frames, or the sound.

    `wave` (N,) replaces the clip's own sound (16 kHz, mono).
    """

    text: str
    clip: Clip | None = None
    frames: int = 16
    wave: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Completion:
    """One sample: its text without special tokens, its token ids, and why it ended."""

    text: str
    ids: tuple[int, ...]
    finish: FinishReason


class LocalModel:
    """A loaded model with one sense. Everything it is shown passes `admit`."""

    def __init__(self, name: str, loaded: Loaded, sense: Sense) -> None:
        self.name, self.sense = name, sense
        self.model, self.tokenizer, self.family = loaded.model, loaded.tokenizer, loaded.family
        self.extractor, self.video = loaded.extractor, loaded.video
        self.manner, self.trained_prompt = loaded.manner, loaded.prompt
        self.cache = FeatureCache()
        if sense != "reading" and sense not in self.family.senses:
            able = ", ".join(sorted(self.family.senses)) or "only reading"
            raise ModelError(f"{name} is asked for {sense}, and its class is capable of {able}: name another model")
        self.special = [t for t in self.tokenizer.all_special_tokens if t != self.tokenizer.unk_token]
        stop = self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id
        self.stop = tuple(stop) if isinstance(stop, list) else (int(stop),)
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stop[0]
        self.forbidden = tuple(sorted(set(self.tokenizer.all_special_ids) - set(self.stop)))

    def encode(self, prompt: Prompt) -> Root:
        """Turn a prompt into token ids, positions and media tensors. Raises PromptError, MediaError or MediaLimit."""
        self._refuse_placeholders(prompt.text)
        parts: list[dict[str, str]] = [{"type": "text", "text": prompt.text}]
        media: Media = {}
        count = 0
        if self.sense != "reading" and (prompt.clip is not None or prompt.wave is not None):
            media, count = self._perceive(prompt)
            parts.insert(0, {"type": PART[self.sense]})
        admit(self.sense, media)
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor(self.tokenizer(self._expand(text, count), add_special_tokens=False)["input_ids"])
        make = self.family.positions
        positions = make(ids, self.model.config, media) if make else None
        shown = {k: v for k, v in media.items() if k not in POSITION_ONLY}
        return Root(tuple(ids.tolist()), positions, shown)

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return a response's token ids, ended by the stop token: what a student is trained to say."""
        return (*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.stop[0])

    def sample(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        temperature: float,
        max_tokens: int,
        keys: Sequence[tuple[object, ...]],
    ) -> list[list[Completion]]:
        """Draw `samples` completions of each prompt; keys make the noise a function of what is drawn."""
        return self.sample_roots([self.encode(p) for p in prompts], samples, temperature, max_tokens, keys)

    def sample_roots(
        self,
        roots: Sequence[Root],
        samples: int,
        temperature: float,
        max_tokens: int,
        keys: Sequence[tuple[object, ...]],
    ) -> list[list[Completion]]:
        """Like `sample`, for prompts that are encoded already."""
        decoding = Decoding(temperature, self._room(roots, max_tokens), self.pad, self.stop, self.forbidden)
        drawn = sample(self.model, roots, samples, decoding, keys)
        return [[self._complete(s.ids, s.stopped) for s in group] for group in drawn]

    @torch.no_grad()
    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[list[float]]:
        """Return the log-probability (nats) of each option as the whole beginning of the answer to each prompt."""
        branches = tuple(
            Branch.trained(self.tokenizer(option, add_special_tokens=False)["input_ids"]) for option in options
        )
        batch = pack([Tree(self.encode(p), branches) for p in prompts], self.pad).to(self.model.device)
        logprobs = token_logprobs(self.model, batch)
        sums = torch.zeros(len(prompts) * len(options), device=logprobs.device).index_add(0, batch.branch, logprobs)
        scores: list[list[float]] = sums.view(len(prompts), len(options)).tolist()
        return scores

    def _perceive(self, prompt: Prompt) -> tuple[Media, int]:
        where = prompt.clip.id if prompt.clip else "a given waveform"
        if self.sense == "sight":
            assert prompt.clip is not None
            clip = prompt.clip
            make = lambda: video_tensors(self.model.config, self.video, load_frames(clip, prompt.frames))  # noqa: E731
            return self.cache.get((clip, prompt.frames), make)
        if prompt.wave is not None:
            return audio_tensors(self.extractor, prompt.wave, where)
        assert prompt.clip is not None
        clip = prompt.clip
        return self.cache.get(clip, lambda: audio_tensors(self.extractor, load_sound(clip), where))

    def _expand(self, text: str, count: int) -> str:
        placeholder = self.family.placeholder
        if not count or placeholder is None:
            return text
        before, found, after = text.partition(placeholder)
        if not found or placeholder in after:
            raise ModelError(f"the chat template of {self.name} does not place one {placeholder} per clip")
        return before + placeholder * count + after

    def _refuse_placeholders(self, text: str) -> None:
        found = next((token for token in self.special if token in text), None)
        if found:
            raise PromptError(f"the text holds {found!r}, which {self.name} would not read as text: reword it")

    def _room(self, roots: Sequence[Root], max_tokens: int) -> int:
        window = int(self.model.config.get_text_config().max_position_embeddings)
        room = window - max(len(root.ids) for root in roots)
        if room < 1:
            raise PromptError(f"a prompt of {window - room} tokens does not fit {self.name}'s window of {window}")
        return min(max_tokens, room)

    def _complete(self, ids: tuple[int, ...], stopped: bool) -> Completion:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return Completion(text, ids, "stop" if stopped else "length")


def admit(sense: Sense, media: Media) -> None:
    """Let media tensors pass to a model, or raise ModelError: silent eyes get no sound, ears no picture."""
    foreign = set(media) - ADMITTED[sense]
    if foreign:
        raise ModelError(f"a model that is here for its {sense} must not be given {', '.join(sorted(foreign))}")

