"""REINFORCE leave-one-out: a LoRA adapter answers prompts, a reward model scores them (Ahmadian et al. 2024).

    python -m training.recipes.rloo RUN_DIR

Reads RUN_DIR/run.json (with `versions.reward`, a reward model on the same base) and RUN_DIR/dataset/ (format
prompts, no labels), writes events, checkpoints and RUN_DIR/artifact/. Exit codes, resuming and several
devices are as for dpo.py. The reference of the KL is the base, or the adapter that it goes on with
(`versions.start`).

Left out: full-weight training, several rewards, generation by another server.
"""

from __future__ import annotations

import sys
from typing import Any

from training.recipes.command import run_from_shell
from training.recipes.config import RlooConfig
from training.recipes.inputs import check_inputs, check_start, check_version, read_config
from training.recipes.preflight import preflight
from training.recipes.rundir import BadData, Run, is_main, processes


def train(run: Run) -> None:
    """The whole recipe, from the checked inputs to the published artifact."""
    # ---- Arguments: all of them come from run.json.
    config = read_config(run, RlooConfig)
    check_inputs(run)
    begun = check_start(run, config)
    judge = check_version(run, "reward", kind="reward")

    from datasets import Dataset
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    from training.recipes.accounting import Compute
    from training.recipes.arguments import shared_arguments
    from training.recipes.device import load_policy, load_tokens, open_device
    from training.recipes.meter import Meter
    from training.recipes.progress import run_trainer
    from training.recipes.publish import publish, update_sizes
    from training.recipes.rollouts import compare_with_start, read_prompts, reward_function
    from training.recipes.scoring import load_reward_model
    from training.recipes.weights import count_weights

    # ---- Models: the policy, which as it began is the reference, and the reward model.
    device = open_device(run, config)
    tokens = load_tokens(run)
    model, lora = load_policy(run, config, device)
    reward = load_reward_model(run, run.spec.versions["reward"], device, tokens.pad_id)

    # ---- Data: prompts that leave room for an answer, each once.
    rows = read_prompts(run.dataset, "train", tokens)
    heldout = read_prompts(run.dataset, "heldout", tokens)
    lengths = [len(row["prompt_ids"]) + config.max_new_tokens for row in rows]
    counts = {"train": len(rows), "heldout": len(heldout), "processes": processes()}
    if problems := preflight(config, counts, lengths):
        raise BadData(" ".join(problems))
    room = config.max_length - config.max_new_tokens
    rows = [row for row in rows if len(row["prompt_ids"]) <= room]
    heldout = [row for row in heldout if len(row["prompt_ids"]) <= room]
    dataset = Dataset.from_list([{"prompt": row["prompt"]} for row in rows])

    # ---- Training.
    tokens.tokenizer.pad_token = tokens.pad_token  # what comes after an end is no end
    steps = config.steps(len(rows), processes())
    arguments = RLOOConfig(
        **shared_arguments(run, config, device, steps),
        # the loss
        beta=config.beta,
        epsilon=config.epsilon,
        num_iterations=config.iterations,
        normalize_advantages=config.normalize_advantages,
        reward_clip_range=None,
        reward_weights=None,
        disable_dropout=config.lora_dropout == 0,
        sync_ref_model=False,
        # the answers
        num_generations=config.generations,
        steps_per_generation=config.gradient_accumulation,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        top_p=1.0,
        top_k=0,
        min_p=None,
        repetition_penalty=1.0,
        mask_truncated_completions=config.mask_cut_answers,
        use_vllm=False,
        use_transformers_continuous_batching=False,
        # the data
        shuffle_dataset=True,
        remove_unused_columns=False,
        log_completions=False,
    )
    trainer = RLOOTrainer(
        model=model,
        reward_funcs=reward_function(reward, tokens, config, device),
        args=arguments,
        train_dataset=dataset,
        processing_class=tokens.tokenizer,
        peft_config=lora,
    )
    policy: Any = trainer.model
    compute = Compute(
        count_weights(policy),
        config.gradient_checkpointing,
        others={"reward": count_weights(reward)},
        processes=processes(),
    )
    meter = Meter(compute)
    meter.watch_policy(policy, idle="generation")
    meter.watch_model(reward.get_base_model(), "reward")
    metrics = run_trainer(run, trainer, compute, meter, generates=True)

    # ---- Evidence: answers to held-out prompts, beside those that it began with.
    metrics |= update_sizes(policy)
    if heldout and is_main():
        metrics |= compare_with_start(policy, reward, heldout, tokens, config, device, meter, run.spec.seed)
    meter.flush(together=False)

    # ---- Save.
    publish(
        run,
        policy,
        config,
        device,
        compute,
        steps=steps,
        probe_ids=rows[0]["prompt_ids"],
        rows=len(rows),
        metrics=metrics,
        lineage={"reward": run.spec.versions["reward"].digest, "reward_run": judge.get("run_id"), **begun},
    )


if __name__ == "__main__":
    sys.exit(run_from_shell("rloo", train, __doc__))
