# Everything here runs from a fresh checkout: each target makes .venv first.
# PYTHON=/path/to/python3 chooses the interpreter that .venv is made with (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: venv demo test test-message chaos chaos-short fuzz lint clean

venv: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/ntbnet demo

# Three workers, see AloneLast in tests/conftest.py: two cores have time for one more, as bridges mostly wait.
# Benchmarks time nothing beside workers.
WORKERS ?= 3
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --ignore tests/benchmarks
	$(BIN)/python -m pytest tests/benchmarks

# The bridges of the system and chaos tests once more, in the other fabric, but for:
# - what runs in both fabrics, or in one it names, whichever is asked for;
BOTH_FABRICS := system/test_bench.py system/test_bench_kinds.py system/test_bench_latency.py system/test_demo.py \
	system/test_local.py system/test_privileges.py system/test_two_machines.py chaos/test_recovery.py \
	chaos/test_broken_builds.py system/test_trace_export.py system/test_trace.py
# - what ends before the fabric begins (command lines, refusals, logs), or is about nodes and TUNs, or how commands end;
NO_FABRIC := system/test_commands.py system/test_refusals.py system/test_logs_pipe.py system/test_node.py \
	system/test_tun_offloads.py system/test_stop.py system/test_lnav.py system/test_log_size.py system/test_wireshark.py
# - what is about the control messages that both fabrics have: forged messages and interrupts; where plans and crash
#   points are kept (the scenarios inject in both); or who looks at a bridge from outside: metrics, top, logs.
SAME_IN_BOTH := system/test_forged.py system/test_spurious.py system/test_faults.py system/test_metrics.py \
	system/test_top.py system/test_log_files.py chaos/test_timeline.py
test-message: $(STAMP)
	NTBNET_TEST_FABRIC=message $(BIN)/python -m pytest --numprocesses $(WORKERS) tests/system tests/chaos \
		$(patsubst %,--ignore tests/%,$(BOTH_FABRICS) $(NO_FABRIC) $(SAME_IN_BOTH))

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

# Of what `make chaos` runs, two minutes that no test has: a soak of a minute, and one crash point each of ring,
# doorbell, control block, DMA list and lease, in each fabric that stores there.
SWEEP_POINTS ?= ring.flags doorbell.cleared ctrl.link_status edma.list lease
chaos-short: $(STAMP)
	$(BIN)/ntbnet chaos run soak --seconds 60
	$(BIN)/ntbnet chaos sweep $(patsubst %,--point %,$(SWEEP_POINTS))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
