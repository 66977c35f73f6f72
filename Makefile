# make demo    trains, evaluates and exports a small tokenizer on real photos; ends by naming the files it wrote
# make test    the tests
# make lint    ruff, pyright, import-linter
# Everything is installed into .venv; Python >= 3.11 is all that must be there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STEPS ?= 1100

.PHONY: demo test lint format install clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py --steps $(STEPS) --out demo

test: $(VENV)/installed
	$(BIN)/python -m pytest

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
	  { echo "Smalti needs Python 3.11 or newer, and $(PYTHON) is older: run make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
