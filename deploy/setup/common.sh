# Sourced by setup.sh and vllm.sh: steps, failures with a cause and a mend, and pip with signs of life.
# Whoever sources it sets root, log and steps.

fail() {
    echo "error: $*" >&2
    exit 1
}

step_number=0
step() {
    step_number=$((step_number + 1))
    echo "[$step_number/$steps] $*"
}

free_mb() {
    df --output=avail -m "$1" | tail -n 1 | tr -d ' '
}

# pip_install PYTHON MB ARGUMENTS...: `pip install` into that Python's environment, which takes so many MB.
pip_install() {
    local python=$1 needed=$2 pip_process started=$SECONDS next=15
    shift 2
    "$python" -m pip install --no-color --progress-bar off "$@" >>"$log" 2>&1 &
    pip_process=$!
    trap 'kill $pip_process 2>/dev/null || true' EXIT
    while kill -0 "$pip_process" 2>/dev/null; do
        sleep 0.5
        if [ $((SECONDS - started)) -ge "$next" ]; then
            next=$((next + 15))
            if grep -q '^Installing collected' "$log"; then
                echo "      $((SECONDS - started)) s: unpacking"
            else
                echo "      $((SECONDS - started)) s: $(grep -c '^Collecting' "$log") packages found"
            fi
        fi
    done
    wait "$pip_process" || explain_pip "$needed"
    trap - EXIT
}

# What pip said, as a cause and a mend.
explain_pip() {
    local needed=$1 said
    said=$(grep -oE 'ERROR: .*' "$log" | tail -n 1 || true)
    if grep -q 'No space left' "$log"; then
        fail "a disk is full: $root has $(free_mb .) MB left, ${TMPDIR:-/tmp} has $(free_mb "${TMPDIR:-/tmp}") MB." \
            "Make room for $needed MB, or set TMPDIR to a larger disk, and run it again"
    elif grep -qE 'NewConnectionError|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|Max retries' "$log"; then
        fail "the package index was not reached. Check the network, the proxy and pip's settings (pip config list). $said"
    elif grep -q 'No matching distribution' "$log"; then
        fail "the package index lacks a pinned package. Check pip's settings (pip config list). $said"
    fi
    fail "pip failed, see $log. $said"
}
