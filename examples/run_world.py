"""The method from Python: a small run on the embedded world, its ladder, and what became of one question.

    python examples/run_world.py [FOLDER] [section.key=value ...]

With no arguments: 300 questions, some minutes on two cores, results in `runs/example`.
"""

import sys
from pathlib import Path

from earwitness.demo import demo_config
from earwitness.driver import drive
from earwitness.life import life_of

SMALL = ["name=example", "questions.limit=300", "exams.limit=200", "sft.steps=40", "grpo.steps=20"]

if __name__ == "__main__":  # worker processes import this file
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    config = demo_config([*SMALL, *sys.argv[2:]])
    outcome = drive(config, root)
    print(outcome.text)
    print(life_of(root / config.name, "world/train/0"))
