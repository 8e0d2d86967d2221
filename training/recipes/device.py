"""Where a run computes, and how its base model is loaded. All recipes begin here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
import torch
from peft import LoraConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar
from trl.trainer.reward_trainer import suppress_seqcls_warning

from training.recipes.accounting import peak_host_memory
from training.recipes.config import Config, TrainingConfig
from training.recipes.rundir import BadBase, BadRun, Given, Run, keep_freed_memory


@dataclass(frozen=True)
class Device:
    """The device of this process and what is computed on it."""

    use_cpu: bool
    bf16: bool

    @property
    def name(self) -> str:
        return "cpu" if self.use_cpu else "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights. PEFT keeps adapters in fp32: steps of 1e-3 and less vanish in bf16."""
        return torch.bfloat16 if self.bf16 else torch.float32

    def autocast(self) -> torch.autocast:
        """Products in bf16 where the config says so; the trainers do the same."""
        return torch.autocast(self.name, torch.bfloat16, enabled=self.bf16)

    def peak_memory(self) -> int:
        """Bytes: of the GPU where there is one, else of the process."""
        return peak_host_memory() if self.use_cpu else int(torch.cuda.max_memory_allocated())


@dataclass(frozen=True)
class Tokens:
    """The base's tokenizer with what the recipes ask of it."""

    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]  # end an answer
    pad_id: int  # fills batches; never an end, so that a model that looks for the last token finds it

    @property
    def pad_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.pad_id))


def open_device(run: Run, config: Config) -> Device:
    """Seed everything, be quiet, and take the device that run.json asks for."""
    datasets.disable_progress_bars()
    disable_progress_bar()
    set_seed(run.spec.seed)
    if run.spec.threads:
        torch.set_num_threads(run.spec.threads)
    use_cpu = run.spec.device == "cpu" or (run.spec.device == "auto" and not torch.cuda.is_available())
    if use_cpu:
        keep_freed_memory()
    else:
        # Its backward pass gives NaN at some lengths where padding is masked, on Hopper (pytorch#196678).
        torch.backends.cuda.enable_cudnn_sdp(False)
    return Device(use_cpu=use_cpu, bf16=config.precision == "bf16")


def load_model(run: Run, device: Device) -> Any:
    """The base as a causal language model, in the device's dtype."""
    return AutoModelForCausalLM.from_pretrained(run.spec.base_path, **_how(device))


def load_policy(run: Run, config: TrainingConfig, device: Device) -> tuple[Any, LoraConfig | None]:
    """What a trainer is given: the base, and the adapter to put on it.

    Where the run goes on with an adapter: the base with that, and None. TRL keeps a frozen copy of it as the
    reference (reference.py).
    """
    model = load_model(run, device)
    given = run.spec.versions.get("start")
    if given is None:
        return model, lora_config(config, model)
    return PeftModel.from_pretrained(model, str(given.path), is_trainable=True), None


def load_adapted_model(run: Run, given: Given | None, device: Device) -> Any:
    """The base with the adapter of a version, or alone, for reading only. Its adapter can be put aside."""
    model = load_model(run, device)
    if given is not None:
        model = PeftModel.from_pretrained(model, str(given.path), is_trainable=False)
    return model.eval().to(device.name)


def load_scoring_model(run: Run, device: Device, pad_id: int) -> Any:
    """The base with a head that gives each text one score, its head zero and in fp32.

    So every score is 0 until something is learned, and no random number is part of it. The score is read at
    the last token that is no padding.
    """
    with suppress_seqcls_warning():  # that the head is new is meant
        model = AutoModelForSequenceClassification.from_pretrained(
            run.spec.base_path, num_labels=1, **_how(device)
        )
    model.config.pad_token_id = pad_id
    torch.nn.init.zeros_(model.score.weight)
    model.score.float()
    # The states that it reads are in the base's dtype.
    model.score.register_forward_pre_hook(lambda module, args: (args[0].to(torch.float32),))
    return model


def load_tokens(run: Run) -> Tokens:
    """The base's tokenizer. Raises BadBase where no token can serve as padding."""
    tokenizer: Any = AutoTokenizer.from_pretrained(run.spec.base_path, local_files_only=True)
    ends = _generation_config(run).eos_token_id
    end_ids = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, *sorted(tokenizer.all_special_ids)]
    # A chat template's own signs are no padding either.
    probe = [{"role": role, "content": "a"} for role in ("system", "user", "assistant")]
    shown = tokenizer.apply_chat_template(probe, tokenize=True, return_dict=False)
    # RLOO and PPO know one end only: the one with which the template closes a turn.
    closing = [token for token in shown if token in end_ids]
    if closing:
        tokenizer.eos_token_id = closing[-1]
    used = {*shown, *end_ids, None}
    free = [token for token in candidates if token not in used]
    if not free:
        raise BadBase(
            "the base's tokenizer has no special token that could fill a batch: it needs a pad_token"
        )
    return Tokens(tokenizer, frozenset(end_ids), free[0])


def lora_config(config: TrainingConfig, model: Any, task: str = "CAUSAL_LM") -> LoraConfig:
    """The adapter that is trained. For the task SEQ_CLS PEFT trains and saves the score head with it."""
    layers = int(model.config.num_hidden_layers)
    if config.last_layers > layers:
        raise BadRun(f"last_layers is {config.last_layers}, the base has {layers} layers")
    trained = list(range(layers - config.last_layers, layers)) if config.last_layers else None
    return LoraConfig(
        task_type=task,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        layers_to_transform=trained,
        bias="none",
        init_lora_weights=True,
    )


def _generation_config(run: Run) -> GenerationConfig:
    """As serving reads it: from its own file where the base has one, else from the model's config."""
    if (run.spec.base_path / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(run.spec.base_path, local_files_only=True)
    config = AutoConfig.from_pretrained(run.spec.base_path, local_files_only=True)
    return GenerationConfig.from_model_config(config)


def _how(device: Device) -> dict[str, Any]:
    return {
        "dtype": device.dtype,
        "attn_implementation": "sdpa",
        "use_safetensors": True,
        "local_files_only": True,
    }
