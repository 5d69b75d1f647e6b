"""Models and where they run: in the package, in a folder, or behind a server."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from earwitness.config.base import Names, Section, later, where

Role = Literal["teacher", "checker", "student", "describer", "textual_teacher"]
Profile = Literal["vllm", "sglang", "openai", "transformers-serve", "custom"]


class Wire(Section):
    """What a server understands, for `profile = "custom"`; the other profiles say this themselves.

    `frames` are sent as one `jpeg_sequence` with times, or as `images`. `samples`: n of them in one request (`native`),
    or a request each (`fanout`). `seeds`: whether a seed decides each sample (`each`), or is not taken (`none`).
    `choices` says how an answer is held to a list: vLLM's `structured_outputs`, `response_format`, or `none`.
    `logprobs` are asked for where a server gives them. `reasoning` names the message's field that holds the thinking.
    """

    frames: Literal["jpeg_sequence", "images"] = "images"
    samples: Literal["native", "fanout"] = "fanout"
    seeds: Literal["each", "none"] = "none"
    choices: Literal["structured_outputs", "response_format", "none"] = "none"
    logprobs: bool = False
    reasoning: Literal["reasoning", "reasoning_content", "none"] = "none"


class Model(Section):
    """A model and where it runs: `world` (ships in the package), `local` (a transformers folder or hub name), `served`.

    `adapter` is a PEFT adapter's folder. `revision` is stated for hub and served models, whose weights we cannot hash.
    `long_clips` says what becomes of a clip that is longer than the model can hear at once: it fails (`refuse`), its
    end is cut off and a note says so (`truncate`), or it is heard in several parts (`chunk`, where the model can).

    A served model stands behind one or several `base_url`s (of any OpenAI-compatible server, described by `profile`,
    or by `wire` where that is `custom`) and is asked in the words of its `manner`. The key is read from the environment
    variable `api_key_env`. At most `concurrency` requests are under way per address (0: 64), no more per minute than
    `requests_per_minute` and `tokens_per_minute` allow (0: any number); one try takes at most `timeout` seconds, and a
    request is tried `attempts` times. `tokenizer` names the folder or hub name of a served textual teacher's own.
    A local student with a `base_url` can be asked there for its rollouts (`grpo.rollouts`).
    """

    kind: Literal["world", "local", "served"]
    name: str
    revision: str | None = None
    adapter: str | None = None
    long_clips: Literal["refuse", "truncate", "chunk"] = "refuse"
    manner: Literal["plain", "world"] = later("plain")
    tokenizer: str | None = later(None)
    base_url: Names = where(())
    profile: Profile = where("vllm")
    wire: Wire | None = where(None)
    api_key_env: str | None = where(None)
    concurrency: int = where(0, ge=0)
    requests_per_minute: int = where(0, ge=0)
    tokens_per_minute: int = where(0, ge=0)
    timeout: float = where(120.0, gt=0)
    attempts: int = where(8, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = where("auto")

    @model_validator(mode="after")
    def _served_has_a_place(self) -> Model:
        if self.kind == "served" and not self.base_url:
            raise ValueError("a served model needs base_url (for example http://localhost:8000/v1)")
        if (self.profile == "custom") != (self.wire is not None):
            raise ValueError('wire describes a server of profile = "custom", which needs it, and no other')
        return self


class Budget(Section):
    """What a run may spend on served models: `usd` at the prices known, and `tokens` (0: any number).

    Checked before each request, what is under way counted in. `prices` is a JSON file beside those that ship.
    """

    usd: float = where(0.0, ge=0)
    tokens: int = where(0, ge=0)
    prices: str = where("")
