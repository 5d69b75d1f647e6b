"""The bodies of requests. What would change an answer and is not understood is refused, never passed over."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from earwitness.serve.refusals import Refused

MOST_SAMPLES = 128
MOST_LIKELIEST = 20
MOST_OF_PROMPT = 1024  # likeliest tokens for each of a prompt
MOST_CHOICES = 64
MOST_INDEX = 2**53  # of a frame: what a float can still count
COLDEST = 1e-5  # the least temperature beside 0 that arithmetic bears

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """An object of the protocol. Entries that nobody reads are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def whole_characters(text: str) -> str:
    """Return a text as it is. Raises ValueError for half a character, which JSON can say and no tokenizer takes."""
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise ValueError("holds half of a surrogate pair")
    return text


class VideoTimes(Body):
    """When frames were taken: frame i at `frames_indices[i]` / `fps` seconds of a clip of `duration` seconds."""

    num_frames: int = Field(-1, ge=-1)
    fps: float = Field(1.0, gt=0, allow_inf_nan=False)
    frames_indices: tuple[Annotated[int, Field(ge=0, le=MOST_INDEX)], ...] | None = None
    total_num_frames: int | None = Field(None, ge=1, le=MOST_INDEX + 1)
    duration: float | None = Field(None, gt=0, allow_inf_nan=False)
    do_sample_frames: Literal[False] = False


class MediaTimes(Body):
    """`media_io_kwargs`."""

    video: VideoTimes = VideoTimes()


class Url(Body):
    """Where a picture or a video is: always a data URL."""

    url: str
    detail: str | None = None


class Audio(Body):
    """A sound in base64."""

    data: str
    format: Literal["wav"]


class Text(Body):
    """Words."""

    type: Literal["text"]
    text: str

    @field_validator("text")
    @classmethod
    def _whole_characters(cls, text: str) -> str:
        return whole_characters(text)


class Video(Body):
    """The frames of a film in one part. `uuid` is taken and not used: nothing is kept by it."""

    type: Literal["video_url"]
    video_url: Url
    uuid: str | None = None


class Image(Body):
    """One frame of a film."""

    type: Literal["image_url"]
    image_url: Url
    uuid: str | None = None


class Sound(Body):
    """The sound of a clip."""

    type: Literal["input_audio"]
    input_audio: Audio
    uuid: str | None = None


Part = Annotated[Text | Video | Image | Sound, Field(discriminator="type")]


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Part, ...]

    @field_validator("content", mode="before")
    @classmethod
    def _words_alone(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Choices(Body):
    """`structured_outputs`: the answer is one of a list."""

    choice: tuple[Name, ...] = Field(min_length=1, max_length=MOST_CHOICES)


class ResponseFormat(BaseModel):
    """`response_format`: only `text`, which every answer is. Whatever else a format says is not read."""

    type: str


class Sampling(Body):
    """What both kinds of request have in common. `stream` and `user` change nothing here.

    Neither tokens below a share of the likeliest (`min_p`) nor repeated ones are ever held back.
    """

    model: Name
    n: int = Field(1, ge=1, le=MOST_SAMPLES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=0)
    repetition_penalty: float = Field(1.0, ge=1, le=1)
    return_token_ids: bool = False
    stream: Literal[False] = False
    user: str | None = None

    @field_validator("temperature")
    @classmethod
    def _not_too_cold(cls, temperature: float) -> float:
        if 0 < temperature < COLDEST:
            raise ValueError(f"must be 0, which is greedy, or at least {COLDEST}")
        return temperature

    @model_validator(mode="after")
    def _greedy_once(self) -> Sampling:
        if self.n > 1 and not self.temperature:
            raise ValueError(f"n must be 1 when using greedy sampling, got {self.n}")
        return self


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: tuple[Message, ...] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_LIKELIEST)
    structured_outputs: Choices | None = None
    response_format: ResponseFormat = ResponseFormat(type="text")
    media_io_kwargs: MediaTimes = MediaTimes()

    @model_validator(mode="after")
    def _understood(self) -> ChatRequest:
        if self.response_format.type != "text":
            raise ValueError(
                f"response_format {self.response_format.type!r} is not supported by this server: "
                'for an answer from a list use structured_outputs {"choice": [...]}'
            )
        if self.structured_outputs and (self.top_k > 0 or self.top_p < 1):
            raise ValueError("a choice from a list is drawn from all of them: leave top_k and top_p out")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs = true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self


class CompletionRequest(Sampling):
    """`POST /v1/completions`: a prompt as it is, text or token ids, without a chat template and without media."""

    prompt: str | tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    max_tokens: int = Field(16, ge=0)
    prompt_logprobs: int | None = Field(None, ge=0, le=MOST_OF_PROMPT)
    echo: Literal[False] = False

    @field_validator("prompt")
    @classmethod
    def _whole_characters(cls, prompt: str | tuple[int, ...]) -> str | tuple[int, ...]:
        return whole_characters(prompt) if isinstance(prompt, str) else prompt


class LoadAdapter(Body):
    """`POST /v1/load_lora_adapter`. `base_model_name` says of several served models which one it is put on."""

    lora_name: Name
    lora_path: Name
    base_model_name: Name | None = None


class UnloadAdapter(Body):
    """`POST /v1/unload_lora_adapter`."""

    lora_name: Name


class UpdateWeights(Body):
    """`POST /update_weights_from_disk`. `model` says of several served models which one is meant."""

    model_path: Name
    model: Name | None = None


def parsed(body: bytes, kind: type[B]) -> B:
    """Read a request's body; entries that are null are as if they were not there. Raises Refused."""
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON") from None
    if not isinstance(data, dict):
        raise Refused("the body must be a JSON object")
    try:
        return kind.model_validate({name: value for name, value in data.items() if value is not None})
    except ValidationError as error:
        raise Refused(_told(error)) from None


def _told(error: ValidationError) -> str:
    """Say what is wrong first, without what was sent: it may be megabytes."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(map(str, first["loc"]))[:200]
    if first["type"] == "extra_forbidden":
        return f"{where} is not supported by this server: leave it out"
    return f"{where}: {first['msg']}"[:500] if where else str(first["msg"])
