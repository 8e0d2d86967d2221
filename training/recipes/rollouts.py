"""Prompts that are answered in a run: read, sampled, scored."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from training.recipes.config import RolloutConfig
from training.recipes.device import Device, Tokens
from training.recipes.likelihood import log_likelihoods
from training.recipes.meter import Meter
from training.recipes.reference import as_reference
from training.recipes.rows import Row, prompt_tokens, read_format
from training.recipes.scoring import score_texts

Answers = tuple[list[list[int]], list[float]]  # token ids and scores, one a prompt


def read_prompts(dataset: Path, part: str, tokens: Tokens) -> list[Row]:
    """Rows with `prompt` and `prompt_ids`, each prompt once."""
    unique: dict[tuple[int, ...], Row] = {}
    for row in read_format(dataset, part, "prompts"):
        ids = prompt_tokens(tokens.tokenizer, row["prompt"])
        unique.setdefault(tuple(ids), {"prompt": row["prompt"], "prompt_ids": ids})
    return list(unique.values())


def reward_function(reward: Any, tokens: Tokens, config: RolloutConfig, device: Device) -> Callable[..., Any]:
    """What RLOO asks for scores: the reward model on the very tokens that serving would have made.

    TRL's own way writes the answer through the chat template again, which puts an end, and what the template
    writes after it, behind cut answers too; the reward model never saw either.
    """

    def reward_model(
        prompts: list[list[dict[str, str]]], completion_ids: list[list[int]], **others: Any
    ) -> list[float]:
        texts = [
            prompt_tokens(tokens.tokenizer, prompt) + ids
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        ]
        with device.autocast():
            return score_texts(
                reward, texts, pad_id=tokens.pad_id, batch_size=config.batch_size, device=reward.device
            )

    return reward_model


def sample(
    model: Any, prompts: list[list[int]], tokens: Tokens, config: RolloutConfig, seed: int
) -> list[list[int]]:
    """One answer a prompt, with its end where it has one. The same seed and weights give the same answers."""
    how = GenerationConfig(
        do_sample=True,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=0,
        top_p=1.0,
        eos_token_id=sorted(tokens.end_ids),
        pad_token_id=tokens.pad_id,
    )
    found: list[list[int]] = []
    model.eval()
    torch.manual_seed(seed)
    for start in range(0, len(prompts), config.batch_size):
        some = prompts[start : start + config.batch_size]
        longest = max(len(ids) for ids in some)
        ids = torch.full((len(some), longest), tokens.pad_id)  # padded on the left
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(some):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        with torch.no_grad():
            made = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=how
            )
        for answer in made[:, longest:].tolist():
            ends = [position for position, token in enumerate(answer) if token in tokens.end_ids]
            found.append(answer[: ends[0] + 1] if ends else answer)
    return found


def compare_with_start(
    policy: Any,
    reward: Any,
    rows: list[Row],
    tokens: Tokens,
    config: RolloutConfig,
    device: Device,
    meter: Meter,
    seed: int,
) -> dict[str, float]:
    """One answer a held-out prompt by the policy and one as it began, both scored by the reward model.

    The reward model is the judge that was learned from, so a better score is no proof that people agree; the
    gate asks them. `heldout_kl` is log(p_policy / p_reference) of the policy's answers, in nats an answer.
    """
    prompts = [row["prompt_ids"] for row in rows]

    def answers() -> Answers:
        made = sample(policy, prompts, tokens, config, seed)
        texts = [prompt + answer for prompt, answer in zip(prompts, made, strict=True)]
        return made, score_texts(
            reward, texts, pad_id=tokens.pad_id, batch_size=config.batch_size, device=reward.device
        )

    def likelihoods(made: list[list[int]]) -> list[float]:
        sequences = [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, made, strict=True)]
        return log_likelihoods(
            policy, sequences, pad_id=tokens.pad_id, batch_size=config.batch_size, device=policy.device
        )

    with meter.heldout(), device.autocast():
        after, scores = answers()
        by_policy = likelihoods(after)
        with as_reference(policy):
            before, scores_before = answers()
            by_reference = likelihoods(after)
    wins = [(one > other) + 0.5 * (one == other) for one, other in zip(scores, scores_before, strict=True)]
    return {
        "heldout_prompts": len(rows),
        "heldout_reward_before": statistics.fmean(scores_before),
        "heldout_reward": statistics.fmean(scores),
        "heldout_win_rate": statistics.fmean(wins),
        "heldout_kl": statistics.fmean(
            one - other for one, other in zip(by_policy, by_reference, strict=True)
        ),
        "answer_tokens_before": statistics.fmean(map(len, before)),
        "answer_tokens": statistics.fmean(map(len, after)),
    }
