# `make demo` and `make test` need only Python 3.11, 3.12 or 3.13, pip and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# The versions that the tests passed with; CONSTRAINTS= installs the newest that pyproject.toml allows.
CONSTRAINTS := constraints/main.txt
PIP_INSTALL  = $(BIN)/pip install $(addprefix -c ,$(CONSTRAINTS))

# One thread per process, without busy waiting: two waiting thread pools on two cores are ten times slower.
export OMP_NUM_THREADS = 1
export OMP_WAIT_POLICY = PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Tests start many processes, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-slow test-vllm test-trackers test-bridges test-newest test-oldest constraints lint docs soak mutants benchmarks clean

# An extra index for pip, for example torch's index of CPU builds: `make demo TORCH_INDEX=URL`.
ifdef TORCH_INDEX
export PIP_EXTRA_INDEX_URL := $(strip $(PIP_EXTRA_INDEX_URL) $(TORCH_INDEX))
endif

# The size of the demo; each seed gives other pictures and weights.
DEMO    ?= demo
SEED    ?= 0
SAMPLES ?= 4000
HELD    ?= 256
SFT     ?= 1300
GRPO    ?= 60
TRAIN    = $(BIN)/medground train --resume

# Train a tiny vision-language model of random weights to box the core of a lesion, then by GRPO the whole lesion. `make demo`
# resumes after an interruption.
demo: $(VENV)/.demo
	@$(BIN)/python benchmarks/demo_start.py $(DEMO) --seed $(SEED) --samples $(SAMPLES) --held $(HELD) --sft $(SFT) --grpo $(GRPO)
	@printf '\n%s\n' "2 of 4: SFT. A model of random weights is trained to box the cores of lesions."
	@$(BIN)/python -m medground_qwen.tiny --out $(DEMO)/start --data $(DEMO)/core --seed $(SEED)
	@$(TRAIN) train/toy_sft data.path=$(DEMO)/core reasoner.checkpoint=$(DEMO)/start sft.max_steps=$(SFT) seed=$(SEED) \
		--out $(DEMO)/sft
	@printf '\n%s\n' "3 of 4: GRPO. It is trained to box whole lesions, from rewards alone."
	@$(TRAIN) train/toy data.path=$(DEMO)/whole reasoner.checkpoint=$$(ls -d $(DEMO)/sft/checkpoints/step-*/model | tail -1) \
		grpo.max_steps=$(GRPO) seed=$(SEED) --out $(DEMO)/grpo
	@printf '\n%s\n' "4 of 4: Measure. Both models answer questions about held-out pictures."
	@$(BIN)/python benchmarks/demo_report.py $(DEMO)

test: lint test-fast test-slow

# `--dist loadfile`: what the tests of a file share is made once.
test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not soak and not gpu and not vllm"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 --durations=20 -m "slow and not soak and not gpu and not vllm"

# In the environment .venv-vllm, because vLLM pins its own torch and transformers.
test-vllm:
	PYTHON=$(PYTHON) plugins/medground-vllm/tests/environment/run.sh

# In the environment .venv-trackers, because each client brings dozens of packages, and trackio wants Pillow below 13.
TRACKERS := constraints/trackers.txt
test-trackers: .venv-trackers/.ready
	.venv-trackers/bin/python -m pytest -q plugins/medground-trackers

# In the environment .venv-bridges, because verifiers and lm_eval bring a hundred packages.
BRIDGES := constraints/bridges.txt
test-bridges: .venv-bridges/.ready
	.venv-bridges/bin/python -m pytest -q medground/bridges tests/test_bridges.py

# Run the tests marked lane in new environments, with the newest versions and with the oldest supported ones.
test-newest:
	PYTHON=$(PYTHON) constraints/lane.sh newest

test-oldest:
	PYTHON=$(PYTHON) constraints/lane.sh oldest constraints/oldest.txt

# Write the files in constraints/ from the newest versions that pyproject.toml allows, and run the tests with them.
constraints:
	PYTHON=$(PYTHON) constraints/renew.sh

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documents as a site; they are read, not imported, so nothing else needs to be installed.
docs: $(VENV)/.docs
	$(BIN)/zensical build --strict

soak: $(VENV)/.test
	$(BIN)/python -m pytest -q -m soak

# Draw 400 faults and see whether the fast tests notice them; it takes about an hour on two idle cores.
mutants: $(VENV)/.test
	$(PIP_INSTALL) -q --no-build-isolation -e ".[mutants]"
	$(BIN)/python benchmarks/mutants.py

benchmarks: $(VENV)/.test
	$(BIN)/python benchmarks/startup.py

$(VENV)/.venv:
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# Build tools are installed first, under the constraints. Otherwise pip installs their newest versions, and a second torch for
# sam2, into isolated build environments.
BUILD = hatchling editables setuptools wheel

.venv-trackers/.ready: pyproject.toml plugins/medground-trackers/pyproject.toml $(TRACKERS)
	$(PYTHON) -m venv .venv-trackers
	.venv-trackers/bin/pip install $(addprefix -c ,$(TRACKERS)) -q hatchling editables pytest
	.venv-trackers/bin/pip install $(addprefix -c ,$(TRACKERS)) -q --no-build-isolation \
		-e ".[trackers-tensorboard,trackers-wandb,trackers-mlflow,trackers-trackio]"
	@touch $@

.venv-bridges/.ready: pyproject.toml $(BRIDGES)
	$(PYTHON) -m venv .venv-bridges
	.venv-bridges/bin/pip install $(addprefix -c ,$(BRIDGES)) -q $(BUILD) pytest
	.venv-bridges/bin/pip install $(addprefix -c ,$(BRIDGES)) -q --no-build-isolation -e . "verifiers>=0.4" "lm_eval>=0.4.13"
	@touch $@

$(VENV)/.docs: $(CONSTRAINTS) $(VENV)/.venv
	@$(PIP_INSTALL) -q zensical mkdocstrings-python
	@touch $@

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) $(VENV)/.venv
	@printf '%s\n' "Install into $(VENV), once; this takes some minutes. README.md states the size of the download and how to reduce it."
	@$(PIP_INSTALL) -q --upgrade $(BUILD)
	@$(PIP_INSTALL) --no-build-isolation -e ".[qwen,sam]"
	@echo
	@touch $@

$(VENV)/.test: pyproject.toml $(CONSTRAINTS) $(VENV)/.venv
	$(PIP_INSTALL) -q --upgrade $(BUILD) torch torchvision
	SAM2_BUILD_CUDA=0 $(PIP_INSTALL) -q --no-build-isolation -e ".[all,test]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-* demo site build dist
