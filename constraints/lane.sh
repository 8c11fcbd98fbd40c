#!/usr/bin/env bash
# lane.sh NAME [CONSTRAINTS]: the tests marked lane in a fresh environment, .venv-NAME, and one line that says how it went.
# Both halves are bounded in time, so that a slow index cannot hold up what comes after.
set -uo pipefail
cd "$(dirname "$0")/.."
lane=$1 constraints=${2:-}
venv=.venv-$lane
install_limit=${INSTALL_LIMIT:-900} test_limit=${TEST_LIMIT:-900}

report() {  # PASSED or FAILED, and why
    echo "test-$lane $1: $2"
    [ "$1" = PASSED ]
    exit
}

why() {  # the exit status of timeout, its limit in seconds, what was done
    if [ "$1" = 124 ] || [ "$1" = 137 ]; then echo "$3 took more than $2 s"; else echo "$3 failed"; fi
}

rm -rf "$venv"
start=$SECONDS
timeout -k 30 "$install_limit" make "$venv/.test" PYTHON="${PYTHON:-python3}" VENV="$venv" CONSTRAINTS="$constraints" ||
    report FAILED "$(why $? "$install_limit" 'the installation'), see above"
installed=$((SECONDS - start))

versions=$("$venv/bin/python" - <<'PY'
import platform
from importlib.metadata import version

print(", ".join([f"Python {platform.python_version()}"] + [f"{name} {version(name)}" for name in ("torch", "transformers", "peft")]))
PY
)
start=$SECONDS
timeout -k 30 "$test_limit" "$venv/bin/python" -m pytest -q -m "lane and not vllm" ||
    report FAILED "$(why $? "$test_limit" 'the tests') with $versions, see above; the environment is $venv"
rm -rf "$venv"
report PASSED "$versions; installed in $installed s, tested in $((SECONDS - start)) s"
