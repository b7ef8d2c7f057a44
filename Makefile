# Every verb sets up its own virtual environment in .venv; a second call reuses it.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
SOURCES := kernels models decoders experiments conf tests

.PHONY: help sweep test test-slow check clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

sweep: .venv/sweep  ## train the matched pairs, measure speed and quality, write the report (ARGS="task=sudoku9 ...")
	$(BIN)/python -m quicksilver.experiments $(ARGS)

test: .venv/test  ## the tests
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: .venv/test  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

check: .venv/check  ## lint, formatting of imports, types
	$(BIN)/ruff check $(SOURCES)
	mkdir -p .types/quicksilver
	ln -sfn ../../kernels ../../models ../../decoders ../../experiments ../../conf .types/quicksilver/
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:  ## remove the virtual environment and caches; runs/ stays
	rm -rf .venv .types .pytest_cache .ruff_cache .hypothesis build *.egg-info

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/sweep: pyproject.toml | .venv/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable .
	touch $@

.venv/test: pyproject.toml | .venv/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[test]"
	touch $@ .venv/sweep

.venv/check: pyproject.toml | .venv/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[test,check]"
	touch $@ .venv/test .venv/sweep
