"""Joint training in two processes, and what came of it: started by a launcher, never imported."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import transformers
from accelerate.state import AcceleratorState, GradientState

from distributed_training import pretended_gpus
from earwitness.stages import distil
from earwitness.stages.training import train
from teaching import half_bad, two_process_jobs


def main(student: str, reader: str, adapter: str, out: Path) -> None:
    """Train everything that tests/test_distillation_processes.py looks at."""
    gc.freeze()  # Trainer collects garbage often, and what is imported is none
    for name, job in two_process_jobs(student, reader, adapter, out).items():
        AcceleratorState._reset_state()
        GradientState._reset_state()
        draw = distil.Draw
        if name == "spare":
            distil.Draw = half_bad(draw)
        if name.startswith("sharded"):
            with pretended_gpus():
                train(job)
        else:
            train(job)
        distil.Draw = draw


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(*sys.argv[1:4], Path(sys.argv[4]))
