# Everything here runs from a fresh checkout: each target makes .venv first.
# PYTHON=/path/to/python3 chooses the interpreter that .venv is made with (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: venv demo test test-message chaos fuzz lint clean

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

# The bridges of the system and chaos tests once more, in the other fabric; what measures both does so already.
test-message: $(STAMP)
	NTBNET_TEST_FABRIC=message $(BIN)/python -m pytest --numprocesses 2 tests/system tests/chaos \
		--ignore-glob 'tests/system/test_bench*' --ignore tests/system/test_demo.py \
		--ignore tests/system/test_privileges.py --ignore tests/system/test_two_machines.py

# A million inputs for everything that reads bytes from outside; FUZZ='--seed N --target "path"' repeats or narrows it.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz.campaign $(FUZZ)

# Every scenario as long as it says, in each fabric that it has, and the sweep of crash points: an hour. All are
# run, whatever one of them says. SEED=7 chooses other schedules, SCENARIOS="kill-each resets" other scenarios.
SEEDS ?= 1 2 3
SCENARIOS ?= $(basename $(notdir $(wildcard ntbnet/scenarios/*.toml)))
ONLY_MESSAGE := damaged-messages bad-wire
ONLY_LOCAL := damaged-control
chaos: $(STAMP)
	failed=; for seed in $(SEEDS); do \
	for scenario in $(filter-out $(ONLY_MESSAGE),$(SCENARIOS)); do \
		$(BIN)/ntbnet chaos run $$scenario --seed $$seed --fabric local || failed="$$failed $$scenario/local/$$seed"; done; \
	for scenario in $(filter-out $(ONLY_LOCAL),$(SCENARIOS)); do \
		$(BIN)/ntbnet chaos run $$scenario --seed $$seed --fabric message || failed="$$failed $$scenario/message/$$seed"; done; \
	$(BIN)/ntbnet chaos sweep --seed $$seed || failed="$$failed sweep/$$seed"; done; \
	test -z "$$failed" || { echo "not ok:$$failed"; exit 1; }

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
