"""A transformers model in this process, embedded or real: it reads prompts, samples, and chooses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from earwitness.learn.attention import unwrapped
from earwitness.learn.hearing import frozen_ears, hear
from earwitness.learn.inputs import EMBEDDINGS, EMBEDDINGS_MASK
from earwitness.learn.losses import token_logprobs, window
from earwitness.learn.sampling import LEAF, Decoding, sample_trees
from earwitness.learn.tree import Branch, Root, Tree, ends, join, pack, share
from earwitness.media import RATE, Frames
from earwitness.models.exchange import (
    OF_THE_QUESTION,
    Completion,
    Drawing,
    HeardInPart,
    Prompt,
    PromptError,
    Sense,
    TooLong,
    parts,
    shows_media,
)
from earwitness.models.features import FeatureCache, Media, audio_tensors, video_tensors
from earwitness.models.loading import Loaded
from earwitness.models.places import ModelError
from earwitness.records import Clip
from earwitness.sources.clips import load_frames, load_sound

# What may pass the door of each sense. A teacher that heard, or a student that saw, would prove nothing.
ADMITTED: dict[Sense, frozenset[str]] = {
    "sight": frozenset({"pixel_values_videos", "video_grid_thw", "second_per_grid_ts"}),
    "hearing": frozenset(
        {"input_features", "feature_attention_mask", "input_features_mask", EMBEDDINGS, EMBEDDINGS_MASK}
    ),
    "reading": frozenset(),
}
# How a chat template is told of a clip; templates look for the type, for the key, or for either.
PART: dict[Sense, dict[str, str]] = {
    "sight": {"type": "video", "video": ""},
    "hearing": {"type": "audio", "audio": ""},
}
MOST_EMPTY = 2  # slots for each sample that is drawn: rows of few prompts wait for those of many
POSITION_ONLY = ("second_per_grid_ts",)  # needed to place tokens, not by the forward pass


class LocalModel:
    """A loaded model with one sense. Everything it is shown passes `admit`."""

    def __init__(self, name: str, loaded: Loaded, sense: Sense) -> None:
        self.name, self.sense = name, sense
        self.model, self.tokenizer, self.family = loaded.model, loaded.tokenizer, loaded.family
        self.extractor, self.video = loaded.extractor, loaded.video
        self.manner, self.trained_prompt = loaded.manner, loaded.prompt
        self.long_clips = loaded.long_clips
        self.cache = FeatureCache()
        self.notes: dict[Clip | None, str] = {}
        self._hears_ahead = False
        if sense != "reading" and sense not in self.family.senses:
            able = ", ".join(sorted(self.family.senses)) or "only reading"
            raise ModelError(f"{name} is asked for {sense}, and its class is capable of {able}: name another model")
        if self.long_clips == "chunk" and self.family.ears is not None and not self.family.ears.several:
            raise ModelError(
                f'long_clips = "chunk" needs a model that takes several clips in a prompt, and {name} takes one: '
                'use "truncate" or "refuse"'
            )
        self.special = self._special_ids()
        stop = self.model.generation_config.eos_token_id
        stop = self.tokenizer.eos_token_id if stop is None else stop
        self.stop = tuple(stop) if isinstance(stop, list) else (int(stop),)
        self.turn_end = self._turn_end()
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stop[0]
        self.forbidden = tuple(sorted(self.special - set(self.stop)))

    def encode(self, prompt: Prompt) -> Root:
        """Turn a prompt into token ids, positions and media tensors. Raises PromptError, MediaError or MediaLimit."""
        for text in (*(said for _, said in prompt.earlier), prompt.text):
            self._refuse_placeholders(text)
        media: Media = {}
        counts: tuple[int, ...] = ()
        if self.sense != "reading" and shows_media(prompt):
            media, counts = self._perceive(prompt)
        admit(self.sense, media)
        turns = [{"role": role, "content": [{"type": "text", "text": said}]} for role, said in prompt.earlier]
        content = [*(PART[self.sense] for _ in counts), {"type": "text", "text": prompt.text}]
        turns.append({"role": "user", "content": content})
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor(self._ids(self._expand(text, counts)))
        if len(ids) >= window(self.model):
            raise TooLong(
                f"a prompt of {len(ids)} tokens leaves {self.name} no room to answer in its window of "
                f"{window(self.model)}: give the question a shorter span, or fewer frames"
            )
        make = self.family.positions
        positions = make(ids, self.model.config, media) if make else None
        shown = {k: v for k, v in media.items() if k not in POSITION_ONLY}
        return Root(tuple(ids.tolist()), positions, shown)

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return a response's token ids, ended by the stop token: what a student is trained to say."""
        return (*self._ids(text), self.turn_end)

    def check(self, prompt: Prompt) -> None:
        """Raise PromptError, MediaError or MediaLimit for a prompt that cannot be encoded."""
        self.encode(prompt)

    def encode_each(self, prompts: Sequence[Prompt]) -> list[Root | Exception]:
        """Encode prompts one by one; one that cannot be encoded becomes the reason why."""
        encoded: list[Root | Exception] = []
        for prompt in prompts:
            try:
                encoded.append(self.encode(prompt))
            except OF_THE_QUESTION as error:
                encoded.append(error)
        return encoded

    def draw(
        self, prompts: Sequence[Prompt], how: Drawing, keys: Sequence[tuple[object, ...]]
    ) -> list[list[Completion] | Exception]:
        """Draw completions of each prompt, or say why one cannot be encoded. The noise is a function of the keys.

        Prompts about one clip share it, wherever it comes before their words, unless most clips have fewer prompts.
        """
        encoded = self.encode_each(prompts)
        good = {number: root for number, root in enumerate(encoded) if not isinstance(root, Exception)}
        trees, order = self._by_clip([prompts[n] for n in good], [Tree(root, (LEAF,)) for root in good.values()])
        numbers = list(good)
        if len(trees) * max((len(ends(tree)) for tree in trees), default=0) > MOST_EMPTY * len(good):
            trees, order = [Tree(root, (LEAF,)) for root in good.values()], list(range(len(good)))
        placed = [numbers[place] for place in order]
        drawn = dict(zip(placed, self._drawn(trees, how, [keys[number] for number in placed]), strict=True))
        return [root if isinstance(root, Exception) else drawn[number] for number, root in enumerate(encoded)]

    def draw_roots(
        self, roots: Sequence[Root], how: Drawing, keys: Sequence[tuple[object, ...]]
    ) -> list[list[Completion]]:
        """Like `draw`, for prompts that are encoded already."""
        return self._drawn([Tree(root, (LEAF,)) for root in roots], how, keys)

    def _drawn(self, trees: Sequence[Tree], how: Drawing, keys: Sequence[tuple[object, ...]]) -> list[list[Completion]]:
        decoding = Decoding(how.temperature, how.max_tokens, self.pad, self.stop, self.forbidden, how.top_k, how.top_p)
        drawn = sample_trees(self.model, trees, how.samples, decoding, keys)
        return [[self._complete(s.ids, s.stopped) for s in group] for group in drawn]

    @torch.no_grad()
    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[list[float]]:
        """Return the log-probability (nats) of each option as the whole beginning of the answer to each prompt.

        Prompts about one clip share it, wherever it comes before their words.
        """
        branches = tuple(Branch.trained(self._ids(option)) for option in options)
        if not all(branch.ids for branch in branches):
            raise ValueError(f"an option without a token cannot be scored: {list(options)}")
        if not prompts:
            return []
        trees, order = self._by_clip(prompts, [Tree(self.encode(p), branches) for p in prompts])
        batch = pack(trees, self.pad).to(self.model.device)
        logprobs = token_logprobs(self.model, batch)
        sums = torch.zeros(len(prompts) * len(options), device=logprobs.device).index_add(0, batch.branch, logprobs)
        scores = dict(zip(order, sums.view(len(prompts), len(options)).tolist(), strict=True))
        return [scores[number] for number in range(len(prompts))]

    def _by_clip(self, prompts: Sequence[Prompt], trees: Sequence[Tree]) -> tuple[list[Tree], list[int]]:
        """Return one tree per clip, and the numbers of the prompts in the order of their branches."""
        about: dict[object, list[int]] = {}
        for number, prompt in enumerate(prompts):
            key = (prompt.clip, prompt.frames, id(prompt.wave), id(prompt.film))
            about.setdefault(key if shows_media(prompt) else number, []).append(number)
        placeholder = self.tokenizer.convert_tokens_to_ids(self.family.placeholder) if self.family.placeholder else None
        shared: list[Tree] = []
        for numbers in about.values():
            same = [trees[number] for number in numbers]
            try:
                shared.append(share(same, placeholder))
            except ValueError:  # their words come before the clip
                shared += same
        return shared, [number for numbers in about.values() for number in numbers]

    def hear_ahead(self, max_bytes: int = 4 * 2**30) -> None:
        """From now on keep what the encoder makes of each clip, and give prompts that in place of its features.

        Up to `max_bytes` of it are kept. Raises ModelError where the encoder is trained: it would not stay the same.
        """
        if not frozen_ears(self.model):
            raise ModelError(f"the encoder of {self.name} is trained: what it hears cannot be kept from step to step")
        self._hears_ahead = True
        self.cache = FeatureCache(max_bytes)

    def _perceive(self, prompt: Prompt) -> tuple[Media, tuple[int, ...]]:
        clip, frames = prompt.clip, prompt.frames
        where = clip.id if clip else "a given waveform"
        if prompt.wave is not None:
            if self.sense != "hearing":
                raise ModelError(f"{self.name} is here for its {self.sense} and must not be given a sound")
            return self._listen(prompt.wave, clip, where)
        if prompt.film is not None:
            if self.sense != "sight":
                raise ModelError(f"{self.name} is here for its {self.sense} and must not be given a picture")
            return self._look(prompt.film)
        assert clip is not None
        if self.sense == "sight":
            return self.cache.get((clip, frames), lambda: self._look(load_frames(clip, frames)))
        return self.cache.get(clip, lambda: self._listen(load_sound(clip), clip, where))

    def _look(self, film: Frames) -> tuple[Media, tuple[int, ...]]:
        media, count = video_tensors(self.model.config, self.video, film)
        return media, (count,)

    def _listen(self, wave: NDArray[np.float32], clip: Clip | None, where: str) -> tuple[Media, tuple[int, ...]]:
        ears, config = self.family.ears, unwrapped(self.model).config
        assert ears is not None
        heard = parts(wave, ears.longest(self.extractor), self.long_clips)
        if sum(map(len, heard)) < len(wave):
            text = f"only the first {len(heard[0]) / RATE:g} s of {len(wave) / RATE:.1f} s were heard"
            if clip not in self.notes:
                self.notes[clip] = text
                warnings.warn(f"{where}: {text}", HeardInPart, stacklevel=2)
        made = [audio_tensors(self.extractor, part, where, ears, config) for part in heard]
        media, counts = join([m for m, _ in made]), tuple(count for _, count in made)
        return (hear(self.model, media, sum(counts)) if self._hears_ahead else media), counts

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _special_ids(self) -> frozenset[int]:
        """Return the tokens that are no text: a prompt's text must not hold them, and none is ever sampled."""
        added = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        placeholder = (
            {self.tokenizer.convert_tokens_to_ids(self.family.placeholder)} if self.family.placeholder else set()
        )
        return frozenset(added | placeholder | set(self.tokenizer.all_special_ids))

    def _turn_end(self) -> int:
        """Return the stop token that the chat template puts behind an answer: what a student learns to end with."""
        turns = [{"role": role, "content": [{"type": "text", "text": "~"}]} for role in ("user", "assistant")]
        told = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return next((i for i in self._ids(told.rpartition("~")[2]) if i in self.stop), self.stop[0])

    def _expand(self, text: str, counts: tuple[int, ...]) -> str:
        placeholder = self.family.placeholder
        if not counts or placeholder is None:
            return text
        first, *others = text.split(placeholder)
        if len(others) != len(counts):
            raise ModelError(f"the chat template of {self.name} does not place one {placeholder} per clip")
        return first + "".join(placeholder * count + rest for count, rest in zip(counts, others, strict=True))

    def _refuse_placeholders(self, text: str) -> None:
        unknown = self.tokenizer.unk_token_id
        found = next((i for i in self._ids(text) if i in self.special and i != unknown), None)
        if found is not None:
            token = self.tokenizer.convert_ids_to_tokens(found)
            raise PromptError(f"the text holds {token!r}, which {self.name} would not read as text: reword it")

    def _complete(self, ids: tuple[int, ...], stopped: bool) -> Completion:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return Completion(text, ids, "stop" if stopped else "length")


def admit(sense: Sense, media: Media) -> None:
    """Let media tensors pass to a model, or raise ModelError: silent eyes get no sound, ears no picture."""
    foreign = set(media) - ADMITTED[sense]
    if foreign:
        raise ModelError(f"a model that is here for its {sense} must not be given {', '.join(sorted(foreign))}")
