# Every target sets up what it needs; nothing has to be done before.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO ?= vitrine-demo
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
# Percent of the lines of the core that its tests must reach. Lines run by subprocesses do not count.
MIN_COVERAGE := 97

.PHONY: help setup demo test coverage test-ceph lint format docs bench installed debian lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r target text; do \
		printf 'make %-10s %s\n' "$$target" "$$text"; done

setup: $(INSTALLED) ## install everything into .venv

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Vitrine needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true # pip would compile on one core, and all tests
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(INSTALLED)

demo: setup ## draw a sample catalogue, run the whole pipeline on it, print where the report is
	$(BIN)/vitrine demo --dir $(DEMO)

lint: setup ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2

format: setup ## let ruff rewrite the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Two tests at a time, each with one thread: more threads than cores only wait for each other.
test: installed lint coverage ## lint, run the tests and print the lines of the core that they do not reach
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/core

# Of the core's own tests only: slipcover's probes cannot be pickled, as flows on Dask need.
# The report is a second step because slipcover drops the workers' lines where one step runs, prints and compares.
coverage: setup ## run the tests of the core and print the lines that they do not reach
	OMP_NUM_THREADS=1 $(BIN)/python -m slipcover --json --out .coverage.json -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/core
	$(BIN)/python -m slipcover --fail-under $(MIN_COVERAGE) --merge .coverage.json --out .coverage.json

# Side by side: pip computes while apt downloads.
installed:
	@$(MAKE) --no-print-directory -j 2 setup debian

# The search page is tested in a real browser and Prefect on PostgreSQL: pip has neither, Debian has both.
debian:
	@{ command -v chromium && ls -d /usr/lib/postgresql; } >/dev/null 2>&1 || ! command -v apt-get >/dev/null || { \
		echo "installing chromium and postgresql"; $(AS_ROOT) apt-get update -qq; \
		$(AS_ROOT) apt-get install -y -qq --no-install-recommends chromium postgresql >/dev/null || \
		echo "chromium or postgresql could not be installed: the tests that need it are skipped"; }

# Conditional writes, access rights and multipart uploads against a real S3 server: Debian's Ceph.
test-ceph: setup ## test the store against Ceph's S3 gateway on loopback
	@command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && command -v ceph-osd >/dev/null || { \
		$(AS_ROOT) apt-get update -qq; \
		$(AS_ROOT) apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd >/dev/null; }
	TEST_CEPH=1 $(BIN)/pytest tests/faults/test_ceph.py

docs: setup ## build the documentation, with the API reference, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: setup .venv-autofaiss ## measure speed and memory
	$(BIN)/python -m benchmarks.embedding
	$(BIN)/python -m benchmarks.embedding.backbone_costs
	$(BIN)/python -m benchmarks.embedding.training
	$(BIN)/python -m benchmarks.embedding.margin_steps
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.filters
	$(BIN)/python -m benchmarks.index_updates
	$(BIN)/python -m benchmarks.release_opening
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.item_ids
	$(BIN)/python -m benchmarks.fuzz_pictures
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.gate
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.operations
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.verify_store
	TEST_KILLS=100 $(BIN)/pytest tests/faults/test_kills.py
	TEST_NIGHTS=1000 $(BIN)/pytest -s tests/faults/interruptions/test_many_nights.py
	TEST_SIGNALS=200 $(BIN)/pytest -s tests/faults/interruptions/test_signals.py

# A peer to compare with, whose pins clash with ours.
.venv-autofaiss:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check autofaiss==2.18.0 'pyarrow<20' psutil

# The locks name no index host. The images' lock leaves out what only development needs.
lock: ## pin every dependency anew; needs `uv` on the path
	uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --no-header --no-annotate \
		--quiet pyproject.toml --output-file requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra run --extra serve --extra traces --extra dask --extra kubernetes --no-header --no-annotate \
		--quiet --constraint requirements.lock pyproject.toml --output-file docker/requirements.lock

clean: ## remove what setup, test and docs made
	rm -rf .venv .venv-autofaiss *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage.json site
