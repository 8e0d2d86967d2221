"""The hyperparameters of the recipes, every default written out. Imports no torch: Django reads it too.

A run's `run.json` holds all of them, never a part: a default that changes here changes no run of yesterday.
"""

from training.recipes.config.base import ADAPTER_SHAPE, Config, ConfigError, TrainingConfig
from training.recipes.config.dpo import DpoConfig
from training.recipes.config.judging import EvaluateConfig, ScoreConfig
from training.recipes.config.kto import KtoConfig
from training.recipes.config.ppo import PpoConfig
from training.recipes.config.pretrain import PretrainConfig
from training.recipes.config.reward import RewardConfig
from training.recipes.config.rloo import RlooConfig
from training.recipes.config.rollouts import RolloutConfig
from training.recipes.config.sft import SftConfig

CONFIGS: dict[str, type[Config]] = {
    "dpo": DpoConfig,
    "sft": SftConfig,
    "reward": RewardConfig,
    "kto": KtoConfig,
    "rloo": RlooConfig,
    "ppo": PpoConfig,
    "pretrain": PretrainConfig,
    "score": ScoreConfig,
    "evaluate": EvaluateConfig,
}

__all__ = [
    "ADAPTER_SHAPE",
    "CONFIGS",
    "Config",
    "ConfigError",
    "DpoConfig",
    "EvaluateConfig",
    "KtoConfig",
    "PpoConfig",
    "PretrainConfig",
    "RewardConfig",
    "RlooConfig",
    "RolloutConfig",
    "ScoreConfig",
    "SftConfig",
    "TrainingConfig",
]
