#!/usr/bin/env bash
# `make constraints`: writes main.txt, oldest.txt, trackers.txt, bridges.txt and vllm.txt anew from what pip resolves today, then runs the tests with them.
# Run it with the oldest Python that is supported, so that every version exists for the newer ones too, and with pip's default
# build of torch, whose own requirements belong into the files.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python3} PIP_DISABLE_PIP_VERSION_CHECK=1
venv=.venv-renewed
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

write() {  # the file, what it is; the versions are read from stdin
    {
        echo "# $2"
        echo "# Written by \`make constraints\` on $(date -u +%F) with $($PYTHON --version) on $(uname -sm)."
        cat
    } >"$new/$1"
}

resolve() {  # a file of constraints, or nothing: what a fresh environment then holds, builds (+cu130) left out
    rm -rf $venv
    make $venv/.test VENV=$venv CONSTRAINTS="$1" >&2
    $venv/bin/pip freeze --all --exclude-editable --exclude pip | sed 's/+.*//' | grep == | sort -f
}

resolve "" | write main.txt "\`make demo\` and \`make test\`: the newest versions that the tests passed with."

$venv/bin/python - >"$new/floors" <<'PY'
from importlib.metadata import requires

from packaging.requirements import Requirement

alone = ("test", "vllm", "trackers-wandb", "trackers-mlflow", "trackers-trackio")
for requirement in map(Requirement, requires("medground")):
    extra = str(requirement.marker or "")
    if requirement.name == "medground" or any(f'extra == "{name}"' in extra for name in alone):
        continue
    for bound in requirement.specifier:
        if bound.operator in (">=", "=="):
            print(f"{requirement.name}=={bound.version}")
PY
resolve "$new/floors" | write oldest.txt "\`make test-oldest\`: the lower bounds of pyproject.toml, and the newest that goes with them."
rm -rf $venv .venv-vllm .venv-trackers .venv-bridges

make .venv-trackers/.ready TRACKERS= >&2
.venv-trackers/bin/pip freeze --all --exclude-editable --exclude pip | grep == | sort -f |
    write trackers.txt "\`make test-trackers\`: the clients of tracking services."

make .venv-bridges/.ready BRIDGES= >&2
.venv-bridges/bin/pip freeze --all --exclude-editable --exclude pip | grep == | sort -f |
    write bridges.txt "\`make test-bridges\`: verifiers and the lm-evaluation-harness."

CONSTRAINTS= INSTALL_ONLY=1 plugins/medground-vllm/tests/environment/run.sh
if [ -f .venv-vllm/installed.txt ]; then  # there is a CPU build of torch
    write vllm.txt "\`make test-vllm\`: vLLM on a CPU." <.venv-vllm/installed.txt
fi
cp "$new"/*.txt constraints
make test test-trackers test-bridges test-vllm test-oldest
