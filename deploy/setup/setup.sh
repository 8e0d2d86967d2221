#!/bin/bash
# setup.sh demo|up|check|test|model|bench: everything that the make target of this name needs, from nothing, on
# Debian with Python 3.11, as root or not. A step that has nothing to do takes milliseconds.
# Seconds of the last real installation are kept in var/setup.json.
set -eEuo pipefail
trap 'echo "error: the setup stopped in line $LINENO: $BASH_COMMAND" >&2' ERR
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"
target=${1:?which target}
MODEL=${MODEL:-default}
log=var/setup.log

# Debian packages: installed when we may, else the one line that does it.
need_packages() {
    local why=$1
    shift
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || fail "$why. Run: sudo apt-get install -y $*"
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null || fail "$why, and there is no apt-get here. Install by hand: $*"
    echo "      $why: installing $* with apt-get"
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@")
    "${install[@]}" >>"$log" 2>&1 ||
        { "${as_root[@]}" apt-get update >>"$log" 2>&1 && "${install[@]}" >>"$log" 2>&1; } ||
        fail "apt-get could not install $* (see $log). Check the network, then run: apt-get update"
}

find_python() {
    local candidate
    for candidate in python3.11 /usr/bin/python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

make_environment() {
    if .venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        echo "      $(readlink -f .venv/bin/python), in .venv"
        return
    fi
    local python
    python=$(find_python) || { need_packages "Python 3.11 is missing" python3.11 python3.11-venv && python=$(find_python); } ||
        fail "no Python 3.11 was found. Install it (Debian 12: apt-get install python3.11 python3.11-venv)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need_packages "Python's venv is missing" python3.11-venv
    rm -rf .venv
    "$python" -m venv .venv >>"$log" 2>&1 || fail "$python could not make .venv: $(tail -n 1 "$log")"
    echo "      $python, in a new .venv"
}

install_packages() {
    local extras=$1 stamp key
    stamp=.venv/.installed-$extras
    key=$(cat pyproject.toml constraints.txt <(echo "$root") | sha256sum | cut -d ' ' -f 1)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
        echo "      as pinned in constraints.txt"
        return
    fi
    local free
    free=$(free_mb .)
    [ -e .venv/.installed-dev ] || [ -e ".venv/.installed-serve,train" ] || [ "$free" -ge 3000 ] ||
        fail "3000 MB are needed for packages and the model, the disk of $root has $free MB free: make room"
    echo "      installing what constraints.txt pins, some minutes the first time (log: $log)"
    : >"$log"
    local started=$SECONDS
    pip_install .venv/bin/python 3000 -c constraints.txt -e ".[$extras]"
    # dev holds the other set too.
    echo "$key" >"$stamp"
    [ "$extras" != dev ] || echo "$key" >".venv/.installed-serve,train"
    install_seconds=$((SECONDS - started + environment_seconds))
    echo "      $install_seconds s"
}

obtain_model() {
    local started=$SECONDS before found
    mkdir -p var/models
    before=$(find var/models -maxdepth 2 -name manifest.json | wc -l)
    local fetch=(.venv/bin/python -m inference.engine.base_model --model "$MODEL" --to var/models)
    # Only here may a hub be reached, and only when it is asked for.
    case $MODEL in hf:*) fetch=(env -u HF_HUB_OFFLINE "${fetch[@]}") ;; esac
    found=$("${fetch[@]}" 2> >(sed 's/^/      /' >&2)) || exit 1
    echo "      $found"
    if [ "$(find var/models -maxdepth 2 -name manifest.json | wc -l)" -gt "$before" ]; then
        model_seconds=$((SECONDS - started))
    fi
}

need_services() {
    local missing=()
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v chromium >/dev/null || missing+=(chromium)
    command -v sbatch >/dev/null || missing+=(slurm-wlm munge)
    [ ${#missing[@]} -eq 0 ] || need_packages "the tests need ${missing[*]}" "${missing[@]}"
    echo "      PostgreSQL, Redis, Chromium and Slurm are there"
}

write_secrets() {
    local name
    mkdir -p -m 700 var/secrets
    for name in secret_key engine_api_key; do
        if [ ! -s "var/secrets/$name" ]; then
            (umask 077 && head -c 48 /dev/urandom | base64 -w 0 | tr '+/' '-_' >"var/secrets/.$name.new")
            mv "var/secrets/.$name.new" "var/secrets/$name"
        fi
    done
}

# Seconds of work that was really done; what this run did not have to do keeps its number.
write_seconds() {
    local install=${install_seconds:-} model=${model_seconds:-}
    [ -n "$install$model" ] || [ ! -e var/setup.json ] || return 0
    : "${install:=$(sed -n 's/.*"install": \([0-9]*\).*/\1/p' var/setup.json 2>/dev/null || true)}"
    : "${model:=$(sed -n 's/.*"model": \([0-9]*\).*/\1/p' var/setup.json 2>/dev/null || true)}"
    echo "{\"install\": ${install:-0}, \"model\": ${model:-0}}" >var/setup.json
}

case $target in
    demo | up | bench) extras=serve,train parts="model secrets" steps=3 ;;
    model) extras=serve,train parts=model steps=3 ;;
    check) extras=dev parts="" steps=2 ;;
    test) extras=dev parts=model steps=4 ;;
    *) fail "setup.sh knows demo, up, bench, model, check and test, not $target" ;;
esac
[ -w . ] || fail "$root is not writable for $(id -un): clone the project into a folder of your own"
mkdir -p var
# Better now than after minutes of installing. The demo finds a free port for its engine by itself.
refuse_taken() {
    if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then
        fail "port $2 is taken. Stop what listens there, or choose another: $1=$(($2 + 10)) make $target"
    fi
}
case $target in demo | up) refuse_taken PORT "${PORT:-8000}" ;; esac
[ "$target" != up ] || refuse_taken ENGINE_PORT "${ENGINE_PORT:-8001}"
exec 9>var/.setup.lock
flock -n 9 || { echo "another setup is running here, waiting for it" && flock 9; }

started=$SECONDS
step "Python 3.11"
make_environment
environment_seconds=$((SECONDS - started))
# Before the minutes of pip: who may not install them hears it now.
[ "$target" != test ] || { step "system services" && need_services; }
step "packages"
install_packages "$extras"
write_seconds
for part in $parts; do
    case $part in
        model) step "the base model" && obtain_model ;;
        secrets) write_secrets ;;
    esac
done
write_seconds
