"""Practises with a server in several processes: started by a launcher, never imported."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import transformers

from earwitness.stages.training import train
from test_served_rollouts import job

if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    train(job(sys.argv[1], Path(sys.argv[2]), micro_batch=0))
