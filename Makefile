# Every verb sets up .venv first, once, and again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check bench prior clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Options go in ARGS: make test ARGS='-k splice'. PYTHON=python3.11 names the Python of a new .venv."

demo: $(READY) ## edit the docstrings of Python's standard library with the small prior that comes along
	$(BIN)/hf-toedit demo $(ARGS)

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

check: $(READY) ## lint, format and types, nothing is changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict hf_toedit

bench: $(READY) ## measure the speed against other ways
	$(BIN)/python benchmarks/compare.py $(ARGS)

prior: $(READY) ## train the demo prior again
	$(BIN)/python examples/train_demo_prior.py train $(ARGS)

clean: ## remove caches and builds (.venv stays)
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# torch goes first and by its exact version: a looser request can bring gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the tested versions need Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "Setting up .venv (the first time takes a minute or more: torch is large)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
