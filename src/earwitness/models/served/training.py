"""What training may take from servers. What it may not is refused by name, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence

from earwitness.config import ConfigError, Distil, Grpo, Model, RunConfig, Step
from earwitness.launcher import Launcher
from earwitness.models.served.weights import Keeper


def refuse_served_training(config: RunConfig, launcher: Launcher | None = None) -> None:
    """Raise ConfigError for rollouts and signals that a server is to give and cannot. Nobody is asked.

    `launcher` starts the processes that train (None: one process). See the tables in docs/training.md.
    """
    for arm, steps in config.arms.items():
        for number, step in enumerate(steps, 1):
            where, settings = f"arms.{arm}, step {number}", config.settings(step)
            if isinstance(settings, Grpo) and settings.rollouts == "served":
                _refuse_rollouts(where, settings, config)
                _refuse_sharded(where, launcher)
                _refuse_parent(where, settings, config, steps[: number - 1])
            if isinstance(settings, Distil) and settings.reads:
                refuse_signals(where, settings, config.model("textual_teacher"))


def refuse_unfit_servers(config: RunConfig) -> None:
    """Ask the student's servers whether they take what each step trains. Raises ServerError where one does not."""
    for steps in config.arms.values():
        for settings in map(config.settings, steps):
            if isinstance(settings, Grpo) and settings.rollouts == "served":
                Keeper(config.model("student")).refuse_unfit(settings.tuning, settings.lora_rank)


def refuse_signals(where: str, settings: Distil, teacher: Model) -> None:
    """Raise ConfigError for signals that a served textual teacher cannot give."""
    if teacher.kind != "served":
        return
    if settings.layer_weight:
        raise ConfigError(
            f"{where}: models.textual_teacher is served, and no server gives hidden states: layer_kd needs a local "
            'one. Name one (kind = "local"), or set layer_weight to 0'
        )
    if not settings.top_k:
        raise ConfigError(
            f"{where}: models.textual_teacher is served, and servers give the likeliest tokens alone: set distil.top_k "
            "(20; more where the server was started with --max-logprobs)"
        )
    if settings.signals != "ahead":
        raise ConfigError(
            f'{where}: models.textual_teacher is served and is asked once about every lesson: set signals = "ahead"'
        )
    if settings.softness != 1:
        raise ConfigError(
            f"{where}: models.textual_teacher is served, and its likeliest tokens do not tell what a distribution at "
            f"softness {settings.softness:g} is: set softness to 1"
        )
    if teacher.tokenizer is None:
        raise ConfigError(
            "models.textual_teacher is served, and what it reads is spelled here: name the folder or hub name of its "
            "tokenizer in models.textual_teacher.tokenizer"
        )


def _refuse_rollouts(where: str, settings: Grpo, config: RunConfig) -> None:
    student = config.model("student")
    if not student.base_url:
        raise ConfigError(
            f"{where}: rollouts are served, and models.student.base_url names no server (for example "
            "http://localhost:8000/v1)"
        )
    if student.kind == "served":
        raise ConfigError(f"{where}: what is trained must be here: models.student is local, with a base_url beside it")
    if student.profile in ("openai", "transformers-serve"):
        raise ConfigError(
            f"{where}: a server of profile {student.profile} takes no weights while it runs and gives no token ids: "
            "serve the student with vLLM or SGLang, or leave rollouts at local"
        )
    if settings.tuning == "qlora":
        raise ConfigError(
            f"{where}: under qlora the student's base has 4 bits here and more on the server, which would be another "
            "model: use lora, or leave rollouts at local"
        )
    if settings.tuning == "lora" and settings.audio_tower == "trained":
        raise ConfigError(
            f"{where}: servers put adapters on the language model alone, and audio_tower is trained: freeze it, or "
            "leave rollouts at local"
        )
    if settings.tuning == "full" and config.train.parallel != 1:
        raise ConfigError(
            f"{where}: under full tuning the server holds the weights of one step at a time: set train.parallel to 1"
        )


def _refuse_sharded(where: str, launcher: Launcher | None) -> None:
    if launcher is not None and launcher.shards:
        kind = "FSDP" if launcher.kind == "FSDP" else "ZeRO-3"
        raise ConfigError(
            f"{where}: under {kind} no process has the whole model, to be scored or handed to a server. Use data "
            "parallelism (launchers/ddp.yaml), under LoRA if need be"
        )


def _refuse_parent(where: str, settings: Grpo, config: RunConfig, before: Sequence[Step]) -> None:
    """Refuse an adapter on weights that are made in this run: the server was started with others."""
    trained = [s.tuning for s in map(config.settings, before) if isinstance(s, Grpo | Distil) or hasattr(s, "tuning")]
    if settings.tuning == "lora" and "full" in trained:
        raise ConfigError(
            f"{where}: an adapter is trained on the full weights of a step before, which the server does not have: "
            "let all steps of the arm be lora, or all be full"
        )
