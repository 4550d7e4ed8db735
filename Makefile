# The few commands of this project. Each one first makes .venv from a bare python3, and only when the pins changed.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
THREADS ?= 2
BIN := .venv/bin
STAMP := .venv/stamp
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
UV := $(BIN)/uv pip install -q --python $(BIN)/python
ITSELF := --no-deps --no-build-isolation --editable .

# THREADS tests at once, each on one thread: their arrays are tiny, and two threads on one of them wait for each other.
test test-all test-slurm: export OMP_NUM_THREADS := 1
# Tests and jobs ask no model hub for anything; weights come from the asset registry alone.
export HF_HUB_OFFLINE := 1

.PHONY: help demo test test-all test-slurm check format lock clean distclean venv

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 make ... picks the interpreter of a new .venv; THREADS=n how many tests run at once (now $(THREADS))."

demo: $(STAMP) ## Fetch a clip, render a scene, track both; ends with the path of the report.
	@$(BIN)/python -m everypoint demo

test: $(STAMP) ## Run the unit tests and the small workflow tests.
	@$(BIN)/python -m pytest tests -m "not slow" -n $(THREADS) --dist loadfile

test-all: $(STAMP) ## Run every test, the slow ones too.
	@$(BIN)/python -m pytest tests -n $(THREADS) --dist loadfile

test-slurm: $(STAMP) ## Run the tests on a real SLURM: one of their own, on this machine (needs root; about ten minutes).
	@$(BIN)/python -m tests.slurm.cluster install
	@$(BIN)/python -m pytest tests/slurm

check: $(STAMP) ## Check format and style of Python and Snakemake files.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/snakemake --lint --config videos=tests/workflow/lint

format: $(STAMP) ## Rewrite Python and Snakemake files in the project's style.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/snakefmt Snakefile rules

lock: $(STAMP) ## Write requirements.lock anew from the pins of pyproject.toml; what is locked stays, where it fits.
	@$(BIN)/uv pip compile -q pyproject.toml --extra depth --extra dev --extra pips --extra slurm --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --custom-compile-command "make lock" -o requirements.lock

clean: ## Remove demo/results, demo/videos and caches; results/, videos/, .snakemake and .venv stay.
	@rm -rf demo/results demo/videos .pytest_cache .ruff_cache build *.egg-info
	@find . -name __pycache__ -type d -not -path "./.venv*" -prune -exec rm -rf {} +

distclean: clean ## As clean, and remove .venv too.
	@rm -rf .venv

venv: $(STAMP) ## Make or refresh .venv and do nothing else.

# Everything comes by hash from requirements.lock, uv included; nothing that is not pinned is fetched.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("everypoint needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Run: make PYTHON=/path/to/a/newer/python3")'
	@echo "everypoint: installing into .venv (about 5 GB; half a minute to some minutes)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@awk '/^[a-z0-9]/ {part = /^uv==/ ? "uv" : "rest"} part {print > (".venv/" part ".lock")}' requirements.lock
	@if $(PIP) --require-hashes -r .venv/uv.lock; then \
	    $(UV) --compile-bytecode --require-hashes -r requirements.lock && $(UV) $(ITSELF); \
	else \
	    echo "everypoint: uv is not to be had here; pip installs the same, more slowly"; \
	    $(PIP) --require-hashes -r .venv/rest.lock && $(PIP) $(ITSELF); \
	fi
	@touch $@
