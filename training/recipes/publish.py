"""From a trained adapter to an artifact: saved, described, probed, its manifest last, then renamed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from inference.artifact import digest_of, read_manifest, verify, write_atomically, write_manifest
from training.recipes.accounting import Compute
from training.recipes.config import TrainingConfig
from training.recipes.device import Device
from training.recipes.reference import as_reference
from training.recipes.rundir import Run, RunFailure, is_main, leave_if_overtaken

PUBLISHED = {"adapter_model.safetensors", "adapter_config.json", "README.md"}
PROBE_TOKENS = 256


class Unfit(RunFailure):
    """The adapter is no better than none: it changes nothing, holds NaN, or does not load again."""

    cause, code = "unfit", 70


def publish(
    run: Run,
    model: Any,
    config: TrainingConfig,
    device: Device,
    compute: Compute,
    *,
    steps: int,
    probe_ids: list[int],
    rows: int,
    metrics: dict[str, float],
    kind: str = "adapter",
    lineage: dict[str, Any] | None = None,
) -> None:
    """Write `artifact/` from a PEFT model, and the last event.

    `probe_ids` (T,) is a text of the dataset; `kind` is adapter or reward. Raises Unfit when the probe fails;
    then nothing is published. Of several processes the first one publishes.
    """
    if not is_main():
        return
    costs = compute.facts(device.peak_memory())
    facts = {
        "method": run.spec.method,
        "run": run.spec.run,
        "run_id": run.spec.id,
        "dataset": run.spec.dataset_digest,
        "config": config.to_dict(),
        "config_digest": digest_of(config.to_dict()),
        "seed": run.spec.seed,
        config.unit: rows,
        "metrics": metrics,
        "compute": costs,
        **(lineage or {}),
    }
    partial = run.folder / "artifact.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, safe_serialization=True, selected_adapters=["default"])
    for path in partial.iterdir():
        if path.name not in PUBLISHED:  # never a pickle, never a stray file
            path.unlink()
        else:
            path.chmod(0o644)  # safetensors writes for its owner alone; the engine may be another user
    _settle_config(partial / "adapter_config.json", run.spec.base_path.name)
    write_atomically(partial / "README.md", _card(run, config, rows, metrics, kind).encode())
    _probe(model, partial, probe_ids[:PROBE_TOKENS], device)
    manifest = write_manifest(partial, kind=kind, base=run.spec.base_digest, **facts)
    verify(partial, expected_digest=manifest["digest"], servable=True)
    leave_if_overtaken(run.folder)
    shutil.rmtree(run.artifact, ignore_errors=True)
    partial.rename(run.artifact)
    run.emit(
        "finished",
        step=steps,
        total=steps,
        metrics=metrics,
        tokens=costs["tokens"],
        compute=costs,
        digest=read_manifest(run.artifact)["digest"],
    )


def update_sizes(model: Any) -> dict[str, float]:
    """How large the adapter's update is beside the weights, and how much of it a bf16 merge would keep.

    `relative_update` is ||dW|| / ||W||, `bf16_merge_error` is ||bf16(W + dW) - (W + dW)|| / ||dW||, both over
    all adapted matrices together (Frobenius). Above 0.5 a merge into bf16 would be another model.
    """
    weight_square = update_square = error_square = 0.0
    with torch.no_grad():
        for module in model.modules():
            if not hasattr(module, "get_delta_weight"):
                continue
            weight = module.get_base_layer().weight.float()
            update = module.get_delta_weight("default").float()
            merged = weight + update
            weight_square += weight.square().sum().item()
            update_square += update.square().sum().item()
            error_square += (merged.to(torch.bfloat16).float() - merged).square().sum().item()
    if update_square == 0:
        raise Unfit("the adapter's update is zero: training changed nothing. Raise learning_rate.")
    return {
        "relative_update": (update_square / weight_square) ** 0.5,
        "bf16_merge_error": (error_square / update_square) ** 0.5,
    }


def _probe(model: Any, saved: Path, probe_ids: list[int], device: Device) -> None:
    """The adapter on disk changes the logits, holds no NaN, and answers like the one that was trained.

    What it changes is what the run began with. Of a reward model the logits are the score of the text, and
    its head is loaded with the rest.
    """
    for name, tensor in load_file(saved / "adapter_model.safetensors").items():
        if not torch.isfinite(tensor).all():
            raise Unfit(f"{name} holds a value that is no number")
    ids = torch.tensor([probe_ids], device=model.device)  # (1, T)
    model.eval()
    with torch.no_grad():
        trained = model(input_ids=ids).logits.float()
        with as_reference(model):
            before = model(input_ids=ids).logits.float()
        # Without low_cpu_mem_usage PEFT draws random weights first, to overwrite them.
        model.load_adapter(str(saved), adapter_name="reloaded", low_cpu_mem_usage=True)
        model.set_adapter("reloaded")
        reloaded = model(input_ids=ids).logits.float()
        model.set_adapter("default")
        model.delete_adapter("reloaded")
    if not torch.isfinite(trained).all():
        raise Unfit("the trained model's logits hold a value that is no number")
    if torch.equal(trained, before):
        raise Unfit("the adapter does not change the logits of the probe")
    if not torch.equal(trained, reloaded):
        raise Unfit("the saved adapter does not answer as the trained one does")


def _settle_config(config: Path, base_name: str) -> None:
    """The adapter names its base by name, not by a path of this machine, and its modules in a fixed order.

    PEFT keeps them as a set, so each process wrote another order, and the same weights had another digest.
    """
    values = json.loads(config.read_text())
    values["base_model_name_or_path"] = base_name
    for name in ("target_modules", "modules_to_save"):
        if values.get(name):
            values[name] = sorted(values[name])
    write_atomically(config, json.dumps(values, indent=2, sort_keys=True).encode())


def _card(run: Run, config: TrainingConfig, rows: int, metrics: dict[str, float], kind: str) -> str:
    """README.md of the adapter: what it is and where it comes from. Stands alone, names no machine."""
    what = "A reward model: a LoRA adapter with a score head" if kind == "reward" else "A LoRA adapter"
    read = [f"- read {role} version `{given.digest}`" for role, given in sorted(run.spec.versions.items())]
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {run.spec.base_path.name}",
        f"tags: [lora, {run.spec.method}]",
        "---",
        f"# {run.spec.run}",
        "",
        f"{what} on `{run.spec.base_path.name}`, trained with {config.title}.",
        (config.__doc__ or "").strip(),
        "",
        f"- base `{run.spec.base_digest}`",
        f"- dataset `{run.spec.dataset_digest}`, {rows} {config.unit}",
        *read,
        f"- run `{run.spec.id}`, seed {run.spec.seed}",
        "",
        "| hyperparameter | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in config.to_dict().items()),
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in metrics.items()),
    ]
    return "\n".join(lines) + "\n"
