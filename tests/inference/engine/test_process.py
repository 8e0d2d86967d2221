"""The process: how it starts, refuses to start, and stops."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.inference.engine.conftest import KEY, ROOT, start
from tests.tiny import build_tiny_adapter


def run(*flags: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
    # Also where `make up` has written a key before.
    environment = {**os.environ, "ENGINE_API_KEY_FILE": None, "ENGINE_API_KEY": KEY, **changes}
    return subprocess.run(
        [sys.executable, "-m", "inference.engine", *flags],
        cwd=ROOT,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.unit
def test_help_is_instant_because_nothing_heavy_is_imported():
    code = "import sys; sys.argv = ['engine', '--help']; import inference.engine.__main__ as m\n"
    code += "try: m.main()\nexcept SystemExit: print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False False"
    assert "ENGINE_API_KEY_FILE" in done.stdout


@pytest.mark.unit
def test_bad_settings_stop_the_start_with_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    here = ("--model", str(tmp_path))
    cases: list[tuple[tuple[str, ...], dict[str, str | None], str]] = [
        (here, {"ENGINE_API_KEY": None}, "set ENGINE_API_KEY"),
        (("--model", "/nowhere"), {}, "in it. `make model` writes one"),
        ((*here, "--port", "0"), {}, "--port must be at least 1"),
        ((*here, "--dtype", "int8"), {}, "--dtype must be"),
        (here, {"ENGINE_MAX_WAITING": "many"}, "invalid int value"),
    ]
    for flags, changes, sentence in cases:
        done = run(*flags, **changes)
        assert done.returncode == 2
        assert sentence in done.stderr


@pytest.mark.unit
def test_the_key_may_come_from_a_file(tmp_path, monkeypatch):
    from inference.engine.options import parse_options

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "key").write_text("from-the-file\n")
    monkeypatch.delenv("ENGINE_API_KEY", raising=False)
    monkeypatch.setenv("ENGINE_API_KEY_FILE", str(tmp_path / "key"))
    assert parse_options(["--model", str(tmp_path)]).api_key == "from-the-file"


@pytest.mark.model
def test_health_says_no_until_the_model_is_there(engine):
    assert engine.seen[0] == 503
    assert set(engine.seen) == {503, 200}


@pytest.mark.model
def test_a_base_that_is_not_its_manifest_is_not_served(tiny, artifacts, tmp_path):
    spoilt = shutil.copytree(tiny, tmp_path / "model")
    (spoilt / "config.json").write_text((spoilt / "config.json").read_text() + " ")
    process, _ = start(spoilt, artifacts)
    assert process.wait(120) == 1


@pytest.mark.model
@pytest.mark.slow
def test_a_stop_waits_for_no_stream(tiny, tmp_path, processes):
    """SIGTERM while an answer is being made: the process is gone within seconds."""
    import httpx

    build_tiny_adapter(tmp_path / "v1", tiny)
    process, port = start(tiny, tmp_path, "--max-running", "2")
    url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {KEY}"}
    end = time.monotonic() + 180  # a busy machine imports torch slowly
    while True:
        assert process.poll() is None and time.monotonic() < end
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.ConnectError:
            time.sleep(0.05)
    body = {"model": "tiny", "stream": True, "max_tokens": 500, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        next(response.iter_lines())
        process.terminate()
        assert process.wait(15) is not None
