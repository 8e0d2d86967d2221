"""What the engine can be told: flags, each with an environment variable and a default for a laptop."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """The engine's settings. Times are seconds, lengths are tokens, memory is GiB."""

    model: Path
    served_name: str
    artifacts_dir: Path
    api_key: str
    host: str = "127.0.0.1"
    port: int = 8001
    dtype: str = "auto"
    threads: int = 1  # of one step; several versions may step at once
    cores: int = 1
    memory_gb: float = 6.0  # weights and caches of all versions together
    max_model_len: int = 2048
    max_running: int = 32  # a version
    max_waiting: int = 64  # all versions together
    default_max_tokens: int = 512
    max_body_bytes: int = 1_000_000
    request_timeout_s: float = 600.0
    log_level: str = "info"


def parse_options(argv: Sequence[str] | None = None) -> Options:
    """Options from the command line, else from the environment. Exits with a sentence on a bad value."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.engine",
        description="Serves a language model and its adapters in vLLM's dialect of the OpenAI protocol.",
        epilog="The API key comes from ENGINE_API_KEY or from the file that ENGINE_API_KEY_FILE names.",
    )

    def add(flag: str, variable: str, default: str | None, kind: type, text: str) -> None:
        value = os.environ.get(variable, default)
        parser.add_argument(
            flag, type=kind, default=value, required=value is None, metavar=kind.__name__.upper(),
            help=f"{text} ({variable}{f', default {default}' if default is not None else ''})",
        )  # fmt: skip

    add("--model", "MODEL_DIR", None, Path, "folder of the base model: config, safetensors, tokenizer")
    add("--served-name", "ENGINE_SERVED_NAME", "base", str, "name under which the base model is asked for")
    add("--artifacts-dir", "ARTIFACTS_DIR", "var/artifacts", Path, "the only folder that adapters load from")
    add("--host", "ENGINE_HOST", "127.0.0.1", str, "address to listen on")
    add("--port", "ENGINE_PORT", "8001", int, "port to listen on")
    add("--dtype", "ENGINE_DTYPE", "auto", str, "auto, bfloat16 or float32")
    add("--threads", "ENGINE_THREADS", "0", int, "threads of one step, 0 for half of the cores")
    add("--memory-gb", "ENGINE_MEMORY_GB", "6", float, "GiB for weights and caches of all versions")
    add(
        "--max-model-len",
        "ENGINE_MAX_MODEL_LEN",
        "2048",
        int,
        "longest prompt and answer together, in tokens",
    )
    add("--max-running", "ENGINE_MAX_RUNNING", "32", int, "answers made at once by one version")
    add("--max-waiting", "ENGINE_MAX_WAITING", "64", int, "answers that may wait; more get 429")
    add(
        "--default-max-tokens",
        "ENGINE_DEFAULT_MAX_TOKENS",
        "512",
        int,
        "answer length when none is asked for",
    )
    add("--max-body-bytes", "ENGINE_MAX_BODY_BYTES", "1000000", int, "largest request body; more gets 413")
    add(
        "--request-timeout",
        "ENGINE_REQUEST_TIMEOUT",
        "600",
        float,
        "seconds after which an answer is given up",
    )
    add("--log-level", "ENGINE_LOG_LEVEL", "info", str, "debug, info, warning or error")
    given = parser.parse_args(argv)

    least = {"port": 1, "threads": 0, "max_running": 1, "max_waiting": 0, "max_model_len": 32}
    for name, low in {**least, "default_max_tokens": 1, "max_body_bytes": 1000}.items():
        if getattr(given, name) < low:
            parser.error(f"--{name.replace('_', '-')} must be at least {low}, got {getattr(given, name)}")
    if given.dtype not in ("auto", "bfloat16", "float32"):
        parser.error(f"--dtype must be auto, bfloat16 or float32, got {given.dtype}")
    if not given.memory_gb > 0 or not given.request_timeout > 0:
        parser.error("--memory-gb and --request-timeout must be above 0")
    if not (given.model / "config.json").is_file():
        parser.error(f"{given.model} holds no model: there is no config.json in it")
    api_key = _api_key()
    if not api_key:
        parser.error("set ENGINE_API_KEY (or ENGINE_API_KEY_FILE): whoever has the key may load adapters")
    cores = len(os.sched_getaffinity(0))
    return Options(
        model=given.model,
        served_name=given.served_name,
        artifacts_dir=given.artifacts_dir,
        api_key=api_key,
        host=given.host,
        port=given.port,
        dtype=given.dtype,
        # Half: a small model gains little from more, and loses all of it when another process wants a core.
        threads=min(given.threads or max(1, cores // 2), cores),
        cores=cores,
        memory_gb=given.memory_gb,
        max_model_len=given.max_model_len,
        max_running=given.max_running,
        max_waiting=given.max_waiting,
        default_max_tokens=given.default_max_tokens,
        max_body_bytes=given.max_body_bytes,
        request_timeout_s=given.request_timeout,
        log_level=given.log_level,
    )


def _api_key() -> str:
    path = os.environ.get("ENGINE_API_KEY_FILE")
    return Path(path).read_text().strip() if path else os.environ.get("ENGINE_API_KEY", "")
