# Every target sets up what it needs; nothing has to be done before.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO ?= vitrine-demo
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help setup demo test test-ceph lint format bench debian lock clean

help:
	@echo "make demo    draw a sample catalogue, run the whole pipeline on it, say where the report is"
	@echo "make test    lint and run the tests"
	@echo "make test-ceph   the store against Ceph's S3 gateway, on loopback"
	@echo "make lint    ruff and mypy        make format   let ruff rewrite"
	@echo "make bench   speed figures        make setup    only make .venv"

setup: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Vitrine needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(INSTALLED)

demo: setup
	$(BIN)/vitrine demo --dir $(DEMO)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Two at a time, each with one thread: more threads than cores only wait for each other.
test: lint debian
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# The app is tested in a real browser and Prefect on PostgreSQL: Debian's, as pip has neither.
debian:
	@{ command -v chromium && ls -d /usr/lib/postgresql; } >/dev/null 2>&1 || ! command -v apt-get >/dev/null || { \
		echo "installing chromium and postgresql"; $(AS_ROOT) apt-get update -qq; \
		$(AS_ROOT) apt-get install -y -qq --no-install-recommends chromium postgresql >/dev/null || \
		echo "not all of chromium and postgresql is here: the tests that need them will be skipped"; }

# Conditional writes, rights and parts against a real S3 server: Debian's Ceph.
test-ceph: setup
	@command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && command -v ceph-osd >/dev/null || { \
		$(AS_ROOT) apt-get update -qq; \
		$(AS_ROOT) apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd >/dev/null; }
	VITRINE_TEST_CEPH=1 $(BIN)/pytest tests/faults/test_ceph.py

bench: setup .venv-autofaiss
	$(BIN)/python -m benchmarks.embedding
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.nights
	$(BIN)/python -m benchmarks.opening
	$(BIN)/python -m benchmarks.fuzz
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.operations
	$(BIN)/python -m benchmarks.scaling

# A peer to measure against, whose pins clash with ours.
.venv-autofaiss:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check autofaiss==2.18.0 'pyarrow<20' psutil

# Needs `uv` on the path. The locks name no index host; that of the images leaves out what only tests need.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --no-header --no-annotate \
		--quiet pyproject.toml --output-file requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra run --extra serve --extra dask --no-header --no-annotate \
		--quiet --constraint requirements.lock pyproject.toml --output-file docker/requirements.lock

clean:
	rm -rf .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache
