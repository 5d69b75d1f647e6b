"""distil: lessons, a teacher that reads and a teacher that listened before, all at once (method two)."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from earwitness.config import Distil
from earwitness.learn.beside import FILE, Beside
from earwitness.learn.checkpoints import complete_checkpoints
from earwitness.learn.deaf import deaf_test
from earwitness.learn.distillation import OUTSIDE, Comparison, anchor, joint_terms, responses_below_sound
from earwitness.learn.divergences import Divergence
from earwitness.learn.layers import Projections, choose_layers, decoder, paired
from earwitness.learn.losses import window
from earwitness.learn.router import router_weight, with_router
from earwitness.learn.signals import SHARD, SignalStore, make_ahead
from earwitness.learn.teachers import Reading, Signals, listen_to
from earwitness.learn.tree import Branch, Packed, Tree, pack
from earwitness.learn.vocabularies import Cuts, SharedVocabulary, VocabularyError
from earwitness.models.exchange import Prompt, PromptError
from earwitness.models.local import LocalModel
from earwitness.prompts import described_prompt, question_prompt
from earwitness.records import Lesson, Question
from earwitness.stages.sft import Draw, Lessons, Supervised, showable
from earwitness.stages.spelling import prompt_of, spell
from earwitness.stages.student import Student, open_student
from earwitness.stages.training import (
    SIGNALS,
    TrainingJob,
    first_process,
    fit,
    in_sixteen_bits,
    left_out,
    processes,
    settle,
)
from earwitness.stages.workbench import StageError, free_memory

if TYPE_CHECKING:
    from earwitness.models.served.teacher import ServedTeacher

Material = tuple[Question, Lesson]
PROJECTIONS = "projections.safetensors"


@dataclass
class Joint(Lessons):
    """A packed batch of lessons, the same responses packed for the textual teacher, and which lessons they are."""

    sound: float = 0.0
    read: Packed | None = None
    numbers: tuple[int, ...] = field(default=())

    def counts(self) -> dict[str, float]:
        """What the terms are divided by: beside what lessons count, the audio positions that are held to the parent."""
        return {**super().counts(), "sound": self.sound}


class Reader:
    """The textual teacher as one that scores the student's responses: it reads a description of each clip."""

    def __init__(self, job: TrainingJob, teacher: LocalModel | ServedTeacher, student: LocalModel) -> None:
        assert isinstance(job.settings, Distil)
        self.teacher, self.student, self.descriptions = teacher, student, dict(job.descriptions)
        self.sees = job.settings.witnesses[0].sees
        self.width, self.window = size_of(teacher)
        self.names = (student.name, teacher.name)
        sizes = size_of(student)[0], self.width
        self.shared = SharedVocabulary.of(student.tokenizer, teacher.tokenizer, sizes, self.names)
        self.cuts = Cuts(teacher.tokenizer, student.tokenizer, self.names)
        self.tokens = 0  # of all responses

    def refuse(self, material: Sequence[Material]) -> None:
        """Raise StageError for a description that is missing or too long, or a response that is other words to it."""
        room: dict[tuple[str, str], int] = {}  # what a question's prompt leaves of the window
        for question, lesson in material:
            key = question.id, prompt_of(lesson)
            try:
                if key not in room:
                    room[key] = self.window - len(self.root(question, key[1]).ids)
                ids = self.shared.translate(self.student.response_ids(spell(lesson)), self.student.tokenizer)
                self.cuts.refuse_others(spell(lesson), ids[:-1])
                self.tokens += len(ids)
                if len(ids) > room[key]:
                    raise PromptError(f"a response of {len(ids)} tokens finds room for {room[key]} in its window")
            except (PromptError, VocabularyError) as error:
                raise StageError(
                    f"distil cannot use {self.teacher.name} as a teacher of {question.id}: {error}"
                ) from error

    def root(self, question: Question, name: str) -> Any:
        """Return what the teacher reads before a response."""
        prompt = question_prompt(self.teacher.manner, name, question.text, question.choices)
        told = self.descriptions.get(question.id) if self.sees == "description" else None
        if told is None and self.sees == "description":
            raise PromptError("there is no description of its clip")
        return self.teacher.encode(Prompt(described_prompt(self.teacher.manner, told, prompt)))

    def packed(self, lessons: Sequence[Material]) -> Packed:
        """Pack responses below what the teacher reads; those to one question follow one another below one root."""
        trees = []
        for _, group in itertools.groupby(lessons, key=lambda item: (item[0].id, prompt_of(item[1]))):
            items = list(group)
            said = [self.student.response_ids(spell(lesson)) for _, lesson in items]
            branches = tuple(Branch.trained([self.shared.table[i] for i in ids]) for ids in said)
            trees.append(Tree(self.root(items[0][0], prompt_of(items[0][1])), branches))
        packed = pack(trees, self.teacher.pad)
        return packed.to(self.teacher.model.device) if isinstance(self.teacher, LocalModel) else packed

    def reading(self, settings: Distil, layers: tuple[int, ...]) -> Reading:
        """Return how this teacher is read for a student of the settings.

        Raises StageError where more of its tokens are asked for than there are.
        """
        same = self.shared.aligned and self.shared.outside == 0 and len(self.shared.teacher) == self.width
        if settings.top_k > len(self.shared.teacher):
            raise StageError(
                f"distil.top_k is {settings.top_k}, and {self.names[0]} and {self.names[1]} have "
                f"{len(self.shared.teacher)} tokens in common: lower it, or set it to 0 for all of them"
            )
        return Reading(layers, settings.match, settings.top_k, settings.softness, None if same else self.shared)


def size_of(model: LocalModel | ServedTeacher) -> tuple[int, int]:
    """Return how many tokens a model knows, and how many it takes at once."""
    if isinstance(model, LocalModel):
        return int(model.model.config.get_text_config().vocab_size), window(model.model)
    return model.width, model.window


class Jointly(Supervised):
    """The objective of method two. `signals` gives the textual teacher's signals for a batch (None: not asked for)."""

    def __init__(
        self,
        settings: Distil,
        student: Student,
        comparison: Comparison,
        projections: Projections | None = None,
        reader: Reader | None = None,
        signals: Callable[[Joint], Signals] | None = None,
        numbers: dict[tuple[str, Lesson], int] | None = None,
    ) -> None:
        super().__init__(student.local)
        self.settings, self.parent, self.comparison = settings, student.parent, comparison
        self.projections, self.reader, self.signals, self.numbers = projections, reader, signals, numbers or {}
        self.weights = {**weights_of(settings), OUTSIDE: 0.0, **router_weight(student.local.model)}

    def prepare(self, model: Any, items: Sequence[Material], step: int) -> Joint:
        """Pack lessons for the student, and below what it reads for the textual teacher."""
        made = super().prepare(model, items, step)
        joint = Joint(made.packed, made.left_out, made.router, made.lessons, made.in_part)
        if "acoustic_kd" in self.comparison.terms:
            joint.sound = responses_below_sound(made.packed, self.comparison.placeholder)
        if self.signals is not None and made.lessons:
            joint.numbers = tuple(self.numbers[q.id, lesson] for q, lesson in made.lessons) if self.numbers else ()
            joint.read = self.reader.packed(made.lessons) if self.reader is not None else None
        return joint

    def terms(self, model: Any, batch: Lessons, totals: dict[str, float]) -> dict[str, Tensor]:
        """Return the terms that are asked for, in nats per token (acoustic: per audio position and layer)."""
        assert isinstance(batch, Joint)
        signals = self.signals(batch) if self.signals is not None and batch.lessons else None
        held: list[Tensor] = []
        if self.parent is not None:
            device = self.student.model.device
            # The trainer sees to the student's own precision alone, and what is compared must be of the same.
            with torch.autocast(device.type, torch.bfloat16, enabled=in_sixteen_bits(self.settings, device)):
                held = self.parent(lambda parent: anchor(parent, batch.packed, self.comparison))
        score = partial(joint_terms, model, batch.packed, self.comparison, totals, signals, held, self.projections)
        terms, router = with_router(model, batch.packed, totals, score)
        return {**terms, **router}

    def schedule(self, step: int) -> dict[str, float]:
        """Return the share of their weights that terms have at a step: layer_kd hands over to text_kd, if asked."""
        if self.settings.layer_schedule == "constant":
            return {}
        done = min(1.0, step / max(1.0, self.settings.handover * self.settings.steps))
        shares = {"layer_kd": 1 - done, "text_kd": done}
        return {name: share for name, share in shares.items() if name in self.weights}


def learn_jointly(job: TrainingJob) -> dict[str, Any]:
    """Run a distil job and leave its checkpoint. Returns what was measured before and counted on the way."""
    settings = job.settings
    assert isinstance(settings, Distil)
    student = open_student(job, with_parent=settings.acoustic_weight > 0)
    plan = Draw(job)
    first = showable(student.local, plan(0), settings.micro_batch)
    hearing = deaf_test(student.local.model, Supervised(student.local).prepare(student.local.model, first, 0).packed)
    objective = joint_objective(job, settings, student)
    beside = None
    if objective.projections is not None:
        beside = Beside(objective.projections, settings.projection_learning_rate)
    fit(job, student, objective, plan, settings.batch, beside=beside)
    chosen = settle(job, student, prompt_of(job.material[0][1]))
    if beside is not None and first_process():
        last = complete_checkpoints(job.folder)[settings.steps]
        shutil.copy(last / FILE, job.folder / PROJECTIONS)
    facts = {"deaf_test": hearing.facts(), "questions": len(plan.groups), "lessons": len(job.material), **chosen}
    return facts | {"left_out": left_out(job.folder), "why": objective.why}


def joint_objective(job: TrainingJob, settings: Distil, student: Student) -> Jointly:
    """Open the textual teacher if any term needs it, and pair its layers with the student's."""
    local = student.local
    depth = len(decoder(local.model).layers)
    terms = frozenset(weights_of(settings))
    reader = _open_reader(job, local) if settings.reads else None
    layers = _student_layers(settings, depth) if "layer_kd" in terms else ()
    held = _chosen("acoustic_layers", settings.acoustic_layers, depth) if "acoustic_kd" in terms else ()
    comparison = Comparison(
        terms=terms,
        divergence=Divergence(settings.divergence, settings.mixture, settings.softness),
        layers=layers,
        layer_weights=settings.layer_weights,
        distance=settings.distance,
        acoustic_layers=held,
        placeholder=local.tokenizer.convert_tokens_to_ids(local.family.placeholder),
    )
    if reader is None:
        return Jointly(settings, student, comparison)
    theirs = _teacher_layers(settings, layers, depth, len(decoder(reader.teacher.model).layers)) if layers else ()
    reading = reader.reading(settings, theirs)
    projections = None
    if layers and settings.match == "representation":
        own, wide = (m.config.get_text_config().hidden_size for m in (local.model, reader.teacher.model))
        projections = Projections(layers, own, wide, job.seed)
    if settings.signals == "live":
        live = lambda batch: listen_to(reader.teacher.model, batch.read, reading)  # noqa: E731
        return Jointly(settings, student, comparison, projections, reader, live)
    store = _made_ahead(job, reader, reading)
    ahead = lambda batch: store(batch.numbers, local.model.device)  # noqa: E731
    numbers = {(question.id, lesson): n for n, (question, lesson) in enumerate(job.material)}
    return Jointly(settings, student, comparison, projections, None, ahead, numbers)


def _open_reader(job: TrainingJob, student: LocalModel) -> Reader:
    from earwitness.models import open_local

    assert job.textual_teacher is not None and isinstance(job.settings, Distil)
    teacher: LocalModel | ServedTeacher
    if job.textual_teacher.kind == "served":
        from earwitness.models.served.desk import current_desk
        from earwitness.models.served.teacher import ServedTeacher
        from earwitness.models.served.training import refuse_signals

        refuse_signals(job.stage, job.settings, job.textual_teacher)
        teacher = ServedTeacher(job.textual_teacher, current_desk())
    else:
        teacher = open_local(job.textual_teacher, "textual_teacher")
        teacher.model.requires_grad_(False).eval()
    try:
        reader = Reader(job, teacher, student)
    except VocabularyError as error:
        raise StageError(f"distil cannot use {teacher.name} as a textual teacher: {error}") from error
    reader.refuse(job.material)
    return reader


def _made_ahead(job: TrainingJob, reader: Reader, reading: Reading) -> SignalStore:
    """Let the textual teacher say everything that it will be asked, and let it go."""
    from accelerate import PartialState

    rank = PartialState().process_index
    folder: Path = job.folder / SIGNALS
    _refuse_full_disk(job, reader, reading)
    packing = lambda numbers: reader.packed([job.material[n] for n in numbers])  # noqa: E731
    local = isinstance(reader.teacher, LocalModel)
    together = job.settings.micro_batch or job.settings.batch if local else SHARD
    make_ahead(folder, reader.teacher.model, len(job.material), packing, reading, (rank, processes()), together)
    PartialState().wait_for_everyone()
    del reader.teacher
    free_memory()
    return SignalStore(folder, reading)


def _refuse_full_disk(job: TrainingJob, reader: Reader, reading: Reading) -> None:
    """Raise StageError where the signals would not fit on the disk, before the first of them is made."""
    layer = 8 * reading.top_k
    if reading.layers and reading.match == "representation":
        head = reader.teacher.model.lm_head.weight
        layer = head.shape[1] * head.element_size()
    size = reader.tokens * (8 * reading.top_k + len(reading.layers) * layer)
    folder = job.folder / SIGNALS
    there = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    free = shutil.disk_usage(job.folder).free
    if size - there > free:
        raise StageError(
            f"the signals of {len(job.material)} lessons ({reader.tokens} tokens) would take {size / 2**30:.1f} GiB, "
            f'and {free / 2**30:.1f} GiB are free: name fewer layers, match = "distribution" with a small top_k, or '
            'signals = "live"'
        )


def _student_layers(settings: Distil, depth: int) -> tuple[int, ...]:
    """Return the student's layers that are compared. The top one's distribution is the top-layer term's."""
    chosen = _chosen("layers", settings.layers, depth)
    if settings.match == "distribution" and settings.text_weight and depth in chosen:
        if not isinstance(settings.layers, str):
            raise StageError(
                f"distil.layers names layer {depth}, the student's last: its distribution is compared by text_kd "
                "already; leave it out"
            )
        chosen = tuple(i for i in chosen if i != depth)
        if not chosen:
            raise StageError(
                f"distil.layers = {settings.layers!r} takes no layer below the student's last ({depth}), whose "
                "distribution is compared by text_kd already: name others"
            )
    weights = settings.layer_weights
    if weights and len(weights) != len(chosen):
        raise StageError(f"distil.layer_weights has {len(weights)} numbers for {len(chosen)} layers: {chosen}")
    return chosen


def _teacher_layers(settings: Distil, layers: tuple[int, ...], depth: int, teacher_depth: int) -> tuple[int, ...]:
    if not settings.teacher_layers:
        return paired(layers, depth, teacher_depth)
    if len(settings.teacher_layers) != len(layers):
        raise StageError(
            f"distil.teacher_layers has {len(settings.teacher_layers)} layers for the student's {len(layers)}: {layers}"
        )
    return _chosen("teacher_layers", settings.teacher_layers, teacher_depth, "the textual teacher")


def _chosen(setting: str, choice: str | Sequence[int], depth: int, whose: str = "the student") -> tuple[int, ...]:
    try:
        return choose_layers(choice, depth, whose)
    except ValueError as error:
        raise StageError(f"distil.{setting}: {error}") from error


def weights_of(settings: Distil) -> dict[str, float]:
    """Return the weights of the terms that count; a term of weight 0 is not computed."""
    every = {
        "ce": settings.sft_weight,
        "text_kd": settings.text_weight,
        "layer_kd": settings.layer_weight,
        "acoustic_kd": settings.acoustic_weight,
    }
    return {name: weight for name, weight in every.items() if weight > 0}
