# Sourced by the scripts beside it: the environment that every process of a clone shares. Values that are set win.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export PATH="$root/.venv/bin:$PATH"
export MODEL_DIR="${MODEL_DIR:-$root/var/models/smollm2-135m-instruct}"
export ENGINE_SERVED_NAME="${ENGINE_SERVED_NAME:-$(basename "$MODEL_DIR")}"
export ARTIFACTS_DIR="${ARTIFACTS_DIR:-${VAR_DIR:-$root/var}/artifacts}"
export ENGINE_URLS="${ENGINE_URLS:-http://127.0.0.1:${ENGINE_PORT:-8001}}"
if [ -z "${ENGINE_API_KEY:-}${ENGINE_API_KEY_FILE:-}" ] && [ -r "$root/var/secrets/engine_api_key" ]; then
    export ENGINE_API_KEY_FILE="$root/var/secrets/engine_api_key"
fi
# Nothing here reaches a hub or reports home; `hf:` models are fetched by the setup alone.
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
# Images of containers set it for their build; here each of many short processes would compile our code again.
unset PYTHONDONTWRITEBYTECODE
export TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
