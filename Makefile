# Everything is set up by the target that needs it: a fresh checkout runs `make quickstart` or `make test` as it is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-all setup check clean

quickstart: setup
	$(BIN)/fromzero quickstart

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# With the tests that take minutes: several processes, kills, real failures of memory.
test-all: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

setup: $(VENV)/.installed

# constraints.txt pins what was tested; a Python it was not resolved for falls back to the bounds of pyproject.toml.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info < (3, 15), f"fromzero needs Python 3.10 to 3.14, this is {sys.version.split()[0]}: make PYTHON=python3.11 setup"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")') -e '.[train,text,export,serve,shrink,explain,profile,tune,dev]'
	touch $@

check: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy
	$(MAKE) test

clean:
	rm -rf $(VENV)
