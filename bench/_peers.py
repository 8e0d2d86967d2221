"""What a user would run instead, in a process of its own: the bench itself never loads torch.

`python -m bench._peers serve` reads one JSON command a line and answers with one. The others make what a
bench serves, or say what there is:

    python -m bench._peers adapter FOLDER SEED      a random LoRA of rank 16, its updates 1 % of the weights
    python -m bench._peers merge ADAPTER FOLDER     a whole model with that adapter merged into it
    python -m bench._peers shape FOLDER 1b          a Llama of that size (8b, tiny), random weights, in bf16
    python -m bench._peers device                   prints the GPU's name, or cpu
    python -m bench._peers rate                     prints the FLOP/s of large bf16 products
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._claims import ROOT, Claim, publish

Json = dict[str, Any]
RANK, ALPHA, UPDATE_SIZE = 16, 32, 0.01
# Those of Llama 3.2 1B and 3.1 8B, and next to nothing.
SHAPES: dict[str, Json] = {
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128_256, "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1,
    },
}  # fmt: skip


# --- the side of the bench ------------------------------------------------------------------------------
class Peer:
    """transformers in a child process, all cores its own as a plain script would have them."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def ask(self, **command: Any) -> Json:
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError("the process of the alternatives ended; its message stands above")
        answer: Json = json.loads(line)
        return answer


@contextmanager
def peer(env: dict[str, str]) -> Iterator[Peer]:
    env = {name: value for name, value in env.items() if name != "OMP_NUM_THREADS"}
    # As the engine has it: threads that spin while they wait lose a step's time to any other process.
    env = {**env, "OMP_WAIT_POLICY": "PASSIVE"}
    child = subprocess.Popen(
        [sys.executable, "-m", "bench._peers", "serve"],
        cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Peer(child)
    finally:
        child.kill()
        child.wait()


def told(*arguments: str) -> str:
    """What a command of this module prints, in a process of its own."""
    command = [sys.executable, "-m", "bench._peers", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@dataclass(frozen=True)
class GpuBench:
    """How a bench for a GPU was called: `--tiny` takes a small shape on whatever device is there."""

    name: str
    command: str
    device: str
    is_tiny: bool

    @classmethod
    def called(cls, name: str, doc: str | None, claim: str) -> GpuBench | None:
        """None where there is no GPU to measure on: then that is published in place of `claim`."""
        parser = argparse.ArgumentParser(description=doc)
        parser.add_argument("--tiny", action="store_true", help="a small shape, on whatever device is there")
        if parser.parse_args().tiny:
            return cls(f"{name}-tiny", f"python -m bench.{name} --tiny", told("device"), is_tiny=True)
        device, command = told("device"), f"make bench NAME={name}"
        if device != "cpu":
            return cls(name, command, device, is_tiny=False)
        missing = Claim(
            claim=claim,
            value=None,
            unit="",
            goal="reported where there is one",
            holds=True,
            versus="not measured: torch finds no CUDA device on this machine",
        )
        publish(name, command, [missing])
        return None


# --- the side of torch ----------------------------------------------------------------------------------
class Plain:
    """The base model as transformers gives it: bf16, its own attention and cache, batches padded left."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(self.device).eval()

    def inputs(self, questions: list[str]) -> Any:
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
            for question in questions
        ]
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        return batch.to(self.device)

    def forward_loop(self, questions: list[str], tokens: int) -> Json:
        """Greedy tokens by bare forward calls: what the mathematics costs with nothing around it."""
        torch = self.torch
        with torch.inference_mode():
            began = time.monotonic()
            batch = self.inputs(questions)
            mask, ids, cache = batch["attention_mask"], batch["input_ids"], None
            positions = (mask.cumsum(1) - 1).clamp(min=0)  # (B, T)
            first = None
            for _ in range(tokens):
                out = self.model(
                    input_ids=ids, attention_mask=mask, position_ids=positions,
                    past_key_values=cache, use_cache=True, logits_to_keep=1,
                )  # fmt: skip
                cache = out.past_key_values
                ids = out.logits[:, -1].argmax(-1, keepdim=True)  # (B, 1)
                ids.tolist()  # a server has to see each token; on a GPU this waits for it
                first = first or time.monotonic() - began
                mask = torch.cat([mask, mask.new_ones(len(questions), 1)], 1)
                positions = positions[:, -1:] + 1
            seconds = time.monotonic() - began
        return {"seconds": seconds, "tokens": tokens * len(questions), "ttft_ms": (first or 0) * 1000}

    def generate(self, questions: list[str], arrivals: list[float], lengths: list[int], batch: int) -> Json:
        """`model.generate` on who has arrived when the batch before has ended; it lasts as long as its
        longest answer, and what is made beyond a length that was asked for does not count."""
        from transformers import GenerationConfig
        from transformers.generation.streamers import BaseStreamer

        class FirstToken(BaseStreamer):  # type: ignore[misc]
            at = 0.0
            calls = 0

            def put(self, value: Any) -> None:
                self.calls += 1
                if self.calls == 2:  # the first call brings the prompt
                    self.at = time.monotonic()

            def end(self) -> None:
                pass

        began = time.monotonic()
        waiting = list(zip(arrivals, questions, lengths, strict=True))
        ttft: list[float] = []
        while waiting:
            now = time.monotonic() - began
            ready = [item for item in waiting if item[0] <= now][:batch]
            if not ready:
                time.sleep(0.005)
                continue
            waiting = waiting[len(ready) :]
            seen = FirstToken()
            longest = max(length for *_, length in ready)
            config = GenerationConfig(
                max_new_tokens=longest, min_new_tokens=longest, do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id, eos_token_id=self.tokenizer.eos_token_id,
            )  # fmt: skip
            with self.torch.inference_mode():
                inputs = self.inputs([question for _, question, _ in ready])
                self.model.generate(**inputs, generation_config=config, streamer=seen)
            ttft += [(seen.at - began - at) * 1000 for at, *_ in ready]
        return {"seconds": time.monotonic() - began, "tokens": sum(lengths), "ttft_ms": ttft}

    def bandwidth(self) -> Json:
        """GB/s at which all cores read an array much larger than the caches: the best of five."""
        torch = self.torch
        data = torch.ones(2**28, dtype=torch.float32, device=self.device)  # 1 GiB
        best = 0.0
        for _ in range(5):
            began = time.monotonic()
            data.sum().item()
            best = max(best, data.nbytes / (time.monotonic() - began) / 1e9)
        weights = sum(parameter.nbytes for parameter in self.model.parameters())  # tied ones count once
        return {"gb_s": best, "weight_bytes": weights, "threads": torch.get_num_threads()}


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    plain = Plain(Path(os.environ["MODEL_DIR"]))
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(plain, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


def make_adapter(folder: Path, seed: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from inference.artifact import write_manifest

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    folder.mkdir(parents=True)
    dice = torch.Generator().manual_seed(seed)
    tensors = {}
    base = Path(os.environ["MODEL_DIR"])
    for file in sorted(base.glob("*.safetensors")):
        for name, weight in load_file(file).items():
            module = name.removesuffix(".weight")
            if module.split(".")[-1] not in targets:
                continue
            down = torch.randn(RANK, weight.shape[1], generator=dice)
            up = torch.randn(weight.shape[0], RANK, generator=dice)
            # |update| / |weight| = UPDATE_SIZE, which merges into bf16 with an error below half of it
            up *= UPDATE_SIZE * weight.float().norm() / (ALPHA / RANK * (up @ down).norm())
            tensors[f"base_model.model.{module}.lora_A.weight"] = down
            tensors[f"base_model.model.{module}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}))
    write_manifest(folder, kind="adapter", method="random", seed=seed)


def merge(adapter: Path, folder: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from inference.artifact import write_manifest

    base = os.environ["MODEL_DIR"]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    write_manifest(folder, kind="base", name=folder.name)


def make_shape(folder: Path, size: str) -> None:
    """Random weights cost what real ones cost. The tokenizer is the base model's."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from inference.artifact import write_manifest

    shape = SHAPES[size]
    tokenizer = AutoTokenizer.from_pretrained(os.environ["MODEL_DIR"])
    config = LlamaConfig(
        **{"vocab_size": len(tokenizer), "tie_word_embeddings": True, **shape},
        max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_manifest(folder, kind="base", name=f"shape-{size}")


def device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def product_rate() -> float:
    """FLOP/s of bf16 products of 8192 by 8192 on a GPU, of 512 on a CPU: the mean of ten after three."""
    import torch

    on_gpu = torch.cuda.is_available()
    wait = torch.cuda.synchronize if on_gpu else torch.cpu.synchronize
    size = 8192 if on_gpu else 512
    left, right = torch.randn(2, size, size, dtype=torch.bfloat16, device="cuda" if on_gpu else "cpu")
    began = 0.0
    for turn in range(13):
        if turn == 3:
            wait()
            began = time.monotonic()
        left @ right
    wait()
    return 10 * 2 * size**3 / (time.monotonic() - began)


def main() -> int:
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["adapter", folder, seed]:
            make_adapter(Path(folder), int(seed))
        case ["merge", adapter, folder]:
            merge(Path(adapter), Path(folder))
        case ["shape", folder, size]:
            make_shape(Path(folder), size)
        case ["device"]:
            print(device())
        case ["rate"]:
            print(product_rate())
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
