# make demo: the whole lineage on the embedded default.   make test: the tests.   Both make .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
# What tests and documentation need.
DEV ?= demo,dev,docs
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
OLDEST := $(VENV)/oldest

# Tests also wait, for processes and servers: more workers than cores. A worker takes a module, or a group, in the order of
# `tests/conftest.py`.
WORKERS ?= 3
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadgroup --no-loadscope-reorder
FAST := not slow and not gpu
MARKS ?= $(FAST)

# What goes through open_clip, transformers, FAISS, pyarrow, numpy and the Hub's client most.
OLDEST_TESTS := $(addprefix tests/,clip embedding extensions/hub extensions/methods/test_low_rank.py \
	extensions/predict/test_predict.py indexing retrieval/test_ranking.py retrieval/test_retrieve.py \
	retrieval/test_row_filter.py use)

.PHONY: help install install-dev demo test test-slow test-mutations test-operations test-pages test-oldest test-gpu gpu-report docs lint check-definitions ui clean

help:
	@sed -n 's/^# //p; s/^\([a-z-]*\):.*## /  make \1  /p' Makefile

install: $(STAMP) $(if $(GPU),$(VENV)/faiss-gpu) ## make the environment in .venv; with GPU=1 also FAISS for NVIDIA GPUs, in a folder of its own

# A folder of its own: its files are those of faiss-cpu (docs/scale.md).
$(VENV)/faiss-gpu: | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $@ 'faiss-gpu>=1.15,<2'

# Keyed on the files that decide what is installed, so an unchanged environment costs nothing.
$(STAMP) $(DEV_STAMP): pyproject.toml no-deps.txt constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and "Python 3.11, 3.12 or 3.13 is needed, found %d.%d; set PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(if $(filter $(DEV_STAMP),$@),$(DEV),demo)]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r no-deps.txt
	@touch $(STAMP) $@

install-dev: $(DEV_STAMP) $(if $(GPU),$(VENV)/faiss-gpu) ## the same with what tests and documentation need

# Packages whose oldest version is another one, in a folder that comes before the environment.
$(OLDEST): constraints.txt constraints-oldest.txt | $(DEV_STAMP)
	rm -rf $@ $@.part && grep -vxFf constraints.txt constraints-oldest.txt | grep -v '^#' > $(VENV)/oldest.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@.part -r $(VENV)/oldest.txt
	mv $@.part $@

demo: install ## retrieve, customize and evaluate four domains; prints the first as soon as it stands
	$(BIN)/react-pipeline demo

test: install-dev ## everything but the slow and GPU tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -n $(WORKERS) -m '$(MARKS)'

test-slow: install-dev ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-mutations: install-dev ## remove each guard of tests/mutations.py in turn, and run the test that must fail then
	$(BIN)/python tests/mutations.py

test-operations: install-dev ## servers, daemon, browser, whole lineages, pages: a part of test-slow
	$(PYTEST) -n 4 -m operations $$(grep -rl mark.operations tests)

test-pages: install-dev ## the pages of the documentation, block by block; a part of test-operations
	$(PYTEST) -n 4 tests/pages

test-oldest: $(OLDEST) ## a fast part of the tests with the oldest versions
	PYTHONPATH=$(abspath $(OLDEST)) $(PYTEST) -n $(WORKERS) -m '$(FAST)' $(OLDEST_TESTS)

test-gpu: install-dev ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

gpu-report: install-dev ## tests and speed on the first GPU as a page, in 10 minutes; without one: REPORT=--pretend
	$(BIN)/python -m benchmarks.gpu $(REPORT)

docs: install-dev ## the documentation site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: install-dev ## fix style in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-definitions: install-dev ## what Dagster says of the definitions
	$(BIN)/dg check defs
	$(BIN)/dagster definitions validate -w workspace.yaml

ui: install ## Dagster and MLflow on loopback
	$(BIN)/react-pipeline ui

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) .react build *.egg-info
	find dagster_home -mindepth 1 -maxdepth 1 ! -name dagster.yaml ! -name production -exec rm -rf {} +
