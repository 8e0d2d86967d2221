"""Proximal Policy Optimisation: a LoRA adapter answers prompts, a reward model scores them, with a critic.

    python -m training.recipes.ppo RUN_DIR

Reads RUN_DIR/run.json (with `versions.reward`, a reward model on the same base) and RUN_DIR/dataset/ (format
prompts, no labels), writes events and RUN_DIR/artifact/. Exit codes are as for dpo.py. The reference of the
KL is the base, or the adapter that it goes on with (`versions.start`); the critic begins as a copy of the
reward model and is thrown away at the end.

It keeps no checkpoints, because TRL's trainer cannot go on from one: a run that was interrupted starts again
from its beginning. RLOO, which can, does the same work with half of the models. The one file that imports
trl.experimental.

Left out: full-weight training, resuming, several devices.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

from training.recipes.command import run_from_shell
from training.recipes.config import PpoConfig
from training.recipes.inputs import check_inputs, check_start, check_version, read_config
from training.recipes.preflight import preflight
from training.recipes.rundir import BadData, BadRun, Run, processes


def train(run: Run) -> None:
    """The whole recipe, from the checked inputs to the published artifact."""
    # ---- Arguments: all of them come from run.json.
    config = read_config(run, PpoConfig)
    check_inputs(run)
    begun = check_start(run, config)
    judge = check_version(run, "reward", kind="reward")
    if processes() > 1:
        raise BadRun("PPO runs in one process. Train on one device, or choose rloo.")

    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from training.recipes.accounting import Compute
    from training.recipes.arguments import shared_arguments
    from training.recipes.device import load_policy, load_tokens, open_device
    from training.recipes.meter import Meter
    from training.recipes.progress import run_trainer
    from training.recipes.publish import publish, update_sizes
    from training.recipes.reference import REFERENCE
    from training.recipes.rollouts import compare_with_start, read_prompts
    from training.recipes.scoring import load_reward_model
    from training.recipes.weights import count_weights

    # ---- Models: the policy, which as it began is the reference; the reward model; the critic.
    device = open_device(run, config)
    tokens = load_tokens(run)
    model, lora = load_policy(run, config, device)
    if begun:  # the other trainers copy it themselves
        model.load_adapter(str(run.spec.versions["start"].path), adapter_name=REFERENCE)
    given = run.spec.versions["reward"]
    reward = load_reward_model(run, given, device, tokens.pad_id)
    critic = load_reward_model(run, given, device, tokens.pad_id, is_trainable=True)

    # ---- Data: token ids of prompts that leave room for an answer, each once, padded on the left.
    rows = read_prompts(run.dataset, "train", tokens)
    heldout = read_prompts(run.dataset, "heldout", tokens)
    lengths = [len(row["prompt_ids"]) + config.max_new_tokens for row in rows]
    if problems := preflight(config, {"train": len(rows), "heldout": len(heldout)}, lengths):
        raise BadData(" ".join(problems))
    room = config.max_length - config.max_new_tokens
    rows = [row for row in rows if len(row["prompt_ids"]) <= room]
    heldout = [row for row in heldout if len(row["prompt_ids"]) <= room]
    dataset = Dataset.from_list([{"input_ids": row["prompt_ids"]} for row in rows])
    tokens.tokenizer.pad_token = tokens.pad_token  # padding that is no end: TRL takes one for the other
    tokens.tokenizer.padding_side = "left"

    # ---- Training.
    steps = config.steps(len(rows))
    arguments = PPOConfig(
        **{**shared_arguments(run, config, device, steps), "save_strategy": "no"},
        total_episodes=steps * config.answers_a_step(),
        # the loss
        kl_coef=config.beta,
        kl_estimator="k1",
        num_ppo_epochs=config.iterations,
        num_mini_batches=1,
        cliprange=config.epsilon,
        cliprange_value=config.value_epsilon,
        vf_coef=config.value_weight,
        gamma=config.gamma,
        lam=config.lam,
        whiten_rewards=False,
        # the answers
        response_length=config.max_new_tokens,
        temperature=config.temperature,
        stop_token="eos",  # noqa: S106 - a sign of the text
        missing_eos_penalty=config.unfinished_penalty or None,
        local_rollout_forward_batch_size=config.batch_size,
        num_sample_generations=0,
        ref_adapter_name=REFERENCE if begun else None,
        model_adapter_name="default" if begun else None,
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokens.tokenizer,
        model=model,
        ref_model=None,  # the policy's own, with its adapter put aside
        reward_model=reward.get_base_model(),
        value_model=critic.get_base_model(),
        train_dataset=dataset,
        eval_dataset=dataset.select([0]),  # it wants one, and samples nothing from it
        peft_config=lora,
    )
    policy: Any = trainer.policy_model
    compute = Compute(
        count_weights(policy),
        config.gradient_checkpointing,
        others={"reward": count_weights(reward), "value": count_weights(critic)},
    )
    meter = Meter(compute)
    meter.watch_policy(policy, idle="generation")
    meter.watch_model(reward.get_base_model().model, "reward")
    # Without gradients the critic reads as the reward model does, at the same cost.
    meter.watch_model(critic.get_base_model().model, "value", idle="reward")
    gc.freeze()  # TRL collects garbage at each step, and would look through all libraries each time
    metrics = run_trainer(run, trainer, compute, meter, resumes=False, generates=True)
    gc.unfreeze()

    # ---- Evidence: answers to held-out prompts, beside those that it began with.
    metrics |= update_sizes(policy)
    if heldout:
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
        lineage={"reward": given.digest, "reward_run": judge.get("run_id"), **begun},
    )


if __name__ == "__main__":
    sys.exit(run_from_shell("ppo", train, __doc__))
