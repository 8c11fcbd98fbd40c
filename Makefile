# Two commands need nothing but Python 3.11, 3.12 or 3.13, pip and make: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# The versions that the tests passed with; CONSTRAINTS= installs the newest that pyproject.toml allows.
CONSTRAINTS := constraints/main.txt
PIP_INSTALL  = $(BIN)/pip install $(addprefix -c ,$(CONSTRAINTS))

# One thread per process and no spinning: two busy-waiting thread pools on two cores cost a factor of ten.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-fast test-slow test-vllm test-newest test-oldest constraints lint soak benchmarks clean

# Where pip also looks, if given: torch's own index of CPU builds, for one. `make demo TORCH_INDEX=URL`
ifdef TORCH_INDEX
export PIP_EXTRA_INDEX_URL := $(strip $(PIP_EXTRA_INDEX_URL) $(TORCH_INDEX))
endif

# The demo's size; every seed draws pictures and weights of its own.
DEMO    ?= demo
SEED    ?= 0
SAMPLES ?= 4000
HELD    ?= 256
SFT     ?= 1300
GRPO    ?= 60
TRAIN    = $(BIN)/medground train --resume

# A tiny vision-language model learns from nothing to box the core of a lesion, then by GRPO all of it. Stop it whenever you
# like, `make demo` goes on where it was.
demo: $(VENV)/.demo
	@$(BIN)/python benchmarks/demo_start.py $(DEMO) --seed $(SEED) --samples $(SAMPLES) --held $(HELD) --sft $(SFT) --grpo $(GRPO)
	@printf '\n%s\n' "2 of 4: SFT. A model of random weights is shown where the cores of lesions are."
	@$(BIN)/python -m medground_qwen.tiny --out $(DEMO)/start --data $(DEMO)/core --seed $(SEED)
	@$(TRAIN) train/toy_sft data.path=$(DEMO)/core reasoner.checkpoint=$(DEMO)/start sft.max_steps=$(SFT) seed=$(SEED) \
		--out $(DEMO)/sft
	@printf '\n%s\n' "3 of 4: GRPO. By reward alone, it finds out that the whole lesion is wanted."
	@$(TRAIN) train/toy data.path=$(DEMO)/whole reasoner.checkpoint=$$(ls -d $(DEMO)/sft/checkpoints/step-*/model | tail -1) \
		grpo.max_steps=$(GRPO) seed=$(SEED) --out $(DEMO)/grpo
	@printf '\n%s\n' "4 of 4: Measure. Both models answer questions about pictures that they never saw."
	@$(BIN)/python benchmarks/demo_report.py $(DEMO)

test: lint test-fast test-slow

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not soak and not gpu and not vllm"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 -m "slow and not soak and not gpu and not vllm"

# In an environment of its own, .venv-vllm: vLLM pins its own torch and transformers.
test-vllm:
	PYTHON=$(PYTHON) plugins/medground-vllm/tests/environment/run.sh

# The tests marked lane, in fresh environments: the newest versions of everything, and the oldest that are supported.
test-newest:
	PYTHON=$(PYTHON) constraints/lane.sh newest

test-oldest:
	PYTHON=$(PYTHON) constraints/lane.sh oldest constraints/oldest.txt

# The files in constraints/ from the newest versions that pyproject.toml allows today, and the tests with them.
constraints:
	PYTHON=$(PYTHON) constraints/renew.sh

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(VENV)/.test
	$(BIN)/python -m pytest -q -m soak

benchmarks: $(VENV)/.test
	$(BIN)/python benchmarks/startup.py

$(VENV)/.venv:
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# What builds the packages that come as source is installed first, under the constraints too: pip would take the newest into
# environments of their own, and a second torch with which to build sam2.
BUILD = hatchling editables setuptools wheel

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) $(VENV)/.venv
	@printf '%s\n' "Install into $(VENV), once: pip downloads and unpacks for some minutes. README.md says how much, and how to take less."
	@$(PIP_INSTALL) -q --upgrade $(BUILD)
	@$(PIP_INSTALL) --no-build-isolation -e ".[qwen,sam]"
	@echo
	@touch $@

$(VENV)/.test: pyproject.toml $(CONSTRAINTS) $(VENV)/.venv
	$(PIP_INSTALL) -q --upgrade $(BUILD) torch torchvision
	SAM2_BUILD_CUDA=0 $(PIP_INSTALL) -q --no-build-isolation -e ".[all,test]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-* demo build dist
