# make demo      train, evaluate and export a small tokenizer on real photos; prints the files it wrote
# make test      run the tests
# make lint      run ruff, pyright and import-linter
# make format    fix what ruff can fix automatically
# make install   create the virtual environment .venv and install everything into it; the targets above do this first
# make clean     remove .venv, builds and caches
# Requires Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STEPS ?= 1300

.PHONY: demo test test-all lint format install clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py --steps $(STEPS) --out demo

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/installed
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Smalti requires Python 3.11 or newer, but $(PYTHON) is older: run make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
