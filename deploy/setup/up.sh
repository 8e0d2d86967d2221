#!/bin/bash
# up.sh: migrate the database in var/, then run all processes of the Procfile until Ctrl-C.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
mkdir -p "$ARTIFACTS_DIR"
export PORT="${PORT:-8000}"
python manage.py migrate --no-input --verbosity 0
echo "Ratchet comes up at http://${HOST:-127.0.0.1}:$PORT/ (Ctrl-C stops it; what it keeps is in ${VAR_DIR:-$root/var})"
echo "The first person: .venv/bin/python manage.py create_user NAME --operator"
exec honcho start
