# `make demo` and `make test` do everything from a bare machine: Python 3.11 or newer and make are all they need.
# Paths are relative throughout, so a checkout in a folder with a space in its name works too.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SOURCES := graphwright ir passes lowering frontends tests benchmarks
WORKERS ?= 2

export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test test-slow test-all lint types bench clean
.DELETE_ON_ERROR:

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

install: $(STAMP) ## Create .venv and install the package with its pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Graphwright needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (the first time takes a few minutes)"
	@$(RUN) -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP) ## Capture, rewrite, verify and run a real model
	@OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(RUN) -m graphwright.demo

test: $(STAMP) ## Run the tests, except those marked slow
	@$(RUN) -m pytest -n $(WORKERS)

test-slow: $(STAMP) ## Run a bounded selection of the slow tests: every model type of BetterTransformer
	@$(RUN) -m pytest -n $(WORKERS) -m slow tests/test_better_transformer.py

test-all: $(STAMP) ## Run all the tests
	@$(RUN) -m pytest -n $(WORKERS) -m ""

lint: $(STAMP) ## Check style and formatting
	@$(RUN) -m ruff check $(SOURCES)
	@$(RUN) -m ruff format --check $(SOURCES)

# Type checkers cannot follow [tool.setuptools.package-dir], so they read a tree of links laid out as installed.
types: $(STAMP) ## Check types
	@rm -rf build/types && mkdir -p build/types/graphwright
	@cd build/types/graphwright && ln -s ../../../graphwright/* ../../../ir ../../../passes ../../../lowering \
	  ../../../frontends .
	@cd build/types && ../../$(RUN) -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p graphwright

bench: $(STAMP) ## Measure the sizes the project promises
	@$(RUN) -m benchmarks.sizes

clean: ## Remove .venv and everything built
	@rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
