# Two commands matter: make demo, make test. Each sets up what it needs in .venv, from Python 3.11 with venv alone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
# One process a core, four at most: each keeps the programs that it compiled, some gigabytes in the end.
PYTEST := $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile

.PHONY: help demo test test-slow test-all lint clean

help:  ## what can be typed
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

demo: .venv/installed  ## rank the embedded experts for handwritten digits and fine-tune some, offline
	$(BIN)/ntk-select demo

test: .venv/installed-test  ## the quick tests
	$(PYTEST)

test-slow: .venv/installed-torch  ## the slow tests and those against PyTorch, live
	$(PYTEST) -m "slow or oracle"

test-all: test test-slow  ## all tests

lint: .venv/installed-test  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## forget the environment
	rm -rf .venv build dist *.egg-info

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv

.venv/installed: .venv/bin/uv pyproject.toml constraints.txt
	$(UV) --editable '.[all]'
	@touch $@

.venv/installed-test: .venv/installed
	$(UV) --group test --group lint
	@touch $@

# PyTorch by pip: it knows where a CPU build lies, if there is one. torchvision is imported without its compiled part.
.venv/installed-torch: .venv/installed-test
	$(UV) --group slow
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchvision
	@touch $@
