"""What servers understand, read in their source: vLLM 0.33, SGLang 0.5.23, transformers 5.23, OpenAI's own pages."""

from __future__ import annotations

from earwitness.config import Model
from earwitness.config.models import Profile, Wire

WIRES: dict[Profile, Wire] = {
    "vllm": Wire(
        frames="jpeg_sequence",
        samples="native",
        seeds="each",  # sample i of a request is drawn with seed + i
        choices="structured_outputs",
        logprobs=True,
        reasoning="reasoning",
    ),
    "sglang": Wire(
        frames="images",  # what follows the comma of a data URL must be one file
        samples="native",
        seeds="none",  # not read; where the server is deterministic, one seed is given to all samples of a request
        choices="response_format",
        logprobs=True,
        reasoning="reasoning_content",
    ),
    "openai": Wire(
        frames="images",
        samples="native",
        seeds="none",
        choices="none",  # the audio models take no structured output
        logprobs=False,
        reasoning="none",
    ),
    "transformers-serve": Wire(
        frames="images",  # it looks for sound in every video
        samples="fanout",  # n is not read
        seeds="none",  # one generator for all requests
        choices="none",
        logprobs=False,
        reasoning="reasoning_content",
    ),
}


def wire_of(spec: Model) -> Wire:
    """Return what the server of a served model understands."""
    return spec.wire if spec.wire is not None else WIRES[spec.profile]
