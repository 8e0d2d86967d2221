"""LoRA adapters that fit the tiny model, made of random numbers without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from inference.artifact import write_manifest
from inference.models import Version
from inference.services.versions import register_version
from projects.models import Project

RANK = 4
HIDDEN = 64


def build_adapter(folder: Path, *, seed: int = 0, size: float = 0.2) -> Path:
    """A rank-4 adapter of both layers' query and output projections; `size` is the scale of its update."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(2):
        for name in ("q_proj", "o_proj"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = random.normal(size=(RANK, HIDDEN)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = (size * random.normal(size=(HIDDEN, RANK))).astype(np.float32)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj", "o_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_manifest(folder, kind="adapter", method="dpo", seed=seed)
    return folder


def new_version(project: Project, tmp_path: Path, *, seed: int = 0, size: float = 0.2) -> Version:
    """The project's next version, an adapter made here."""
    artifact = build_adapter(tmp_path / f"adapter-{project.slug}-{seed}-{size}", seed=seed, size=size)
    return register_version(project=project, kind=Version.Kind.ADAPTER, artifact=artifact)
