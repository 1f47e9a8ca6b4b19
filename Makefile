# Everything runs in one environment, .venv, made when first needed. A second call of any target is quick.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

# What users need for the notebooks, and on top of it what the tests need.
RUN := .venv/.installed-run
DEV := .venv/.installed-dev

TORCH := torch==2.13.0
TORCH_CPU := https://download.pytorch.org/whl/cpu
REACHED := import signal, sys, urllib.request as u; signal.alarm(3); u.urlopen(sys.argv[1])

.PHONY: help demo test lint types bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\): .*## /  \1 - /p' Makefile

demo: $(RUN)  ## train on a cluster of this machine, in a notebook, and bring the model home
	@$(BIN)/nbcloud demo

test: lint types  ## lint, types, and every test that needs no cluster beyond this machine
	$(BIN)/python -m pytest -q

lint: $(DEV)  ## ruff: rules and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(DEV)  ## mypy, strict
	$(BIN)/python -m mypy

bench: $(RUN)  ## side by side with ipyparallel, afar, raw Dask and a bare kernel; a quarter of an hour
	$(BIN)/python -m benchmarks.dispatch

clean:  ## remove the environments and all that was built
	rm -rf .venv .venv-bench build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nbcloud needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "Installing nbcloud into .venv; this takes a minute or two, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) -e ".[sklearn]"
	@touch $@

# Without a GPU the CPU build of torch, a twentieth of the size: from its own index, where that can be reached.
$(DEV): $(RUN)
	@echo "Installing what the tests need; this takes two to four minutes, once."
	@index=; \
	if { ! nvidia-smi -L && $(BIN)/python -c "$(REACHED)" $(TORCH_CPU)/torch/; } >/dev/null 2>&1; \
	then index="--extra-index-url $(TORCH_CPU)"; fi; \
	$(PIP) $(TORCH) $$index
	@$(PIP) -e ".[dev]"
	@touch $@
