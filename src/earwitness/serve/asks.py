"""What a request asks of a model, in the terms of the room of models; and what came of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from earwitness.models.exchange import Completion, Drawing, Prompt, Sense, shows_media
from earwitness.models.scoring import Scores
from earwitness.serve import media
from earwitness.serve.refusals import Refused
from earwitness.serve.requests import ChatRequest, CompletionRequest, Image, Message, Sampling, Sound, Text, Video


@dataclass(frozen=True)
class Ask:
    """One request. `name` is the model's or the adapter's; a prompt that is no Prompt is taken as it is, or as ids.

    The noise of sample i is a function of (`seed`, i). The answer is one of `choices`, if there are any. Scores are
    wanted where `likeliest` (of the answer) and `prompt_likeliest` are not None: how many tokens besides the own.
    """

    name: str
    prompt: Prompt | str | tuple[int, ...]
    how: Drawing
    seed: int
    choices: tuple[str, ...] = ()
    likeliest: int | None = None
    prompt_likeliest: int | None = None

    @property
    def alike(self) -> tuple[object, ...]:
        """What requests must have in common to be answered in one batch."""
        shown = isinstance(self.prompt, Prompt) and shows_media(self.prompt)
        return (self.name, self.how, self.choices, self.likeliest, self.prompt_likeliest, shown)


@dataclass(frozen=True)
class Reply:
    """What came of a request: a completion a sample, with its tokens' scores (empty where none were wanted).

    `prompt_scores` are of the prompt's second token and on. `words` are the texts of all tokens that are scored.
    """

    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    scores: tuple[Scores, ...]
    prompt_scores: Scores
    words: dict[int, str]


def chat_ask(request: ChatRequest, sense: Sense, window: int) -> Ask:
    """Decode a chat request for a model of a sense. Raises Refused."""
    *earlier, last = request.messages
    if last.role != "user":
        raise Refused("the last message must be the user's: it is what is answered")
    shown = [part for part in last.content if not isinstance(part, Text)]
    if any(isinstance(part, Text) for part in last.content[: len(shown)]):
        raise Refused("pictures and sound must come before the words of their message: here they are read first")
    prompt = _shown(shown, sense, request)
    tokens = request.max_completion_tokens or request.max_tokens or window
    return Ask(
        name=request.model,
        prompt=Prompt(_words(last), None, wave=prompt.wave, film=prompt.film, earlier=_earlier(earlier)),
        how=_drawing(request, tokens),
        seed=_seed(request),
        choices=request.structured_outputs.choice if request.structured_outputs else (),
        likeliest=request.top_logprobs if request.logprobs else None,
    )


def completion_ask(request: CompletionRequest) -> Ask:
    """Return what a request for a plain completion asks."""
    return Ask(
        name=request.model,
        prompt=request.prompt,
        how=_drawing(request, request.max_tokens),
        seed=_seed(request),
        prompt_likeliest=request.prompt_logprobs,
    )


def _shown(parts: Sequence[Text | Video | Image | Sound], sense: Sense, request: ChatRequest) -> Prompt:
    """Return a prompt without words of the film or the sound in a request, or of neither."""
    sounds = [part for part in parts if isinstance(part, Sound)]
    videos = [part for part in parts if isinstance(part, Video)]
    images = [part for part in parts if isinstance(part, Image)]
    if sounds and sense != "hearing":
        raise Refused(f"{request.model} is served for its {sense}: it must not be given a sound")
    if (videos or images) and sense != "sight":
        raise Refused(f"{request.model} is served for its {sense}: it must not be given a picture")
    if len(sounds) + len(videos) > 1 or (videos and images):
        raise Refused("a request is about one clip: one video_url, or the image_urls of its frames, or one input_audio")
    if sounds:
        return Prompt("", wave=media.wave(sounds[0].input_audio.data))
    if videos or images:
        pictures = (
            media.sequence(videos[0].video_url.url) if videos else [media.picture(i.image_url.url) for i in images]
        )
        return Prompt("", film=media.film(pictures, request.media_io_kwargs.video))
    return Prompt("")


def _earlier(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    for message in messages:
        if not all(isinstance(part, Text) for part in message.content):
            raise Refused("only the last message may hold pictures or sound")
    return tuple((message.role, _words(message)) for message in messages)


def _words(message: Message) -> str:
    return "\n".join(part.text for part in message.content if isinstance(part, Text))


def _drawing(request: Sampling, max_tokens: int) -> Drawing:
    return Drawing(request.n, request.temperature, max_tokens, max(request.top_k, 0), request.top_p)


def _seed(request: Sampling) -> int:
    """A request without a seed (or with -1, as vLLM has it) gets one that nobody knows."""
    return secrets.randbits(62) if request.seed in (None, -1) else int(request.seed or 0)
