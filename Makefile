# Two commands matter: make demo, make test. Each sets up what it needs in .venv, from Python 3.11 with venv alone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Compiled once, or every start of a program compiles what it imports anew where nothing may be written.
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt
# One process a core, four at most: each keeps the programs that it compiled, some gigabytes in the end.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile

.PHONY: help demo test test-slow test-alone test-all lint docs clean

help:  ## what can be typed
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

demo: .venv/installed  ## rank the embedded experts for handwritten digits and fine-tune some, offline
	$(BIN)/ntk-select demo

# XLA compiles what is small and runs once a quarter faster so. The slow tests are compiled as users compile.
test: .venv/installed-test  ## the quick tests
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST)

test-slow: .venv/installed-torch  ## the slow tests and those against PyTorch, live
	$(PYTEST) -m "slow or oracle or nightly"

# What must pass before a change lands, besides the quick tests: slow tests that no quick one replaces.
test-alone: .venv/installed-torch  ## the wheel, PyTorch live, examples, a cluster, a browser, fuzzing
	$(PYTEST) -m "(oracle or slow) and not nightly" tests/test_wheel.py tests/scripts/test_scripts.py tests/benchmark/test_ray.py \
	    tests/benchmark/report/test_browser.py tests/fuzz tests/hostile tests/models/test_convert.py tests/models/test_torchvision_live.py \
	    tests/models/test_training_parity.py tests/experts/test_preprocess.py

test-all: test test-slow  ## all tests

lint: .venv/installed-test  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/installed-docs  ## the documentation, strictly, into build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open build/docs/index.html"

clean:  ## forget the environment
	rm -rf .venv build dist *.egg-info

.venv/bin/uv:
	@echo "Installing into .venv: a few minutes the first time."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv

.venv/installed: .venv/bin/uv pyproject.toml constraints.txt
	@echo "Installing ntk_select and what it needs."
	$(UV) --editable '.[all]'
	@touch $@

.venv/installed-test: .venv/installed
	$(UV) --group test --group lint
	@touch $@

.venv/installed-docs: .venv/installed
	$(UV) --group docs
	@touch $@

# PyTorch by pip: it knows where a CPU build lies, if there is one. torchvision is imported without its compiled part.
.venv/installed-torch: .venv/installed-test
	$(UV) --group slow
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchvision
	@touch $@
