# `make demo` and `make test` set up what they need in .venv and run. Nothing but Python >= 3.10, its venv module
# and make has to be there before.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: help setup demo test check bench results docs wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    deblur a photograph and write before, motion and after to demo/"
	@echo "make test    run the tests (IRCDEBLUR_DATA=DIR adds those that need photographs)"
	@echo "make check   lint, formatting, types"
	@echo "make bench   time the solvers and the networks on this machine; BENCH=--quick: some of it, in minutes"
	@echo "make results rebuild docs/results.md and the figures of the README; FROM=OUT first collects the tables that were written to OUT"
	@echo "make docs    build the documentation site in build/docs"
	@echo "make wheel   build the wheel in dist/, install it into a fresh environment, run it there, print sizes and times"
	@echo "make setup   only install, for development, into $(VENV)"
	@echo "make clean   remove $(VENV), caches and everything that the other targets wrote"
	@echo "PYTHON=python3.12 make setup   choose the interpreter"

setup: $(VENV)/.dev

demo: $(VENV)/.runtime
	$(VENV)/bin/python examples/demo.py -o demo

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

check: $(VENV)/.dev
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

bench: $(VENV)/.runtime
	$(VENV)/bin/python benchmarks/run.py -o results/benchmarks.md $(BENCH)

results: $(VENV)/.runtime
	$(VENV)/bin/python -m ircdeblur.experiments.results docs/results -o docs/results.md $(if $(FROM),--collect $(FROM))
	$(VENV)/bin/python benchmarks/readme_tables.py docs/results README.md

# -W: what Sphinx warns of, a link that leads nowhere for example, is a fault.
docs: $(VENV)/.dev
	$(VENV)/bin/python -m sphinx -W --keep-going -b html docs build/docs

wheel: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/wheel.py -o dist

clean:
	rm -rf $(VENV) build dist demo docs/api .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Stamps: an installation is repeated only when what it depends on has changed. The demo needs neither the training
# libraries nor the test tools, so it does not wait for them; the development install includes the other.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.runtime $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.10; name another one: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "error: $(PYTHON) could not make $(VENV); is Python's venv module installed (Debian: python3-venv)?" >&2; \
	  exit 1; }
