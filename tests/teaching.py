"""What the tests of joint training share: lessons, teachers that read, jobs, and the loss computed row by row."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from earwitness.config import Distil, Model
from earwitness.learn.attention import unwrapped
from earwitness.learn.layers import decoder
from earwitness.models.exchange import Prompt
from earwitness.prompts import described_prompt, question_prompt
from earwitness.records import Lesson, Question
from earwitness.stages import training
from earwitness.stages.distil import joint_objective
from earwitness.stages.spelling import prompt_of, spell
from earwitness.stages.student import open_student
from earwitness.stages.training import TrainingJob
from tensors import clip

TEXTS = ("which sound is the first one ?", "which sound is heard most often ?")
THOUGHTS = ("i hear dog , bell . so dog .", "i hear bell .", "dog is before the bell , so dog", None)
HEARD = ("i hear dog , bell .", "i hear drum , drum , horn .", "i hear siren .")


def material(clips=2, questions=2, each=2, together=False):
    """Lessons: several questions about a clip, several responses to a question, of unequal length."""
    made = []
    for c in range(clips):
        for n in range(questions):
            question = Question(id=f"w/{c}/{n}", clip=clip(c), text=TEXTS[n % 2], choices=("bell", "dog"))
            for i in range(each):
                think = THOUGHTS[(c + n + i) % (3 if together else len(THOUGHTS))]
                lesson = Lesson(think=think, answer=("dog", "bell")[i % 2], index=i, pools=("verified",), by="test")
                made.append((question, lesson))
    return made


def told(lessons):
    """What every question's clip sounds like."""
    return tuple({q.id: HEARD[int(q.clip.id.split("/")[1]) % len(HEARD)] for q, _ in lessons}.items())


def job(student, reader, folder, lessons=None, parent=None, **settings) -> TrainingJob:
    """A whole job of joint training; folders of a student and a teacher that reads."""
    lessons = material() if lessons is None else lessons
    defaults = {"steps": 2, "batch": 4, "learning_rate": 3e-3}
    teacher = reader if isinstance(reader, Model) or reader is None else Model(kind="local", name=str(reader))
    return TrainingJob(
        "distil", Distil(**defaults | settings), Model(kind="local", name=str(student)), parent, tuple(lessons), 1,
        Path(folder), "key", textual_teacher=teacher, descriptions=told(lessons),
    )  # fmt: skip


def write_reader(folder, tokenizer, kind="qwen3", layers=6, width=48, size=None, **changes) -> Path:
    """Write a random model that only reads, with a tokenizer of its own."""
    import transformers

    torch.manual_seed(11)
    config = {"qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}[kind](
        vocab_size=size or len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **changes,
    )  # fmt: skip
    model = {"qwen2": transformers.Qwen2ForCausalLM, "qwen3": transformers.Qwen3ForCausalLM}[kind](config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "norm" not in name:
            parameter.data.normal_(0, 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    manner = "world" if "dog" in tokenizer.get_vocab() else "plain"
    (Path(folder) / "earwitness.json").write_text(json.dumps({"manner": manner, "prompt": "think"}))
    return Path(folder)


def world_tokenizer(order=None, without=()):
    """The embedded world's tokenizer; `order` permutes its ids, and some words may be missing."""
    from earwitness.pretrain import vocabulary

    words = [word for word in vocabulary.vocabulary() if word not in without]
    if order is not None:
        picked = torch.randperm(len(words), generator=torch.Generator().manual_seed(order)).tolist()
        words = [words[i] for i in picked]
    before = vocabulary.vocabulary
    vocabulary.vocabulary = lambda: words
    try:
        return vocabulary.tokenizer()
    finally:
        vocabulary.vocabulary = before


def shaken(model, scale=0.02):
    """The model, its trained weights moved a little: from its own parent, too."""
    torch.manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * scale * (1 if parameter.dim() > 1 else 0.2)
    return model


def log_of(folder: Path) -> list[dict]:
    """A training's log, one entry a step."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def left_by(one_job) -> dict:
    """What a training leaves: its log, its weights, its projections."""
    training.train(one_job)
    files = [*one_job.folder.glob("*.safetensors"), *(one_job.folder / "final").glob("*.safetensors")]
    return {"log": log_of(one_job.folder), **{file.name: load_file(file) for file in files}}


def opened(one_job):
    """A student, and what it is trained for."""
    student = open_student(one_job, with_parent=one_job.settings.acoustic_weight > 0)
    return student, joint_objective(one_job, one_job.settings, student)


# The loss as it is written down: one row a response, whole logits, the layers that the library itself keeps


def naive(objective, student, lessons, ears) -> dict[str, torch.Tensor]:
    """The terms of an objective, one response after the other through plain forward passes.

    `ears` encodes prompts: a model that has heard nothing ahead.
    """
    settings, local, comparison = objective.settings, student.local, objective.comparison
    sums, tokens, sound = dict.fromkeys(comparison.terms, 0.0), 0, 0
    for question, lesson in lessons:
        prompt = question_prompt(local.manner, prompt_of(lesson), question.text, question.choices)
        root, said = ears.encode(Prompt(prompt, question.clip)), local.response_ids(spell(lesson))
        at = slice(len(root.ids) - 1, len(root.ids) + len(said) - 1)
        layers, logits = plain(local.model, root, said)
        tokens += len(said)
        if "ce" in sums:
            sums["ce"] = sums["ce"] + F.cross_entropy(logits[at], torch.tensor(said), reduction="sum")
        if objective.reader is not None:
            teacher, there, then = read(objective.reader, question, lesson, said)
        if "text_kd" in sums:
            sums["text_kd"] = sums["text_kd"] + divergence(settings, objective.reader, there[then], logits[at]).sum()
        if "layer_kd" in sums:
            sums["layer_kd"] = sums["layer_kd"] + by_layers(objective, local, [h[at] for h in layers], teacher, then)
        if "acoustic_kd" in sums:
            with torch.no_grad():
                before, _ = student.parent(lambda parent, r=root, s=said: plain(parent, r, s))
            heard = [i for i, token in enumerate(root.ids) if token == comparison.placeholder]
            sound += len(heard)
            for i in comparison.acoustic_layers:
                own, other = (unit(h[i - 1][heard]) for h in (layers, before))
                sums["acoustic_kd"] = sums["acoustic_kd"] + (own - other).square().mean(-1).sum()
    counts = {"layer_kd": tokens * len(comparison.layers), "acoustic_kd": sound * len(comparison.acoustic_layers)}
    return {name: value / counts.get(name, tokens) for name, value in sums.items()}


def plain(model, root, said=()):
    """The (L, D) outputs of every layer, before the final norm, and the (L, V) logits of one sequence."""
    inner, ids = unwrapped(model), torch.tensor([(*root.ids, *said)])
    dtype = next(inner.parameters()).dtype
    media = {k: v.to(dtype) if v.is_floating_point() else v for k, v in root.media.items()}
    last = []
    hook = decoder(model).norm.register_forward_pre_hook(lambda _, given: last.append(given[0]))
    try:
        made = model(input_ids=ids, attention_mask=torch.ones_like(ids), **media, output_hidden_states=True)
    finally:
        hook.remove()
    return [*(h[0] for h in made.hidden_states[1:-1]), last[0][0]], made.logits[0]


def read(reader, question, lesson, said):
    """What the textual teacher makes of a response: its layers, its logits, and where it predicts."""
    prompt = question_prompt(reader.teacher.manner, prompt_of(lesson), question.text, question.choices)
    seen = described_prompt(reader.teacher.manner, reader.descriptions[question.id], prompt)
    root = reader.teacher.encode(Prompt(seen))
    words = reader.student.tokenizer.convert_ids_to_tokens(list(said))
    theirs = tuple(reader.teacher.tokenizer.convert_tokens_to_ids(words))
    with torch.no_grad():
        layers, logits = plain(reader.teacher.model, root, theirs)
    return layers, logits, slice(len(root.ids) - 1, len(root.ids) + len(theirs) - 1)


def by_layers(objective, local, own, teacher, then):
    """The sum over layers and tokens of what the layers are compared by, each layer times its weight."""
    settings, reader, comparison = objective.settings, objective.reader, objective.comparison
    depth, total = len(decoder(local.model).layers), 0.0
    for n, i in enumerate(comparison.layers):
        j = settings.teacher_layers[n] if settings.teacher_layers else max(1, int(i * len(teacher) / depth + 0.5))
        mine, theirs = own[i - 1], teacher[j - 1][then]
        if settings.match == "representation":
            mapped = objective.projections.of(i, mine)
            found = (
                1 - (mapped * theirs).sum(-1) / (mapped.norm(dim=-1) * theirs.norm(dim=-1))
                if settings.distance == "cosine"
                else (unit(mapped) - unit(theirs)).square().mean(-1)
            )
        else:
            with torch.no_grad():
                said = reader.teacher.model.lm_head(decoder(reader.teacher.model).norm(theirs))
            found = divergence(settings, reader, said, unwrapped(local.model).lm_head(decoder(local.model).norm(mine)))
        total = total + (settings.layer_weights or (1.0,) * 99)[n] * found.sum()
    return total


def divergence(settings, reader, teacher, student):
    """The divergence (n) of (n, V_S) from (n, V_T) logits, over the tokens of one name, and the rest as one."""
    own, other = reader.student.tokenizer.get_vocab(), reader.teacher.tokenizer.get_vocab()
    names = [name for name in own if name in other]
    p_all, q_all = ((z.double() / settings.softness).softmax(-1) for z in (teacher, student))
    p, q = p_all[:, [other[n] for n in names]], q_all[:, [own[n] for n in names]]
    if settings.top_k:
        p, kept = p.topk(settings.top_k, -1)
        q = q.gather(-1, kept)
    if p.shape[-1] < max(p_all.shape[-1], q_all.shape[-1]):
        p, q = (torch.cat([d, (1 - d.sum(-1, keepdim=True)).clamp_min(1e-7)], -1) for d in (p, q))
    if settings.divergence == "forward":
        return (p * (p / q).log()).sum(-1)
    if settings.divergence == "reverse":
        return (q * (q / p).log()).sum(-1)
    b = settings.mixture
    m = b * p + (1 - b) * q
    return b * (p * (p / m).log()).sum(-1) + (1 - b) * (q * (q / m).log()).sum(-1)


def unit(states):
    """u(h)."""
    return states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()


# In two processes


def two_process_jobs(student, reader, adapter, out) -> dict[str, TrainingJob]:
    """What two processes train, and then one: their folders by name."""
    from earwitness.records import Checkpoint

    parent = Checkpoint(key="p", path=str(adapter), kind="adapter", parent="student")
    lessons = material(clips=3, questions=1, each=2)
    settings = {
        "whole": {},
        "ahead": {"signals": "ahead", "top_k": 6, "match": "distribution", "tuning": "lora", "layers": (1, 3)},
        "spare": {"text_weight": 0.0, "sft_weight": 0.0, "acoustic_layers": (2,), "layers": (1, 3)},
        "sharded": {},
        "sharded-adapter": {"tuning": "lora", "parent": parent, "checkpoint_every": 1},
    }
    return {name: job(student, reader, Path(out) / name, lessons, **more) for name, more in settings.items()}


def half_bad(draw):
    """A plan whose second step shows one process nothing that can be shown."""

    class HalfBad(draw):
        def __call__(self, step):
            items = super().__call__(step)
            if step != 1:
                return items
            change = {"text": "<|AUDIO|>"}
            bad = [(q.model_copy(update={**change, "id": f"{q.id}x"}), lesson) for q, lesson in items[2:]]
            return items[:2] + bad

    return HalfBad
