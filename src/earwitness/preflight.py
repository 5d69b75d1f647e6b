"""What must be true before anything is spent, and the questions that a run is about."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness.config import Answer, ConfigError, Distil, Grpo, Model, Optimisation, Role, RunConfig, Step
from earwitness.exams import load_exam
from earwitness.launcher import Launcher, find_launcher
from earwitness.models.places import place_of
from earwitness.models.served.endpoint import place_of_url
from earwitness.models.served.training import refuse_served_training
from earwitness.needs import DATA_STAGES, chooses, data_stages, roles, sitting_of, sittings, trainings, trains
from earwitness.records import Question
from earwitness.sources import read_source, read_sources, refuse_exam

Note = Callable[[str], None]
# Experiment trackers that transformers knows, and the modules of which one must be there.
TRACKERS = {
    "clearml": ("clearml",),
    "comet_ml": ("comet_ml",),
    "dvclive": ("dvclive",),
    "mlflow": ("mlflow",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


@dataclass(frozen=True)
class Asked:
    """The questions of a run: those to learn from, those that checkpoints are chosen by, and the exams by name."""

    train: list[Question]
    choose: list[Question]
    exams: dict[str, list[Question]]


def read_questions(config: RunConfig, note: Note, data_only: bool = False) -> Asked:
    """Read every question that the run will ask. `data_only`: those of the data stages alone.

    Tells `note` what a person should know: clips that are missing, questions without an answer, exams that share
    clips with what is learnt. Raises ConfigError or SourceError naming what cannot be read.
    """
    q = config.questions
    for name in (*q.train, *q.choose):
        refuse_exam(name)
    learns = data_only or any(trains(steps) for steps in config.arms.values())
    train = read_sources(q.train, q, q.limit, note) if learns else []
    if learns and not train:
        raise ConfigError(f"questions.train gives no question: {', '.join(q.train) or 'it names no source'}")
    if data_only:
        return Asked(train, [], {})
    choose = read_sources(q.choose, q, q.choose_limit, note) if chooses(config) else []
    exams = {name: read_exam(config, name, note) for name in config.exams.names}
    for name, questions in [("questions.choose", choose), *((f"the exam {n}", e) for n, e in exams.items())]:
        _note_shared(name, questions, train, note)
    return Asked(train, choose, exams)


def read_exam(config: RunConfig, name: str, note: Note = lambda _: None) -> list[Question]:
    """Return an exam's questions. A source (`folder:PATH`) is an exam of the user's own.

    Questions without an answer cannot be graded: they are left out, and `note` is told. Raises ConfigError where
    none has one.
    """
    if ":" not in name:
        return load_exam(name, config.exams, note)
    asked = read_source(name, config.questions, config.exams.limit, note)
    graded = [q for q in asked if q.answer is not None]
    if not graded:
        raise ConfigError(f"the exam {name} has no question with an answer: it cannot be graded")
    if len(graded) < len(asked):
        note(f"the exam {name}: {len(asked) - len(graded)} questions have no answer and are left out")
    return graded


def refuse(config: RunConfig, until: str | None = None, launcher: Launcher | None = None) -> None:
    """Raise ConfigError or ModelError for what a configuration asks and cannot have, before anything is spent.

    `until` names the stage after which the run stops. `launcher` is the one around this process, None: the one that
    the configuration would start.
    """
    data_only = until in DATA_STAGES
    for url in (url for spec in config.models.values() for url in spec.base_url):
        place_of_url(url)  # a password in it would be written to the run's config.toml
    for arm, steps in config.arms.items():
        _refuse_steps(config, arm, steps)
    for role in roles(config, until):
        spec = config.model(role)
        if spec.kind == "served":
            _refuse_served(config, role, spec, data_only)
            continue
        if spec.kind == "local" and _is_path(spec.name) and not Path(spec.name).is_dir():
            raise ConfigError(f"models.{role}: there is no folder {spec.name}")
        place_of(spec)
    if not data_only and chooses(config) and not config.questions.choose:
        raise ConfigError("candidates above 1 are compared on questions.choose, which names no source")
    if not data_only and any(map(trains, config.arms.values())):
        refuse_training(config, launcher)
        refuse_served_training(config, find_launcher(config.train.launcher) if config.train.processes > 1 else launcher)
    if unknown := sorted(set(config.exams.both_ways) - set(config.exams.names)):
        raise ConfigError(f"exams.both_ways names {unknown[0]!r}, which is not among exams.names")
    if config.verify.bank is not None and not Path(config.verify.bank).is_dir():
        raise ConfigError(f"verify.bank: {config.verify.bank} is not a folder; name one with sound files in it")


def _refuse_served(config: RunConfig, role: Role, spec: Model, data_only: bool) -> None:
    """Raise ConfigError where a server cannot do what a role is here for, or its key is not there."""
    steps = [] if data_only else trainings(config)
    if role == "student" and steps:
        raise ConfigError(
            "models.student is served, and nobody can train what lies behind a server: name a local one "
            '(kind = "local"); its rollouts may be drawn by a server, with grpo.rollouts = "served"'
        )
    if spec.api_key_env and not os.environ.get(spec.api_key_env):
        raise ConfigError(
            f"models.{role}: its key is to be in the environment variable {spec.api_key_env}, which is not set: "
            f"export {spec.api_key_env}=..."
        )


def refuse_pool(config: RunConfig) -> None:
    """Raise ConfigError where a run's shards cannot be handed out as it asks."""
    if config.pool == "local" and config.shards:
        raise ConfigError(
            f"shards is {config.shards}, and pool is local: on one machine train.parallel workers share the blocks of "
            'each stage already. Set pool = "ray", or start `earwitness run --shard 1/S` to S/S yourself'
        )
    if config.pool == "ray" and not config.shards:
        raise ConfigError("pool is ray, and shards is 0: say into how many parts, such as shards = 32")
    if config.pool == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError('pool is ray, which is not installed; `pip install "earwitness[ray]"`')


def refuse_no_choice(config: RunConfig, asked: Asked) -> None:
    """Raise ConfigError where candidate checkpoints are to be compared on questions that are not there."""
    if chooses(config) and not asked.choose:
        raise ConfigError(
            f"questions.choose gives no question ({', '.join(config.questions.choose)}), and candidates are to be "
            "compared on them: name another source there, or leave candidates at 1"
        )


def refuse_no_truth(config: RunConfig, asked: Asked, until: str | None = None) -> None:
    """Raise ConfigError where an oracle is to describe a clip that is not the embedded world's."""
    told = config.describe.source == "oracle"
    questions = asked.train if told and asked.train and "describe" in data_stages(config, until) else []
    if any(sitting.sees == "oracle" or (told and sitting.sees == "description") for sitting in sittings(config)):
        questions = [*questions, *(q for exam in asked.exams.values() for q in exam)]
    stranger = next((q for q in questions if not q.clip.media.startswith("world:")), None)
    if stranger is not None:
        raise ConfigError(
            f"an oracle is to describe the clip {stranger.clip.id} (question {stranger.id}), and the truth is known of "
            "the embedded world's clips alone: set describe.source to model, caption or field, and sees to description"
        )


def worker_count(config: RunConfig, until: str | None = None) -> int:
    """Return how many one-thread workers run side by side up to a stage: one a core on the CPU, none beside the driver
    on a GPU, or where nothing is computed here.
    """
    asked = [config.model(role) for role in roles(config, until)]
    if asked and all(spec.kind == "served" for spec in asked):
        return 1
    if config.train.parallel:
        return config.train.parallel
    if any(m.kind != "served" and m.device.startswith("cuda") for m in config.models.values()) or has_gpu():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_training(config: RunConfig, launcher: Launcher | None = None) -> None:
    """Raise ConfigError for what cannot be trained together: the table of docs/training.md, row by row."""
    _refuse_trackers(config.train.trackers)
    every = {
        f"arms.{arm}, step {number}": config.settings(step)
        for arm, steps in config.arms.items()
        for number, step in enumerate(steps, 1)
    }
    trained = {where: settings for where, settings in every.items() if isinstance(settings, Optimisation)}
    for where, settings in trained.items():
        if settings.tuning == "qlora" and not has_gpu():
            raise ConfigError(f"{where}: tuning is qlora, which needs a CUDA GPU, and this machine has none: use lora")
    if config.train.processes == 1 and launcher is None:
        return
    launcher = launcher or find_launcher(config.train.launcher)
    _refuse_launcher(launcher, config)
    for where, settings in trained.items():
        _refuse_together(where, settings, launcher, config.train.processes)


def _refuse_trackers(names: Sequence[str]) -> None:
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"train.trackers: there is no tracker {name!r}; known: {', '.join(TRACKERS)}")
        if not any(importlib.util.find_spec(module) for module in TRACKERS[name]):
            raise ConfigError(f"train.trackers: {name} is not installed; `pip install {TRACKERS[name][0]}`")


def _refuse_launcher(launcher: Launcher, config: RunConfig) -> None:
    """Refuse what a launcher asks for and no training here can be."""
    name, processes = launcher.name, config.train.processes
    if launcher.foreign or launcher.kind == "other":
        raise ConfigError(
            f"{name} asks for {', '.join(launcher.foreign) or 'a distributed_type that is not known here'}: training "
            "is data parallel (MULTI_GPU), FSDP (version 2) or DeepSpeed, and nothing beside it"
        )
    if launcher.kind == "one process":
        raise ConfigError(
            f"train.processes is {processes}, and {name} starts one process: name another accelerate config as "
            "train.launcher (distributed_type: MULTI_GPU, also where there is no GPU)"
        )
    if launcher.machines > 1:
        raise ConfigError(
            f"{name} is for {launcher.machines} machines, which are not started from here: run with --until "
            f"{data_stages(config)[-1]}, "
            "start `earwitness train` with your launcher on each of them, step by step, then run to the end"
        )
    if launcher.precision not in ("no", "bf16"):
        raise ConfigError(f"{name} asks for mixed_precision {launcher.precision}: only bf16 is known here")
    if launcher.kind == "FSDP" and (launcher.fsdp_version != 2 or launcher.state_dict != "FULL_STATE_DICT"):
        raise ConfigError(f"{name}: set fsdp_version: 2 and fsdp_state_dict_type: FULL_STATE_DICT in its fsdp_config")
    if launcher.kind == "DeepSpeed" and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(f"{name} asks for DeepSpeed, which is not installed; `pip install deepspeed`")
    gpus = _gpus()
    if not gpus and launcher.kind != "data parallel":
        raise ConfigError(
            f"{name} asks for {launcher.kind}, and this machine has no GPU: accelerate would train a whole copy in "
            "every process and not say so"
        )
    if not launcher.around and gpus and processes > gpus:
        raise ConfigError(f"train.processes is {processes}, and this machine has {gpus} GPUs: one process each")
    for role in ("student", "textual_teacher", "checker"):
        device = config.models[role].device if role in config.models else "auto"
        if ":" in device:
            raise ConfigError(
                f"models.{role}.device is {device}: {processes} processes take a GPU each; leave it at auto"
            )


def _refuse_together(where: str, settings: Optimisation, launcher: Launcher, processes: int) -> None:
    """Refuse a training step that a launcher's processes cannot share."""
    if settings.batch < processes:
        raise ConfigError(
            f"{where}: a step of {settings.batch} cannot be shared by {processes} processes: set batch higher, or use "
            "fewer processes"
        )
    if launcher.precision == "bf16" and settings.precision == "float32":
        raise ConfigError(f"{where}: precision is float32, and {launcher.name} asks for bf16")
    if not launcher.shards:
        return
    kind = "FSDP" if launcher.kind == "FSDP" else "ZeRO-3"
    if isinstance(settings, Grpo):
        raise ConfigError(
            f"{where}: grpo samples in the processes that train, and under {kind} none of them has the whole model: it "
            "would be gathered for every token. Use data parallelism (launchers/ddp.yaml), under LoRA if need be"
        )
    if isinstance(settings, Distil) and kind == "ZeRO-3":
        raise ConfigError(
            f"{where}: distil reads layers through the head within one forward pass, when under ZeRO-3 their weights "
            "are elsewhere: use FSDP2 (launchers/fsdp2.yaml) or data parallelism (launchers/ddp.yaml)"
        )
    if settings.candidates > 1:
        raise ConfigError(
            f"{where}: candidates are compared by letting them answer, which under {kind} no process can; leave "
            "candidates at 1, or use data parallelism (launchers/ddp.yaml)"
        )
    if settings.tuning == "qlora":
        raise ConfigError(f"{where}: tuning is qlora, which is not known to work under {kind}: use lora")


def _gpus() -> int:
    """Return how many NVIDIA GPUs this process may use."""
    there = len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) if has_gpu() else 0
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if shown is None else min(there, len([name for name in shown.split(",") if name.strip()]))


def _is_path(name: str) -> bool:
    """Whether a model's name can only be a folder's: names of the hub are `name` or `owner/name`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def has_gpu() -> bool:
    """Whether this machine has a GPU, asked without torch."""
    return Path("/proc/driver/nvidia/version").exists()


def _refuse_steps(config: RunConfig, arm: str, steps: Sequence[Step]) -> None:
    for number, step in enumerate(steps, 1):
        where = f"arms.{arm}, step {number}"
        settings = config.settings(step)
        if isinstance(settings, Grpo) and not (
            settings.accuracy_weight or settings.format_weight or settings.checker_weight
        ):
            raise ConfigError(f"{where}: every weight of the reward is 0: there is nothing to practise for")
        if isinstance(settings, Grpo) and settings.checker_weight:
            verify = config.verify
            if (verify.unit, verify.source) != ("claims", "listed"):
                raise ConfigError(
                    f"{where}: checker_weight rewards the sounds that a sample lists, one by one: leave verify.unit at "
                    "claims and verify.source at listed"
                )
        if isinstance(settings, Answer) and settings.examinee != "student" and number > 1:
            raise ConfigError(
                f"{where}: the {settings.examinee} answers here, so the training before it would be for nothing"
            )
    sitting = sitting_of(config, steps)
    hears = sitting.examinee == "student" and sitting.sees == "clip"
    if sitting.prompt == "given-trace" and not hears:
        raise ConfigError(f"arms.{arm}: a trace is given to a student who hears the clip, and to nobody else")
    if sitting.prompt == "plain" and (sitting.examinee != "teacher" or sitting.sees != "clip"):
        raise ConfigError(f"arms.{arm}: the prompt 'plain' is for a teacher who watches; whoever else thinks: think")
    if sitting.examinee == "textual_teacher" and sitting.sees == "clip":
        raise ConfigError(
            f"arms.{arm}: the textual_teacher can neither hear nor see a clip: let it read, with sees = description "
            "(what the describe stage says) or sees = oracle (the embedded world's truth)"
        )


def _note_shared(name: str, questions: Sequence[Question], train: Sequence[Question], note: Note) -> None:
    clips = {q.clip.id: os.path.realpath(q.clip.media) for q in questions}
    learnt = {q.clip.id for q in train}
    learnt |= {os.path.realpath(q.clip.media) for q in train}  # tables name clips as they like: the file is the same
    shared = [clip for clip, file in clips.items() if clip in learnt or file in learnt]
    if shared:
        note(
            f"{name} shares {len(shared)} of its {len(clips)} clips with the training questions: what was learnt by "
            "heart counts, too"
        )
