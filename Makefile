# Everything here runs from a fresh checkout: each target makes .venv first.
# PYTHON=/path/to/python3 chooses the interpreter that .venv is made with (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: venv demo test lint clean

venv: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/ntbnet demo

# Two workers, see AloneLast in tests/conftest.py. Benchmarks time nothing beside workers.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --ignore tests/benchmarks
	$(BIN)/python -m pytest tests/benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
