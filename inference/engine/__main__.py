"""`python -m inference.engine --model var/models/NAME`: serve a model and its adapters until stopped."""

from __future__ import annotations

import logging
import os
import sys

from inference.engine.options import parse_options


def main() -> int:
    """Serve until SIGTERM or SIGINT. Exit status 1 when the base model cannot be served."""
    options = parse_options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    # Threads that spin while they wait made a step 20 times slower as soon as another process used the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN compiles for each shape, and keeps 0.3 MiB of it: by default of 1024 shapes for all threads, and
    # of 1024 once more a thread, which spares no time. A hundred lengths of prompts came to 200 MiB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )

    # Heavy, and not needed for --help or for a wrong flag.
    import torch
    import transformers
    import uvicorn

    from inference.engine.app import build_app
    from inference.engine.memory import keep_little

    keep_little()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
    failed = False

    def give_up() -> None:
        nonlocal failed
        failed = True
        server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(
            build_app(options, on_failure=give_up),
            host=options.host,
            port=options.port,
            log_level=options.log_level,
            access_log=False,
            timeout_graceful_shutdown=5,  # else an open stream blocks a stop for good
            server_header=False,
        )
    )
    server.run()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
