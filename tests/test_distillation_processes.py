"""Several processes learn jointly what one would, projections included, sharded or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from earwitness.stages import distil
from earwitness.stages.training import train
from teaching import half_bad, log_of, two_process_jobs, world_tokenizer, write_reader

SCRIPT = Path(__file__).parent / "distributed_distillation.py"
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
NAMES = ("whole", "ahead", "spare", "sharded", "sharded-adapter")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return write_reader(tmp_path_factory.mktemp("readers") / "other", world_tokenizer(order=5), layers=3)


@pytest.fixture(scope="module")
def two(tiny_student, reader, tiny_adapter, tmp_path_factory):
    """The folder of what two processes of one launcher made."""
    out = tmp_path_factory.mktemp("two")
    command = [*TWO, str(SCRIPT), str(tiny_student), str(reader), str(tiny_adapter), str(out)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-5000:]
    return out


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_learn_what_one_does(two, tiny_student, reader, tiny_adapter, tmp_path, monkeypatch, name):
    if name == "spare":
        monkeypatch.setattr(distil, "Draw", half_bad(distil.Draw))
    train(two_process_jobs(tiny_student, reader, tiny_adapter, tmp_path)[name])
    ours, theirs = tmp_path / name, two / name
    for mine, other in zip(log_of(ours), log_of(theirs), strict=True):
        assert other == pytest.approx(mine, rel=2e-3, abs=1e-6)
    files = [*weights_of(ours)]
    assert ("projections.safetensors" in files) == (name != "ahead")
    for file, tensors in weights_of(ours).items():
        found = load_file(theirs / file)
        assert set(found) == set(tensors)
        for key, value in tensors.items():
            assert torch.allclose(found[key].float(), value.float(), atol=4e-4), (file, key)


def test_what_was_trained_moved(two, tiny_student, tiny_adapter):
    """Else two processes that learn nothing would be as one that does not."""
    before = load_file(tiny_adapter / "adapter_model.safetensors")
    after = load_file(two / "sharded-adapter" / "final" / "adapter_model.safetensors")
    assert set(before) == set(after) and not any(torch.equal(before[key], value) for key, value in after.items())
    whole = load_file(tiny_student / "model.safetensors")
    for name in ("whole", "sharded"):
        moved = load_file(two / name / "final" / "model.safetensors")
        assert sum(not torch.equal(whole[k].float(), v.float()) for k, v in moved.items()) > 0.9 * len(whole)


def weights_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    places = [*folder.glob("*.safetensors"), *(folder / "final").glob("*.safetensors")]
    return {str(place.relative_to(folder)): load_file(place) for place in places}
