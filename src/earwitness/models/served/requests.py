"""The bodies of chat completions: what is said to a server, and how its kind wants it said."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from earwitness.config import Model
from earwitness.models.exchange import Drawing
from earwitness.models.served.call import ServerError
from earwitness.models.served.profiles import wire_of
from earwitness.models.served.showing import Shown
from earwitness.sources.encoded import Film, samples_in

PATH = "/chat/completions"
TICKS = 1000  # a frame's time is told as a whole number of these per second: never off by more than half of one
TOP = 20  # tokens whose log-probabilities servers give at most
TOKENS_PER_SECOND = 50  # of sound, and
PIXELS_PER_TOKEN = 196  # of a picture: more than open models take


@dataclass(frozen=True)
class Asked:
    """How a prompt is to be answered, beside how completions are drawn.

    `options` are the only answers that the server may give; `top` log-probabilities are asked for of each token (0:
    none); `ids` asks for token ids, of the prompt and of the samples, and for the samples' own log-probabilities.
    """

    seed: int | None = None
    options: tuple[str, ...] = ()
    top: int = 0
    ids: bool = False


def body(spec: Model, shown: Shown, text: str, how: Drawing, asked: Asked = Asked()) -> bytes:
    """Return the JSON of a chat completion. The clip comes before the words, so that questions about it share it."""
    wire = wire_of(spec)
    content = [*_film_parts(shown.film, wire.frames), *map(_sound_part, shown.sounds), {"type": "text", "text": text}]
    made: dict[str, Any] = {
        "model": spec.adapter or spec.name,
        "messages": [{"role": "user", "content": content}],
        **_sampling(spec, how),
    }
    if shown.film is not None and wire.frames == "jpeg_sequence":
        made["media_io_kwargs"] = {"video": film_clock(shown.film)}
    if how.samples > 1:
        made["n"] = how.samples
    if asked.seed is not None:
        made["seed"] = asked.seed
    if asked.options:
        made |= _held_to(asked.options, wire.choices)
    elif how.schema is not None:
        made |= _held_to_schema(json.loads(how.schema), wire.choices)
    if asked.top or asked.ids:
        made |= {"logprobs": True, "top_logprobs": asked.top}
    if asked.ids:
        made["return_token_ids"] = True
    return json.dumps(made).encode()


def film_clock(film: Film) -> dict[str, Any]:
    """Return vLLM's account of a frame sequence, in which index / fps is the time at which a frame appears.

    `num_frames` stands beside `fps` because the one without the other makes the server cut the film after 32 frames.
    """
    indices: list[int] = []
    for time in film.times:
        indices.append(max(round(time * TICKS), indices[-1] + 1 if indices else 0))  # servers want them to rise
    total = max([round(film.duration * TICKS), len(indices), *(index + 1 for index in indices)])
    return {
        "num_frames": -1,
        "fps": TICKS,
        "frames_indices": indices,
        "total_num_frames": total,
        "duration": film.duration,
        "do_sample_frames": False,
    }


def most_tokens(shown: Shown, text: str, how: Drawing) -> int:
    """Return an upper bound of the tokens that a request uses (some of OpenAI's small models count pictures higher)."""
    heard = sum(samples_in(sound) for sound in shown.sounds) / 16_000 * TOKENS_PER_SECOND
    seen = 0 if shown.film is None else len(shown.film.pictures) * (shown.film.pixels / PIXELS_PER_TOKEN + 85)
    return round(64 + len(text.encode()) + heard + seen) + how.samples * how.max_tokens


def _film_parts(film: Film | None, frames: Literal["jpeg_sequence", "images"]) -> list[dict[str, Any]]:
    if film is None:
        return []
    pictures = [base64.b64encode(picture).decode() for picture in film.pictures]
    if frames == "jpeg_sequence":
        return [{"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + ",".join(pictures)}}]
    return [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{p}"}} for p in pictures]


def _sound_part(sound: bytes) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound).decode(), "format": "wav"}}


def _sampling(spec: Model, how: Drawing) -> dict[str, Any]:
    """Say all that decides a draw: a server fills what is left out from the model's own defaults, and tells nobody."""
    if spec.profile == "openai":
        if how.top_k:
            raise ServerError(f"{spec.name}: OpenAI draws from all tokens; set top_k = 0")
        return {"temperature": how.temperature, "top_p": how.top_p, "max_completion_tokens": how.max_tokens}
    made: dict[str, Any] = {"temperature": how.temperature, "top_p": how.top_p, "max_tokens": how.max_tokens}
    if spec.profile in ("vllm", "sglang"):
        made |= {"top_k": how.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
    elif spec.profile == "transformers-serve":  # a temperature alone leaves it greedy
        drawn = {"do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k}
        chosen = drawn if how.temperature else {"do_sample": False}
        made["generation_config"] = json.dumps({**chosen, "max_new_tokens": how.max_tokens})
    elif how.top_k:
        made["top_k"] = how.top_k
    return made


def _held_to(options: Sequence[str], choices: str) -> dict[str, Any]:
    if choices == "structured_outputs":
        return {"structured_outputs": {"choice": list(options)}}
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(options)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return _held_to_schema(schema, choices)


def _held_to_schema(schema: dict[str, Any], choices: str) -> dict[str, Any]:
    if choices == "structured_outputs":
        return {"structured_outputs": {"json": schema}}
    if choices == "none":
        return {}
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    }
