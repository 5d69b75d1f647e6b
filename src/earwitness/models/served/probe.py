"""Whether a server does what a run needs of it. Many that claim to do not, and say nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from earwitness.config import Budget, Grpo, Model, Role, RunConfig
from earwitness.ledger import call_key
from earwitness.media import RATE, Frames
from earwitness.models import SENSES
from earwitness.models.exchange import Completion, Drawing, Prompt, Unanswered
from earwitness.models.served.call import Answer, Call, ServerError
from earwitness.models.served.desk import Desk, current_desk
from earwitness.models.served.purse import Purse
from earwitness.models.served.reading import NEVER, read_samples
from earwitness.models.served.reply import read_usage
from earwitness.models.served.requests import PATH, Asked, body, most_tokens
from earwitness.models.served.showing import show
from earwitness.models.served.voice import ServedModel
from earwitness.models.served.weights import Keeper
from earwitness.needs import roles, trainings
from earwitness.prices import load_prices
from earwitness.prompts import fill, template
from earwitness.records import Clip
from earwitness.sources.clips import load_sound

SAMPLES = 8
FRAMES = 40  # more than the 32 after which vLLM stops reading unless told otherwise
SHORT = (4, 8)  # numbers of frames whose difference says what a frame takes
COUNTED = 0.9  # of the frames must show in the count of tokens, which also holds their times in words
APART = 0.1  # nats between two scores that no rounding explains
KNOWN_SOUND = {"plain": "a beep", "world": "siren"}
SCENE = Clip(id="scene", media="world:easy:7")
SECONDS = 2

Outcome = Literal["passes", "fails", "limited", "not told"]


@dataclass(frozen=True)
class Finding:
    """What one test of one role's server found. Where it `fails`, the run cannot have what it needs."""

    role: Role
    model: str
    test: str
    outcome: Outcome
    said: str


def served_roles(config: RunConfig, until: str | None = None) -> list[Role]:
    """Return the roles of a run that are asked of servers, the student's too where its rollouts are drawn there."""
    found = [role for role in roles(config, until) if config.model(role).kind == "served"]
    return [*found, "student"] if until is None and _practice(config) and "student" not in found else found


def probe(config: RunConfig, until: str | None = None, note: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Test the servers of all roles that a run asks, by some ten short requests each, which no ledger keeps.

    `note` is told what is being tested. Raises ServerError where nobody answers, a key is wrong or a model unknown.
    """
    findings: list[Finding] = []
    desk = current_desk().aside(Purse(Budget(), load_prices(config.budget.prices)))
    try:
        for role in served_roles(config, until):
            note(f"testing the {role}, {config.model(role).name}")
            findings += _Examination(config, role, desk).findings()
    finally:
        desk.close()
    return findings


def refuse_unfit(config: RunConfig, until: str | None = None, note: Callable[[str], None] = lambda _: None) -> None:
    """Raise ServerError where a server fails what the run needs: it says what, and how to start the server right."""
    failed = [f for f in probe(config, until, note) if f.outcome == "fails"]
    if failed:
        told = "\n".join(f"- {f.role} ({f.model}), {f.test}: {f.said}" for f in failed)
        raise ServerError(f"a server cannot do what this run needs:\n{told}")


class _Examination:
    """The tests of one role's server, in the light of what the run will ask of it."""

    def __init__(self, config: RunConfig, role: Role, desk: Desk) -> None:
        self.config, self.role, self.desk = config, role, desk
        self.sense = SENSES[role]
        self.practice = _practice(config) if role == "student" else []
        self.spec = _as_served(config.model(role)) if self.practice else config.model(role)
        self.spec = self.spec.model_copy(update={"attempts": 2})
        self.model = ServedModel(self.spec, self.sense, desk)

    def findings(self) -> list[Finding]:
        tests: dict[str, Callable[[], tuple[Outcome, str]]] = {}
        if self.role == "teacher" or self.practice:
            tests["samples"] = self.samples
        if self.sense == "sight":
            tests["frames"] = self.frames
        if self.sense == "hearing":
            tests["hearing"] = self.hearing
        if self.role == "checker":
            tests["yes or no"] = self.scores
        if self.practice:
            tests |= {"token ids": self.token_ids, "weights": self.weights}
        if not tests:
            tests["answers"] = self.answers
        return [self._found(name, test) for name, test in tests.items()]

    def _found(self, name: str, test: Callable[[], tuple[Outcome, str]]) -> Finding:
        try:
            outcome, said = test()
        except Unanswered as error:
            outcome, said = "fails", f"{error}. {self._remedy(name)}"
        return Finding(self.role, self.spec.name, name, outcome, said)

    def samples(self) -> tuple[Outcome, str]:
        """Draw and compare: samples that are all alike are one greedy answer, copied.

        A model may be sure of what it says at temperature 1; at 2 none is.
        """
        for temperature in (1, 2):
            drawn = self._draw(Drawing(SAMPLES, float(temperature), 32), self._prompt)
            different = len({completion.text for completion in drawn})
            if different > 1:
                return "passes", f"{SAMPLES} came, {different} of them differ at temperature {temperature}"
        return "fails", f"{SAMPLES} samples are all the same, even at temperature 2. {self._remedy('samples')}"

    def answers(self) -> tuple[Outcome, str]:
        (said,) = self._draw(Drawing(max_tokens=16), self._prompt)
        return "passes", f"{len(said.text)} characters came"

    def frames(self) -> tuple[Outcome, str]:
        """Compare how many tokens prompts take: frames that add none were never looked at."""
        wanted = self.config.sample.frames
        most = max(FRAMES, wanted)
        few, more, many = (self._prompt_tokens(count) for count in (*SHORT, most))
        if few is None or more is None or many is None:
            return "not told", "the server does not count the tokens of prompts, so whether it sees all frames is open"
        each = (more - few) / (SHORT[1] - SHORT[0])
        if each <= 0:
            return "fails", f"{SHORT[1]} frames take as many tokens as {SHORT[0]}. {self._remedy('frames')}"
        counted = round(SHORT[1] + (many - more) / each)
        if counted >= COUNTED * most:
            return "passes", f"all of {most} frames count"
        said = f"of {most} frames about {counted} count, and this run sends {wanted}"
        if counted >= COUNTED * wanted:
            return "limited", said
        return "fails", f"{said}. {self._remedy('frames')}"

    def hearing(self) -> tuple[Outcome, str]:
        """Let it hear a beep and near silence: where that makes no difference, the sound does not arrive."""
        question = fill(template(self.spec.manner, "claim"), claim=KNOWN_SOUND[self.spec.manner])
        with_beep, without = self._scores(question)
        if np.abs(with_beep - without).max() > APART:
            return "passes", f"yes {_share(with_beep):.2f} with a beep, {_share(without):.2f} without"
        words = template(self.spec.manner, "describe")
        how = Drawing(max_tokens=32)
        beep, again, silent = (
            self._draw(how, Prompt(words, wave=wave))[0].text for wave in (self._sound, self._sound, _silence())
        )
        if beep != again:
            return "not told", "even the same sound is described otherwise each time"
        if beep != silent:
            return "passes", "a beep is described otherwise than silence"
        return "fails", f"a beep and silence are answered alike: the sound does not arrive. {self._remedy('hearing')}"

    def scores(self) -> tuple[Outcome, str]:
        """Look whether verdicts are scores or words."""
        question = fill(template(self.spec.manner, "claim"), claim=KNOWN_SOUND[self.spec.manner])
        flat = np.concatenate(self._scores(question))
        if not set(flat.tolist()) <= {0.0, NEVER}:
            return "passes", "log-probabilities of yes and no come back"
        if self.model.wire.logprobs:
            return "limited", "neither yes nor no is among the likeliest first tokens: verdicts are words, not scores"
        return "limited", "no log-probabilities by this profile: verdicts are words, not scores"

    def token_ids(self) -> tuple[Outcome, str]:
        """Ask for what importance ratios need: each sample's tokens, and how likely each was."""

        def read(response: Mapping[str, Any]) -> list[Answer]:
            return read_samples(response, 2, thinks=False, ids=True)

        answers = self._ask(self._prompt, Drawing(2, 1.0, 8), Asked(seed=1, ids=True), read)
        return "passes", f"{sum(len(answer['ids']) for answer in answers)} tokens came with ids and log-probabilities"

    def weights(self) -> tuple[Outcome, str]:
        """Ask whether the server takes what practice hands it: adapters, or all weights."""
        try:
            for settings in self.practice:
                Keeper(self.spec).refuse_unfit(settings.tuning, settings.lora_rank)
        except ServerError as error:
            return "fails", str(error)
        return "passes", f"it takes what {', '.join(sorted({s.tuning for s in self.practice}))} trains while it runs"

    @property
    def _sound(self) -> np.ndarray[Any, Any]:
        """A beep, or what a listener of the embedded world, which knows no beep, can hear."""
        return _beep() if self.spec.manner == "plain" else load_sound(SCENE)

    @property
    def _words(self) -> str:
        return template(self.spec.manner, "probe")

    @property
    def _prompt(self) -> Prompt:
        """Words that leave much to say, and something to see or hear where there is a sense for it."""
        film = noise_film(SHORT[1]) if self.sense == "sight" else None
        return Prompt(self._words, film=film, wave=self._sound if self.sense == "hearing" else None)

    def _scores(self, question: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        prompts = [Prompt(question, wave=wave) for wave in (self._sound, _silence())]
        beep, silence = (np.array(scores) for scores in self.model.choose(prompts, ("yes", "no")))
        return beep, silence

    def _draw(self, how: Drawing, prompt: Prompt) -> list[Completion]:
        (drawn,) = self.model.draw([prompt], how, [("probe",)])
        if isinstance(drawn, Exception):
            raise drawn
        return drawn

    def _prompt_tokens(self, frames: int) -> int | None:
        def read(response: Mapping[str, Any]) -> list[Answer]:
            return [{"tokens": read_usage(response.get("usage")).prompt}]

        prompt = Prompt(self._words, film=noise_film(frames))
        (answer,) = self._ask(prompt, Drawing(max_tokens=1), Asked(), read)
        tokens: int | None = answer["tokens"]
        return tokens

    def _ask(
        self, prompt: Prompt, how: Drawing, asked: Asked, read: Callable[[Mapping[str, Any]], list[Answer]]
    ) -> list[Answer]:
        shown = show(prompt, self.spec, self.sense)
        made = body(self.spec, shown, prompt.text, how, asked)
        keys = tuple(call_key(probe=made.decode(), number=number) for number in range(how.samples))
        call = Call(keys, PATH, made, read, most_tokens(shown, prompt.text, how), "a test")
        (answers,) = self.desk.engine(self.spec).ask([call])
        if isinstance(answers, Unanswered):
            raise answers
        return answers

    def _remedy(self, test: str) -> str:
        return REMEDIES.get((self.spec.profile, test)) or REMEDIES.get(("", test), "")


REMEDIES: dict[tuple[str, str], str] = {
    ("vllm", "frames"): (
        'Start vLLM with --trust-request-mm-kwargs --media-io-kwargs \'{"video":{"num_frames":-1}}\' '
        "--limit-mm-per-prompt '{\"video\":1}' --max-num-batched-tokens 32768"
    ),
    ("", "frames"): (
        "Let the server take as many images as there are frames in a prompt (vLLM: --limit-mm-per-prompt "
        "'{\"image\":40}'), or set sample.frames lower"
    ),
    ("sglang", "samples"): "Start SGLang without --enable-deterministic-inference, which gives every sample one seed",
    ("transformers-serve", "samples"): "Serve the model with vLLM or SGLang: this server may not sample at all",
    ("", "samples"): 'Name the profile of the server as it is: one that takes no n needs wire.samples = "fanout"',
    ("vllm", "hearing"): (
        "Serve a model that hears (Qwen2-Audio, Qwen3-Omni), with --limit-mm-per-prompt '{\"audio\":1}'"
    ),
    ("", "hearing"): "Serve a model that hears, and that takes input_audio as WAV",
    ("vllm", "yes or no"): "Let vLLM give 20 log-probabilities (--max-logprobs 20, its default)",
    ("", "yes or no"): 'Where the server gives no log-probabilities say so: profile = "custom", wire.logprobs = false',
    ("vllm", "token ids"): "Rollouts need return_token_ids, which vLLM has: use a version that knows it",
    (
        "",
        "token ids",
    ): 'Rollouts need token ids and log-probabilities: serve the student with vLLM, or rollouts = "local"',
}


def noise_film(count: int) -> Frames:
    """Return `count` frames, each another, of noise."""
    images = np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), np.uint8)
    return Frames(images, np.arange(count) / 4, count / 4)


def _beep() -> np.ndarray[Any, Any]:
    time = np.arange(SECONDS * RATE) / RATE
    return (_silence() + 0.4 * np.sin(2 * np.pi * 1000 * time) * (time % 1 < 0.5)).astype(np.float32)


def _silence() -> np.ndarray[Any, Any]:
    """Hardly audible noise, because digital silence is a thing of its own."""
    return (1e-4 * np.random.default_rng(1).standard_normal(SECONDS * RATE)).astype(np.float32)


def _share(scores: np.ndarray[Any, Any]) -> float:
    return 1 / (1 + math.exp(min(scores[1] - scores[0], 700.0)))


def _practice(config: RunConfig) -> list[Grpo]:
    """Return the settings of the steps whose rollouts a server draws."""
    return [settings for settings in trainings(config) if isinstance(settings, Grpo) and settings.rollouts == "served"]


def _as_served(student: Model) -> Model:
    """Return a student that is trained here as the model that its server has."""
    manner = "world" if student.kind == "world" else student.manner
    return student.model_copy(update={"kind": "served", "manner": manner, "name": Keeper(student).base()})
