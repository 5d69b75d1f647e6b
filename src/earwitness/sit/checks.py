"""What is looked at before a model sits an exam in this process: that it hears, and that batches change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from earwitness.config import Model, RunConfig, digest
from earwitness.media import RATE, MediaError
from earwitness.models import connected, fingerprint
from earwitness.models.exchange import OF_THE_QUESTION, Drawing, Prompt
from earwitness.models.places import ModelError
from earwitness.prompts import question_prompt
from earwitness.records import Question
from earwitness.run import Run, read_object, write_json
from earwitness.sources.clips import load_sound, seconds_of
from earwitness.stages.workbench import release_models

if TYPE_CHECKING:
    from earwitness.models.local import LocalModel

CHECKS = "checks.json"  # in the run's folder: what was found, and of what
CLIPS = 4
HEARS = 100  # times the noise between two equal passes that silence must move a log-probability by
LEAST_CHANGE = 1e-4  # nats, where that noise is 0
APART = {"float32": 1e-3}  # nats by which batches may move a log-probability; in 16 bits:
APART_IN_16_BITS = 0.1
TOKENS = 16

Finding = dict[str, str]  # {"check", "said"}


def check_model(
    run: Run, config: RunConfig, asked: Mapping[str, Sequence[Question]], note: Callable[[str], None]
) -> list[Finding]:
    """Check a local model on the first clips of its exams, and count its long clips; once for the same model and exams.

    Raises ModelError in words where a check fails. A served model is tested at its server, before the first request.
    """
    spec = config.model("student")
    if spec.kind == "served":
        return []
    questions = [question for those in asked.values() for question in those]
    ids = digest([[name, [q.id for q in those]] for name, those in asked.items()])
    (steps,) = config.arms.values()
    prompt = config.settings(steps[-1]).prompt or "direct"  # type: ignore[attr-defined]
    of = digest([fingerprint(spec, run.digests.of_folder), ids, prompt, spec.long_clips])
    known = read_object(run.path / CHECKS) or {}
    if known.get("of") != of:
        findings = _findings(spec, questions, prompt)
        release_models()
        write_json(run.path / CHECKS, known := {"of": of, "findings": findings})
        for finding in findings:
            note(f"{finding['check']}: {finding['said']}")
    return list(known["findings"])


def _findings(spec: Model, questions: Sequence[Question], prompt: str) -> list[Finding]:
    model: LocalModel = connected(spec, "student")  # type: ignore[assignment]
    prompts, options = _first(model, questions, prompt)
    checks: dict[str, Callable[[], str]] = {
        "long clips": lambda: long_clips(model, spec, questions),
        "hearing": lambda: hears(model, prompts, options),
        "batches": lambda: batches_change_nothing(model, prompts, options),
        "audio tokens": lambda: tokens_are_features(model, prompts),
    }
    return [{"check": name, "said": check()} for name, check in checks.items()]


def _first(model: LocalModel, questions: Sequence[Question], prompt: str) -> tuple[list[Prompt], Sequence[str]]:
    """Return prompts about the first few clips that can be heard, and answers whose likelihood is looked at."""
    found: dict[str, Prompt] = {}
    why = ""
    for question in questions:
        made = Prompt(question_prompt(model.manner, prompt, question.text, question.choices), question.clip)
        try:
            if question.clip.id not in found:
                model.check(made)
                found[question.clip.id] = made
        except OF_THE_QUESTION as error:
            why = why or str(error)
        if len(found) == CLIPS:
            break
    if not found:
        raise ModelError(f"{model.name} can be asked none of the questions: {why}")
    options = next((q.choices for q in questions if q.choices), None) or ("yes", "no")
    return list(found.values()), [option for option in dict.fromkeys(options) if option.strip()]


def long_clips(model: LocalModel, spec: Model, questions: Sequence[Question]) -> str:
    """Count the clips that are longer than the model's window; what becomes of them must have been said."""
    assert model.family.ears is not None
    longest = model.family.ears.longest(model.extractor)
    clips = {question.clip.id: question.clip for question in questions}
    if longest is None:
        return f"the model takes clips of any length, and there are {len(clips)}"
    longer, unread = 0, 0
    for clip in clips.values():
        try:
            longer += seconds_of(clip) > longest / RATE
        except MediaError:
            unread += 1
    broken = f"; {unread} cannot be read, and their questions will fail" if unread else ""
    if not longer:
        return f"none of {len(clips)} is longer than the model's {longest / RATE:g} s{broken}"
    told = f"{longer} of {len(clips)} clips are longer than the {longest / RATE:g} s that {model.name} hears at once"
    if "long_clips" not in spec.model_fields_set:
        raise ModelError(
            f"{told}: say what becomes of them, with --long-clips refuse (their questions fail, and are wrong), "
            "truncate (the end is not heard) or chunk (heard in parts, where the model can)"
        )
    return f"{told}; long_clips is {spec.long_clips}{broken}"


def hears(model: LocalModel, prompts: Sequence[Prompt], options: Sequence[str]) -> str:
    """Compare answers' log-probabilities with those after silence of the same length."""
    silent = []
    for prompt in prompts:
        assert prompt.clip is not None
        silent.append(Prompt(prompt.text, prompt.clip, wave=np.zeros_like(load_sound(prompt.clip))))
    own, again, silence = (np.array(model.choose(these, options)) for these in (prompts, prompts, silent))
    noise, change = float(np.abs(own - again).max()), float(np.abs(own - silence).max())
    if not change > max(HEARS * noise, LEAST_CHANGE):
        raise ModelError(
            f"{model.name} does not hear: silence in place of the sound moves the log-probability of no answer by more "
            f"than {change:.2g} nats (two equal passes differ by {noise:.2g}). A score would be one of guessing from "
            "text; check that the model's forward takes the audio features"
        )
    return f"silence in place of the sound moves an answer's log-probability by up to {change:.2g} nats"


def batches_change_nothing(model: LocalModel, prompts: Sequence[Prompt], options: Sequence[str]) -> str:
    """Compare a batch with the same questions one by one: log-probabilities, and greedy words in 32 bits."""
    together = np.array(model.choose(prompts, options))
    alone = np.array([model.choose([prompt], options)[0] for prompt in prompts])
    gap = float(np.abs(together - alone).max())
    kind = str(model.model.dtype).removeprefix("torch.")
    if not gap < APART.get(kind, APART_IN_16_BITS):
        raise ModelError(
            f"{model.name} gives other log-probabilities in a batch of {len(prompts)} than one by one, by {gap:.2g} "
            "nats: what stands beside a question changes its answer, so no score can be trusted"
        )
    how, keys = Drawing(max_tokens=TOKENS), [("check", number) for number in range(len(prompts))]
    batch = [_text(drawn) for drawn in model.draw(prompts, how, keys)]
    singles = [_text(model.draw([prompt], how, [key])[0]) for prompt, key in zip(prompts, keys, strict=True)]
    differ = sum(a != b for a, b in zip(batch, singles, strict=True))
    if differ and kind == "float32":
        raise ModelError(f"{model.name} writes other words in a batch than one by one, to {differ} of {len(prompts)}")
    return f"{len(prompts)} together differ from one by one by {gap:.2g} nats ({kind}); {differ} begin in other words"


def tokens_are_features(model: LocalModel, prompts: Sequence[Prompt]) -> str:
    """Let the encoder hear each clip, and compare its features with the audio tokens of the prompt."""
    from earwitness.learn.hearing import hear

    placeholder = model.tokenizer.convert_tokens_to_ids(model.family.placeholder)
    counts = []
    for prompt in prompts:
        root = model.encode(prompt)
        tokens = root.ids.count(placeholder)
        try:
            made = hear(model.model, root.media, tokens)
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"{model.name}: {tokens} audio tokens stand for a sound whose features are not as many ({error})"
            ) from None
        counts.append(next(iter(made.values())).shape[-1])
        if counts[-1] != tokens:
            raise ModelError(f"{model.name}: {tokens} audio tokens stand for {counts[-1]} features")
    return f"as many as features: {', '.join(map(str, counts))}"


def _text(drawn: Any) -> str:
    if isinstance(drawn, Exception):
        raise drawn
    return str(drawn[0].text)
