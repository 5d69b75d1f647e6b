"""Practice whose samples a server draws: each round it is given the policy as it is then, and asked for its samples."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from earwitness.config import Grpo
from earwitness.learn.importance import drift_of, refuse_strangers, refuse_untempered
from earwitness.learn.losses import token_logprobs
from earwitness.learn.noise import generator
from earwitness.learn.policy import Task
from earwitness.learn.sampling import Sampled, room
from earwitness.learn.tree import Branch, Tree, pack
from earwitness.models.exchange import Drawing, Prompt, Unanswered
from earwitness.models.local import LocalModel
from earwitness.models.served.call import Answer, Call, Malformed, ServerError
from earwitness.models.served.desk import current_desk
from earwitness.models.served.engine import Engine
from earwitness.models.served.profiles import wire_of
from earwitness.models.served.reading import read_samples
from earwitness.models.served.requests import PATH, Asked, body, most_tokens
from earwitness.models.served.showing import show
from earwitness.models.served.weights import Keeper
from earwitness.stages.student import Student, save_weights
from earwitness.stages.training import TrainingJob, first_process
from earwitness.stages.workbench import StageError

FOLDER = "served"  # in a step's folder: the weights that the server was given last
SEEDS = 2**30  # seeds begin below this, so that the last of many samples still has one


class ServedRollouts:
    """Draws groups from the server at the student's base_url. Raises ServerError where that cannot serve them.

    The versions of the policy are called RUN-STEP-DIGEST-ROUND on the server; the first process hands them over, and
    the others wait for it. What an earlier sitting left there is dropped at the start.
    """

    def __init__(self, job: TrainingJob, student: Student) -> None:
        assert isinstance(job.settings, Grpo)
        self.settings, self.student = job.settings, student
        self.spec = job.base.model_copy(update={"kind": "served", "adapter": None})
        self.prompts: dict[tuple[object, ...], Prompt] = {}  # by the key of the task
        self.keeper = Keeper(self.spec)
        self.engine = Engine(self.spec, None, current_desk().purse)  # a policy that changes has no lasting answers
        self.name = f"{job.folder.parent.parent.name}-{job.key}"
        self.folder: Path = (job.folder / FOLDER).absolute()
        self.asked_for = ""  # what requests call the policy
        self.round: int | None = None  # that the server has the policy of
        self.trusted = False
        if first_process():
            self.keeper.refuse_unfit(self.settings.tuning, self.settings.lora_rank)
            self._forget()

    def __call__(self, tasks: Sequence[Task], round_number: int) -> list[list[Sampled]]:
        """Return a group of samples for each task, drawn by the policy as it is in this round."""
        self._hand_over(round_number)
        answers = self._ask([call for task in tasks for call in self._calls(task, round_number)])
        groups = []
        for task in tasks:
            drawn = [next(answers) for _ in range(self.settings.group)]
            refuse_other_prompt(self.student.local, task.root.ids, drawn[0]["prompt"])
            groups.append([self._sampled(answer) for answer in drawn])
        if not self.trusted:
            self._refuse_strangers(tasks, groups)
            self.trusted = True
        return groups

    def forget_all(self) -> None:
        """Let the server forget the last version, too, and remove its files: nobody draws any more."""
        if first_process():
            self._forget()

    def _hand_over(self, round_number: int) -> None:
        full = self.settings.tuning == "full"
        every = self.settings.reload_every if full else 1
        if self.round is not None and round_number - self.round < every:
            return
        self.round, version = round_number, f"{self.name}-{round_number}"
        if first_process():
            folder = self.folder / version
            save_weights(self.student.local.model, folder)
            if full:
                self.keeper.reload(folder)
            else:
                self.keeper.load(version, folder)
            self._forget(but=version)
        self.asked_for = self.keeper.base() if full else self.keeper.named(version)
        PartialState().wait_for_everyone()

    def _forget(self, but: str = "") -> None:
        """Drop all versions on the server and on the disk but one."""
        for name in sorted(self.keeper.served()):
            adapter = name.rpartition(":")[2]
            if adapter.startswith(f"{self.name}-") and adapter != but:
                self.keeper.unload(adapter)
        for folder in self.folder.glob("*"):
            if folder.name != but:
                shutil.rmtree(folder)

    def _calls(self, task: Task, round_number: int) -> list[Call]:
        """Return the requests for a task's group: one, or one a sample where the server draws no more at once."""
        wire, prompt, group = wire_of(self.spec), self.prompts[task.key], self.settings.group
        shown = show(prompt, self.spec, "hearing")
        together = group if wire.samples == "native" else 1
        limit = room(self.student.local.model, task.root, self.settings.max_tokens)
        how = Drawing(together, self.settings.temperature, limit)
        first = int(generator(*task.key, round_number, "served").integers(SEEDS))
        spec = self.spec.model_copy(update={"adapter": self.asked_for})
        name = "/".join(map(str, (*task.key, round_number)))
        return [
            Call(
                keys=tuple(f"{name}/{number + n}" for n in range(together)),
                path=PATH,
                body=body(
                    spec, shown, prompt.text, how, Asked(first + number if wire.seeds == "each" else None, ids=True)
                ),
                read=partial(_read, together),
                tokens=most_tokens(shown, prompt.text, how),
                what=str(task.key[-1]),
            )
            for number in range(0, group, together)
        ]

    def _ask(self, calls: Sequence[Call]) -> Iterator[Answer]:
        for answers in self.engine.ask(calls):
            if isinstance(answers, Unanswered):
                raise StageError(f"practice cannot go on: {answers}. The same command goes on from the last checkpoint")
            yield from answers

    def _sampled(self, answer: Answer) -> Sampled:
        """Return a sample as training takes it: ended by its stop token, and before anything that stands for sound."""
        local = self.student.local
        if "refused" in answer:
            raise StageError(f"practice cannot go on: the server would not answer: {answer['refused']}")
        ids, logprobs, stopped = list(answer["ids"]), list(answer["logprobs"]), answer["finish"] == "stop"
        sound = local.tokenizer.convert_tokens_to_ids(local.family.placeholder)
        if sound in ids:
            at = ids.index(sound)
            ids, logprobs, stopped = ids[:at], logprobs[:at], False
        elif stopped and (not ids or ids[-1] not in local.stop):
            ids, logprobs = [*ids, local.turn_end], [*logprobs, math.nan]
        if not ids:
            raise StageError("the server drew a sample without a token: it does not serve this student")
        return Sampled(tuple(ids), stopped, tuple(logprobs))

    @torch.no_grad()
    def _refuse_strangers(self, tasks: Sequence[Task], groups: Sequence[Sequence[Sampled]]) -> None:
        """Raise StrangeSamples for a server whose first samples are not the policy's, whatever they are worth."""
        local, temperature = self.student.local, self.settings.temperature
        trees = [
            Tree(task.root, tuple(Branch.trained(s.ids) for s in group))
            for task, group in zip(tasks, groups, strict=True)
        ]
        batch = pack(trees, local.pad).to(local.model.device)
        said = torch.tensor([p for group in groups for s in group for p in s.logprobs], device=local.model.device)
        drift = drift_of(token_logprobs(local.model, batch, temperature), said)
        if temperature != 1:
            refuse_untempered(drift, drift_of(token_logprobs(local.model, batch), said))
        refuse_strangers(drift)


def refuse_other_prompt(local: LocalModel, ours: Sequence[int], theirs: Sequence[int]) -> None:
    """Raise ServerError where a server reads another prompt than the trainer, saying from where on.

    A server may tell the prompt as it was before each clip's placeholder was repeated for every token of sound.
    """
    sound = local.tokenizer.convert_tokens_to_ids(local.family.placeholder)
    once = [i for n, i in enumerate(ours) if not (n and i == sound == ours[n - 1])]
    if list(theirs) in (list(ours), once):
        return
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    here, there = (local.tokenizer.convert_ids_to_tokens(list(part[at : at + 5])) for part in (ours, theirs))
    raise ServerError(
        f"the server reads another prompt than the trainer: {len(theirs)} tokens where here are {len(ours)}, first at "
        f"token {at}: {there} where here is {here}. Serve the same model with its own chat template; a clip that is "
        "cut on one side alone is another prompt, too"
    )


def _read(count: int, response: Mapping[str, Any]) -> list[Answer]:
    answers = read_samples(response, count, thinks=False, ids=True)
    choices = response["choices"]
    prompt = response.get("prompt_token_ids") or choices[0].get("prompt_token_ids")  # SGLang tells it with each choice
    if not isinstance(prompt, list) or not all(type(i) is int for i in prompt):
        raise Malformed("the prompt's token ids were asked for, and none came")
    return [{**answer, "prompt": prompt} for answer in answers]
