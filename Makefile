# `make run` runs the benchmark, `make test` the tests; each makes its own environment first.
# `make help` lists all targets, the README has the same as plain pip lines.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DATA ?= $(if $(FEDBENCH_DATA),$(FEDBENCH_DATA),$(realpath ../shared/data))

BIN := $(VENV)/bin
DATA_ENV := $(if $(DATA),FEDBENCH_DATA="$(DATA)")
READY := $(VENV)/.ready

.PHONY: help run test test-long bench lint types format versions clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: $(READY) ## Run the quick suite and write its report; ARGS="--suite paper-local" adds options
	$(BIN)/fedbench run --all $(ARGS)

test: lint ## Check style and types, then run the fast tests
	$(call pytest,not long)

test-long: $(READY) ## Run the slow tests: kills, fresh environments, browser, servers
	$(call pytest,long)

bench: $(READY) .venv-flower/.ready ## Measure speed and write reports/performance.md; takes about half an hour on an idle machine
	mkdir -p build
	$(DATA_ENV) $(BIN)/python -m pytest benchmarks --benchmark-json=build/benchmark.json $(ARGS)
	$(BIN)/python benchmarks/report.py

.venv-flower/.ready: benchmarks/requirements-flower.txt  # Flower pins what FedBench does not, so it lives apart
	$(PYTHON) -m venv .venv-flower
	.venv-flower/bin/pip install --disable-pip-version-check -r benchmarks/requirements-flower.txt
	.venv-flower/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lint: $(READY) types ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# mypy does not know setuptools' package-dir, so it is shown the layout that a wheel has, made of links.
types: $(READY) ## Check types alone
	@rm -rf build/types && mkdir -p build/types/fedbench
	@ln -s $(addprefix $(CURDIR)/,$(wildcard fedbench/*.py) fedbench/py.typed fedbench/statistics fedbench/submissions fedbench/verification methods tasks leaderboard) build/types/fedbench
	$(BIN)/mypy -p fedbench

format: $(READY) ## Rewrite the code in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

versions: $(READY) ## Record versions and hashes of what decides scores; ARGS="--same-scores NAME" where none changed
	$(BIN)/python tests/versions.py $(ARGS)

clean: ## Delete caches and builds; the environment, results and reports stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find fedbench methods tasks leaderboard benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "FedBench needs Python 3.11, 3.12 or 3.13; none found."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	"FedBench needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Two processes side by side do not print how many tests they deselected, so a first pass counts them.
define pytest
@$(DATA_ENV) $(BIN)/python -m pytest --collect-only -q -m "$(1)" | tail -n 1
$(DATA_ENV) $(BIN)/python -m pytest -n 2 -m "$(1)"
endef
