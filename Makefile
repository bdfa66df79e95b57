# Main targets: make demo, make test. Each installs what it needs into .venv, given Python 3.11 or newer with venv.
# For another Python: make test PYTHON=python3.13, into .venv-python3.13.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := $(if $(filter command,$(origin PYTHON)),.venv-$(notdir $(PYTHON)),.venv)
BIN := $(VENV)/bin
# Bytecode is compiled at installation: where .venv is read-only, every start of a program would compile its imports again.
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt
# One process per core, at most four: each keeps its compiled programs in memory, up to some gigabytes.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile

.PHONY: help demo test test-smoke test-slow test-alone test-all lint docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

demo: $(VENV)/installed  ## rank the embedded experts for handwritten digits and fine-tune some, offline
	$(BIN)/ntk-select demo

# Without most optimisations XLA compiles faster, and the programs of quick tests run only once. The slow tests use the default.
test: $(VENV)/installed-test  ## the quick tests
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST)

# Files that between them call the required packages, and those of JAX's interfaces that change most.
SMOKE := tests/kernels/engine/test_program.py tests/kernels/engine/test_neural_tangents.py tests/kernels/engine/test_stored_array.py \
    tests/training/test_checkpoints.py tests/models/test_expert_folder.py tests/data/test_tfds.py tests/benchmark/test_store.py tests/cli/test_cli_tables.py

test-smoke: $(VENV)/installed-test  ## a sample of the quick tests, one or two minutes
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) $(SMOKE)

test-slow: $(VENV)/installed-torch  ## the slow and nightly tests, and comparisons with PyTorch
	$(PYTEST) -m "slow or oracle or nightly"

# Required in addition to the quick tests before a change is merged: slow tests that no quick test replaces.
test-alone: $(VENV)/installed-torch  ## slow tests of what no quick test covers: wheel, PyTorch, examples, cluster, browser, fuzzing
	$(PYTEST) -m "(oracle or slow) and not nightly" tests/test_wheel.py tests/scripts/test_scripts.py tests/benchmark/test_ray.py \
	    tests/benchmark/report/test_browser.py tests/fuzz tests/hostile tests/models/test_convert.py tests/models/test_torchvision_live.py \
	    tests/models/test_training_parity.py tests/models/test_torch_experts.py tests/models/test_torch_families.py tests/models/test_torch_coverage.py \
	    tests/models/test_timm_zoo.py tests/ranking/test_on_ray.py tests/experts/test_preprocess.py

test-all: test test-slow  ## all tests

lint: $(VENV)/installed-test  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/installed-docs  ## build the documentation into build/docs; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open build/docs/index.html"

clean:  ## delete the environment
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/uv:
	@echo "Installing into $(VENV): a few minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv

$(VENV)/installed: $(VENV)/bin/uv pyproject.toml constraints.txt
	@echo "Installing ntk_select and its dependencies."
	$(UV) --editable '.[all]'
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(UV) --group test --group lint
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(UV) --group docs
	@touch $@

# PyTorch by pip, which finds a CPU build where one is configured; the others without dependencies, so that none replaces it. torchvision is imported
# without its compiled part.
$(VENV)/installed-torch: $(VENV)/installed-test
	$(UV) --group slow
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchvision timm torchax
	@touch $@
