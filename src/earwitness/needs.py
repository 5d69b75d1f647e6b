"""What the arms of a run ask for: which data stages, which models, and which of them see what others are not told."""

from __future__ import annotations

from collections.abc import Sequence

from earwitness.config import Answer, Distil, Grpo, Optimisation, Role, RunConfig, Section, Step
from earwitness.records import Pool

TEACHING = ("sample", "vote", "verify")
DATA_STAGES = (*TEACHING, "select", "describe")
OWN_POOLS: tuple[Pool, ...] = ("gold", "given")
"""Pools of the data's own answers: they need no teacher, and are marked as controls wherever they are shown."""


def trains(steps: Sequence[Step]) -> bool:
    """Whether an arm trains anything."""
    return any(step.stage != "answer" for step in steps)


def chooses(config: RunConfig) -> bool:
    """Whether any training step compares candidate checkpoints."""
    return any(settings.candidates > 1 for settings in trainings(config))


def trainings(config: RunConfig) -> list[Optimisation]:
    """Return the settings of every training step of every arm."""
    every = [config.settings(step) for steps in config.arms.values() for step in steps]
    return [settings for settings in every if isinstance(settings, Optimisation)]


def pool_of(settings: Optimisation) -> Pool:
    """Return the pool that a training step learns from."""
    pool: Pool = settings.prompts if isinstance(settings, Grpo) else settings.lessons  # type: ignore[attr-defined]
    return pool


def reads_descriptions(settings: Section) -> bool:
    """Whether a distilling step has a teacher that reads what the describe stage says."""
    sees = [w.sees for w in settings.witnesses] if isinstance(settings, Distil) and settings.reads else []
    return "description" in sees


def data_stages(config: RunConfig, until: str | None = None) -> tuple[str, ...]:
    """Return the data stages to be made, in order: those that the arms need, up to the one named by `until`.

    Arms that learn from the data's own answers alone need no teacher; where no arm learns anything, the teacher's
    lessons are what is wanted. A stage that `until` names is wanted, whether an arm needs it or not.
    """
    steps = trainings(config)
    pools = {pool_of(settings) for settings in steps}
    if until == "describe" and not pools:
        return ("describe",)
    taught = not pools <= set(OWN_POOLS) or not pools or until in TEACHING
    described = until == "describe" or any(map(reads_descriptions, steps))
    wanted = [*(TEACHING if taught else ()), "select", *(["describe"] if described else [])]
    last = DATA_STAGES.index(until) if until in DATA_STAGES else len(DATA_STAGES)
    return tuple(stage for stage in wanted if DATA_STAGES.index(stage) <= last)


def sitting_of(config: RunConfig, steps: Sequence[Step]) -> Answer:
    """Return the settings under which an arm sits its exams: of its last step, or the run's."""
    last = steps[-1] if steps and steps[-1].stage == "answer" else Step(stage="answer")
    settings = config.settings(last)
    assert isinstance(settings, Answer)
    return settings


def sittings(config: RunConfig) -> list[Answer]:
    """Return the settings under which the arms sit their exams."""
    return [sitting_of(config, steps) for steps in config.arms.values()]


def roles(config: RunConfig, until: str | None = None) -> list[Role]:
    """Return the roles that need a model where a run is made up to the stage `until` (None: to its end)."""
    data_only = until in DATA_STAGES
    stages = data_stages(config, until) if data_only or any(map(trains, config.arms.values())) else ()
    found: list[Role] = []
    found += ["teacher"] if "sample" in stages else []
    found += ["checker"] if "verify" in stages else []
    described = "describe" in stages
    if not data_only:
        found += ["teacher"] if chooses(config) and config.questions.choose_by == "teacher" else []
        found += ["student"] if trainings(config) else []
        found += (
            ["checker"] if any(isinstance(step, Grpo) and step.checker_weight for step in trainings(config)) else []
        )
        found += [
            w.model for step in trainings(config) if isinstance(step, Distil) and step.reads for w in step.witnesses
        ]
        found += [sitting.examinee for sitting in sittings(config)]
        found += ["teacher"] if any(sitting.prompt == "given-trace" for sitting in sittings(config)) else []
        described = described or any(sitting.sees == "description" for sitting in sittings(config))
    found += ["describer"] if described and config.describe.source == "model" else []
    return list(dict.fromkeys(found))


def controls(config: RunConfig) -> list[str]:
    """Return the arms that are controls: they learn the data's own answers, or are told the truth about a clip."""
    told = config.describe.source == "oracle"
    found = []
    for arm, steps in config.arms.items():
        taught = [s for s in map(config.settings, steps) if isinstance(s, Optimisation)]
        sees = sitting_of(config, steps).sees
        own = any(pool_of(s) in OWN_POOLS or (told and reads_descriptions(s)) for s in taught)
        if own or sees == "oracle" or (told and sees == "description"):
            found.append(arm)
    return found
