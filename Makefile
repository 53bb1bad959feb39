# Every target sets up what it needs; nothing has to be done before.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO ?= vitrine-demo
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help setup demo test lint format bench browser lock clean

help:
	@echo "make demo    draw a sample catalogue, run the whole pipeline on it, say where the report is"
	@echo "make test    lint and run the tests"
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

test: lint browser
	$(BIN)/pytest

# The app is tested in a real browser: Debian's, as pip has none.
browser:
	@command -v chromium >/dev/null || ! command -v apt-get >/dev/null || { echo "installing chromium"; \
		$(AS_ROOT) apt-get update -qq; $(AS_ROOT) apt-get install -y -qq --no-install-recommends chromium >/dev/null || \
		echo "no chromium: the browser test will be skipped"; }

bench: setup .venv-autofaiss
	$(BIN)/python -m benchmarks.embedding
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.nights
	$(BIN)/python -m benchmarks.opening
	$(BIN)/python -m benchmarks.fuzz

# A peer to measure against, whose pins clash with ours.
.venv-autofaiss:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check autofaiss==2.18.0 psutil

# Needs `uv` on the path. The lock names no index host.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --no-header --no-annotate \
		--quiet pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache
