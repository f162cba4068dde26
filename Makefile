# `make demo` and `make test` need git, Python 3.11 or later with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow check bench schema lock clean

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -m compileall -q pipeline detectors
	# Also compiles the kernels, so that no first frame waits for a compiler.
	$(BIN)/nucleate doctor --data-dir data > $(VENV)/doctor.log || (cat $(VENV)/doctor.log; exit 1)
	touch $@

demo: $(STAMP)
	$(BIN)/nucleate demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra images --no-emit-index-url --no-header -q -o requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info
