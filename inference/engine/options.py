"""What the engine can be told: flags, each with an environment variable and a default for a laptop."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LEAST = {
    "port": 1, "threads": 0, "memory_gb": 0, "max_model_len": 32, "max_running": 1, "max_waiting": 0,
    "max_waiting_tokens": 0, "max_open": 1, "default_max_tokens": 1, "max_body_bytes": 1000,
    "first_token_timeout": 0.1, "gap_timeout": 0.1, "request_timeout": 0.1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """The engine's settings. Times are seconds, lengths are tokens, memory is GiB."""

    model: Path
    served_name: str
    artifacts_dir: Path
    api_key: str
    host: str = "127.0.0.1"
    port: int = 8001
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1  # of one step; several versions may step at once
    cores: int = 1
    memory_gb: float = 0.0  # weights and caches of all versions together; 0 is what the device allows
    max_model_len: int = 2048
    max_running: int = 32  # a version
    max_waiting: int = 64  # all versions together, as are the next two
    max_waiting_tokens: int = 65_536
    max_open: int = 256
    default_max_tokens: int = 512
    max_body_bytes: int = 1_000_000
    first_token_timeout_s: float = 120.0
    gap_timeout_s: float = 30.0
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

    # fmt: off
    add("--model", "MODEL_DIR", None, Path, "folder of the base model: config, safetensors, tokenizer")
    add("--served-name", "ENGINE_SERVED_NAME", "base", str, "name under which the base model is asked for")
    add("--artifacts-dir", "ARTIFACTS_DIR", "var/artifacts", Path, "the only folder that adapters load from")
    add("--host", "ENGINE_HOST", "127.0.0.1", str, "address to listen on")
    add("--port", "ENGINE_PORT", "8001", int, "port to listen on")
    add("--device", "ENGINE_DEVICE", "auto", str, "auto, cpu, cuda or cuda:N")
    add("--dtype", "ENGINE_DTYPE", "auto", str, "auto, bfloat16 or float32")
    add("--threads", "ENGINE_THREADS", "0", int, "threads of one step, 0 for half of the cores")
    add("--memory-gb", "ENGINE_MEMORY_GB", "0", float, "GiB for all versions: 0 is 6, or most of a GPU")
    add("--max-model-len", "ENGINE_MAX_MODEL_LEN", "2048", int, "longest prompt and answer, in tokens")
    add("--max-running", "ENGINE_MAX_RUNNING", "32", int, "answers made at once by one version")
    add("--max-waiting", "ENGINE_MAX_WAITING", "64", int, "answers that may wait; more get 429")
    add("--max-waiting-tokens", "ENGINE_MAX_WAITING_TOKENS", "65536", int, "their tokens; more get 429")
    add("--max-open", "ENGINE_MAX_OPEN", "256", int, "requests open at once; more get 429")
    add("--default-max-tokens", "ENGINE_DEFAULT_MAX_TOKENS", "512", int, "length when none is asked for")
    add("--max-body-bytes", "ENGINE_MAX_BODY_BYTES", "1000000", int, "largest request body; more gets 413")
    add("--first-token-timeout", "ENGINE_FIRST_TOKEN_TIMEOUT", "120", float, "seconds to a first token")
    add("--gap-timeout", "ENGINE_GAP_TIMEOUT", "30", float, "seconds between two tokens of an answer")
    add("--request-timeout", "ENGINE_REQUEST_TIMEOUT", "600", float, "seconds for a whole answer")
    add("--log-level", "ENGINE_LOG_LEVEL", "info", str, "debug, info, warning or error")
    # fmt: on
    given = parser.parse_args(argv)

    for name, low in LEAST.items():
        if not getattr(given, name) >= low:  # NaN is no number of seconds
            parser.error(f"--{name.replace('_', '-')} must be at least {low}, got {getattr(given, name)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", given.device):
        parser.error(f"--device must be auto, cpu, cuda or cuda:N, got {given.device}")
    if given.dtype not in ("auto", "bfloat16", "float32"):
        parser.error(f"--dtype must be auto, bfloat16 or float32, got {given.dtype}")
    if not (given.model / "config.json").is_file():
        parser.error(f"{given.model} holds no model: there is no config.json in it. `make model` writes one")
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
        device=given.device,
        dtype=given.dtype,
        # Half: a small model gains little from more, and loses all of it when another process wants a core.
        threads=min(given.threads or max(1, cores // 2), cores),
        cores=cores,
        memory_gb=given.memory_gb,
        max_model_len=given.max_model_len,
        max_running=given.max_running,
        max_waiting=given.max_waiting,
        max_waiting_tokens=given.max_waiting_tokens,
        max_open=given.max_open,
        default_max_tokens=given.default_max_tokens,
        max_body_bytes=given.max_body_bytes,
        first_token_timeout_s=given.first_token_timeout,
        gap_timeout_s=given.gap_timeout,
        request_timeout_s=given.request_timeout,
        log_level=given.log_level,
    )


def _api_key() -> str:
    path = os.environ.get("ENGINE_API_KEY_FILE")
    return Path(path).read_text().strip() if path else os.environ.get("ENGINE_API_KEY", "")
