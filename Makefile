# make demo: the whole lineage on the embedded default.   make test: the tests.   Both make .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
# Or constraints-oldest.txt, with another VENV.
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

# Tests also wait, for processes and servers: more workers than cores. A worker takes a module, or a group
# (`tests/conftest.py`). Without `--no-loadscope-reorder` modules with the most tests come first, but a test of operations
# that takes minutes is alone in its module; the longest pages come first.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadgroup

# What leans on numpy, pyarrow, open_clip, transformers and FAISS most.
OLDEST_TESTS := $(addprefix tests/,clip embedding extensions/hub extensions/methods extensions/predict indexing retrieval use)

.PHONY: help install install-dev demo test test-slow test-mutations test-operations test-pages test-oldest test-gpu gpu-report docs lint check-definitions ui clean

help:
	@sed -n 's/^# //p; s/^\([a-z-]*\):.*## /  make \1  /p' Makefile

install: $(STAMP) $(if $(GPU),$(VENV)/faiss-gpu) ## make the environment in .venv; with GPU=1 also FAISS for NVIDIA GPUs, in a folder of its own

# A folder of its own: its files are those of faiss-cpu (docs/scale.md).
$(VENV)/faiss-gpu: | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $@ 'faiss-gpu>=1.15,<2'

# Keyed on the files that decide what is installed, so an unchanged environment costs nothing.
$(STAMP): pyproject.toml no-deps.txt $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and "Python 3.11, 3.12 or 3.13 is needed, found %d.%d; set PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[demo]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r no-deps.txt
	@touch $@

install-dev: install $(DEV_STAMP) ## what tests and documentation need beside it

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[demo,dev,docs]'
	@touch $@

demo: install ## retrieve, customize and evaluate four domains; prints the first as soon as it stands
	$(BIN)/react-pipeline demo

test: install-dev ## everything but the slow and GPU tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -n 3 -m 'not slow and not gpu'

test-slow: install-dev ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-mutations: install-dev ## remove each guard of tests/mutations.py in turn, and run the test that must fail then
	$(BIN)/python tests/mutations.py

test-operations: install-dev ## servers, daemon, browser, whole lineages, pages: a part of test-slow
	$(PYTEST) -n 4 --no-loadscope-reorder -m operations

test-pages: install-dev ## the pages of the documentation, block by block; a part of test-operations
	$(PYTEST) -n 4 --no-loadscope-reorder tests/pages

test-oldest: ## a fast part of the tests with the oldest versions, in .venv-oldest
	$(MAKE) install-dev VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt
	$(PYTEST:$(BIN)/%=.venv-oldest/bin/%) -n 3 -m 'not slow and not gpu' $(OLDEST_TESTS)

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
	rm -rf $(VENV) .venv-oldest .react build *.egg-info
	find dagster_home -mindepth 1 -maxdepth 1 ! -name dagster.yaml ! -name production -exec rm -rf {} +
