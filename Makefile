# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-processors lint docs clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/cdetr demo

# Two tests at a time and more where there are cores: each computes with one thread.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test: setup
	$(PYTEST)

# What hangs on how a processor computes, as older ones do (AVX2 without AVX-512; SSE 4.1) and, where models are computed,
# with several threads: `make test` computes on one. Three quarters of the tests are text, files and signals, and the same everywhere.
NUMERIC := $(PYTEST) -m "numeric and not network and not slow"

test-processors: setup
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 $(NUMERIC)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE $(NUMERIC)
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(NUMERIC) tests/models tests/losses tests/results tests/predict

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The pages come to site/: open site/index.html. What plug-ins warn of does not end a strict build, and is looked for in
# what they printed; nor may a page fetch anything from a network.
docs: .venv/.docs
	mkdir -p build
	PATH="$(CURDIR)/$(BIN):$$PATH" COLUMNS=100 $(BIN)/zensical build --clean --strict >build/docs.log 2>&1 || { cat build/docs.log; exit 1; }
	! grep -Ev '^(Build |No issues|$$)' build/docs.log
	! grep -rE '<(script|link|img|iframe)[^>]*(src|href)="?https?:' site --include '*.html'

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv runs build dist site .cache .pytest_cache .ruff_cache .mypy_cache
