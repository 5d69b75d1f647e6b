"""Merging an adapter into its base, and proving that the merged model says the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from earwitness.config import Model
from earwitness.learn.losses import token_logprobs
from earwitness.learn.tree import Branch, Tree, pack
from earwitness.media import RATE
from earwitness.models import open_local
from earwitness.models.exchange import Prompt
from earwitness.models.loading import CARD, stored_dtype
from earwitness.models.local import LocalModel
from earwitness.models.places import ModelError

QUESTIONS = ("what is heard ?", "which sound is the first one ?", "is a dog heard ? yes or no")
ANSWERS = ("a dog barks, and then a bell rings", "yes")


def merge(spec: Model, out: Path, tolerance: float | None = None) -> float:
    """Write the model of a spec with its adapter merged in, and return the largest log-probability gap (nats).

    The gap is between the adapted model and the merged one as it was written and read again, on a small fixed batch.
    Raises ModelError, and leaves nothing behind, where it is above the tolerance (None: 0.001, or 0.1 where the base
    is stored in 16 bits and the merged weights are therefore rounded).
    """
    if spec.adapter is None:
        raise ModelError(f"{spec.name} is no adapter: there is nothing to merge")
    if out.exists():
        raise ModelError(f"{out} is there already: name another folder, or move it away")
    dtype = stored_dtype(spec)
    bound = tolerance if tolerance is not None else 1e-3 if dtype.itemsize >= 4 else 0.1
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        before = _write(spec, partial, dtype)
        after = _said(
            open_local(Model(kind="local", name=str(partial), dtype=spec.dtype, device=spec.device), "student")
        )
        gap = float((before - after).abs().max())
        if not gap <= bound:  # so that a gap which is no number refuses, too
            raise ModelError(
                f"the merged model's log-probabilities differ by up to {gap:.2g} nats from the adapted one's, more "
                f"than {bound:g}: nothing was written. A larger --tolerance takes it as it is"
            )
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return gap


def _write(spec: Model, folder: Path, dtype: torch.dtype) -> Tensor:
    """Write the merged model with all that is needed to ask it, and return what the adapted one said."""
    local = open_local(spec, "student")
    said = _said(local)
    local.model.merge_and_unload().to(dtype).save_pretrained(folder)
    local.tokenizer.save_pretrained(folder)
    local.extractor.save_pretrained(folder)
    card = Path(spec.adapter or "") / CARD
    if card.is_file():
        shutil.copy(card, folder)
    return said


@torch.no_grad()
def _said(local: LocalModel) -> Tensor:
    """Return the log-probabilities of some answers about some noises: (N), in nats."""
    branches = tuple(Branch.trained(local.response_ids(answer)) for answer in ANSWERS)
    trees = []
    for seed, question in enumerate(QUESTIONS):
        wave = np.random.default_rng(seed).standard_normal(RATE) * 0.1
        trees.append(Tree(local.encode(Prompt(question, wave=wave.astype(np.float32))), branches))
    return token_logprobs(local.model, pack(trees, local.pad).to(local.model.device)).float().cpu()
