"""A model behind a server: what is asked of it is asked once, and its answers are read from the ledger ever after."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from earwitness.config import Model
from earwitness.ledger import call_key
from earwitness.models.exchange import (
    OF_THE_QUESTION,
    Completion,
    Drawing,
    HeardInPart,
    Prompt,
    Sense,
    Unanswered,
    Unclear,
    shows_media,
)
from earwitness.models.served.call import Answer, Call
from earwitness.models.served.desk import Desk
from earwitness.models.served.profiles import wire_of
from earwitness.models.served.reading import completion_of, read_choice, read_samples, read_scores
from earwitness.models.served.requests import PATH, TOP, Asked, body, most_tokens
from earwitness.models.served.showing import Shown, content_shown, refuse_frame, show
from earwitness.records import Clip

SEEDS = 2**30  # seeds begin below this, so that the last of many samples still has one
FIRST_TOKEN = Drawing(max_tokens=1)
WORDS = Drawing(max_tokens=1024)  # room for the thinking of a model that cannot but think


@dataclass(frozen=True)
class Order:
    """A prompt, the names of its answers in the ledger, and what makes the calls for those that it lacks."""

    prompt: Prompt
    names: tuple[str, ...]
    calls: Callable[[Shown, list[int]], list[Call]]


class ServedModel:
    """A model with one sense behind a server: a Voice."""

    def __init__(self, spec: Model, sense: Sense, desk: Desk) -> None:
        self.spec, self.sense, self.desk = spec, sense, desk
        self.name: str = spec.name
        self.manner: str = spec.manner
        self.wire = wire_of(spec)
        self.notes: dict[Clip | None, str] = {}

    def check(self, prompt: Prompt) -> None:
        """Raise PromptError, MediaError or MediaLimit for a prompt that cannot be sent. Nothing is sent."""
        refuse_frame(prompt.text, self.name)
        show(prompt, self.spec, self.sense)

    def draw(
        self, prompts: Sequence[Prompt], how: Drawing, keys: Sequence[tuple[object, ...]]
    ) -> list[list[Completion] | Exception]:
        """Draw completions of each prompt, or say why one has none. Only what the ledger lacks is asked for.

        A greedy answer is asked for once, however many samples are wanted: they are all the same.
        """
        once = how if how.temperature else replace(how, samples=1)
        orders: list[Order | Exception] = []
        for prompt, key in zip(prompts, keys, strict=True):
            try:
                orders.append(self._samples(prompt, once, key))
            except OF_THE_QUESTION as error:
                orders.append(error)
        found = self._answers([order for order in orders if isinstance(order, Order)])
        return [order if isinstance(order, Exception) else self._drawn(order, found, how.samples) for order in orders]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[list[float]]:
        """Return each option's log-probability (nats) as the beginning of the answer to each prompt.

        From the server's log-probabilities where it gives them; else 0 for the option that an answer names, and -700
        for the others. Raises one of OF_THE_QUESTION, also where an answer names no option.
        """
        scores: dict[int, list[float]] = {}
        said = ""
        for by_logprobs in (True, False) if self.wire.logprobs else (False,):
            left = [number for number in range(len(prompts)) if number not in scores]
            orders = [self._choice(prompts[number], tuple(options), by_logprobs) for number in left]
            found = self._answers(orders)
            for number, order in zip(left, orders, strict=True):
                answer = found[order.names[0]]
                if isinstance(answer, Exception):
                    raise answer
                self._note(order.prompt, answer)
                if answer["scores"] is None:
                    said = answer.get("said", "")
                else:
                    scores[number] = answer["scores"]
        if len(scores) < len(prompts):
            raise Unclear(f"{self.name} was to say {' or '.join(options)}, and said {said!r}")
        return [scores[number] for number in range(len(prompts))]

    def _samples(self, prompt: Prompt, how: Drawing, key: tuple[object, ...]) -> Order:
        identity = self._identity(prompt, how) | ({"key": list(key)} if how.temperature else {})
        names = tuple(call_key(**identity, sample=number) for number in range(how.samples))
        first_seed = int(hashlib.sha256(call_key(**identity).encode()).hexdigest(), 16) % SEEDS

        def call(shown: Shown, numbers: list[int]) -> Call:
            seed = first_seed + numbers[0] if how.temperature and self.wire.seeds == "each" else None
            read = partial(read_samples, count=len(numbers), thinks=self._thinks)
            keys = tuple(names[number] for number in numbers)
            return self._call(prompt, keys, shown, replace(how, samples=len(numbers)), Asked(seed), read)

        def calls(shown: Shown, missing: list[int]) -> list[Call]:
            together = _runs(missing) if self.wire.samples == "native" else [[number] for number in missing]
            return [call(shown, numbers) for numbers in together]

        return Order(prompt, names, calls)

    def _choice(self, prompt: Prompt, options: tuple[str, ...], by_logprobs: bool) -> Order:
        how = FIRST_TOKEN if by_logprobs else WORDS
        held = by_logprobs or self.wire.choices == "none"
        asked = Asked(top=TOP if by_logprobs else 0, options=() if held else options)
        way = "logprobs" if by_logprobs else self.wire.choices
        name = call_key(**self._identity(prompt, how), options=list(options), way=way)

        def read(response: Mapping[str, Any]) -> list[Answer]:
            return [read_scores(response, options) if by_logprobs else read_choice(response, options, self._thinks)]

        return Order(prompt, (name,), lambda shown, _: [self._call(prompt, (name,), shown, how, asked, read)])

    def _identity(self, prompt: Prompt, how: Drawing) -> dict[str, Any]:
        """Return what decides an answer, as JSON values: never where the server stands, nor how long it may take."""
        spec = self.spec
        model = {"model": spec.name, "revision": spec.revision, "adapter": spec.adapter}
        drawn = {"temperature": how.temperature, "top_k": how.top_k, "top_p": how.top_p} if how.temperature else {}
        seen = content_shown(prompt, spec, self.sense)
        text = hashlib.sha256(prompt.text.encode("utf-8", "surrogatepass")).hexdigest()
        wire = {"sent": self.wire.frames} if self.sense == "sight" and seen else {}
        held = {"schema": how.schema} if how.schema is not None and self.wire.choices != "none" else {}
        whole = {} if self._thinks else {"thinking": "left out"}
        return {**model, "text": text, **seen, **wire, **held, **drawn, **whole, "max_tokens": how.max_tokens}

    def _call(
        self,
        prompt: Prompt,
        names: tuple[str, ...],
        shown: Shown,
        how: Drawing,
        asked: Asked,
        read: Callable[[Mapping[str, Any]], list[Answer]],
    ) -> Call:
        noted = {} if shown.note is None else {"note": shown.note}

        def made() -> bytes:  # from the clip anew: what all that wait are to be shown would not fit in memory
            return body(self.spec, show(prompt, self.spec, self.sense), prompt.text, how, asked)

        return Call(
            keys=names,
            path=PATH,
            body=made if shows_media(prompt) else made(),
            read=lambda response: [answer | noted for answer in read(response)],
            tokens=most_tokens(shown, prompt.text, how),
            what=prompt.clip.id if prompt.clip else "a text",
        )

    def _answers(self, orders: Sequence[Order]) -> dict[str, Answer | Exception]:
        """Return the answers to orders by name: those of the ledger, and those that are asked for now."""
        ledger, names = self.desk.ledger, [name for order in orders for name in order.names]
        found: dict[str, Answer | Exception] = dict(ledger.answered(names)) if ledger else {}
        owed = [order for order in orders if not found.keys() >= set(order.names)]
        sent: dict[tuple[str, ...], None] = {}

        def calls() -> Iterator[Call]:  # one by one: the server works on the first while the next clip is decoded
            for order in owed:
                missing = [number for number, name in enumerate(order.names) if name not in found]
                try:
                    refuse_frame(order.prompt.text, self.name)
                    shown = show(order.prompt, self.spec, self.sense)
                except OF_THE_QUESTION as error:
                    found.update(dict.fromkeys(order.names, error))
                    continue
                for call in order.calls(shown, missing):
                    if call.keys not in sent:
                        sent[call.keys] = None
                        yield call

        answered = self.desk.ask(self.spec, calls()) if owed else []
        for keys, answers in zip(sent, answered, strict=True):
            if isinstance(answers, Unanswered):
                found |= dict.fromkeys(keys, answers)
            else:
                found |= dict(zip(keys, answers, strict=True))
        return found

    def _drawn(
        self, order: Order, found: Mapping[str, Answer | Exception], samples: int
    ) -> list[Completion] | Exception:
        """Return a prompt's completions, or why it has none: one sample that is missing is one vote that is missing."""
        made = []
        for name in order.names:
            answer = found[name]
            if isinstance(answer, Exception):
                return answer
            self._note(order.prompt, answer)
            try:
                made.append(completion_of(answer))
            except Unanswered as error:
                return error
        return made if len(made) == samples else made * samples

    def _note(self, prompt: Prompt, answer: Answer) -> None:
        if "note" in answer and prompt.clip not in self.notes:
            self.notes[prompt.clip] = answer["note"]
            where = prompt.clip.id if prompt.clip else "a given waveform"
            warnings.warn(f"{where}: {answer['note']}", HeardInPart, stacklevel=2)

    @property
    def _thinks(self) -> bool:
        return self.wire.reasoning != "none"


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Return rising numbers in runs without a gap: samples that one request can ask for, each with its own seed."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
