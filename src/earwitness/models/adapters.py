"""What an adapter is put on."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from earwitness.learn.router import has_router

FUSED = (".gate_proj", ".up_proj", ".down_proj")  # PEFT takes these names for experts, wherever they are


def lora_targets(model: Any, targets: str) -> str | list[str]:
    """Return PEFT's `target_modules` for the linear layers whose names match a regular expression.

    For a mixture of experts PEFT would cut the expression down to bare names (q_proj, ...), which the encoder has as
    well, and say nothing: there the layers are named in full. Experts and their routers stay as they are.
    """
    if not has_router(model):
        return targets
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return [name for name in linear if re.fullmatch(targets, name) and not name.endswith(FUSED)]
