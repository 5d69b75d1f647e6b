"""A served model: under its own name as it is, under other names with adapters on it. One thread may use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from earwitness.config import Model
from earwitness.learn.checkpoints import restore
from earwitness.learn.losses import window
from earwitness.learn.tree import Root
from earwitness.models.exchange import OF_THE_QUESTION, Prompt, PromptError, Sense, TooLong
from earwitness.models.loading import attach_adapter, load, refuse_unsafe
from earwitness.models.local import LocalModel
from earwitness.models.places import ModelError
from earwitness.models.scoring import Scores, score_each
from earwitness.serve.adapters import refuse_partial, undress
from earwitness.serve.asks import Ask, Reply
from earwitness.serve.choosing import Said, choose
from earwitness.serve.refusals import Refused


class Host:
    """A loaded model with one sense, that of its class: sight, hearing, or reading alone."""

    def __init__(self, name: str, spec: Model) -> None:
        loaded = load(spec)
        senses: tuple[Sense, ...] = ("sight", "hearing")
        self.name = name
        self.sense: Sense = next((sense for sense in senses if sense in loaded.family.senses), "reading")
        self.local = LocalModel(name, loaded, self.sense)
        self.window = window(self.local.model)
        self.base = str(self.local.model.get_base_model().name_or_path if spec.adapter else loaded.model.name_or_path)
        # What each name wears of PEFT's adapters; the model's own is called `default`.
        self.worn: dict[str, str | None] = {name: "default" if spec.adapter else None}
        self._loads = 0

    def answer(self, asks: Sequence[Ask]) -> list[Reply | Exception]:
        """Answer requests that are alike. One that cannot be answered becomes the reason why."""
        first = asks[0]
        with self._wearing(first.name):
            roots = [self._root(ask) for ask in asks]
            good = [(ask, root) for ask, root in zip(asks, roots, strict=True) if not isinstance(root, Exception)]
            replies = iter(self._replies([ask for ask, _ in good], [root for _, root in good]) if good else ())
            return [root if isinstance(root, Exception) else next(replies) for root in roots]

    def load_adapter(self, name: str, folder: Path) -> None:
        """Put a frozen adapter on the model under a name. Raises ModelError for what must not be loaded."""
        if name in self.worn:
            raise Refused(f"the adapter {name!r} has already been loaded")
        inside = f"served{self._loads}"  # PEFT takes no names with dots
        self._loads += 1
        try:
            self.local.model = attach_adapter(self.local.model, str(folder), inside).eval()
            refuse_partial(self.local.model, inside, folder)
        except ModelError:
            self._drop(inside)
            raise
        except Exception as error:  # whatever PEFT makes of files that nobody vouches for
            self._drop(inside)
            raise ModelError(f"the adapter {name!r} does not fit {self.name} ({type(error).__name__})") from error
        self.worn[name] = inside

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; nothing of it stays."""
        inside = self.worn.pop(name, None)
        if inside is None:
            raise Refused(f"the adapter {name!r} is not loaded", 404, "model_not_found")
        self._drop(inside)

    def reload(self, folder: Path) -> None:
        """Put a folder's full weights in the place of the model's own. Raises ModelError where they do not fit."""
        if any(self.worn.values()):
            raise Refused(f"{self.name} wears adapters, which were made for the weights it has: unload them first")
        refuse_unsafe(folder)
        try:
            restore(self.local.model, folder)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"the weights do not fit {self.name} ({type(error).__name__})") from error

    def _drop(self, inside: str) -> None:
        """Take an adapter off, however far its loading came."""
        model = self.local.model
        if not hasattr(model, "disable_adapter"):  # a first adapter that broke while it was put on
            undress(model)
        elif len(model.peft_config) == 1:
            self.local.model = model.unload()
        elif inside in model.peft_config:
            model.delete_adapter(inside)

    @contextmanager
    def _wearing(self, name: str) -> Iterator[None]:
        """Let the model be what a name stands for."""
        if name not in self.worn:
            raise Refused(f"there is no model {name!r} any more", 404, "model_not_found")
        model, inside = self.local.model, self.worn[name]
        if inside is not None:
            model.set_adapter(inside, inference_mode=True)
        bare = inside is None and hasattr(model, "disable_adapter")
        with model.disable_adapter() if bare else nullcontext():
            yield

    def _root(self, ask: Ask) -> Root | Exception:
        try:
            if isinstance(ask.prompt, Prompt):
                return self.local.encode(ask.prompt)
            return self._bare_root(ask.prompt, ask.how.max_tokens)
        except OF_THE_QUESTION as error:
            return error

    def _bare_root(self, prompt: str | tuple[int, ...], max_tokens: int) -> Root:
        """Return a prompt as it is, without a template. It may hold any token but the one that stands for media."""
        local = self.local
        ids = tuple(local.tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else prompt
        config = local.model.config.get_text_config()
        if not ids or max(ids) >= config.vocab_size:
            raise PromptError(f"the prompt must hold token ids below {config.vocab_size}, and at least one")
        placeholder = local.family.placeholder
        if placeholder is not None and local.tokenizer.convert_tokens_to_ids(placeholder) in ids:
            raise PromptError(f"the prompt holds {placeholder}, and a plain completion has no clip to stand there")
        if len(ids) + min(max_tokens, 1) > self.window:
            raise TooLong(f"a prompt of {len(ids)} tokens does not fit the window of {self.window} of {self.name}")
        positions = local.family.positions
        return Root(ids, positions(torch.tensor(ids), local.model.config, {}) if positions else None)

    def _said(self, asks: Sequence[Ask], roots: Sequence[Root]) -> list[Said]:
        how = asks[0].how
        if asks[0].choices:
            return choose(self.local, asks)
        if not how.max_tokens:
            return [((), ()) for _ in asks]
        drawn = self.local.draw_roots(roots, how, [(ask.seed,) for ask in asks])
        scores: Sequence[Sequence[Scores]] = [()] * len(asks)
        if (likeliest := asks[0].likeliest) is not None:
            texts = [(root, [made.ids for made in group]) for root, group in zip(roots, drawn, strict=True)]
            scores = score_each(self.local, texts, likeliest)
        return [(tuple(group), tuple(of_group)) for group, of_group in zip(drawn, scores, strict=True)]

    def _replies(self, asks: Sequence[Ask], roots: Sequence[Root]) -> list[Reply]:
        together = zip(roots, self._said(asks, roots), self._of_prompts(asks, roots), strict=True)
        return [
            Reply(root.ids, made, scores, of_prompt, self._words([*scores, of_prompt]))
            for root, (made, scores), of_prompt in together
        ]

    def _of_prompts(self, asks: Sequence[Ask], roots: Sequence[Root]) -> list[Scores]:
        """Score plain prompts, each from its second token on, where that is wanted."""
        if (likeliest := asks[0].prompt_likeliest) is None:
            return [()] * len(asks)
        firsts = [Root(root.ids[:1], None if root.positions is None else root.positions[..., :1]) for root in roots]
        texts = [(first, [root.ids[1:]]) for first, root in zip(firsts, roots, strict=True)]
        return [scores for (scores,) in score_each(self.local, texts, likeliest)]

    def _words(self, scores: Sequence[Scores]) -> dict[int, str]:
        scored = [token for tokens in scores for token in tokens]
        ids = {token.id for token in scored} | {id for token in scored for id, _ in token.likeliest}
        return {id: str(self.local.tokenizer.decode([id])) for id in ids}
