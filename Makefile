# Two commands need nothing but Python >= 3.11, pip and make: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# One thread per process and no spinning: two busy-waiting thread pools on two cores cost a factor of ten.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-fast test-slow test-vllm lint soak benchmarks clean

demo: $(VENV)/.demo
	$(BIN)/python -m medground_toy.phantoms --out demo/phantoms -n 6 --seed 7
	$(BIN)/medground run demo/phantoms/manifest.jsonl --recipe infer/toy --out demo/run
	@echo "The pictures are in demo/run/results/*.overlay.png, a line per question in demo/run/manifest.jsonl."

test: lint test-fast test-slow

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not soak and not gpu and not vllm"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 -m "slow and not soak and not gpu and not vllm"

# In an environment of its own, .venv-vllm: vLLM pins its own torch and transformers.
test-vllm:
	PYTHON=$(PYTHON) plugins/medground-vllm/tests/environment/run.sh

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(VENV)/.test
	$(BIN)/python -m pytest -q -m soak

benchmarks: $(VENV)/.test
	$(BIN)/python benchmarks/startup.py

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.venv
	$(BIN)/pip install -q -e .
	@touch $@

# sam2 names torch as a build requirement; building it beside the torch that is already there, instead of in an
# environment of its own, saves downloading torch twice.
$(VENV)/.test: pyproject.toml $(VENV)/.venv
	$(BIN)/pip install -q torch torchvision setuptools wheel
	SAM2_BUILD_CUDA=0 $(BIN)/pip install -q --no-build-isolation sam2==1.1.0
	$(BIN)/pip install -q -e ".[all,test]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-vllm demo build dist
