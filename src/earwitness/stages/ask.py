"""ask: the teacher's own questions about the sound of clips, from silent frames alone, and which of them stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from earwitness.answers import read, same
from earwitness.config import Ask, Model
from earwitness.learn.noise import generator
from earwitness.media import MediaError, probe
from earwitness.models import connected
from earwitness.models.exchange import Completion, Drawing, Prompt, PromptError, Voice
from earwitness.prompts import fill, question_prompt, template
from earwitness.records import Clip, Draft, Question
from earwitness.sources.drafts import SCHEMA, DraftError, read_draft, read_list
from earwitness.sources.problems import shown
from earwitness.stages.asking import draw_each, failure
from earwitness.table import Failed

BLIND = "the same model answers it without the clip"
SURPLUS = "more than were asked for"
TWICE = "it asks what an earlier one asks"

Written = list[Draft] | Failed


@dataclass(frozen=True)
class AskAboutClips:
    """Lets the teacher write questions about each clip of a block, and asks it those again without the clip."""

    teacher: Model
    settings: Ask
    seed: int

    def __call__(self, items: Sequence[Question]) -> list[Written]:
        """Return each clip's questions, those that are dropped among them, or why none can be asked."""
        model = connected(self.teacher, "teacher")
        return self.write(model, [item.clip for item in items])

    def write(self, model: Voice, clips: Sequence[Clip]) -> list[Written]:
        """Like a call, of a model that is open."""
        deaf = [_unheard(clip) for clip in clips]
        asked = [clip for clip, why in zip(clips, deaf, strict=True) if why is None]
        drafts = iter(self._not_guessed(model, asked, self._drafts(model, asked)) if asked else [])
        return [_worth_asking(next(drafts)) if why is None else why for why in deaf]

    def _drafts(self, model: Voice, clips: Sequence[Clip]) -> list[Written]:
        settings = self.settings
        text = fill(template(model.manner, "ask"), questions=str(settings.questions), choices=str(settings.choices))
        prompts = [Prompt(text, clip, settings.frames) for clip in clips]
        how = Drawing(temperature=settings.temperature, max_tokens=settings.max_tokens, schema=SCHEMA)
        keys = [(self.seed, "ask", clip.id) for clip in clips]
        return draw_each(model, prompts, how, keys, lambda i, said: self.read(said[0], clips[i], model.name))

    def read(self, said: Completion, clip: Clip, by: str) -> Written:
        """Read what a teacher wrote about a clip: its questions, their choices shuffled, the bad ones marked."""
        if said.finish == "length":
            return Failed(f"the questions were cut off after {self.settings.max_tokens} tokens: raise ask.max_tokens")
        try:
            items = read_list(said.text)
        except DraftError as error:
            return Failed(str(error))
        drafts: list[Draft] = []
        for number, item in enumerate(items, 1):
            draft = self._draft(item, number, clip, by)
            kept = [d.text for d in drafts if not d.dropped]
            if not draft.dropped and len(kept) >= self.settings.questions:
                draft = draft.model_copy(update={"dropped": SURPLUS})
            if any(same(draft.text, text) for text in kept):
                draft = draft.model_copy(update={"dropped": draft.dropped or TWICE})
            drafts.append(draft)
        return drafts

    def _draft(self, item: object, number: int, clip: Clip, by: str) -> Draft:
        try:
            text, choices, proposed = read_draft(item, self.settings.choices)
        except DraftError as error:
            return Draft(number=number, text=shown(item), choices=(), proposed="", dropped=str(error), by=by)
        order = generator(self.seed, "ask", clip.id, number).permutation(len(choices))
        shuffled = tuple(choices[i] for i in order)
        return Draft(number=number, text=text, choices=shuffled, proposed=proposed, dropped="", by=by)

    def _not_guessed(self, model: Voice, clips: Sequence[Clip], written: Sequence[Written]) -> list[Written]:
        """Ask the same model each question without the clip, and mark those that it answers right every time."""
        if not self.settings.blind:
            return list(written)
        every = [(i, draft) for i, made in enumerate(written) for draft in _kept(made)]
        prompts = [Prompt(question_prompt(model.manner, "direct", d.text, d.choices)) for _, d in every]
        how = Drawing(self.settings.blind, self.settings.temperature, self.settings.max_tokens)
        keys = [(self.seed, "blind", clips[i].id, d.number) for i, d in every]
        drawn = model.draw(prompts, how, keys) if prompts else []
        said = {(i, d.number): answers for (i, d), answers in zip(every, drawn, strict=True)}
        return [
            made if isinstance(made, Failed) else _judged(made, {d.number: said[i, d.number] for d in _kept(made)})
            for i, made in enumerate(written)
        ]


def tally(drafts: Iterable[Draft]) -> str:
    """Return why questions were dropped, the commonest reason first."""
    reasons = Counter(draft.dropped for draft in drafts if draft.dropped)
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())


def _unheard(clip: Clip) -> Failed | None:
    """Return why nothing can be asked about the sound of a clip; a damaged one may also fail where it is shown."""
    try:
        tracks = probe(clip.media)
    except MediaError as error:
        return failure(error, clip)
    if not tracks.sound:
        return Failed(f"{clip.id}: has no sound track, and questions are about the sound; leave it out")
    return None


def _kept(made: Written) -> list[Draft]:
    return [] if isinstance(made, Failed) else [draft for draft in made if not draft.dropped]


def _judged(drafts: list[Draft], said: dict[int, list[Completion] | Exception]) -> Written:
    judged = []
    for draft in drafts:
        answers = said.get(draft.number, [])
        if isinstance(answers, PromptError):
            draft = draft.model_copy(update={"dropped": "it cannot be put to a model"})
        elif isinstance(answers, Exception):
            return Failed(f"question {draft.number} could not be asked without the clip: {answers}")
        elif answers and all(_right(answer, draft) for answer in answers):
            draft = draft.model_copy(update={"dropped": BLIND})
        judged.append(draft)
    return judged


def _right(said: Completion, draft: Draft) -> bool:
    answer = read(said.text, draft.choices).answer if said.finish == "stop" else None
    return answer is not None and same(answer, draft.proposed)


def _worth_asking(made: Written) -> Written:
    if isinstance(made, Failed) or _kept(made):
        return made
    return Failed(f"none of the {len(made)} questions that were written can be asked: {tally(made)}")
