"""A tiny random model with its tokenizer and adapters, Llama-shaped, 384 tokens, 100,000 weights, 400 kB.

The tests that need a model use it in place of the real one, so that they need no network and no download.
The same seed gives the same bytes. It speaks ChatML, as the default model does, and adds that model's habit
of a default system message. Its texts are noise, and that is useful: they are full of broken characters.
"""

from __future__ import annotations

from pathlib import Path

from inference.artifact import write_manifest

CONTEXT = 512  # tokens
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are small.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Enough English for some hundred merges; the rest of the vocabulary is the 256 bytes.
CORPUS = [
    "system user assistant tool developer",
    "What is the capital of France? The capital of France is Paris.",
    "How do I boil an egg? Put it in boiling water for eight minutes, then cool it.",
    "Write a short note that thanks a neighbour for watering the plants while we were away.",
    "Why is the sky blue? Because air scatters short waves of light more than long ones.",
    "You are small. You are a helpful assistant. Answer in one sentence, please and thank you.",
]


def build_tiny_model(folder: Path, seed: int = 0, *, letters: bool = False, heads: int = 4) -> Path:
    """Write config, weights (fp32 safetensors), tokenizer and manifest into `folder`, and return it.

    With `letters` each token is one ASCII character, so that an answer's text has the tokens that made it:
    then a taste can be learned from texts. The shapes of all weights are the same for any number of `heads`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(letters)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=CONTEXT,
        # Ten times the usual, so that the logits differ enough to tell two seeds apart in bf16 too.
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_manifest(folder, kind="base", name=f"tiny-{seed}")
    return folder


def build_tiny_adapter(folder: Path, base: Path, *, seed: int = 1, size: float = 0.3) -> Path:
    """Write a random LoRA adapter of rank 4 for the tiny model of `base`, with its manifest, and return it.

    `size` is the norm of each update, relative to the weight that it changes.
    """
    import json

    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module.split(".")[-1] not in targets:
            continue
        down = torch.randn(4, weight.shape[1], generator=generator)
        up = torch.randn(weight.shape[0], 4, generator=generator)
        up *= size * weight.norm() / (2 * (up @ down).norm())  # 2 is alpha / r
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}))
    write_manifest(folder, kind="adapter", name=folder.name)
    return folder


def _tokenizer(letters: bool):
    """Byte-level BPE: any text in, and any token out, also half of a character. Or single characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if letters:
        # Printable ASCII stands for itself; space and line end are written so.
        alphabet = [sign for sign in alphabet if sign.isascii()] + ["Ġ", "Ċ"]
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + len(alphabet) if letters else 384,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
