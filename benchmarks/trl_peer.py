"""TRL's GRPOTrainer, made to hear: the smallest subclass with which its rollouts and its loss both get the sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from shapes import adapter

SOUND = ("input_features", "feature_attention_mask")
Waves = dict[str, np.ndarray]


class HearingGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """`waves` are the clips by the name that the prompts call them by. `said`, if given, replaces sampling."""

    def __init__(self, model: Any, waves: Waves, **settings: Any) -> None:
        self.waves, self.heard, self.said = waves, {}, None
        model.config.image_token_id = model.config.audio_token_id  # asked for where a processor is given
        super().__init__(model, **settings)
        del model.config.image_token_id

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, None, dict[str, Tensor]]:
        """Extract the features once per group, as TRL does for pictures."""
        asked = [[self._with_sound(message) for message in prompt] for prompt in prompts[:: self.num_generations]]
        made = self.processing_class.apply_chat_template(
            asked, tokenize=True, return_dict=True, add_generation_prompt=True
        )
        times = self.num_generations
        self.heard = {key: torch.as_tensor(np.array(made[key])).repeat_interleave(times, 0) for key in SOUND}
        return [ids for ids in made["input_ids"] for _ in range(times)], None, dict(self.heard)

    def _with_sound(self, message: dict[str, Any]) -> dict[str, Any]:
        parts = [{k: v for k, v in part.items() if v is not None} for part in message["content"]]
        return {**message, "content": [{**p, "audio": self.waves[p["audio"]]} if "audio" in p else p for p in parts]}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if self.said is not None:
            return [list(ids) for ids in self.said], None
        return super()._generate_single_turn(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        return {**super()._generate_and_score_completions(inputs), **self.heard}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.heard = {key: inputs[key] for key in SOUND}
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """As TRL's own, for one batch, with the sound among the model's inputs."""
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        labels[:, :-logits_to_keep] = -100
        made = model(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, fused_lm_head=True, **self.heard
        )
        entropy = made.entropy[:, -logits_to_keep:] if compute_entropy else None
        return made.log_probs[:, -logits_to_keep:], entropy, None


def peer(
    place: Path,
    waves: Waves,
    questions: Sequence[tuple[str, str]],
    reward: Callable[[str], float],
    group: int,
    tokens: int,
    out: Path,
    **settings: Any,
) -> HearingGRPOTrainer:
    """Return the trainer for (clip name, question) pairs: LoRA, the base as reference, all else TRL's own."""
    import transformers
    from datasets import Dataset

    def rewarded(completions: list[Any], **_: Any) -> list[float]:
        return [reward(completion[0]["content"]) for completion in completions]

    prompts = [
        [{"role": "user", "content": [{"type": "audio", "audio": name}, {"type": "text", "text": text}]}]
        for name, text in questions
    ]
    return HearingGRPOTrainer(
        transformers.Qwen2AudioForConditionalGeneration.from_pretrained(place, dtype=torch.float32),
        waves,
        reward_funcs=rewarded,
        processing_class=transformers.AutoProcessor.from_pretrained(place),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        peft_config=adapter(),
        args=GRPOConfig(
            output_dir=str(out),
            num_generations=group,
            per_device_train_batch_size=group * len(questions),
            max_completion_length=tokens,
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **settings,
        ),
    )
