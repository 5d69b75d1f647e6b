"""The layout that everybody uses: every completion in a row of its own, with its own copy of clip and prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from earwitness.learn.attention import unwrapped
from earwitness.learn.losses import headless
from earwitness.learn.tree import Branch, Fork, Tree


def naive_logprobs(model: Any, trees: Sequence[Tree], pad_id: int) -> Tensor:
    """Return the log-probabilities (N) that `token_logprobs` returns for the packed trees, in their order.

    Rows are padded on the right under the usual two-dimensional mask; only what is trained is scored.
    """
    rows = [(tree.root, *path) for tree in trees for path in paths(tree.branches, ())]
    device = next(model.parameters()).device
    ids = [torch.tensor([*root.ids, *context, *branch.ids]) for root, context, branch in rows]
    media = {name: torch.cat([root.media[name] for root, *_ in rows]).to(device) for name in rows[0][0].media}
    with headless(model):
        hidden = model(
            input_ids=pad_sequence(ids, batch_first=True, padding_value=pad_id).to(device),
            attention_mask=pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(device),
            use_cache=False,
            **media,
        ).logits
    picks = [
        (r, start + i - 1, token)
        for r, (root, context, branch) in enumerate(rows)
        for start in (len(root.ids) + len(context),)
        for i, (token, weight) in enumerate(zip(branch.ids, branch.weights, strict=True))
        if weight
    ]
    row, source, target = torch.tensor(picks, device=device).T
    logits = unwrapped(model).lm_head(hidden[row, source]).float()
    return logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]


def paths(nodes: Sequence[Branch | Fork], above: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Branch]]:
    """Yield every branch with the tokens between it and the root."""
    for node in nodes:
        if isinstance(node, Fork):
            yield from paths(node.branches, above + node.ids)
        else:
            yield above, node
