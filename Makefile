# make demo and make test need nothing set up before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread per process, and no spinning while waiting: oversubscribed threads were ten times slower.
export OMP_WAIT_POLICY = PASSIVE
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MLFLOW_DISABLE_TELEMETRY=true RAY_USAGE_STATS_ENABLED=0

.PHONY: help setup hooks demo test slow drill check fix types clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    tune ACSL on the embedded data: minutes, no GPU"
	@echo "make test    the default tests"
	@echo "make slow    the integration tests: real Ray, real MLflow"
	@echo "make drill   ten kills at random moments, and what a search makes of them"
	@echo "make check   format, lint, types, import contracts, default tests"
	@echo "make fix     format and mend what ruff can mend"
	@echo "make setup   make $(VENV) with everything, and the commit hooks"

setup: $(VENV)/.ready hooks

$(VENV)/.ready: requirements.lock requirements-detectron2.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else "lttune needs Python 3.11 to 3.13; this is %d.%d. Set PYTHON=" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-deps -r requirements.lock
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@# detectron2 is not on the package index: only a wheel in a folder that pip is configured with is taken.
	@if $(PIP) install -q --no-index --no-deps detectron2 2>/dev/null; then \
		$(PIP) install -q --no-deps -r requirements-detectron2.lock; \
	else \
		echo "detectron2: no wheel in pip's wheel folders; its tests will be skipped."; \
	fi
	@touch $@

hooks: $(VENV)/.ready
	@if [ -d .git ] && [ -z "$$CI" ]; then $(BIN)/pre-commit install >/dev/null; fi

demo: $(VENV)/.ready
	@if [ -f lttune_runs/demo/spec.yaml ]; then \
		$(BIN)/lttune resume demo --out lttune_runs; \
	else \
		$(BIN)/lttune search search_spaces/acsl.yaml --study demo --out lttune_runs; \
	fi

test: $(VENV)/.ready
	$(TEST_ENV) $(BIN)/python -m pytest -n 2

slow: $(VENV)/.ready
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m slow --ignore tests/integration
	$(TEST_ENV) $(BIN)/python -m pytest -m slow tests/integration

drill: $(VENV)/.ready
	$(TEST_ENV) $(BIN)/python -m benchmarks.drill

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(MAKE) test

fix: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) lttune_runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
