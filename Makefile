# `make sweep` and `make test` need nothing but Python 3.11 or newer: each makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: sweep test check harness clean

sweep: $(VENV)/.installed
	$(BIN)/python experiments/sweep_opt.py

# Python keeps what it compiles, since many processes of the tests import the same files.
test: $(VENV)/.installed-test check
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# Kills, shared stores, bad networks and full disks: some 40 minutes.
harness: $(VENV)/.installed-test
	$(BIN)/python experiments/harnesses/fault_harness.py

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python .ci/scripts.py

# torch comes first and alone: an installer keeps a build that is there, for example the CPU build.
# The package index decides which build a fresh environment gets. The import compiles what a sweep
# needs of large packages, before several processes of Ray do so at once.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python .ci/install.py torch
	$(BIN)/python .ci/install.py -e .
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -W ignore -c "import orchestrator.missing_work, orchestrator.report, orchestrator.trial.walk"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python .ci/install.py -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV)
