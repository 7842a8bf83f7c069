# On a machine with Python 3.11 to 3.13: `make quickstart` and `make test` set up and do everything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup quickstart test check format lint types unit reliability data-tests bench clean

help:
	@echo "make quickstart   set up, draw the shapes, train, evaluate, predict (5 to 10 minutes after the installation)"
	@echo "make test         set up and check everything: format, lint, types, tests (what CI runs)"
	@echo "make setup        only set up ($(VENV), for development)"
	@echo "make format       format the code"
	@echo "make reliability  the long kill, corruption and fuzz runs"
	@echo "make data-tests   the tests on the real Tiny ImageNet (set TINYSIGHT_TINY_IMAGENET to its folder or zip)"
	@echo "make bench        measure this machine and our speed on it"

$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "tinysight needs Python 3.11 to 3.13, this is $$($(PYTHON) --version); use make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) -e '.[dev]'
	@touch $@

setup: $(VENV)/.dev

quickstart: $(VENV)/.core
	$(BIN)/tinysight quickstart

test: lint types unit

check: test

format: $(VENV)/.dev
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

lint: $(VENV)/.dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not reliability and not data"

reliability: $(VENV)/.dev
	$(BIN)/python -m pytest -m reliability

data-tests: $(VENV)/.dev
	$(BIN)/python -m pytest -m data

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/machine.py
	$(BIN)/python benchmarks/augment.py
	$(BIN)/python benchmarks/training.py

clean:
	rm -rf $(VENV) build *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
