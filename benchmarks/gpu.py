"""What an update and the sampling for it take at the release's size, on whatever device there is.

Random weights in the shape of Qwen2-Audio-7B, bfloat16, LoRA, activations computed again. Arms: a row per completion,
the prefix tree under a dense mask, under block masks (FlexAttention), and sharded by FSDP2 with one process.

python benchmarks/gpu.py [--repeats 5] [--tiny]
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from earwitness.learn.attention import DENSE, prefer_blocks, unwrapped
from earwitness.learn.losses import token_logprobs
from earwitness.learn.sampling import Decoding, sample
from earwitness.learn.tree import Branch, Tree, pack
from measure import measured, say
from naive import naive_logprobs
from shapes import AUDIO, PAD, RELEASE, TINY, Shape, checkpoint_activations, clip, listener, under_lora, words

GIB = 2**30
LIBRARIES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Size:
    """G completions of C tokens about clips of some lengths in seconds."""

    shape: Shape
    group: int
    tokens: int
    question: int
    clips: tuple[float, ...]
    matrix: int


SIZES = {False: Size(RELEASE, 8, 256, 60, (10.0, 30.0), 8192), True: Size(TINY, 4, 6, 5, (1.0, 4.0), 256)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="sizes for a test")
    options = parser.parse_args()
    size = SIZES[options.tiny]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = matrix_rate(size.matrix, device)
    model = student(size.shape, device)
    made: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in LIBRARIES},
        "parameters": sum(p.numel() for p in model.parameters()),
        "matrix_rate": rate / 1e12,
        "sampling": [sampling(model, size, seconds) for seconds in size.clips],
        "updates": [],
    }
    for seconds in size.clips:
        made["updates"] += compare(model, size, seconds, options.repeats, rate)
    with sharded(model, device):
        for seconds in size.clips:
            arms = {"tree, FSDP2": tree_update(model, size, seconds)}
            made["updates"] += timed(arms, size, seconds, options.repeats, rate)
    say(made)


def student(shape: Shape, device: str) -> Any:
    """Return the model as a training step has it: the base in 16 bits, what is trained in 32."""
    model = under_lora(listener(shape, torch.bfloat16, device))
    for parameter in model.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    checkpoint_activations(model)
    return model.train()


def matrix_rate(side: int, device: str) -> float:
    """Return how many operations a second the device does in a large bfloat16 matrix product, at its best of ten."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(clocked(lambda: a @ b) for _ in range(10))
    return 2 * side**3 / best


def clocked(work: Callable[[], Any]) -> float:
    """Return the seconds that some work takes on the device."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


Update = Callable[[], Tensor]


def compare(model: Any, size: Size, seconds: float, repeats: int, rate: float) -> list[dict[str, Any]]:
    """Time the arms that run in one process, in turns; the attention is put back as it was."""
    tree = tree_of(size, seconds)
    arms: dict[str, Update | str] = {
        "naive": lambda: update(model, lambda: naive_logprobs(model, [tree], PAD)),
        "tree, dense": tree_update(model, size, seconds),
    }
    made = timed(arms, size, seconds, repeats, rate)
    text = unwrapped(model).config.get_text_config()
    why = prefer_blocks(model)
    try:
        blocks = why if text._attn_implementation == DENSE else tree_update(model, size, seconds)
        return made + timed({"tree, blocks": blocks}, size, seconds, repeats, rate)
    finally:
        text._attn_implementation = DENSE


def tree_of(size: Size, seconds: float) -> Tree:
    """A group of completions of one question about a clip."""
    root = clip(size.shape, seconds, words(size.shape, size.question, 3), torch.bfloat16)
    return Tree(root, tuple(Branch.trained(words(size.shape, size.tokens, 100 + g)) for g in range(size.group)))


def tree_update(model: Any, size: Size, seconds: float) -> Update:
    batch = pack([tree_of(size, seconds)], PAD).to(next(model.parameters()).device)
    return lambda: update(model, lambda: token_logprobs(model, batch))


def update(model: Any, logprobs: Callable[[], Tensor]) -> Tensor:
    """Do one policy pass, forward and backward, and return its loss."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
        made = logprobs()
    weight = torch.randn(len(made), generator=torch.Generator().manual_seed(9)).to(made.device)
    loss = -(made.float() * weight).mean()
    loss.backward()
    return loss.detach()


def timed(arms: dict[str, Update | str], size: Size, seconds: float, repeats: int, rate: float) -> list[dict[str, Any]]:
    """Run the arms in turns after a first, unclocked time. An arm that is a string says why it cannot run."""
    rows: list[dict[str, Any]] = []
    times: dict[str, list[float]] = {}
    for name, work in arms.items():
        rows.append({"clip_seconds": seconds, "arm": name})
        try:
            if isinstance(work, str):
                raise NotImplementedError(work)
            rows[-1] |= first(work)
            times[name] = []
        except (torch.OutOfMemoryError, NotImplementedError) as error:
            rows[-1]["not_run"] = str(error).splitlines()[0]
    for _ in range(repeats):
        for name, clocks in times.items():
            work = arms[name]
            assert not isinstance(work, str)
            clocks.append(clocked(work))
    for row in rows:
        if row["arm"] in times:
            took = median(times[row["arm"]])
            operations = row.pop("operations")
            row |= {"step_seconds": took, "tokens_per_second": size.group * size.tokens / took}
            row |= {"rate": operations / took / 1e12, "share_of_matrix_rate": operations / took / rate}
    return rows


def first(work: Update) -> dict[str, float]:
    """Run an arm twice, unclocked: for its loss and peak memory, and to count the operations of its matrix products."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    loss, costs = measured(work)
    peak = torch.cuda.max_memory_allocated() if on_gpu else costs["mebibytes"] * 2**20
    with FlopCounterMode(display=False) as counter:
        work()
    return {"loss": float(loss), "peak_gib": peak / GIB, "operations": float(counter.get_total_flops())}


def sampling(model: Any, size: Size, seconds: float) -> dict[str, float]:
    """Draw a group of full length, and say how long it took."""
    root = clip(size.shape, seconds, words(size.shape, size.question, 3), torch.bfloat16)
    decoding = Decoding(1.0, size.tokens, PAD, (), (AUDIO,))

    def draw() -> None:
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
            sample(model, [root], size.group, decoding, [("benchmark",)])

    draw()
    took = clocked(draw)
    return {"clip_seconds": seconds, "seconds": took, "tokens_per_second": size.group * size.tokens / took}


@contextmanager
def sharded(model: Any, device: str) -> Iterator[None]:
    """Shard the model over this one process with FSDP2, for good."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    backend, alone = "nccl" if device == "cuda" else "gloo", torch.distributed.HashStore()
    torch.distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
    try:
        mesh = init_device_mesh(device, (1,))
        for name, module in list(model.named_modules()):
            if re.search(r"\.layers\.\d+$", name):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        yield
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
